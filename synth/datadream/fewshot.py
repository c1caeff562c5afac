"""Which few real images a run sees: one manifest for the generator and the classifier, nested over the number of shots.

The published code reads whatever lies in a folder, the generator in natural order and the classifier in the file system's, so
that the two may see different images (fact sheet, 1.4). Here the choice is made once, and whatever is held out is kept out of it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from synth.errors import SynthError

Order = Literal["natural", "disef"]
Label = TypeVar("Label", bound=Hashable)

_DIGITS = re.compile(r"(\d+)")


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sorts runs of digits as numbers: img_2 comes before img_10. Digits come before letters."""
    parts = (part for part in _DIGITS.split(name) if part)
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts)


def natural_sort(names: Collection[str]) -> list[str]:
    """Names in natural order; those that only differ in leading zeros in plain order."""
    return sorted(names, key=lambda name: (natural_key(name), name))


def disef_sample(labels: Sequence[Label], shots: int, seed: int) -> dict[Label, list[int]]:
    """For each class, in order of first appearance, `shots` places in `labels`, as DISEF draws them (da Costa et al. 2023).

    Python's Mersenne Twister seeded with `seed`, then one `random.sample` a class. All of a class that has fewer.
    """
    places: dict[Label, list[int]] = {}
    for place, label in enumerate(labels):
        places.setdefault(label, []).append(place)
    source = random.Random(seed)
    return {label: source.sample(found, min(shots, len(found))) for label, found in places.items()}


@dataclass(frozen=True)
class FewShot:
    """The chosen keys of each class, best first: `take(k)` of a k-shot run is a prefix of every larger one's.

    `order` and `seed` say how they were chosen; `shots` how many there are of each class.
    """

    keys: Mapping[str, tuple[str, ...]]
    shots: int
    order: Order
    seed: int = 0

    def take(self, shots: int) -> FewShot:
        """The manifest of fewer shots, nested in this one."""
        if not 1 <= shots <= self.shots:
            raise SynthError(f"{shots} shots were asked of a manifest of {self.shots}: choose a larger manifest first")
        return FewShot({name: keys[:shots] for name, keys in self.keys.items()}, shots, self.order, self.seed)

    @property
    def all_keys(self) -> list[str]:
        """Every chosen key, class by class."""
        return [key for keys in self.keys.values() for key in keys]

    def require_disjoint(self, held_out: Collection[str], what: str = "the test split") -> None:
        """Refuse a manifest of which any key is also in `held_out`."""
        taken = set(held_out)
        both = [key for key in self.all_keys if key in taken]
        if both:
            raise SynthError(
                f"{len(both)} few-shot images are also in {what}, {both[0]} first: choose from train alone"
            )


def choose(members: Mapping[str, Sequence[str]], shots: int, order: Order = "natural", seed: int = 0) -> FewShot:
    """Choose `shots` of each class's keys.

    `members`: the keys of each class, in the order of the data set. `natural` takes the first in natural order of the keys, as
    DataDream does with a prepared folder, and knows no seed; `disef` draws (seeds 1, 5 and 10 were published), over the members
    class after class. A draw of k is in general not nested in a draw of more: choose the most once, and `take` fewer.
    """
    if order not in get_args(Order):
        raise SynthError(f"order takes {' | '.join(get_args(Order))}, got {order!r}")
    if shots < 1:
        raise SynthError(f"shots takes a whole number from 1, got {shots}")
    for name, keys in members.items():
        if len(keys) < shots:
            raise SynthError(
                f"class {name!r} has {len(keys)} images, and {shots} shots were asked for: lower shots to {len(keys)}"
            )
        if len(set(keys)) != len(keys):
            raise SynthError(f"class {name!r} lists an image twice: few-shot images must be different ones")
    if order == "natural":
        return FewShot({name: tuple(natural_sort(keys)[:shots]) for name, keys in members.items()}, shots, order, seed)
    flat = [(name, key) for name, keys in members.items() for key in keys]
    drawn = disef_sample([name for name, _ in flat], shots, seed)
    return FewShot({name: tuple(flat[place][1] for place in drawn[name]) for name in members}, shots, order, seed)
