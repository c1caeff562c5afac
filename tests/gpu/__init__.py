"""Checks that need a CUDA device; they skip without one."""
