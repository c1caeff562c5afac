"""JPEG to pixels: libjpeg's warnings are errors, except where it is certain that they are about something else than pixels."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image

from pipelines.images.colour import Pixels
from pipelines.images.formats import entropy, jpeg
from pipelines.images.formats.base import BAD_PROFILE, EXTRA_BYTES, JUNK, Damage, Probe
from pipelines.images.words import words
from pipelines.outcomes import Outcome, failed

_EXTRA = re.compile(r"(\d+) extraneous bytes before marker")
#: Not damage, but what simplejpeg does not do.
_UNKNOWN = ("Could not determine subsampling", "Unsupported color conversion", "Unsupported JPEG process")
_NO_MEMORY = ("Insufficient memory", "Memory allocation failure")
#: Bytes that were put before the end are of fewer kinds than this, where coded data cannot be told from them otherwise.
_FEW = 5


@dataclass(frozen=True, slots=True)
class JpegPixels:
    """uint8 (H, W, 3) RGB, or (H, W, 4) inverted CMYK as Adobe stores it; no profile is applied yet."""

    pixels: Pixels
    decoder: str
    notes: tuple[str, ...]
    repaired: bytes | None


def decode_jpeg(
    raw: bytes, header: Probe, factor: int, lenient: Callable[[bytes], Pixels | None]
) -> JpegPixels | Outcome:
    """Decode at 1/`factor`. `lenient` decodes what simplejpeg does not do, once the data is known to be whole.

    Raises `Damage` and `MemoryError`.
    """
    if header.bits != 8 or header.colour == "other":
        return failed(
            "unsupported_mode", detail=f"a JPEG of {header.bits} bits and {header.colour} channels is not read"
        )
    if not header.complete:
        reason = "corrupt" if header.end else "truncated"
        return failed(reason, detail="the JPEG has no scan for one of its components")
    notes, data = set(header.notes), raw
    if notes & {JUNK, BAD_PROFILE}:
        data = jpeg.without_extras(raw)
    pixels, said = _strict(data, header, factor)
    if pixels is None and header.end is not None and _EXTRA.search(said):
        data = _without_extra_bytes(data, header, said)
        notes.add(EXTRA_BYTES)
        pixels, said = _strict(data, header, factor)
    decoder = "simplejpeg"
    if pixels is None and said.startswith(_NO_MEMORY):
        raise MemoryError
    if pixels is None and any(text in said for text in _UNKNOWN):
        if header.end is None:
            raise Damage("truncated", "the JPEG has no end marker")
        if not header.buffered:
            end = entropy.data_end(data)
            whole = data[:end] + b"\xff\xd9"
            if whole != data[: len(whole)]:
                notes.add(EXTRA_BYTES)
                data = whole
        if header.colour == "cmyk":
            pixels, decoder = _inverted_cmyk(data), "pillow"
        else:
            pixels, decoder = lenient(data), "opencv"
    if pixels is None:
        reason = "truncated" if "Premature end of JPEG" in said else "corrupt"
        return failed(reason, detail=words(said))
    return JpegPixels(pixels, decoder, tuple(sorted(notes)), None if data is raw else data)


def _inverted_cmyk(data: bytes) -> Pixels | None:
    """Pillow's decode of CMYK or YCCK; None when it refuses. OpenCV would make RGB of it."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            pixels = np.asarray(image, np.uint8)
        return 255 - pixels
    except MemoryError:
        raise
    except Exception:  # a foreign parser
        return None


def _strict(data: bytes, header: Probe, factor: int) -> tuple[Pixels | None, str]:
    """Pixels, or None and what libjpeg said first."""
    try:
        pixels = simplejpeg.decode_jpeg(
            data,
            colorspace="CMYK" if header.colour == "cmyk" else "RGB",
            min_factor=factor,
            min_height=-(-header.height // factor),
            min_width=-(-header.width // factor),
        )
    except ValueError as error:
        return None, str(error)
    return np.asarray(pixels, np.uint8), ""


def _without_extra_bytes(data: bytes, header: Probe, said: str) -> bytes:
    """The JPEG without what lies between its data and its end marker; `Damage` when that may be lost data.

    A decoder that lost its place can finish early, and then coded data is left over: baseline data is walked bit by bit to
    see that it is whole. What no walk was written for (progressive, arithmetic) must be left over as plain padding.
    """
    if not header.buffered:
        return data[: entropy.data_end(data)] + b"\xff\xd9"
    match = _EXTRA.search(said)
    assert match, "only called for extra bytes"
    end = jpeg.end_marker(data)
    start = end - int(match[1])
    if len({*data[start:end]}) >= _FEW:
        raise Damage("corrupt", "the JPEG's data goes on where its picture is complete")
    return data[:start] + b"\xff\xd9"
