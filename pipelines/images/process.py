"""From the bytes of any image to the bytes that are stored, or to the reason why not.

The stated rules, in the order in which they act:

| what | rule | outcome when it bites |
| --- | --- | --- |
| no bytes; too many bytes | `limits.max_bytes` | failed `empty`; failed `too_many_bytes` (policy) |
| format | by its first bytes, not its name: JPEG, PNG, WebP, GIF, BMP, PNM, TIFF, AVIF; others are named | failed `unsupported_format` |
| header | must be whole and make sense | failed `truncated` / `bad_header` |
| pixels | `limits.max_pixels`, from the header and of what is to be stored | failed `too_many_pixels` (policy) |
| scans | `limits.max_scan_pixels`, of a JPEG | failed `too_many_scans` (policy) |
| memory | `limits.max_memory`, from the header, for decoding, resizing and encoding | failed `too_much_memory` (policy) |
| aspect, side | `limits.max_aspect`, `limits.min_side` | dropped `extreme_aspect` / `too_small` |
| animation | first frame, or dropped; of several TIFF pages the first | dropped `animated` |
| pixels | strict decode, see `decode` | failed `truncated` / `corrupt` / `unsupported_mode` / `out_of_memory` |
| beside the pixels | damage there is noted, see below | |
| profile | ICC to sRGB (relative colorimetric) unless it is sRGB; a broken one is ignored and noted | |
| CMYK, palette, 1 bit, grey, 16 bits | to 8-bit RGB | |
| transparency | over `alpha_background` | |
| EXIF orientation | the first that is stated is applied; the stored image is upright and carries no EXIF | |
| size | resize modes of `ImageParams`, antialiased, no growing unless `upscale` | dropped `too_small` |
| time | `limits.max_seconds` of CPU time | failed `too_slow` (policy) |
| a bug of ours | is the row of one image | failed `internal_error` |

Notes, of pictures that are sound: `bytes_after_end` (other files glued on, padding), `extra_bytes_before_end` (of a JPEG,
as some cameras leave them), `junk_between_segments` (a JPEG's application data is longer or shorter than it says),
`bad_profile` (cannot be read, or is for other pixels), `bad_exif`, `bad_chunk` (a PNG's text or time has a wrong checksum).
"""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from pipelines.images.budget import decoding, processing
from pipelines.images.colour import Pixels
from pipelines.images.decode import Decoded, decode
from pipelines.images.encode import EXTENSIONS, LONGEST_SIDE, encode, stored_format
from pipelines.images.formats.jpeg import MOST_SCANS
from pipelines.images.geometry import Plan, fit, plan, resize, turn
from pipelines.images.params import STORED_CAPS, ImageLimits, ImageParams
from pipelines.images.phash import phash
from pipelines.images.probe import Probe, probe
from pipelines.outcomes import Outcome, dropped, failed, internal_error


@dataclass(frozen=True, slots=True)
class Processed:
    """An image ready to be stored, and what was learnt on the way.

    `data` with file ending `ext` shows `width` x `height`; the upright source had `src_width` x `src_height`.
    `pixel_sha256` (hex) is over the stored shape and uint8 RGB pixels as given to the encoder; `phash` (16 hex digits)
    is of the whole upright picture before it is cropped or padded, so that it finds the same photograph under other
    parameters. `orientation` is the EXIF value that was applied, `decoder` who decoded. `notes` say what is wrong beside
    the pixels, separated by commas; None where nothing is.
    """

    data: bytes
    ext: str
    width: int
    height: int
    src_width: int
    src_height: int
    src_format: str
    orientation: int
    pixel_sha256: str
    phash: str
    decoder: str
    notes: str | None = None


#: Called with the bytes of memory that an image will take, before it is decoded; may wait.
Reserve = Callable[[int], None]


def process(raw: bytes, params: ImageParams, reserve: Reserve | None = None) -> Processed | Outcome:
    """Take one encoded image through the rules above. Never raises on bad data, whatever the bytes."""
    try:
        return _process(raw, params, reserve)
    except MemoryError:
        return failed("out_of_memory", "transient", "there was no memory for it")
    except Exception as error:
        return internal_error(error)


