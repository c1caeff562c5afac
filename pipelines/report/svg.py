"""Draws two kinds of chart as inline SVG: lines over steps, and dots with whiskers.

Written by hand rather than with matplotlib: the colours are CSS variables, so that a chart follows the reader's light
or dark mode, the text stays text, equal numbers give equal bytes, and a chart weighs a few kilobytes. A chart is 360
units wide, the width of a phone, so that its type is never shrunk below what can be read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 10, 8, 34
#: Points a line keeps at the most; more cannot be seen and only weigh.
_SHOWN = 180

#: x, y
Point = tuple[float, float]
#: From a value to a coordinate of the chart
Place = Callable[[float], float]
#: x, lowest y, highest y
Band = tuple[float, float, float]


@dataclass(frozen=True)
class Series:
    """One line. `colour` names a CSS variable (`--distilled`), `value` is what the legend says after the name.

    Of a chart of points the legend shows a `mark`, SVG of 22 x 8 units, in place of a line.
    """

    name: str
    points: Sequence[Point]
    colour: str
    dashed: bool = False
    band: Sequence[Band] = ()
    value: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Figure:
    """A drawn chart with what belongs around it."""

    title: str
    svg: Markup
    legend: Sequence[Series] = field(default=())
    note: str = ""


@dataclass(frozen=True)
class Dot:
    """One row of a dot chart: a value with an optional whisker to both sides, or, without a value, a heading."""

    label: str
    value: float | None = None
    spread: float | None = None
    colour: str = "ink"
    hollow: bool = False
    text: str = ""


def thinned(items: Sequence[Point] | Sequence[Band]) -> list[tuple[float, ...]]:
    """Evenly chosen items, the first and the last always among them."""
    if len(items) <= _SHOWN:
        return list(items)
    step = (len(items) - 1) / (_SHOWN - 1)
    return [items[round(place * step)] for place in range(_SHOWN)]


def nice_ticks(low: float, high: float, count: int = 5, whole: bool = False) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that enclose nothing but [low, high]."""
    span = high - low
    if span <= 0:
        return [low]
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    step = max(step, 1.0) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [place * step for place in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 200 else (1,)
    return [f * 10.0**p for p in powers for f in factors if low * 0.999 <= f * 10.0**p <= high * 1.001]


def _shown(value: float) -> str:
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e−").replace("e-", "e−").replace("e+", "e")
    return f"{value:.6g}".replace("-", "−")


def line_chart(
    title: str, series: Sequence[Series], x_label: str, note: str = "", log: bool | None = None, zero: bool = False
) -> Figure | None:
    """Lines over a common x. `log=None` takes a logarithmic y axis when positive values span more than 30 times.

    Not drawn (None) without a point. The y axis covers the values and not zero unless `zero`; the title should say the
    unit.
    """
    series = [one for one in series if one.points]
    if not series:
        return None
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points] + [y for one in series for band in one.band for y in band[1:]]
    if log is None:
        log = min(ys) > 0 and max(ys) / min(ys) > 30
    low_x, high_x = min(xs), max(xs)
    low_y, high_y = (0.0 if zero else min(ys)), max(ys)
    if low_y == high_y:
        low_y, high_y = (low_y / 2, high_y * 2) if log else (low_y - 0.5, high_y + 0.5)
    elif not log:
        pad = 0.04 * (high_y - low_y)
        low_y, high_y = (low_y if zero else low_y - pad), high_y + pad

    def place_x(x: float) -> float:
        return _LEFT + (x - low_x) / ((high_x - low_x) or 1) * (WIDTH - _LEFT - _RIGHT)

    def place_y(y: float) -> float:
        part = math.log(y / low_y) / math.log(high_y / low_y) if log else (y - low_y) / (high_y - low_y)
        return HEIGHT - _BOTTOM - part * (HEIGHT - _BOTTOM - _TOP)

    ticks = _log_ticks(low_y, high_y) if log else nice_ticks(low_y, high_y)
    parts = [grid_line(place_y(tick), _shown(tick)) for tick in ticks]
    whole = all(float(x).is_integer() for x in xs)
    for tick in nice_ticks(low_x, high_x, 6, whole):
        at = place_x(tick)
        parts.append(
            f'<text class="t" x="{at:.1f}" y="{HEIGHT - _BOTTOM + 14}" text-anchor="middle">{_shown(tick)}</text>'
        )
    parts.append(
        f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{HEIGHT - _BOTTOM}" y2="{HEIGHT - _BOTTOM}"/>'
    )
    parts.append(f'<text class="t" x="{WIDTH - _RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(x_label)}</text>')
    for one in series:
        parts += _draw(one, place_x, place_y)
    notes = "; ".join(filter(None, ["logarithmic axis" if log else "", note]))
    return Figure(title, drawing(parts, HEIGHT, title), series, notes)


