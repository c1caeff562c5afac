"""What each image format's container says and whether it is whole; pixels are decoded elsewhere (`decode`).

A module a format: its header as a `Probe`, in microseconds, and the check that a strict reader would make of what the
decoders do not look at themselves.
"""
