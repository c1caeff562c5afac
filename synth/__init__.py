"""Generative methods, pure: tensors and prompts in, tensors and scores out. Empty until the generators land."""
