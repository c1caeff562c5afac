"""How a list is cut into parts for several workers: balanced, or as the published code does it."""

from __future__ import annotations

from synth.errors import SynthError


def balanced(count: int, parts: int) -> list[int]:
    """Sizes that differ by one at most, larger ones first: 102 in 5 are 21, 21, 20, 20, 20 (DisCL's split is this one)."""
    _check(parts)
    return [count // parts + (part < count % parts) for part in range(parts)]


def reference(count: int, parts: int) -> list[int]:
    """DataDream's: whole division, and the rest to the last: 102 in 5 are 20, 20, 20, 20, 22."""
    _check(parts)
    return [count // parts] * (parts - 1) + [count // parts + count % parts]


def _check(parts: int) -> None:
    if parts < 1:
        raise SynthError(f"a list is cut into 1 part or more, got {parts}")
