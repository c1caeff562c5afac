"""The stage `datadream`."""
