"""The stage `discl`."""
