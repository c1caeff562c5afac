"""What the format modules share: the claims of a header, the result of a check, and the notes that a sound picture can carry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Format = Literal["jpeg", "png", "webp", "gif", "bmp", "pnm", "tiff", "avif"]
Colour = Literal["grey", "rgb", "palette", "cmyk", "other"]

#: What can be wrong beside the pixels of a picture that is sound and kept.
BYTES_AFTER_END = "bytes_after_end"
EXTRA_BYTES = "extra_bytes_before_end"
JUNK = "junk_between_segments"
BAD_PROFILE = "bad_profile"
BAD_EXIF = "bad_exif"
BAD_CHUNK = "bad_chunk"

#: A colour profile larger than this is taken for damage: the largest in use (for printing presses) have 3 MiB.
MAX_PROFILE = 4 << 20


@dataclass(frozen=True, slots=True)
class Probe:
    """The claims of a header. `width` and `height` are as stored, before `orientation` (EXIF, 1-8) is applied.

    `bits` per channel; `alpha` also for a transparent palette entry or colour; `icc` is the colour profile's bytes for
    JPEG and only `b""` (present, read later) for other formats; `scans` counts the scans of a JPEG, and `buffered` says
    that its coefficients have to be held for more than one. `packed` is how many bytes a decoder holds besides the
    pixels (a TIFF's largest strip or tile). `end` is where the picture's own bytes end, None where that is not known.
    `complete` is false for a JPEG with a component that no scan shows. `notes` say what is wrong beside the pixels.
    """

    format: Format
    width: int
    height: int
    bits: int = 8
    colour: Colour = "rgb"
    alpha: bool = False
    animated: bool = False
    orientation: int = 1
    icc: bytes | None = None
    scans: int = 1
    buffered: bool = False
    packed: int = 0
    end: int | None = None
    complete: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sound:
    """A container that is whole. `data` is what the decoders get: the file's bytes, or the same without what is damaged
    or unknown beside the pixels. `icc` is the profile's bytes, where this check read them. `repaired` says that readers
    may refuse the original, so that `data` is to be stored in its place."""

    data: bytes
    notes: tuple[str, ...] = ()
    icc: bytes | None = None
    repaired: bool = False


class HeaderError(ValueError):
    """The magic bytes name a format whose header then makes no sense. Internal: `probe` turns it into an outcome."""


class Damage(ValueError):
    """A container that is not whole; `reason` is the outcome's (`truncated`, `corrupt`, `unsupported_mode`)."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass(slots=True)
class Notes:
    """Collects notes, each once, in a stable order."""

    found: set[str] = field(default_factory=set)

    def add(self, note: str) -> None:
        self.found.add(note)

    def sorted(self) -> tuple[str, ...]:
        return tuple(sorted(self.found))
