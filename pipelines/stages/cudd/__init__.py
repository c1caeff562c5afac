"""The stage `cudd`."""
