"""The stage `d3hr`."""
