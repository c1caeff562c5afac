"""Two published orders in which few real images are chosen from many: natural, as DataDream reads a folder, and DISEF's draw.

Stage `split` chooses with them, once for the generator and the classifier (`docs/specs/datadream.md`, few-shot choice).
"""

from __future__ import annotations

import random
import re
from collections.abc import Hashable, Sequence
from typing import TypeVar

Label = TypeVar("Label", bound=Hashable)

_DIGITS = re.compile(r"(\d+)")


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Return a sort key that compares runs of digits as numbers: img_2 comes before img_10, and digits before letters.

    Names that differ in leading zeros only have equal keys.
    """
    parts = (part for part in _DIGITS.split(name) if part)
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts)


def disef_sample(labels: Sequence[Label], shots: int, seed: int) -> dict[Label, list[int]]:
    """Draw `shots` places in `labels` for each class, in order of first appearance, as DISEF does (da Costa et al. 2023).

    Python's Mersenne Twister seeded with `seed`, then one `random.sample` a class. All of a class that has fewer. A draw is in
    general not nested in a draw of more.
    """
    places_of: dict[Label, list[int]] = {}
    for place, label in enumerate(labels):
        places_of.setdefault(label, []).append(place)
    source = random.Random(seed)
    return {label: source.sample(places, min(shots, len(places))) for label, places in places_of.items()}
