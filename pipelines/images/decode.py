"""Bytes to RGB pixels, strictly: a damaged image is refused, never half shown. simplejpeg, then OpenCV, then Pillow.

| image | decoder | rule |
| --- | --- | --- |
| JPEG grey, YCbCr, RGB, 8 bits | simplejpeg | libjpeg's warnings are errors; scaled by 1/2, 1/4 or 1/8 when asked |
| JPEG CMYK or YCCK | simplejpeg | stored inverted, as Adobe does; then by profile or plainly to RGB |
| JPEG of odd sampling factors | OpenCV; CMYK: Pillow | only after `entropy` found the data whole |
| PNG grey or RGB of 8 bits; WebP; PGM and PPM up to 255 | OpenCV | only where there is no alpha, profile or animation |
| PNG of 16 bits | OpenCV | value / 257, rounded |
| AVIF | Pillow | only after OpenCV decoded it, whose AV1 decoder looks whether the coded data comes out even |
| anything else known: palette, 1 bit, alpha, profiles, GIF, BMP, TIFF, odd PNM | Pillow | first frame or page |

A refusal by a decoder that knows the format is final: no other decoder is asked whether it would show the picture all the
same. What decoders overlook is checked before (`formats`): checksums of PNG, unfinished data of WebP, AVIF and TIFF,
components of a JPEG that no scan shows. Rows of plain values (BMP, PNM, uncompressed TIFF) hold nothing that could tell
damage, nor can anything in WebP and CCITT fax data but where it ends. What is wrong beside the pixels is noted; the
decoders then get the picture without it.

Deep Pillow modes: `I;16` and a PNM's `I` are divided by 257; other 16-bit channels are cut to their high byte by
Pillow; 32-bit integers and floats have no known range and are `failed("unsupported_mode")`, as are Lab images.
No process-wide switch of Pillow or OpenCV is touched.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image

from pipelines.images.colour import Pixels, array_to_srgb, bands, composite, deep_to_8_bit, profiled, to_srgb
from pipelines.images.decode_jpeg import decode_jpeg
from pipelines.images.formats import avif, png, tiff, webp
from pipelines.images.formats.base import BAD_PROFILE, Damage, Probe, Sound
from pipelines.images.words import words
from pipelines.outcomes import Outcome, failed

_COLOUR_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_OPENCV_READS_AVIF = cv2.haveImageWriter(".avif")  # one library reads and writes them


@dataclass(frozen=True, slots=True)
class Decoded:
    """`pixels` uint8 (H, W, 3) RGB in sRGB, not yet turned. `plain` is false when more than decoding was done to them
    (profile, transparency, CMYK, 16 bits), so that the original bytes no longer say the same. `notes` say what is wrong
    beside the pixels; `repaired` are the bytes to keep in place of the original's where readers may refuse those."""

    pixels: Pixels
    decoder: str
    plain: bool = True
    notes: tuple[str, ...] = ()
    repaired: bytes | None = None


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
            return _jpeg(raw, header, floor)
        if header.end is not None and header.end > len(raw):
            return failed(
                "truncated", detail=f"the file has {len(raw)} bytes of the {header.end} that its header needs"
            )
        sound = _checked(raw, header)
        decoded = _by_format(sound, header, background, max_pixels)
        if isinstance(decoded, Outcome):
            return decoded
        notes = {*header.notes, *sound.notes, *decoded.notes}
        return replace(decoded, notes=tuple(sorted(notes)), repaired=sound.data if sound.repaired else None)
    except Damage as damage:
        return failed(damage.reason, detail=damage.detail)
    except (struct.error, IndexError):
        return failed("corrupt", detail=f"the structure of the {header.format.upper()} makes no sense")
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


def by_opencv(header: Probe) -> bool:
    """Whether OpenCV, and not Pillow, decodes what is no JPEG."""
    if header.format == "png" and header.bits == 16:
        return True
    plain = not (header.alpha or header.animated) and header.icc is None
    simple = header.format in ("png", "webp", "pnm") and header.colour in ("grey", "rgb")
    return plain and simple and header.bits == 8


def _jpeg(raw: bytes, header: Probe, floor: tuple[int, int] | None) -> Decoded | Outcome:
    decoded = decode_jpeg(raw, header, scale_for(header, floor), _opencv)
    if isinstance(decoded, Outcome):
        return decoded
    pixels, grey, notes = decoded.pixels, header.colour == "grey", set(decoded.notes)
    if pixels.shape[2] == 4:
        wanted = profiled(header.icc, "CMYK")
        shown = np.empty((*pixels.shape[:2], 3), np.uint8)
        for rows in bands(*shown.shape[:2]):
            shown[rows] = np.asarray(to_srgb(Image.fromarray(255 - pixels[rows], "CMYK"), wanted.transform))
        pixels, plain = shown, False
    else:
        wanted = profiled(header.icc, "L" if grey else "RGB")
        pixels, plain = array_to_srgb(pixels, wanted, grey), wanted.transform is None
    if wanted.damaged:
        notes.add(BAD_PROFILE)
    return Decoded(pixels, decoded.decoder, plain, tuple(sorted(notes)), decoded.repaired)


def _checked(raw: bytes, header: Probe) -> Sound:
    """What the decoders do not look at themselves; raises `Damage`."""
    if header.format == "png":
        return png.check(raw, inflate=not by_opencv(header))
    if header.format == "webp":
        shorter = webp.check(raw, header)
        if shorter is not None and _opencv(shorter) is not None:
            raise Damage("truncated", "the data of the WebP ends in zeros that its picture does not need")
        return Sound(raw[: header.end])  # OpenCV would read on behind the end
    elif header.format == "tiff":
        tiff.check(raw)
    elif header.format == "avif":
        avif.check(raw)
        if _OPENCV_READS_AVIF and _opencv(raw) is None:
            raise Damage("corrupt", "OpenCV cannot decode this AVIF")
    return Sound(raw)


