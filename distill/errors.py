"""The errors that a user of `distill` meets."""

from __future__ import annotations

from augment.errors import MethodError


class DistillError(MethodError):
    """A network, a setting or the data cannot be used; the message is one sentence that says which value and why."""


class DivergedError(DistillError):
    """A network or images ended in numbers that are none, or that are past all sense; the message says where and what to lower."""
