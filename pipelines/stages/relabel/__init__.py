"""The stage `relabel`."""
