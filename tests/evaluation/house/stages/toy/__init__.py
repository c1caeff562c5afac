"""The stage `toy`."""
