"""What a person or a cluster runs: the `vidtok` command line, and ready job files."""