def _process(raw: bytes, params: ImageParams, reserve: Reserve | None) -> Processed | Outcome:
    deadline = time.thread_time() + params.limits.max_seconds
    header = admit(raw, params.limits)
    if isinstance(header, Outcome):
        return header
    if header.animated and params.animated == "drop":
        return dropped("animated", "it has more than one frame and animated is drop")
    upright = _upright_size(header)
    sizes = plan(upright, params)
    if sizes is None:
        return dropped("too_small", f"{upright[1]}x{upright[0]} is below {params.size} and upscale is false")
    name = stored_format(params, header.format)
    if max(sizes.final) > LONGEST_SIDE[name] or sizes.resized[0] * sizes.resized[1] > params.limits.max_pixels:
        return failed("too_many_pixels", "policy", f"{sizes.final[1]}x{sizes.final[0]} cannot be stored as {name}")
    floor = sizes.resized if header.orientation < 5 else (sizes.resized[1], sizes.resized[0])
    need = processing(header, floor, sizes.resized, sizes.final) + 2 * len(raw)
    if need > params.limits.max_memory:
        return _too_much_memory(header, need, params.limits)
    if reserve is not None:
        reserve(need)
    decoded = decode(raw, header, params.alpha_background, floor, params.limits.max_pixels)
    if isinstance(decoded, Outcome):
        return decoded
    if time.thread_time() > deadline:
        return too_slow(params.limits)
    pixels = turn(decoded.pixels, header.orientation)
    if header.format != "jpeg" and pixels.shape[:2] != upright:
        # A GIF's first frame may be larger than its screen; the pixels are right and the header was not.
        upright = (pixels.shape[0], pixels.shape[1])
        sizes = plan(upright, params) or Plan(upright, upright)
    untouched = params.format == "keep" and _says_the_same(header, decoded, sizes, upright)
    whole = resize(pixels, sizes.resized, params.interpolation)
    look = phash(whole if whole.size < pixels.size else pixels)
    pixels = fit(whole, sizes.final, params.pad_value)
    data = (decoded.repaired or raw) if untouched else encode(pixels, name, params)
    if time.thread_time() > deadline:
        return too_slow(params.limits)
    height, width = sizes.final
    return Processed(
        data=data,
        ext=EXTENSIONS[name],
        width=width,
        height=height,
        src_width=upright[1],
        src_height=upright[0],
        src_format=header.format,
        orientation=header.orientation,
        pixel_sha256=pixel_sha256(pixels),
        phash=look,
        decoder=decoded.decoder,
        notes=",".join(decoded.notes) or None,
    )


def decode_rgb(raw: bytes, limits: ImageLimits | None = None, reserve: Reserve | None = None) -> Pixels | Outcome:
    """Upright uint8 (H, W, 3) sRGB pixels of one image, transparency over white; an outcome when that cannot be had.

    `limits` are those of a stored image unless given (`STORED_CAPS`); for bytes from anywhere, give others.
    """
    limits = limits or STORED_CAPS
    try:
        header = admit(raw, limits)
        if isinstance(header, Outcome):
            return header
        need = decoding(header, None) + len(raw)
        if need > limits.max_memory:
            return _too_much_memory(header, need, limits)
        if reserve is not None:
            reserve(need)
        decoded = decode(raw, header, (255, 255, 255), None, limits.max_pixels)
        return decoded if isinstance(decoded, Outcome) else turn(decoded.pixels, header.orientation)
    except MemoryError:
        return failed("out_of_memory", "transient", "there was no memory for it")
    except Exception as error:
        return internal_error(error)


def admit(raw: bytes, limits: ImageLimits) -> Probe | Outcome:
    """The header of an image that may be decoded, or why it may not. Costs microseconds, whatever the image claims."""
    if len(raw) > limits.max_bytes:
        return failed("too_many_bytes", "policy", f"{len(raw)} bytes, the limit is {limits.max_bytes}")
    header = probe(raw)
    if isinstance(header, Outcome):
        return header
    size = f"{header.width}x{header.height}"
    pixels = header.width * header.height
    if pixels > limits.max_pixels:
        return failed("too_many_pixels", "policy", f"{size} is {pixels} pixels, the limit is {limits.max_pixels}")
    if pixels * header.scans > limits.max_scan_pixels or header.scans > MOST_SCANS:
        return failed("too_many_scans", "policy", f"{size} in {header.scans} scans or more is too much work")
    if min(header.width, header.height) < limits.min_side:
        return dropped("too_small", f"{size}, the least side is {limits.min_side}")
    if max(header.width, header.height) > limits.max_aspect * min(header.width, header.height):
        return dropped("extreme_aspect", f"{size}, the most is {limits.max_aspect:g} to 1")
    return header


def pixel_sha256(pixels: Pixels) -> str:
    """SHA-256 (hex) over height, width and channels as little-endian uint32, then the uint8 values row by row."""
    digest = hashlib.sha256(struct.pack("<III", *pixels.shape))
    digest.update(pixels.data)
    return digest.hexdigest()


def _upright_size(header: Probe) -> tuple[int, int]:
    return (header.width, header.height) if header.orientation >= 5 else (header.height, header.width)


def _says_the_same(header: Probe, decoded: Decoded, sizes: Plan, upright: tuple[int, int]) -> bool:
    """Whether the original bytes show exactly what would be stored, so that `keep` may keep them."""
    unchanged = sizes.resized == upright and sizes.final == upright and header.orientation == 1
    return unchanged and decoded.plain and header.format in EXTENSIONS and not header.animated


def too_slow(limits: ImageLimits) -> Outcome:
    """What becomes of an image that takes longer than it may."""
    return failed("too_slow", "policy", f"it took more than {limits.max_seconds:g} s of CPU time")


def _too_much_memory(header: Probe, need: int, limits: ImageLimits) -> Outcome:
    size, most = f"{header.width}x{header.height}", limits.max_memory >> 20
    return failed("too_much_memory", "policy", f"{size} {header.format} takes {need >> 20} MiB, the limit is {most}")