def _draw(one: Series, place_x: Place, place_y: Place) -> Iterable[str]:
    colour = f"var(--{one.colour})"
    if len(one.band) > 1:
        band = thinned(one.band)
        upper = [f"{place_x(x):.1f},{place_y(high):.1f}" for x, _, high in band]
        lower = [f"{place_x(x):.1f},{place_y(low):.1f}" for x, low, _ in reversed(band)]
        yield f'<polygon style="fill:{colour}" class="band" points="{" ".join(upper + lower)}"/>'
    at = [(place_x(x), place_y(y)) for x, y in thinned(one.points)]
    dash = ' stroke-dasharray="4 3"' if one.dashed else ""
    if len(at) > 1:
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        yield f'<polyline class="line" style="stroke:{colour}"{dash} points="{line}"/>'
    else:
        yield f'<circle style="fill:{colour}" cx="{at[0][0]:.1f}" cy="{at[0][1]:.1f}" r="3"/>'


def grid_line(y: float, text: str) -> str:
    """A line across the chart at a height, with its value at the left."""
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="t" x="{_LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>'
    )


def dot_chart(title: str, rows: Sequence[Dot], x_label: str, note: str = "") -> Figure | None:
    """Values on one horizontal axis, a row each; whiskers reach `spread` to both sides."""
    values = [row.value for row in rows if row.value is not None]
    if not values:
        return None
    ends = [v + s for row in rows if (v := row.value) is not None for s in (-(row.spread or 0), row.spread or 0)]
    low, high = min(ends), max(ends)
    pad = max(0.06 * (high - low), 1.0)
    low, high = low - pad, high + pad
    # Room for the longest label, at 6.2 units a character, up to half of the chart.
    longest = max(len(row.label) for row in rows if row.value is not None)
    left, right, step = min(max(112, 8 + math.ceil(6.2 * longest)), WIDTH // 2), 48, 21
    bottom = 6 + step * len(rows)

    def place(value: float) -> float:
        return left + (value - low) / (high - low) * (WIDTH - left - right)

    parts = []
    for tick in nice_ticks(low, high, 5):
        at = place(tick)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="4" y2="{bottom}"/>')
        parts.append(f'<text class="t" x="{at:.1f}" y="{bottom + 14}" text-anchor="middle">{_shown(tick)}</text>')
    parts.append(f'<text class="t" x="{WIDTH - right}" y="{bottom + 29}" text-anchor="end">{escape(x_label)}</text>')
    for number, row in enumerate(rows):
        middle = 6 + step * number + step / 2
        if row.value is None:
            parts.append(f'<text class="h" x="0" y="{middle + 4:.1f}">{escape(row.label)}</text>')
            continue
        colour, at = f"var(--{row.colour})", place(row.value)
        parts.append(
            f'<text class="l" x="{left - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(row.label)}</text>'
        )
        if row.spread:
            a, b = place(row.value - row.spread), place(row.value + row.spread)
            parts.append(
                f'<line class="line" style="stroke:{colour}" x1="{a:.1f}" x2="{b:.1f}" y1="{middle}" y2="{middle}"/>'
            )
        fill = "var(--paper)" if row.hollow else colour
        parts.append(
            f'<circle style="fill:{fill};stroke:{colour}" stroke-width="2" cx="{at:.1f}" cy="{middle}" r="4"/>'
        )
        parts.append(f'<text class="v" x="{WIDTH}" y="{middle + 4:.1f}" text-anchor="end">{escape(row.text)}</text>')
    return Figure(title, drawing(parts, bottom + 34, title), (), note)


def drawing(parts: Iterable[str], height: float, title: str) -> Markup:
    """The picture of these elements, `WIDTH` units wide."""
    body = "".join(parts)
    return Markup(f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{body}</svg>')
