"""What stages leave for one another, read back and checked."""