def _by_format(sound: Sound, header: Probe, background: tuple[int, int, int], max_pixels: int) -> Decoded | Outcome:
    if header.format == "png" and header.bits == 16:
        return _deep_png(sound, header, background)
    if by_opencv(header):
        pixels = _opencv(sound.data)
        if pixels is not None:
            return Decoded(pixels, "opencv")
        if header.format != "pnm":  # a PNM that is long enough cannot be damaged: OpenCV only knows fewer headers
            return failed("corrupt", detail=f"OpenCV cannot decode this {header.format.upper()}")
    return _pillow(sound, header, background, max_pixels)


def _opencv(raw: bytes) -> Pixels | None:
    """OpenCV's decode to RGB, ignoring EXIF; None when it refuses."""
    try:
        pixels = cv2.imdecode(np.frombuffer(raw, np.uint8), _COLOUR_FLAGS)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from None
        return None
    return None if pixels is None else np.asarray(pixels, np.uint8)


def _deep_png(sound: Sound, header: Probe, background: tuple[int, int, int]) -> Decoded | Outcome:
    """16-bit PNG through OpenCV, because Pillow would cut colour to its high byte."""
    try:
        deep = cv2.imdecode(np.frombuffer(sound.data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from None
        return failed("corrupt", detail=f"OpenCV: {words(error)}")
    if deep is None or deep.dtype != np.uint16:
        return failed("corrupt", detail="OpenCV cannot decode this 16-bit PNG")
    values = deep_to_8_bit(deep)
    key = png.grey_key(sound.data)
    hidden = None if key is None else (deep if deep.ndim == 2 else deep[:, :, 0]) == key
    del deep
    if values.ndim == 2:
        values = values[:, :, None]
    grey, alpha = values.shape[2] <= 2, values.shape[2] in (2, 4)
    colours = np.repeat(values[:, :, :1], 3, axis=2) if grey else np.ascontiguousarray(values[:, :, 2::-1])
    only_grey = header.colour == "grey"
    wanted = profiled(sound.icc, "L" if only_grey else "RGB")
    colours = array_to_srgb(colours, wanted, only_grey)
    if alpha:
        colours = composite(colours, values[:, :, -1], background, into=colours)
    elif hidden is not None:
        colours[hidden] = background
    return Decoded(colours, "opencv", False, (BAD_PROFILE,) if wanted.damaged else ())


def _pillow(sound: Sound, header: Probe, background: tuple[int, int, int], max_pixels: int) -> Decoded | Outcome:
    """Pillow, held to the one format the header named. Its parsers raise nearly anything on hostile bytes."""
    name = {"pnm": "PPM"}.get(header.format, header.format.upper())
    try:
        with Image.open(io.BytesIO(sound.data), formats=(name,)) as image:
            if image.width * image.height > max_pixels:
                return failed("too_many_pixels", "policy", f"the first frame has {image.width}x{image.height} pixels")
            image.load()
            profile = sound.icc if header.format == "png" else image.info.get("icc_profile")
            return _from_pillow(image, header, profile, background)
    except Image.DecompressionBombError:
        return failed("too_many_pixels", "policy", "the first frame has more pixels than Pillow opens")
    except MemoryError:
        raise
    except Exception as error:  # the one boundary to foreign parsers; what they say becomes the outcome's detail
        said = words(error)
        return failed(_damage(sound.data, header, said), detail=f"Pillow: {said}")


def _from_pillow(
    image: Image.Image, header: Probe, profile: bytes | None, background: tuple[int, int, int]
) -> Decoded | Outcome:
    """A loaded Pillow image to RGB by the rules of the module docstring, a band of rows at a time."""
    mode = image.mode
    if mode in ("F", "LAB") or (mode == "I" and header.format != "pnm"):
        return failed("unsupported_mode", detail=f"pixels of mode {mode} have no stated range; convert them first")
    deep = mode == "I" or mode.startswith("I;16")
    clear = not deep and ("transparency" in image.info or mode in ("LA", "La", "PA", "RGBA", "RGBa"))
    target = "L" if deep else mode if mode in ("L", "RGB", "CMYK") and not clear else "RGB"
    wanted = profiled(profile, target)
    shown = np.empty((image.height, image.width, 3), np.uint8)
    opaque = True
    for rows in bands(image.height, image.width):
        part = image.crop((0, rows.start, image.width, rows.stop))
        if clear:
            full = part.convert("RGBA")
            alpha = np.asarray(full.getchannel("A"))
            opaque &= bool(alpha.min() == 255)
            colours = np.asarray(to_srgb(full.convert("RGB"), wanted.transform))
            composite(colours, alpha, background, into=shown[rows])
            continue
        if deep:
            part = Image.fromarray(deep_to_8_bit(np.asarray(part)))
        elif part.mode != target:
            part = part.convert(target)
        shown[rows] = np.asarray(to_srgb(part, wanted.transform))
    plain = wanted.transform is None and opaque and not deep and mode != "CMYK" and (clear or header.bits <= 8)
    return Decoded(shown, "pillow", plain, (BAD_PROFILE,) if wanted.damaged else ())


def _damage(raw: bytes, header: Probe, message: str) -> str:
    """`truncated` when the file visibly stops early, else `corrupt`."""
    ended = raw[-1:] == b";" if header.format == "gif" else True
    said = any(word in message.lower() for word in ("truncat", "unexpected end", "premature end"))
    return "truncated" if said or not ended else "corrupt"
