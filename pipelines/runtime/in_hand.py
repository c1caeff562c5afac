"""Which records of a unit are in hand at this moment, told to whoever comes after a process that died over one of them.

A place in a small file for each thread, written as often as a record is begun and never flushed: the page cache outlives
the process, and a machine that goes down as a whole says nothing about a record. A process is also killed for reasons
that have nothing to do with what it does. So a record is only *suspected*, and only after two deaths with it in hand; who
suspects has to try it apart (`Stage`), and nothing but a death there is a proof.
"""

from __future__ import annotations

import json
import os
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.storage import Storage

_SLOT = struct.Struct("<q")
_NONE = -1
#: Deaths with a record in hand after which it is suspected.
DEATHS = 2


class InHand:
    """The records in hand of one unit, by their places in its plan. On storage that is not local nothing is kept.

    `suspects` are the places that were in hand when `DEATHS` processes died. To be used with `with`: a block that ends in
    any way but the death of its process leaves no suspicion behind.
    """

    def __init__(self, scratch: Storage, threads: int) -> None:
        self.suspects: frozenset[int] = frozenset()
        self._threads = threads
        self._handle: int | None = None
        if not scratch.is_local:
            return
        folder = scratch.root
        self._slots, self._deaths = folder / "in_hand", folder / "deaths.json"
        folder.mkdir(parents=True, exist_ok=True)
        deaths = _read_deaths(self._deaths)
        if self._slots.exists():
            raw = self._slots.read_bytes()
            deaths.update(place for (place,) in _SLOT.iter_unpack(raw[: len(raw) // 8 * 8]) if place != _NONE)
            self._deaths.write_text(json.dumps(deaths))
        self.suspects = frozenset(place for place, count in deaths.items() if count >= DEATHS)

    def __enter__(self) -> InHand:
        if hasattr(self, "_slots"):
            self._handle = os.open(self._slots, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            os.pwrite(self._handle, _SLOT.pack(_NONE) * self._threads, 0)
            self._free = list(range(self._threads))
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
            self._slots.unlink(missing_ok=True)

    @contextmanager
    def holding(self, place: int) -> Iterator[None]:
        """The block handles the record at `place`. At most `threads` blocks at a time."""
        if self._handle is None:
            yield
            return
        slot = self._free.pop()  # appending and popping are atomic
        os.pwrite(self._handle, _SLOT.pack(place), slot * _SLOT.size)
        try:
            yield
        finally:
            if self._handle is not None:
                os.pwrite(self._handle, _SLOT.pack(_NONE), slot * _SLOT.size)
            self._free.append(slot)


def _read_deaths(path: Path) -> Counter[int]:
    """Deaths by place; nothing where the file is torn: its writer died, and the next will write it again."""
    try:
        return Counter({int(place): int(count) for place, count in json.loads(path.read_text()).items()})
    except (OSError, ValueError, AttributeError, TypeError):
        return Counter()
