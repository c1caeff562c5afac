"""What an image's header says, read without decoding a pixel. Formats are told by their bytes, never by a name.

JPEG, PNG, WebP, GIF, BMP and PNM headers are parsed here in a few microseconds; TIFF and AVIF are opened (not loaded)
by Pillow. What a header claims is not yet true: `decode` finds that out. Limits are applied in `process`.
"""

from __future__ import annotations

import io
import re
import struct
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from pipelines.images.exif import orientation_of
from pipelines.outcomes import Outcome, failed

Format = Literal["jpeg", "png", "webp", "gif", "bmp", "pnm", "tiff", "avif"]
Colour = Literal["grey", "rgb", "palette", "cmyk", "other"]

_PNM_HEADER = re.compile(rb"P[1-6](?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})(?:(?:\s|#[^\n]*\n)+(\d{1,5}))?")
_PNG_COLOURS: dict[int, Colour] = {0: "grey", 2: "rgb", 3: "palette", 4: "grey", 6: "rgb"}
_MAX_PNG_CHUNKS = 4096


@dataclass(frozen=True, slots=True)
class Probe:
    """The claims of a header. `width` and `height` are as stored, before `orientation` (EXIF, 1-8) is applied.

    `bits` per channel; `alpha` also for a transparent palette entry or colour; `icc` is the colour profile's bytes for
    JPEG and only `b""` (present, read later) for other formats; `scans` counts the scans of a progressive JPEG.
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


class HeaderError(ValueError):
    """The magic bytes name a format whose header then makes no sense. Internal: `probe` turns it into an outcome."""


def probe(raw: bytes) -> Probe | Outcome:
    """Read the header of `raw`, or fail as `empty`, `unsupported_format`, `truncated` or `bad_header`."""
    if not raw:
        return failed("empty", detail="the file has no bytes")
    try:
        if raw[:2] == b"\xff\xd8":
            return _jpeg(raw)
        if raw[:8] == b"\x89PNG\r\n\x1a\n":
            return _png(raw)
        if raw[:4] == b"RIFF" and raw[8:12] == b"WEBP":
            return _webp(raw)
        if raw[:6] in (b"GIF87a", b"GIF89a"):
            return _gif(raw)
        if raw[:2] == b"BM":
            return _bmp(raw)
        if raw[:1] == b"P" and raw[1:2] in b"123456" and raw[2:3] in (b" ", b"\n", b"\t", b"\r", b"#"):
            return _pnm(raw)
        if raw[:4] in (b"II*\0", b"MM\0*"):
            return _by_pillow(raw, "tiff")
        if raw[4:8] == b"ftyp" and raw[8:12] in (b"avif", b"avis"):
            return _by_pillow(raw, "avif")
    except HeaderError as error:
        return failed("bad_header", detail=str(error))
    except (IndexError, struct.error):
        return failed("truncated", detail="the file ends inside its header")
    if b"<svg" in raw[:1024].lower():
        return failed("unsupported_format", detail="SVG is a drawing, not pixels; rasterise it first")
    return failed("unsupported_format", detail=f"no known image starts with the bytes {raw[:8].hex()}")


def _jpeg(raw: bytes) -> Probe:
    """Walk the JPEG markers up to the first scan (ITU T.81 annex B)."""
    frame: tuple[int, int, int, int] | None = None
    progressive = False
    orientation = 1
    profile: dict[int, bytes] = {}
    position = 2
    while True:
        while raw[position] == 0xFF:
            position += 1
        marker = raw[position]
        if marker == 0x00 or raw[position - 1] != 0xFF:
            raise HeaderError(f"expected a JPEG marker at byte {position}")
        position += 1
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            continue
        if marker == 0xD9:
            raise HeaderError("the JPEG ends before its first scan")
        (length,) = struct.unpack_from(">H", raw, position)
        body = position + 2
        if marker == 0xDA:
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits, height, width, components = struct.unpack_from(">BHHB", raw, body)
            frame = (bits, height, width, components)
            progressive = marker in (0xC2, 0xC6, 0xCA, 0xCE)
        elif marker == 0xE1 and raw[body : body + 6] == b"Exif\0\0":
            orientation = orientation_of(raw[body + 6 : position + length])
        elif marker == 0xE2 and raw[body : body + 12] == b"ICC_PROFILE\0":
            profile[raw[body + 12]] = raw[body + 14 : position + length]
        position += length
    if frame is None:
        raise HeaderError("the JPEG has no frame header before its first scan")
    bits, height, width, components = frame
    if not (width and height):
        raise HeaderError(f"the JPEG says {width}x{height} pixels")
    colour: Colour = {1: "grey", 3: "rgb", 4: "cmyk"}.get(components, "other")  # type: ignore[assignment]
    icc = b"".join(profile[number] for number in sorted(profile)) or None
    scans = raw.count(b"\xff\xda", position) if progressive else 1
    return Probe("jpeg", width, height, bits, colour, orientation=orientation, icc=icc, scans=scans)


def _png(raw: bytes) -> Probe:
    """Walk the PNG chunks (ISO 15948): size from IHDR, transparency, animation, profile and EXIF from the others."""
    width, height, bits, kind = struct.unpack_from(">IIBB", raw, 16)
    if raw[12:16] != b"IHDR" or kind not in _PNG_COLOURS or not (width and height):
        raise HeaderError("the PNG does not begin with a sound IHDR chunk")
    alpha, animated, orientation, icc = kind >= 4, False, 1, None
    position = 8
    for _ in range(_MAX_PNG_CHUNKS):
        if position + 8 > len(raw):
            break
        length, name = struct.unpack_from(">I4s", raw, position)
        if name == b"tRNS":
            alpha = True
        elif name == b"acTL":
            animated = struct.unpack_from(">I", raw, position + 8)[0] > 1
        elif name == b"iCCP":
            icc = b""
        elif name == b"eXIf":
            orientation = orientation_of(raw[position + 8 : position + 8 + length])
        elif name == b"IEND":
            break
        position += 12 + length
    return Probe("png", width, height, bits, _PNG_COLOURS[kind], alpha, animated, orientation, icc)


def _webp(raw: bytes) -> Probe:
    """The first chunk of a WebP says lossy (VP8), lossless (VP8L) or extended (VP8X); RFC 9649."""
    chunk = raw[12:16]
    if chunk == b"VP8X":
        flags = raw[20]
        width = 1 + int.from_bytes(raw[24:27], "little")
        height = 1 + int.from_bytes(raw[27:30], "little")
        struct.unpack_from("<B", raw, 29)
        orientation = 1
        position = 30
        while flags & 0x08 and position + 8 <= len(raw):
            name, length = struct.unpack_from("<4sI", raw, position)
            if name == b"EXIF":
                orientation = orientation_of(raw[position + 8 : position + 8 + length].removeprefix(b"Exif\0\0"))
            position += 8 + length + (length & 1)
        icc = b"" if flags & 0x20 else None
        return Probe("webp", width, height, 8, "rgb", bool(flags & 0x10), bool(flags & 0x02), orientation, icc)
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", raw, 26)
        if raw[23:26] != b"\x9d\x01\x2a" or not (width & 0x3FFF and height & 0x3FFF):
            raise HeaderError("the WebP's first frame is not a key frame")
        return Probe("webp", width & 0x3FFF, height & 0x3FFF)
    if chunk == b"VP8L":
        signature, packed = struct.unpack_from("<BI", raw, 20)
        if signature != 0x2F:
            raise HeaderError("the lossless WebP has no signature byte")
        return Probe("webp", 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF), alpha=bool(packed >> 28 & 1))
    raise HeaderError(f"the WebP begins with an unknown chunk {chunk!r}")


def _gif(raw: bytes) -> Probe:
    """Size from the logical screen; animated as soon as a second image descriptor is met (GIF89a)."""
    width, height, flags = struct.unpack_from("<HHB", raw, 6)
    if not (width and height):
        raise HeaderError(f"the GIF says {width}x{height} pixels")
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    images = 0
    while images < 2 and position < len(raw) and raw[position] in (0x21, 0x2C):
        if raw[position] == 0x2C:
            images += 1
            local = raw[position + 9] if position + 9 < len(raw) else 0
            position += 10 + (3 << (local & 7) + 1 if local & 0x80 else 0) + 1
        else:
            position += 2
        while position < len(raw) and raw[position]:
            position += 1 + raw[position]
        position += 1
    return Probe("gif", width, height, 8, "palette", alpha=True, animated=images > 1)


def _bmp(raw: bytes) -> Probe:
    """A BMP's size; a negative height means rows from the top."""
    if struct.unpack_from("<I", raw, 14)[0] == 12:
        width, height = struct.unpack_from("<HH", raw, 18)
    else:
        width, height = struct.unpack_from("<ii", raw, 18)
    if width <= 0 or height == 0:
        raise HeaderError(f"the BMP says {width}x{height} pixels")
    return Probe("bmp", width, abs(height))


