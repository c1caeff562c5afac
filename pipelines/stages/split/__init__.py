"""The stage `split`."""
