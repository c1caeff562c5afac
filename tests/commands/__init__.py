"""The verbs of the command line, each as a user types it."""
