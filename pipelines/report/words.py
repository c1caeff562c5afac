"""Numbers as people read them. One rounding rule for the page and the console."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

#: Stands where a number is not known.
UNKNOWN = "–"
#: Between a number and its unit, and between groups of three digits.
THIN, FIXED = "\u202f", "\u00a0"


def number(value: Any) -> float | None:
    """A finite float from JSON or CSV, else None (absent, text, NaN)."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        parsed = float(value)
    except (TypeError, ValueError):
        return None
    return parsed if math.isfinite(parsed) else None


def percent(fraction: float | None, unit: bool = True) -> str:
    """0.8412 -> `84.1 %`."""
    if fraction is None:
        return UNKNOWN
    return f"{100 * fraction:.1f}" + (f"{FIXED}%" if unit else "")


def points(a: float, b: float) -> float:
    """Percentage points from b to a, between the figures as they are shown, so that a reader's subtraction agrees."""
    return round(round(100 * a, 1) - round(100 * b, 1), 1)


def signed(value: float) -> str:
    """1.1 -> `+1.1`, with a true minus sign."""
    return f"+{value:.1f}" if value > 0 else f"−{-value:.1f}" if value < 0 else "0.0"


def grouped(value: float | None) -> str:
    """60000 -> `60 000`."""
    return UNKNOWN if value is None else f"{value:,.0f}".replace(",", THIN)


def human_bytes(count: float | None) -> str:
    """1536 -> `1.5 KiB`."""
    if count is None:
        return UNKNOWN
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f}{FIXED}B" if unit == "B" else f"{count:.1f}{FIXED}{unit}"
        count /= 1024
    return f"{count:.1f}{FIXED}TiB"


def human_seconds(seconds: float | None) -> str:
    """83.4 -> `1 min 23 s`."""
    if seconds is None:
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f}{FIXED}s"
    whole = round(seconds)
    minutes, hours = whole // 60, whole // 3600
    if not hours:
        return f"{minutes}{FIXED}min {whole % 60}{FIXED}s"
    return f"{hours}{FIXED}h {minutes % 60}{FIXED}min"


def share(part: float | None, whole: float | None) -> str:
    """Part of a whole in percent with two significant digits below ten: `0.34 %`, `4.1 %`, `120 %`."""
    if part is None or not whole:
        return UNKNOWN
    value = 100 * part / whole
    return (f"{value:.0f}" if value >= 10 else f"{value:.2g}") + f"{FIXED}%"


def listed(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def one_line(value: Any) -> str:
    """A value from JSON as one line."""
    if value is None or value == "":
        return UNKNOWN
    if isinstance(value, list):
        return ", ".join(map(one_line, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {one_line(item)}" for key, item in value.items())
    return str(value)
