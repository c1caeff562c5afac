"""JPEG (ITU T.81 annex B): markers and segments, what lies between and behind them, and a copy without it.

Entropy-coded data is not looked into here (`entropy` does, where no decoder is strict): in it 0xFF is followed by 0x00
or a restart marker, so the next other marker is found at the speed of a search, and no byte of it passes for a scan.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from pipelines.images.exif import Orientation
from pipelines.images.formats.base import (
    BAD_EXIF,
    BAD_PROFILE,
    BYTES_AFTER_END,
    JUNK,
    MAX_PROFILE,
    Colour,
    Damage,
    HeaderError,
    Notes,
    Probe,
)

SOI, EOI, SOS = 0xD8, 0xD9, 0xDA
#: Frame headers of processes whose coefficients come in several passes.
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
#: Segments that decide pixels, Adobe's (what the colours mean) and JFIF's among them; all else can go.
_NEEDED = frozenset({*range(0xC0, 0xD0), 0xDB, 0xDC, 0xDD, 0xE0, 0xEE}) - {0xC8}
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_AFTER_DATA = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
#: Scans are counted no further: encoders write a dozen at the most.
MOST_SCANS = 100


class Segment(NamedTuple):
    """A marker at `start`, the content of its segment (without the length) and where its segment ends."""

    marker: int
    start: int
    body: int
    end: int


def is_frame(marker: int) -> bool:
    """Whether a marker begins a frame header (SOFn)."""
    return marker in _FRAMES


def segments(raw: bytes, notes: Notes) -> Iterator[Segment]:
    """The segments from behind SOI to the end of the image; of each scan only its header, the data is skipped.

    Stops behind EOI, and where the file ends before the first scan with IndexError or struct.error. As libjpeg does it,
    what is no marker between two segments is passed over, and noted.
    """
    position, scanned = 2, False
    while True:
        marker = raw[position + 1] if raw[position : position + 1] == b"\xff" else 0
        if not 0 < marker < 0xFF:
            match = (_AFTER_DATA if scanned else _MARKER).search(raw, position)
            if match is None:
                if scanned:
                    return
                raise IndexError("no further marker")
            if not scanned and raw[position : match.start()].strip(b"\xff"):
                notes.add(JUNK)
            position = match.start()
            marker = raw[position + 1]
        if marker in _ALONE:
            position += 2
            continue
        if marker == EOI:
            yield Segment(marker, position, position + 2, position + 2)
            return
        if scanned and position + 4 > len(raw):
            return
        length = max(2, raw[position + 2] << 8 | raw[position + 3])
        yield Segment(marker, position, position + 4, position + 2 + length)
        position += 2 + length
        scanned = scanned or marker == SOS


def header(raw: bytes) -> Probe:
    """Walk the markers: size from the frame, colour profile and orientation from application segments, scans counted."""
    notes, orientation, profile = Notes(), Orientation(), _Profile()
    frame: tuple[int, int, int, int] | None = None
    progressive, scans, end = False, 0, None
    awaited: set[int] = set()
    for segment in segments(raw, notes):
        marker, body, stop = segment.marker, segment.body, segment.end
        if is_frame(marker) and frame is None:
            bits, height, width, components = struct.unpack_from(">BHHB", raw, body)
            frame = (bits, height, width, components)
            awaited = {raw[body + 6 + 3 * place] for place in range(components)}
            progressive = marker in _PROGRESSIVE
        elif is_frame(marker):
            raise HeaderError("the JPEG has two frame headers")
        elif marker == SOS:
            if frame is None:
                raise HeaderError("the JPEG has no frame header before its first scan")
            scans += 1
            count = raw[body] if body < len(raw) else 0
            shown = raw[body + 1 : body + 1 + 2 * count : 2]
            if not progressive or raw[body + 1 + 2 * count : body + 2 + 2 * count] == b"\0":
                awaited -= set(shown)
            if scans > MOST_SCANS:
                break
        elif marker == EOI:
            if not scans:
                raise HeaderError("the JPEG ends before its first scan")
            end = segment.end
        elif marker == 0xE1 and not scans and raw[body : body + 6] == b"Exif\0\0":
            orientation.read(raw[body + 6 : stop])
        elif marker == 0xE2 and not scans and raw[body : body + 12] == b"ICC_PROFILE\0":
            profile.add(raw[body + 12 : stop])
    assert frame is not None, "a walk without a frame ends in an error"
    bits, height, width, components = frame
    if not (width and height):
        raise HeaderError(f"the JPEG says {width}x{height} pixels")
    colour: Colour = {1: "grey", 3: "rgb", 4: "cmyk"}.get(components, "other")  # type: ignore[assignment]
    if profile.damaged:
        notes.add(BAD_PROFILE)
    if orientation.damaged:
        notes.add(BAD_EXIF)
    if end is not None and end < len(raw):
        notes.add(BYTES_AFTER_END)
    return Probe(
        "jpeg",
        width,
        height,
        bits,
        colour,
        orientation=orientation.value,
        icc=profile.bytes,
        scans=scans,
        buffered=progressive or scans > 1,
        end=end,
        complete=not awaited,
        notes=notes.sorted(),
    )


def without_extras(raw: bytes) -> bytes:
    """The same picture from the segments that decide its pixels: no junk, no application data but JFIF's and Adobe's."""
    parts = [raw[:2]]
    for segment in segments(raw, Notes()):
        if segment.marker == SOS:
            parts.append(raw[segment.start :])
            break
        if segment.marker in _NEEDED:
            parts.append(raw[segment.start : segment.end])
    return b"".join(parts)


class _Profile:
    """An ICC profile in numbered pieces (ICC.1 annex B.4); one with a piece missing, twice or too large is damaged."""

    def __init__(self) -> None:
        self._pieces: dict[int, bytes] = {}
        self._count = 0
        self._sound = True

    def add(self, piece: bytes) -> None:
        if len(piece) < 2 or piece[0] in self._pieces or not 1 <= piece[0] <= piece[1]:
            self._sound = False
            return
        self._pieces[piece[0]], self._count = piece[2:], piece[1]

    @property
    def damaged(self) -> bool:
        if self._sound and not self._pieces:
            return False
        whole = len(self._pieces) == self._count and sum(map(len, self._pieces.values())) <= MAX_PROFILE
        return not (self._sound and whole)

    @property
    def bytes(self) -> bytes | None:
        if self.damaged or not self._pieces:
            return None
        return b"".join(self._pieces[number] for number in sorted(self._pieces))


def end_marker(raw: bytes) -> int:
    """Where the EOI marker of the image begins; `Damage` when there is none."""
    for segment in segments(raw, Notes()):
        if segment.marker == EOI:
            return segment.start
    raise Damage("truncated", "the JPEG has no end marker")