def _pnm(raw: bytes) -> Probe:
    """PBM, PGM and PPM, plain and binary; the largest value says 8 or 16 bits."""
    match = _PNM_HEADER.match(raw[:1024])
    if match is None:
        raise HeaderError("the PNM header has no width and height")
    width, height = int(match[1]), int(match[2])
    kind = raw[1] - ord("0")
    top = 1 if kind in (1, 4) else int(match[3] or 0)
    if not (width and height and 1 <= top <= 65_535):
        raise HeaderError(f"the PNM says {width}x{height} pixels up to {top}")
    # Only plain 8-bit binary files are 'grey' or 'rgb' here; odd ranges need Pillow's scaling.
    colour: Colour = "other" if top != 255 or kind < 5 else ("grey" if kind == 5 else "rgb")
    return Probe("pnm", width, height, 16 if top > 255 else 8, colour)


def _by_pillow(raw: bytes, kind: Literal["tiff", "avif"]) -> Probe | Outcome:
    """Let Pillow read the header of a format whose container is too rich to parse in a screenful."""
    try:
        with Image.open(io.BytesIO(raw), formats=(kind.upper(),)) as image:
            # Pillow turns a TIFF by itself while loading it, so its orientation is not left to us.
            orientation = 1 if kind == "tiff" else int(image.getexif().get(0x0112, 1) or 1)
            animated = kind == "avif" and bool(getattr(image, "is_animated", False))
            alpha = image.mode in ("LA", "RGBA", "PA")
            return Probe(
                kind,
                image.width,
                image.height,
                8,
                "other",
                alpha,
                animated,
                orientation if 1 <= orientation <= 8 else 1,
                b"",
            )
    except Image.DecompressionBombError as error:
        return failed("too_many_pixels", "policy", str(error))
    except Exception as error:  # a foreign parser on foreign bytes raises anything; the reason is kept
        return failed("bad_header", detail=f"Pillow cannot read the {kind.upper()} header: {error}")
