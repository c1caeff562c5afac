"""Condensed sets by matching: images optimised until networks see in them what they see in the real ones (`docs/specs/matching.md`).

Tensors in, tensors out. Every random number follows from the seed, the iteration and the class, so that classes can be condensed apart.
"""
