"""Bytes to RGB pixels, strictly: a damaged image is refused, never half shown. simplejpeg, then OpenCV, then Pillow.

| image | decoder | rule |
| --- | --- | --- |
| JPEG grey, YCbCr, RGB, 8 bits | simplejpeg | libjpeg's warnings are errors; scaled by 1/2, 1/4 or 1/8 when asked |
| JPEG CMYK or YCCK | simplejpeg | stored inverted, as Adobe does; then by profile or plainly to RGB |
| JPEG that simplejpeg cannot take (odd sampling, 12 bits) | OpenCV, then Pillow | |
| PNG grey or RGB of 8 bits; WebP; PGM and PPM up to 255 | OpenCV | only where there is no alpha, profile or animation |
| PNG of 16 bits | OpenCV | value / 257, rounded |
| anything else known: palette, 1 bit, alpha, profiles, GIF, BMP, TIFF, AVIF, odd PNM | Pillow | first frame or page |

Deep Pillow modes: `I;16` and a PNM's `I` are divided by 257; other 16-bit channels are cut to their high byte by
Pillow; 32-bit integers and floats have no known range and are `failed("unsupported_mode")`, as are Lab images.
No process-wide switch of Pillow or OpenCV is touched.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from pipelines.images.colour import Pixels, array_to_srgb, composite, deep_to_8_bit, to_srgb
from pipelines.images.probe import Probe
from pipelines.outcomes import Outcome, failed

_COLOUR_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


@dataclass(frozen=True, slots=True)
class Decoded:
    """`pixels` uint8 (H, W, 3) RGB in sRGB, not yet turned. `plain` is false when more than decoding was done to them
    (profile, transparency, CMYK, 16 bits), so that the original bytes no longer say the same."""

    pixels: Pixels
    decoder: str
    plain: bool = True


def decode(
    raw: bytes,
    header: Probe,
    background: tuple[int, int, int],
    floor: tuple[int, int] | None,
    max_pixels: int,
) -> Decoded | Outcome:
    """Decode the first frame. `floor` is the (height, width) below which a JPEG must not be scaled, None for full size.

    Returns `failed` with `truncated`, `corrupt`, `unsupported_mode`, `too_many_pixels` or `out_of_memory` otherwise.
    """
    try:
        if header.format == "jpeg":
            return _jpeg(raw, header, background, floor, max_pixels)
        plain = not (header.alpha or header.animated) and header.icc is None
        if header.format == "png" and header.bits == 16:
            return _deep_png(raw, header, background)
        if (
            plain
            and header.bits == 8
            and header.colour in ("grey", "rgb")
            and (header.format in ("png", "webp", "pnm"))
        ):
            pixels = _opencv(raw)
            if pixels is not None:
                return Decoded(pixels, "opencv")
        return _pillow(raw, header, background, max_pixels)
    except MemoryError:
        return failed("out_of_memory", "transient", f"no memory for {header.width}x{header.height} pixels")


def scale_for(header: Probe, floor: tuple[int, int] | None) -> int:
    """The largest of 8, 4, 2, 1 that keeps a JPEG at or above `floor`. Other ratios are slower than full size."""
    if floor is None or header.format != "jpeg":
        return 1
    for factor in (8, 4, 2):
        if -(-header.height // factor) >= floor[0] and -(-header.width // factor) >= floor[1]:
            return factor
    return 1


def _jpeg(
    raw: bytes,
    header: Probe,
    background: tuple[int, int, int],
    floor: tuple[int, int] | None,
    max_pixels: int,
) -> Decoded | Outcome:
    if header.bits != 8 or header.colour == "other":
        return _pillow(raw, header, background, max_pixels)
    factor = scale_for(header, floor)
    size = (-(-header.height // factor), -(-header.width // factor))
    space = "CMYK" if header.colour == "cmyk" else "RGB"
    try:
        pixels = simplejpeg.decode_jpeg(
            raw,
            colorspace=space,
            min_factor=factor,
            min_height=size[0],
            min_width=size[1],
        )
    except ValueError as error:
        text = str(error)
        if "Premature end of JPEG" in text:
            return failed("truncated", detail=text)
        if "Corrupt JPEG" in text:
            return failed("corrupt", detail=text)
        # Not damage but something simplejpeg does not do; the other decoders have the last word.
        slow = _opencv(raw) if space == "RGB" else None
        if slow is None:
            return _pillow(raw, header, background, max_pixels)
        return _with_profile(slow, header, "opencv")
    if space == "CMYK":
        image, _ = to_srgb(Image.fromarray(255 - pixels, "CMYK"), header.icc)
        return Decoded(np.array(image), "simplejpeg", plain=False)
    return _with_profile(pixels, header, "simplejpeg")


def _with_profile(pixels: Pixels, header: Probe, decoder: str) -> Decoded:
    pixels, changed = array_to_srgb(pixels, header.icc, header.colour == "grey")
    return Decoded(pixels, decoder, plain=not changed)


def _opencv(raw: bytes) -> Pixels | None:
    """OpenCV's decode to RGB, ignoring EXIF; None when it refuses."""
    try:
        pixels = cv2.imdecode(np.frombuffer(raw, np.uint8), _COLOUR_FLAGS)
    except cv2.error:
        return None
    return None if pixels is None else np.asarray(pixels, np.uint8)


