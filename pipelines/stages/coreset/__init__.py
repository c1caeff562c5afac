"""The stage `coreset`."""
