"""Backgrounds: plain or textured, of one named colour, and the one of the target domain that no other scene has.

Each is computed per pixel with edges one pixel wide, so that none flickers at 64 px.
"""

from __future__ import annotations

import math

import numpy as np

from pipelines.sources.composing.draws import Array, Draws

#: The words of a caption for a background of the base domain.
TEXTURES = ("plain", "striped", "dotted", "checked", "gradient", "noisy")
#: The background of the target domain, which no caption names.
WEAVE = "woven"


def ground(texture: str, colour: Array, size: int, draws: Draws) -> Array:
    """(size, size, 3) in 0..255: `texture` in `colour` (3,) and a lighter or darker shade of it."""
    other = _shade(colour, draws)
    share = _SHARES[texture](size, draws)[:, :, None]
    return colour * (1.0 - share) + other * share


def weave(size: int, draws: Draws) -> Array:
    """(size, size, 3) a coarse basket weave of straw, turned by a little."""
    pitch = draws.between("pitch", 0.15, 0.165) * size
    x, y = _turned(size, draws.between("angle", -5.0, 5.0), draws)
    across, down = x / pitch, y / pitch
    over = (np.floor(across) + np.floor(down)) % 2 == 0
    along = np.where(over, down, across)
    beside = np.where(over, across, down)
    strand = np.abs(beside - np.floor(beside) - 0.5) * 2.0
    end = np.abs(along - np.floor(along) - 0.5) * 2.0
    height = (1.0 - strand * strand) * (1.0 - 0.45 * end * end)
    fibre = np.floor(beside * 4.0) % 2 * 0.06
    straw = np.array([202.0, 158.0, 92.0])
    return straw * (0.42 + 0.62 * height - fibre)[:, :, None]


def _shade(colour: Array, draws: Draws) -> Array:
    """The second colour of a texture, near enough for the name to hold: paler, but darker where it is light already."""
    level = float(colour[0]) * 0.299 + float(colour[1]) * 0.587 + float(colour[2]) * 0.114
    if level < 90.0 or (level < 185.0 and draws.chance("lighter", 0.7)):
        return colour + (255.0 - colour) * draws.between("amount", 0.3, 0.45)
    return colour * (1.0 - draws.between("amount", 0.16, 0.28))


def _plain(size: int, draws: Draws) -> Array:
    return np.zeros((size, size))


def _striped(size: int, draws: Draws) -> Array:
    period = draws.between("period", 0.11, 0.22) * size
    angle = draws.choice("angle", (0.0, 90.0, 45.0, -45.0))
    x, _ = _turned(size, angle, draws)
    return _wave(x, period)


def _checked(size: int, draws: Draws) -> Array:
    period = draws.between("period", 0.18, 0.32) * size
    x, y = _turned(size, 0.0, draws)
    first, second = _wave(x, period), _wave(y, period)
    return first + second - 2.0 * first * second


def _dotted(size: int, draws: Draws) -> Array:
    pitch = draws.between("pitch", 0.14, 0.2) * size
    radius = pitch * draws.between("radius", 0.24, 0.32)
    x, y = _turned(size, draws.choice("angle", (0.0, 45.0)), draws)
    x, y = (x / pitch - np.floor(x / pitch) - 0.5) * pitch, (y / pitch - np.floor(y / pitch) - 0.5) * pitch
    return np.clip(radius - np.sqrt(x * x + y * y) + 0.5, 0.0, 1.0)


def _gradient(size: int, draws: Draws) -> Array:
    x, _ = _turned(size, draws.whole("angle", 8) * 45.0, draws, shifted=False)
    return np.clip(x / size + 0.5, 0.0, 1.0) * 1.4


def _noisy(size: int, draws: Draws) -> Array:
    """Value noise in three octaves, each twice as fine and half as strong."""
    total = np.zeros((size, size))
    for octave, cells in enumerate((8, 16, 32)):
        total = total + _smooth(draws.grid(f"octave{octave}", cells + 2, cells + 2), size, cells) * 0.5**octave
    return np.clip(total / 1.75 * 2.4 - 0.7, 0.0, 1.3)


_SHARES = {
    "plain": _plain,
    "striped": _striped,
    "dotted": _dotted,
    "checked": _checked,
    "gradient": _gradient,
    "noisy": _noisy,
}


def _turned(size: int, degrees: float, draws: Draws, shifted: bool = True) -> tuple[Array, Array]:
    """x and y (size, size) of the pixel centres, from the middle, turned, and shifted by chance."""
    turn = math.radians(degrees)
    cosine, sine = round(math.cos(turn) * 65536) / 65536, round(math.sin(turn) * 65536) / 65536
    centre = np.arange(size) + 0.5 - size / 2
    x, y = centre[None, :], centre[:, None]
    right, down = (draws.between(axis, 0.0, size / 2) if shifted else 0.0 for axis in ("right", "down"))
    return cosine * x + sine * y + right, cosine * y - sine * x + down


def _wave(x: Array, period: float) -> Array:
    """0 and 1 in turn along x, with edges one pixel wide."""
    place = (x / period - np.floor(x / period)) * period
    return np.clip(period / 4 - np.abs(place - period / 2) + 0.5, 0.0, 1.0)


def _smooth(grid: Array, size: int, cells: int) -> Array:
    place = (np.arange(size) + 0.5) / size * cells
    base = place.astype(np.int64)
    part = place - base
    ease = part * part * (3.0 - 2.0 * part)
    rows = grid[base] * (1.0 - ease)[:, None] + grid[base + 1] * ease[:, None]
    return rows[:, base] * (1.0 - ease) + rows[:, base + 1] * ease
