"""Reading a dataset folder back: whole into memory, or sample by sample in a trainer's loop."""