def _deep_png(raw: bytes, header: Probe, background: tuple[int, int, int]) -> Decoded | Outcome:
    """16-bit PNG through OpenCV, because Pillow would cut colour to its high byte."""
    try:
        deep = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        return failed("corrupt", detail=str(error))
    if deep is None or deep.dtype != np.uint16:
        return failed(_damage(raw, header, ""), detail="OpenCV cannot decode this 16-bit PNG")
    values = deep_to_8_bit(deep)
    if values.ndim == 2:
        values = values[:, :, None]
    grey, alpha = values.shape[2] <= 2, values.shape[2] in (2, 4)
    colours = np.repeat(values[:, :, :1], 3, axis=2) if grey else np.ascontiguousarray(values[:, :, 2::-1])
    if header.icc is not None:
        with Image.open(io.BytesIO(raw), formats=("PNG",)) as image:
            profile = image.info.get("icc_profile")
        colours, _ = array_to_srgb(colours, profile, header.colour == "grey")
    if alpha:
        colours = composite(colours, values[:, :, -1], background)
    return Decoded(colours, "opencv", plain=False)


def _pillow(raw: bytes, header: Probe, background: tuple[int, int, int], max_pixels: int) -> Decoded | Outcome:
    """Pillow, held to the one format the header named. Its parsers raise nearly anything on hostile bytes."""
    name = {"pnm": "PPM"}.get(header.format, header.format.upper())
    try:
        with Image.open(io.BytesIO(raw), formats=(name,)) as image:
            if image.width * image.height > max_pixels:
                return failed("too_many_pixels", "policy", f"the first frame has {image.width}x{image.height} pixels")
            image.load()
            return _from_pillow(image, header, background)
    except Image.DecompressionBombError as error:
        return failed("too_many_pixels", "policy", str(error))
    except MemoryError:
        raise
    except Exception as error:  # the one boundary to foreign parsers; what they say becomes the outcome's detail
        return failed(_damage(raw, header, str(error)), detail=f"Pillow: {error}")


def _from_pillow(image: Image.Image, header: Probe, background: tuple[int, int, int]) -> Decoded | Outcome:
    """A loaded Pillow image to RGB by the rules of the module docstring."""
    profile = image.info.get("icc_profile")
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and header.format == "pnm"):
        grey = Image.fromarray(deep_to_8_bit(np.asarray(image)))
        return Decoded(np.array(to_srgb(grey, profile)[0]), "pillow", plain=False)
    if mode in ("I", "F", "LAB"):
        return failed("unsupported_mode", detail=f"pixels of mode {mode} have no stated range; convert them first")
    if "transparency" in image.info or mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        full = image.convert("RGBA")
        alpha = np.asarray(full.getchannel("A"))
        colours, changed = to_srgb(full.convert("RGB"), profile)
        if alpha.min() == 255:
            return Decoded(np.array(colours), "pillow", plain=not changed)
        return Decoded(composite(np.asarray(colours), alpha, background), "pillow", plain=False)
    if mode == "CMYK":
        return Decoded(np.array(to_srgb(image, profile)[0]), "pillow", plain=False)
    colours, changed = to_srgb(image if mode in ("L", "RGB") else image.convert("RGB"), profile)
    return Decoded(np.array(colours), "pillow", plain=not changed and header.bits <= 8)


def _damage(raw: bytes, header: Probe, message: str) -> str:
    """`truncated` when the file visibly stops early, else `corrupt`."""
    ended = {
        "png": b"IEND" in raw[-64:],
        "jpeg": b"\xff\xd9" in raw[-64:],
        "gif": raw[-1:] == b";",
        "webp": len(raw) >= 8 + int.from_bytes(raw[4:8], "little"),
    }.get(header.format, True)
    said = any(word in message.lower() for word in ("truncat", "unexpected end", "premature end"))
    return "truncated" if said or not ended else "corrupt"
