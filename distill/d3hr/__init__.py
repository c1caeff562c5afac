"""D3HR: a class's inverted latents as a distribution, and a small group that stands for it (ICML 2025, arXiv 2505.18399).

Arrays in, arrays out: `moments` of latents, `models` of a class, `selection` of a group, `diagnostics` of how Gaussian a class is.
Published numbers and what departs from them are in `docs/specs/d3hr.md`.
"""
