"""The stage `generator`."""
