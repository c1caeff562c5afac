"""Benchmarks: each is a module that prints its table. None is a test; none asserts a time."""
