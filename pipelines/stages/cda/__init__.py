"""The stage `cda`."""
