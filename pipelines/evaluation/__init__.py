"""How products are measured against their controls. Arithmetic only: no files, no torch."""

#: The folders here, one for each kind of product that is measured.
EVALUATIONS: list[str] = ["distilled", "datadream"]
