"""The examples for those who run TaskMan: each is checked by a machine, or run."""
