"""The one error that a user of `augment` meets."""

from __future__ import annotations


class PolicyError(ValueError):
    """A policy, a value in it or the data it is given cannot be used; the message is one sentence that says which and why."""
