"""From a dataset's committed rows to what a training takes: in a global order, on any number of ranks and workers."""
