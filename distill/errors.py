"""What a user of `distill` meets besides `ValueError` for a wrong value."""

from __future__ import annotations


class DivergedError(ValueError):
    """A network or images ended in numbers that are none, or that are past all sense; the message says where and what to lower.

    The same training diverges again: nothing is gained by running it once more as it is.
    """
