"""The stage `dm`."""
