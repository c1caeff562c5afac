"""Draws points over a cost, with whiskers, the line of the best of them and lines to compare with, as inline SVG (see `svg`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

from pipelines.report.svg import WIDTH, Figure, Place, Point, Series, drawing, grid_line, nice_ticks

Shape = Literal["circle", "square", "triangle", "diamond"]
SHAPES: tuple[Shape, ...] = ("circle", "square", "triangle", "diamond")
HEIGHT = 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 12, 10, 34


@dataclass(frozen=True)
class Spot:
    """One point. `number` is written beside it, `title` is what a reader sees who points at it; `faint` ones are the background."""

    x: float
    y: float
    shape: Shape
    colour: str
    title: str
    spread: float = 0.0
    hollow: bool = False
    faint: bool = False
    number: str = ""


def scatter_chart(
    title: str,
    spots: Sequence[Spot],
    x_label: str,
    show_x: Callable[[float], str],
    best: Sequence[Point] = (),
    reference: Sequence[Point] = (),
    level: float | None = None,
    log: bool = True,
    legend: Sequence[Series] = (),
    note: str = "",
) -> Figure | None:
    """Points over x, logarithmic with `log` (then all x are above zero); None without a point.

    `best` is drawn as a stair: what is reached with as much or less. `reference` is a grey line through points, `level` a grey
    horizontal one. `show_x` says what stands at a tick.
    """
    if not spots:
        return None
    xs, ys = [spot.x for spot in spots], [y for spot in spots for y in (spot.y - spot.spread, spot.y + spot.spread)]
    low, high = (min(xs) / 1.25, max(xs) * 1.25) if log else (0.0, max(xs) * 1.04 or 1.0)
    bottom, top = min(ys), max([*ys, *([] if level is None else [level])])
    pad = max(0.04 * (top - bottom), 0.5)
    bottom, top = bottom - pad, top + pad

    def place_x(x: float) -> float:
        part = math.log(x / low) / math.log(high / low) if log else (x - low) / (high - low)
        return _LEFT + part * (WIDTH - _LEFT - _RIGHT)

    def place_y(y: float) -> float:
        return HEIGHT - _BOTTOM - (y - bottom) / (top - bottom) * (HEIGHT - _BOTTOM - _TOP)

    parts = [grid_line(place_y(tick), f"{tick:g}") for tick in nice_ticks(bottom, top)]
    for tick in _log_ticks(low, high) if log else nice_ticks(low, high, 4):
        at = f'<text class="t" x="{place_x(tick):.1f}" y="{HEIGHT - _BOTTOM + 14}" text-anchor="middle">'
        parts.append(f"{at}{escape(show_x(tick))}</text>")
    floor = HEIGHT - _BOTTOM
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{floor}" y2="{floor}"/>')
    parts.append(f'<text class="t" x="{WIDTH - _RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(x_label)}</text>')
    if level is not None:
        parts.append(_path([(_LEFT, place_y(level)), (WIDTH - _RIGHT, place_y(level))], "full", dashed=True))
    if len(reference) > 1:
        parts.append(_path([(place_x(x), place_y(y)) for x, y in reference], "soft"))
    if best:
        parts.append(_path(_stair([(place_x(x), place_y(y)) for x, y in best], WIDTH - _RIGHT), "ink"))
    parts += [_drawn(spot, place_x, place_y) for spot in sorted(spots, key=lambda one: not one.faint)]
    parts += _numbered([(place_x(spot.x), place_y(spot.y), spot.number) for spot in spots if spot.number])
    return Figure(title, drawing(parts, HEIGHT, title), legend, note)


def _log_ticks(low: float, high: float) -> list[float]:
    """1 KiB, 10 KiB, ... 1 MiB: whole powers of ten of a unit that a reader knows; 2 and 5 of them where there is room."""
    factors = (1, 2, 5) if high / low < 60 else (1,)
    ticks = [f * 10**power * 1024**unit for unit in range(5) for power in range(3) for f in factors]
    return [tick for tick in ticks if low <= tick <= high]


def _stair(points: Sequence[Point], right: float) -> list[Point]:
    stair: list[Point] = []
    for x, y in points:
        if stair:
            stair.append((x, stair[-1][1]))
        stair.append((x, y))
    return [*stair, (right, stair[-1][1])]


def _path(points: Sequence[Point], colour: str, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="line" style="stroke:var(--{colour});stroke-width:1.3"{dash} points="{line}"/>'


def _drawn(spot: Spot, place_x: Place, place_y: Place) -> str:
    x, y = place_x(spot.x), place_y(spot.y)
    colour = f"var(--{spot.colour})"
    parts = [f'<g opacity="{0.4 if spot.faint else 1}"><title>{escape(spot.title)}</title>']
    if spot.spread:
        ends = f'y1="{place_y(spot.y - spot.spread):.1f}" y2="{place_y(spot.y + spot.spread):.1f}"'
        parts.append(f'<line class="line" style="stroke:{colour};stroke-width:1" x1="{x:.1f}" x2="{x:.1f}" {ends}/>')
    fill = f"fill:{'var(--paper)' if spot.hollow else colour};stroke:{colour}"
    parts.append(_mark(spot.shape, x, y, f'style="{fill}" stroke-width="1.5"'))
    return "".join([*parts, "</g>"])


def _numbered(places: Sequence[tuple[float, float, str]]) -> list[str]:
    """The numbers of spots; those that would lie over one another stand together."""
    groups: list[list[tuple[float, float, str]]] = []
    for x, y, number in places:
        near = next((own for own in groups if abs(own[-1][0] - x) < 12 and abs(own[-1][1] - y) < 11), None)
        if near is None:
            groups.append([(x, y, number)])
        else:
            near.append((x, y, number))
    texts = []
    for own in groups:
        left, upper = min(x for x, _, _ in own) - 6, min(y for _, y, _ in own) - 5
        names = escape(", ".join(number for _, _, number in own))
        texts.append(f'<text class="h" x="{left:.1f}" y="{upper:.1f}" text-anchor="end">{names}</text>')
    return texts


def _mark(shape: Shape, x: float, y: float, style: str) -> str:
    if shape == "circle":
        return f'<circle {style} cx="{x:.1f}" cy="{y:.1f}" r="3.6"/>'
    if shape == "square":
        return f'<rect {style} x="{x - 3.3:.1f}" y="{y - 3.3:.1f}" width="6.6" height="6.6"/>'
    corners = {
        "triangle": ((0, -4.4), (4.2, 3.4), (-4.2, 3.4)),
        "diamond": ((0, -4.8), (4.8, 0), (0, 4.8), (-4.8, 0)),
    }[shape]
    points = " ".join(f"{x + across:.1f},{y + down:.1f}" for across, down in corners)
    return f'<polygon {style} points="{points}"/>'


def shape_key(shape: Shape, colour: str = "soft") -> Markup:
    """A mark as a legend shows it, 22 x 8 units."""
    style = f'style="fill:var(--{colour});stroke:var(--{colour})" transform="translate(2.5 1) scale(.75)"'
    return Markup(_mark(shape, 11, 4, style))
