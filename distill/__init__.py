"""Dataset distillation, pure: tensors in, tensors out. No files, no Ray, no global random state."""
