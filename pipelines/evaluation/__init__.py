"""How products are measured against their controls. Arithmetic only: no files, no torch."""
