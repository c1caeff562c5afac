"""What an image's header says, read without decoding a pixel. Formats are told by their bytes, never by a name.

The modules of `formats` read the headers in a few microseconds; AVIF is opened (not loaded) by Pillow. What a header
claims is not yet true: `decode` finds that out. Limits are applied in `process`.
"""

from __future__ import annotations

import io
import struct

from PIL import Image

from pipelines.images.formats import bitmaps, foreign, gif, jpeg, png, tiff, webp
from pipelines.images.formats.avif import BRANDS
from pipelines.images.formats.base import Colour, Damage, Format, HeaderError, Probe
from pipelines.images.words import words
from pipelines.outcomes import Outcome, failed

__all__ = ["Colour", "Format", "Probe", "probe"]


def probe(raw: bytes) -> Probe | Outcome:
    """Read the header of `raw`, or fail as `empty`, `unsupported_format`, `truncated` or `bad_header`."""
    if not raw:
        return failed("empty", detail="the file has no bytes")
    try:
        header = _known(raw)
    except HeaderError as error:
        known_foreign = str(error).startswith("it is ")
        return failed("unsupported_format" if known_foreign else "bad_header", detail=str(error))
    except Damage as damage:
        return failed(damage.reason, detail=damage.detail)
    except (IndexError, struct.error):
        return failed("truncated", detail="the file ends inside its header")
    if header is not None:
        return header
    if sentence := foreign.named(raw):
        return failed("unsupported_format", detail=sentence)
    if not raw.strip(b"\0"):
        return failed("unsupported_format", detail="the file is nothing but zeros: its content was lost")
    return failed("unsupported_format", detail=f"no known image starts with the bytes {raw[:8].hex()}")


def _known(raw: bytes) -> Probe | Outcome | None:
    if raw[:2] == b"\xff\xd8":
        return jpeg.header(raw)
    if raw[:8] == png.SIGNATURE:
        return png.header(raw)
    if raw[:4] == b"RIFF" and raw[8:12] == b"WEBP":
        return webp.header(raw)
    if raw[:6] in (b"GIF87a", b"GIF89a"):
        return gif.header(raw)
    if raw[:2] == b"BM":
        return bitmaps.bmp_header(raw)
    if raw[:1] == b"P" and raw[1:2] in b"123456" and raw[2:3] in (b" ", b"\n", b"\t", b"\r", b"#"):
        return bitmaps.pnm_header(raw)
    if raw[:4] in tiff.SIGNATURES:
        return tiff.header(raw)
    if foreign.brands(raw) & BRANDS:
        return _avif(raw)
    return None


def _avif(raw: bytes) -> Probe | Outcome:
    """Let Pillow read the boxes, which are too rich to parse in a screenful."""
    try:
        with Image.open(io.BytesIO(raw), formats=("AVIF",)) as image:
            orientation = int(image.getexif().get(0x0112, 1) or 1)
            animated = bool(getattr(image, "is_animated", False))
            alpha = image.mode in ("LA", "RGBA", "PA")
            turned = orientation if 1 <= orientation <= 8 else 1
            return Probe("avif", image.width, image.height, 8, "other", alpha, animated, turned, b"")
    except Image.DecompressionBombError:
        return failed("too_many_pixels", "policy", "the AVIF has more pixels than Pillow opens")
    except MemoryError:
        raise
    except Exception as error:  # a foreign parser on foreign bytes raises anything; the reason is kept
        return failed("bad_header", detail=f"Pillow cannot read the AVIF header: {words(error)}")
