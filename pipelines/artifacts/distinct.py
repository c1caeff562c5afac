"""Which samples of a dataset may stand for their classes where few are chosen: every picture once, and none under two labels.

The same picture may have several keys, since a key is that of a source. Bare arithmetic on sidecar columns; no pixels are read.
"""

from __future__ import annotations

from collections.abc import Sequence


def distinct_places(labels: Sequence[int | None], pictures: Sequence[str | None]) -> list[int]:
    """Places of labelled samples, in order: of the samples that show one picture the first, none where they have several labels.

    `pictures` are hashes of pixels; a sample without one is a picture of its own.
    """
    labels_of: dict[str, set[int]] = {}
    for label, picture in zip(labels, pictures, strict=True):
        if label is not None and picture is not None:
            labels_of.setdefault(picture, set()).add(label)
    places, seen = [], set()
    for place, (label, picture) in enumerate(zip(labels, pictures, strict=True)):
        if label is None or picture in seen or (picture is not None and len(labels_of[picture]) > 1):
            continue
        if picture is not None:
            seen.add(picture)
        places.append(place)
    return places
