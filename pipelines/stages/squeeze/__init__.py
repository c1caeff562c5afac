"""The stage `squeeze`."""
