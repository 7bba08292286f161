"""A dataset's rows in the forms that other programs train on."""
