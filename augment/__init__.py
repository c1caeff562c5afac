"""Image operations on batches of tensors, recorded and replayable. Imports none of the other packages."""
