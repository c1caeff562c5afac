"""What stands behind the command line's words, each importable without it: make a job, run it, look at results."""
