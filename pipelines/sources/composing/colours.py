"""Colours that have a name, and what may stand on what."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.sources.composing.draws import Array, Draws

#: sRGB of each name, far enough apart to be told from each other at 64 px.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 38, 42),
    "orange": (244, 132, 30),
    "yellow": (248, 214, 56),
    "green": (52, 152, 70),
    "teal": (32, 160, 164),
    "blue": (44, 92, 206),
    "purple": (126, 62, 176),
    "pink": (244, 132, 180),
    "brown": (128, 82, 46),
    "white": (244, 243, 240),
    "grey": (140, 142, 146),
    "black": (40, 40, 44),
}
#: Squared distance (sRGB, 0..255) below which an item would be lost on a ground.
_CLEAR = 110.0**2


def ground_of(name: str, draws: Draws) -> Array:
    """(3,) the colour as a ground: a little milkier than an item of that name, with a little chance."""
    return _varied(np.array(COLOURS[name], np.float64) * 0.8 + 0.2 * 200.0, draws)


def tint_of(name: str, draws: Draws) -> Array:
    """(3,) the colour of an item of that name."""
    return _varied(np.array(COLOURS[name], np.float64), draws)


def clear_of(ground: Array, taken: Sequence[str] = ()) -> list[str]:
    """Names that stand out from a ground (3,) and are not taken."""
    clear = []
    for name, rgb in COLOURS.items():
        red, green, blue = (float(part) for part in np.array(rgb, np.float64) - ground)
        if red * red + green * green + blue * blue >= _CLEAR and name not in taken:
            clear.append(name)
    return clear


def _varied(colour: Array, draws: Draws) -> Array:
    light = draws.between("light", -10.0, 10.0)
    return np.clip(colour + light + np.array([draws.between(part, -7.0, 7.0) for part in "rgb"]), 0.0, 255.0)
