"""Dataset distillation, pure: tensors in, tensors out. No files, no Ray, no global random state.

Papers and published numbers are in `docs/specs/cda.md`.
"""
