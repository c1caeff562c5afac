"""Generative methods, pure: tensors and prompts in, tensors and scores out. Folders of models are all that is read or written.

`backends` says what a generator is and wraps diffusers' own, `sampling` makes images that do not depend on their batch, and
`datadream` adapts a generator to a few images. No stage runs them yet.
"""
