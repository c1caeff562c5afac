"""How products are measured, and that a method joins as a folder."""
