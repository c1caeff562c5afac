"""A scene: which items, where, in which colours; painted, boxed and described. Follows from its draws alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.images.annotations import iou
from pipelines.images.colour import Pixels
from pipelines.sources.composing.colours import COLOURS, clear_of, ground_of, tint_of
from pipelines.sources.composing.cutouts import Cutout, Patch, paint
from pipelines.sources.composing.draws import Array, Draws
from pipelines.sources.composing.grounds import TEXTURES, WEAVE, ground, weave
from pipelines.sources.composing.words import Thing, caption, describe, target_caption

#: Longer side of an item, as a share of the scene's, by how many there are.
_LONGER = {1: (0.56, 0.84), 2: (0.44, 0.6), 3: (0.38, 0.52), 4: (0.34, 0.46)}
_MANY = (0.22, 0.32)
#: Places tried at one size; then the item shrinks by the factor, this often, and is then left out.
_PLACES, _SHRINK, _SIZES = 24, 0.86, 4
#: Empty pixels along the border.
_MARGIN = 1


@dataclass(frozen=True)
class Choice:
    """One image of the base source, ready to be painted: its class, the word for it, its key, its outline."""

    label: str
    noun: str
    key: str
    cutout: Cutout


@dataclass(frozen=True)
class Placed:
    """An item in a scene, whose top left pixel of `patch` lies at (top, left)."""

    choice: Choice
    colour: str
    patch: Patch
    top: int
    left: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        return self.patch.box(self.top, self.left)

    def window(self) -> tuple[slice, slice]:
        height, width = self.patch.cover.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


@dataclass(frozen=True)
class Scene:
    """`pixels` uint8 (size, size, 3), the items on it from left to right, and what is said of it."""

    pixels: Pixels
    items: list[Placed]
    caption: str
    description: dict[str, Any]


#: Gives the image for the draws of one item.
Chooser = Callable[[Draws], Choice]


def base_scene(draws: Draws, choose: Chooser, size: int, counts: tuple[int, int], most_overlap: float) -> Scene:
    """Tinted items, turned by up to 25 degrees, some mirrored, on a plain or textured ground of another colour."""
    texture, colour = draws.choice("texture", TEXTURES), draws.choice("colour", list(COLOURS))
    shade = ground_of(colour, draws.child("ground"))
    canvas = ground(texture, shade, size, draws.child("ground"))
    wanted = counts[0] + draws.whole("count", counts[1] - counts[0] + 1)
    taken = np.zeros((size, size), np.bool_)
    items: list[Placed] = []
    for place in range(wanted):
        own = draws.child("item", place)
        # Every colour at most once, so that a phrase means one item.
        names = [name for name in clear_of(shade, [item.colour for item in items]) if name != colour]
        if not names:
            break
        longer = own.between("longer", *_LONGER.get(wanted, _MANY)) * size
        item = _fitted(own, choose(own), own.choice("colour", names), longer, taken, items, most_overlap)
        if item is None:
            continue
        items.append(item)
        taken[item.window()] |= item.patch.painted
        _lay(canvas, item, _tinted(item, tint_of(item.colour, own)))
    items.sort(key=lambda item: (item.box[0] + item.box[2], item.box))
    things = [_thing(item) for item in items]
    said = caption(things, texture, colour, draws.child("caption"))
    return Scene(_bytes(canvas), items, said, describe(things, (texture, colour), "base"))


def target_scene(draws: Draws, choose: Chooser, size: int) -> Scene:
    """The grey product shot, upright and nearly full size, lit from one side on a woven ground, with its shadow."""
    own = draws.child("item", 0)
    choice = choose(own)
    patch = paint(choice.cutout, own.between("longer", 0.7, 0.8) * size, 0.0, mirrored=False)
    height, width = patch.cover.shape
    top = (size - height) // 2 + own.whole("down", 5) - 2
    left = (size - width) // 2 + own.whole("right", 5) - 2
    item = Placed(choice, "grey", patch, top, left)
    canvas = weave(size, draws.child("ground"))
    across = draws.choice("light", (-1.0, 1.0))
    canvas = canvas * (1.0 - 0.55 * _shadow(item, size, -round(3 * across), 3))[:, :, None]
    _lay(canvas, item, np.repeat(patch.light[:, :, None], 3, axis=2))
    canvas = canvas * _light(size, across, draws.between("slope", 0.5, 0.8))[:, :, None]
    thing = _thing(item)
    return Scene(_bytes(canvas), [item], target_caption(thing), describe([thing], (WEAVE, None), "target"))


def _fitted(
    draws: Draws, choice: Choice, colour: str, longer: float, taken: Any, items: list[Placed], most_overlap: float
) -> Placed | None:
    """The item where it paints over no other one's pixels and its box overlaps no other by more than allowed."""
    size = taken.shape[0]
    degrees, mirrored = draws.between("degrees", -25.0, 25.0), draws.chance("mirrored", 0.5)
    for shrunk in range(_SIZES):
        patch = paint(choice.cutout, longer * _SHRINK**shrunk, degrees, mirrored)
        height, width = patch.cover.shape
        room = size - 2 * _MARGIN - height + 1, size - 2 * _MARGIN - width + 1
        for trial in range(_PLACES if min(room) > 0 else 0):
            spot = draws.child(shrunk, trial)
            item = Placed(
                choice, colour, patch, _MARGIN + spot.whole("top", room[0]), _MARGIN + spot.whole("left", room[1])
            )
            if (taken[item.window()] & patch.painted).any():
                continue
            if all(iou(item.box, other.box) <= most_overlap for other in items):
                return item
    return None


def _tinted(item: Placed, colour: Array) -> Array:
    """(h, w, 3) `colour` (3,), darker and lighter where the item is darker and lighter than its middle level."""
    shade = np.clip((item.patch.light - item.choice.cutout.middle) / 255.0 * 1.5, -0.62, 0.55)[:, :, None]
    return np.where(shade < 0, colour * (1.0 + shade), colour + (255.0 - colour) * shade)


def _lay(canvas: Array, item: Placed, colours: Array) -> None:
    cover = item.patch.cover[:, :, None]
    canvas[item.window()] = canvas[item.window()] * (1.0 - cover) + colours * cover


def _shadow(item: Placed, size: int, right: int, down: int) -> Array:
    """(size, size) the item's cover, moved and blurred by two running means."""
    wide = np.zeros((size + 16, size + 16))
    rows, columns = item.window()
    wide[rows.start + down + 8 : rows.stop + down + 8, columns.start + right + 8 : columns.stop + right + 8] = (
        item.patch.cover
    )
    for _ in range(2):
        for axis in (0, 1):
            total = wide
            for step in (-2, -1, 1, 2):
                total = total + np.roll(wide, step, axis)
            wide = total / 5.0
    return wide[8:-8, 8:-8]


def _light(size: int, across: float, slope: float) -> Array:
    """(size, size) a lamp above and to one side, and corners that fall off."""
    place = (np.arange(size) + 0.5) / size * 2.0 - 1.0
    x, y = place[None, :], place[:, None]
    return (1.0 + slope * (0.7 * across * x - 0.45 * y) / 1.15) * (1.0 - 0.22 * (x * x + y * y))


def _thing(item: Placed) -> Thing:
    return Thing(item.choice.label, item.choice.noun, item.colour, item.box)


def _bytes(canvas: Array) -> Pixels:
    return np.floor(np.clip(canvas, 0.0, 255.0) + 0.5).astype(np.uint8)
