"""The errors of the three method packages: `MethodError`, which `pipelines` turns into the user's error, and `PolicyError`."""

from __future__ import annotations


class MethodError(ValueError):
    """A method cannot do what it was asked; the message is one sentence that says what is wrong and where.

    Base of the errors of `augment`, `synth` and `distill`. It follows from the input and the settings, never from the machine: the same
    call fails in the same way again, so nobody is told to run it once more as it is.
    """


class PolicyError(MethodError):
    """A policy, a value in it or the data for it cannot be used; the message is one sentence that says which and why."""
