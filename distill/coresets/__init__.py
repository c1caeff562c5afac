"""Coresets: which real images stand for a class. Features or images of one class in, places of the chosen ones or pixels out.

Every choice is nested: the first n of a larger one are the choice of n. Papers and what was measured are in `docs/specs/coresets.md`.
"""
