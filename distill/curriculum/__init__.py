"""Curricula of recovered images (CUDD, Ma et al. 2025): which real images each begins at, and what a student adds to the loss.

Recovery itself is `distill.cda`. Facts: `docs/specs/cda.md`, CUDD.
"""
