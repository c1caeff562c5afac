"""Generative methods, pure: tensors and prompts in, tensors and scores out. Folders of models are all that is read or written.

`backends` says what a generator is and wraps diffusers' own, `sampling` makes images that do not depend on their batch, `datadream`
adapts a generator to a few images, `family` trains the small embedded models, `filtering` and `quality` measure what was made.
Papers and published numbers are in `docs/specs/generators.md` and `docs/specs/datadream.md`.
"""
