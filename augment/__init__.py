"""Image operations on batches of tensors, recorded and replayable. Imports none of our other packages.

A policy (`augment.policy`) is drawn for the keys of a batch (`augment.draws`); the draws become a program (`augment.program`), which
`augment.torch_chain`, `augment.cpu` or `augment.kornia_chain` carries out. `augment.augmenter.Augmenter` does all of it. Papers and
formulas that the docstrings name stand in `docs/specs/augment.md`; `docs/add_an_operation.md` adds an operation step by step.
"""
