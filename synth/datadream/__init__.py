"""DataDream (Kim et al. 2024): adapt a generator to a few real images, and train a classifier on what it then makes.

Pure: images and prompts in, adapters and scores out. Folders of models are all that is read or written here.
"""
