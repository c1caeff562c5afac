"""The stage `samples`."""
