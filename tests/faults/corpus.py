"""Some 300 small hostile files, made anew and the same each time: damage of every kind, bombs, lies, and what is no picture.

Nothing here is larger than a few megabytes, whatever it claims to be. None of it may cost a worker its life, more memory
than the limit or more time than a photograph of the pixels that it really holds.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator
from functools import cache

import numpy as np
from PIL import Image

from tests.faults.kinds import cut, flipped, sound, zero_tailed
from tests.images.making import encoded, png_bomb, png_chunk

#: A side whose square is just within `limits.max_pixels`.
WIDE = 8900
MAGICS = {
    "jpeg": b"\xff\xd8\xff\xe0",
    "png": b"\x89PNG\r\n\x1a\n",
    "webp": b"RIFF\x90\0\0\0WEBPVP8 ",
    "webp extended": b"RIFF\x90\0\0\0WEBPVP8X",
    "gif": b"GIF89a",
    "bmp": b"BM",
    "pnm": b"P6 ",
    "tiff": b"II*\0\x08\0\0\0",
    "bigtiff": b"MM\0+\0\x08\0\0",
    "avif": b"\0\0\0\x20ftypavif\0\0\0\0avifmif1",
}


@cache
def hostile() -> dict[str, bytes]:
    """Files by what is wrong with them."""
    made: dict[str, bytes] = {}
    for part in (_damaged, _jpegs, _pngs, _webps_and_gifs, _tiffs, _bitmaps, _avifs, _nonsense):
        for name, raw in part():
            assert name not in made, name
            made[name] = raw
    return made


def _damaged() -> Iterator[tuple[str, bytes]]:
    for kind, raw in sound().items():
        rng = random.Random(kind)
        yield f"{kind} cut", cut(raw, 0.6)
        yield f"{kind} cut early", raw[: min(len(raw), 60)]
        yield f"{kind} ends in zeros", zero_tailed(raw, 0.5)
        head = 8 * min(len(raw), 160)
        yield f"{kind} damaged header", flipped(raw, [rng.randrange(64, head) for _ in range(4)])
        yield f"{kind} damaged throughout", flipped(raw, [rng.randrange(8 * len(raw)) for _ in range(40)])


def _jpegs() -> Iterator[tuple[str, bytes]]:
    progressive, plain = sound()["jpeg progressive"], sound()["jpeg"]
    scan = progressive.rindex(b"\xff\xda")
    yield "jpeg of 2 000 scans", progressive[:-2] + progressive[scan:-2] * 2000 + b"\xff\xd9"
    first = plain.index(b"\xff\xda")
    yield "sequential jpeg that repeats its scan", plain[:-2] + plain[first:-2] * 200 + b"\xff\xd9"
    empty = progressive[scan : scan + 2 + int.from_bytes(progressive[scan + 2 : scan + 4], "big")] + b"\0"
    big = _sized(encoded(Image.new("L", (64, 64)), "JPEG", progressive=True), 4000, 4000)
    yield "jpeg of 20 000 empty scans", big[:-2] + empty * 20_000 + b"\xff\xd9"
    yield "jpeg with scans in comments", plain[:2] + b"\xff\xfe\xff\xfe" + b"\xff\xda\0\x08" * 16_383 + plain[2:]
    yield "jpeg with a thousand thumbnails behind it", plain + plain * 300
    yield (
        "jpeg with its frame after a scan",
        plain[:-2] + b"\xff\xc0\0\x11\x08\xff\xff\xff\xff\3" + bytes(9) + plain[-2:],
    )
    yield "jpeg of 65 500 x 1 200 without data", _sized(plain, 65_500, 1200)
    yield "progressive jpeg that claims 79 million pixels", _sized(progressive, WIDE, WIDE)
    yield "flat jpeg of 79 million pixels", _flat_jpeg(WIDE // 8)
    yield (
        "jpeg with 16 MB of profile",
        plain[:2] + b"".join(_icc(number, b"x" * 65_000) for number in range(1, 256)) + plain[2:],
    )
    yield (
        "jpeg with exif that refers to itself",
        plain[:2] + _app1(b"MM\0*\0\0\0\x08\0\1\x87\x69\0\4\0\0\0\1\0\0\0\x08\0\0\0\x08") + plain[2:],
    )
    yield "jpeg with exif of 65 535 tags", plain[:2] + _app1(b"II*\0\x08\0\0\0\xff\xff" + bytes(60_000)) + plain[2:]
    for name, number in (("12 bits", 12), ("0 bits", 0), ("255 bits", 255)):
        at = plain.index(b"\xff\xc0")
        yield f"jpeg of {name}", plain[: at + 4] + bytes([number]) + plain[at + 5 :]
    at = plain.index(b"\xff\xc0")
    for marker in (0xC3, 0xC5, 0xC7, 0xCB, 0xCD, 0xCF):
        yield f"jpeg of process {marker:x}", plain[: at + 1] + bytes([marker]) + plain[at + 2 :]
    yield "jpeg of 255 components", plain[: at + 9] + b"\xff" + plain[at + 10 :]
    yield "jpeg of sampling 15", plain[: at + 11] + b"\xff" + plain[at + 12 :]
    yield "jpeg without tables", plain[:2] + plain[at:]
    yield "jpeg of nothing but restart markers", plain[: first + 14] + b"\xff\xd0" * 50_000 + b"\xff\xd9"
    yield "jpeg of nothing but fill bytes", b"\xff\xd8" + b"\xff" * 500_000


def _pngs() -> Iterator[tuple[str, bytes]]:
    for kind, channels, bits in ((0, 1, 8), (2, 3, 8), (6, 4, 8), (3, 1, 8), (0, 1, 16), (6, 4, 16), (4, 2, 8)):
        for laced in (0, 1):
            yield f"flat png of kind {kind}, {bits} bits, interlaced {laced}", _flat_png(kind, channels, bits, laced)
    yield "png bomb", png_bomb()
    for side in (WIDE, 65_535, 2**31 - 1):
        head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 16, 6, 0, 0, 1))
        yield f"png that claims {side}", b"\x89PNG\r\n\x1a\n" + head + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")
    bomb = _zeros(512 << 20)
    for kind in ("png", "png rgba", "png 16 bit"):
        raw = sound()[kind]
        for name, body in (("zTXt", b"a\0\0"), ("iTXt", b"a\0\1\0\0\0"), ("iCCP", b"a\0\0")):
            yield f"{kind} with a bomb in {name}", raw[:33] + png_chunk(name.encode(), body + bomb) + raw[33:]
        yield f"{kind} of 100 000 chunks", raw[:33] + png_chunk(b"tEXt", b"a\0b") * 100_000 + raw[33:]
        yield f"{kind} with a chunk of 2 GB", raw[:33] + struct.pack(">I4s", 2**31 - 1, b"tEXt") + raw[33:]
        frames = b"".join(png_chunk(b"fcTL", bytes(26)) + png_chunk(b"fdAT", bytes(4)) for _ in range(5000))
        yield f"{kind} of 5 000 frames", raw[:33] + png_chunk(b"acTL", struct.pack(">II", 2**31, 0)) + frames + raw[33:]


def _webps_and_gifs() -> Iterator[tuple[str, bytes]]:
    for side in (16_383, WIDE):
        canvas = (side - 1).to_bytes(3, "little") * 2
        for flags in (0x02, 0x10, 0x00, 0x32):
            body = b"VP8X\x0a\0\0\0" + bytes([flags, 0, 0, 0]) + canvas
            yield (
                f"webp of 40 bytes, {side} pixels wide, flags {flags}",
                b"RIFF" + struct.pack("<I", 4 + len(body) + 10) + b"WEBP" + body + b"ANIM\6\0\0\0" + bytes(6),
            )
    lossless = b"\x2f" + (16_382 | 16_382 << 14).to_bytes(4, "little") + bytes(40)
    yield (
        "lossless webp of 16 383",
        b"RIFF" + struct.pack("<I", 12 + len(lossless)) + b"WEBPVP8L" + struct.pack("<I", len(lossless)) + lossless,
    )
    animated = sound()["webp animated"]
    at = animated.index(b"ANMF")
    yield (
        "webp of 300 frames",
        animated[:4]
        + struct.pack("<I", len(animated) - 8 + 300 * 1000)
        + animated[8:]
        + animated[at : at + 1000] * 300,
    )
    screen = struct.pack("<HHBBB", 65_535, 65_535, 0xF0, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 8, 8, 0) + b"\2\3\x84\x1d\5\0"
    yield "gif with a screen of 65 535", b"GIF89a" + screen + frame + b";"
    yield (
        "gif with a screen of 8 900",
        b"GIF89a" + struct.pack("<HHBBB", WIDE, WIDE, 0xF0, 0, 0) + bytes(6) + frame + b";",
    )
    small = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0xF0, 0, 0) + bytes(6)
    yield (
        "gif whose frame is larger than its screen",
        small + b"," + struct.pack("<HHHHB", 0, 0, WIDE, WIDE, 0) + b"\2\3\x84\x1d\5\0;",
    )
    yield "gif of 20 000 frames", small + frame * 20_000 + b";"
    yield "gif of 100 000 comments", small + b"!\xfe\1a\0" * 100_000 + frame + b";"
    yield "gif without an end", small + b"!\xfe" + b"\xff" * 200_000
    yield "flat gif of 64 million pixels", _flat_gif(8000)


def _tiffs() -> Iterator[tuple[str, bytes]]:
    whole = {256: 64, 257: 64, 258: 8, 259: 1, 262: 1, 277: 1, 278: 64, 273: 8, 279: 4096}
    lies = {
        "a tile of 60 000": {322: 60_000, 323: 60_000, 324: 8, 325: 8},
        "a strip of 4 GB": {257: 65_000, 256: 65_000, 278: 65_000},
        "79 million pixels and no data": {256: WIDE, 257: WIDE, 278: WIDE, 279: WIDE * WIDE},
        "79 million deflated pixels and no data": {256: WIDE, 257: WIDE, 278: WIDE, 259: 8},
        "no width": {256: 0},
        "60 000 samples": {277: 60_000},
        "60 000 bits": {258: 60_000},
        "strips of one row": {278: 1},
        "no rows in a strip": {278: 0},
        "an unknown compression": {259: 60_000},
        "JPEG of the old form": {259: 6},
        "raw sensor values": {262: 32_803},
        "a strip outside": {273: 4_000_000_000},
        "no strips": {273: None},
        "fax codes": {259: 4, 258: 1},
        "float values": {258: 32, 339: 3},
    }
    for name, tags in lies.items():
        for order in "<>":
            yield f"tiff with {name} {order}", _tiff({**whole, **tags}, order, bytes(4096))
    loop = _tiff(whole, "<", bytes(4096))
    yield (
        "tiff whose next directory is the first",
        loop[: 10 + 12 * len(whole)] + b"\x08\0\0\0" + loop[14 + 12 * len(whole) :],
    )
    tags = b"".join(struct.pack("<HHII", tag, 7, 900_000, 8) for tag in range(40_000, 44_000))
    yield "tiff of 4 000 tags that hold the file", b"II*\0\x08\0\0\0" + struct.pack("<H", 4000) + tags + bytes(900_000)
    yield "tiff of 65 535 tags", b"II*\0\x08\0\0\0\xff\xff" + struct.pack("<HHII", 256, 3, 1, 64) * 65_535 + bytes(4)
    yield "bigtiff of 2^60 tags", b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**60) + bytes(64)
    yield (
        "bigtiff with a value of 2^60 bytes",
        b"II+\0\x08\0\0\0" + struct.pack("<QQHHQQ", 16, 1, 700, 7, 2**60, 8) + bytes(8),
    )
    packed = _zeros(8000 * 8000)
    flat = {**whole, 256: 8000, 257: 8000, 278: 8000, 259: 8, 279: len(packed)}
    yield "flat deflated tiff of 64 million pixels", _tiff(flat, "<", packed)
    yield "tiff that inflates to more than it says", _tiff({**flat, 257: 10, 278: 10}, "<", packed)


def _bitmaps() -> Iterator[tuple[str, bytes]]:
    for packing in (0, 1, 2, 3, 4, 5, 99):
        for depth in (1, 8, 24, 32):
            head = struct.pack(
                "<IiiHHIIiiII", 40, WIDE, -WIDE if packing == 0 else WIDE, 1, depth, packing, 0, 0, 0, 0, 0
            )
            yield (
                f"bmp that claims 79 million pixels, {packing}, {depth}",
                b"BM" + struct.pack("<IHHI", 99, 0, 0, 54) + head + bytes(200),
            )
    head = struct.pack("<IiiHHIIiiII", 40, 2000, 2000, 1, 8, 1, 0, 0, 0, 256, 0) + bytes(1024)
    yield "bmp of runs that jump", b"BM" + struct.pack("<IHHI", 99, 0, 0, 1078) + head + b"\0\2\xff\xff" * 2000
    yield "bmp of runs that end", b"BM" + struct.pack("<IHHI", 99, 0, 0, 1078) + head + b"\0\1"
    for kind in b"123456":
        yield f"pnm {kind - 48} that claims 79 million pixels", b"P%c %d %d 255\n" % (kind, WIDE, WIDE) + b"1 " * 100
        yield f"pnm {kind - 48} of 999 999 999", b"P%c 999999999 999999999 255\n" % kind
    yield "pnm of comments", b"P5\n" + b"# a\n" * 200_000 + b"8 8\n255\n" + bytes(64)
    yield "pnm of huge numbers", b"P2\n8 8\n255\n" + b"9" * 100_000
    yield "pnm text of 4 million values", b"P2\n2000 2000\n255\n" + b"7 " * 4_000_000


def _avifs() -> Iterator[tuple[str, bytes]]:
    raw = sound()["avif"]
    at = raw.index(b"ispe") + 8
    for side in (16_384, WIDE, 8, 0, 2**31):
        yield f"avif that claims {side}", raw[:at] + struct.pack(">II", side, side) + raw[at + 8 :]
    place = raw.index(b"iloc") + 4
    for share in range(0, 24, 3):
        yield f"avif with its places changed at {share}", raw[: place + share] + b"\xff" + raw[place + share + 1 :]
    yield (
        "avif of boxes in boxes",
        raw[:32] + b"".join(struct.pack(">I4s", 8 * (5000 - depth), b"meta") for depth in range(5000)),
    )
    yield "avif with a box of no size", raw[:32] + struct.pack(">I4s", 1, b"meta") + bytes(8) + raw[32:]
    flat = io.BytesIO()
    Image.new("RGB", (3000, 3000)).save(flat, "AVIF", speed=10)
    yield "flat avif of 9 million pixels", flat.getvalue()


def _nonsense() -> Iterator[tuple[str, bytes]]:
    for name, magic in MAGICS.items():
        for number in range(4):
            yield f"{name} and chance {number}", magic + random.Random(f"{name}{number}").randbytes(60 * 4**number)
        yield f"{name} and zeros", magic + bytes(4000)
        yield f"{name} and ones", magic + b"\xff" * 4000
    for name, raw in {
        "nothing": b"",
        "a byte": b"\xff",
        "zeros": bytes(10_000),
        "a web page": b"<!DOCTYPE html><html><title>404</title></html>",
        "deep JSON": b"[" * 200_000,
        "text": b"hello\n" * 1000,
        "a video": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(500),
        "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500),
        "svg with entities": b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'b'>]><svg>&b;</svg>",
        "a pickle": b"\x80\x04\x95\x1e\0\0\0\0\0\0\0\x8c\x08builtins\x94",
    }.items():
        yield name, raw


def _sized(jpeg: bytes, width: int, height: int) -> bytes:
    """A JPEG whose frame header says another size."""
    at = max(jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc2"))
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]


def _flat_jpeg(blocks: int) -> bytes:
    """Grey, blocks x blocks blocks without a coefficient: 00 for no difference and 1010 for the end of a block."""
    one = encoded(np.full((8, 8), 128, np.uint8), "JPEG")
    start = one.index(b"\xff\xda") + 10
    data = b"\x28\xa2\x8a" * (-(-blocks * blocks // 4))
    return _sized(one[:start] + data + b"\xff\xd9", 8 * blocks, 8 * blocks)


def _flat_png(kind: int, channels: int, bits: int, laced: int) -> bytes:
    """79 million pixels in some 100 kB (without the seven passes' filter bytes where it is interlaced: then it is cut)."""
    data = _zeros(WIDE * (1 + WIDE * channels * bits // 8))
    palette = png_chunk(b"PLTE", bytes(range(3))) if kind == 3 else b""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", WIDE, WIDE, bits, kind, 0, 0, laced))
    return b"\x89PNG\r\n\x1a\n" + head + palette + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def _zeros(count: int) -> bytes:
    """`count` zeros, compressed (RFC 1950) in no time: one piece that refers to nothing before it, again and again."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    last = zlib.compressobj(9, zlib.DEFLATED, -15)
    rest = last.compress(bytes(count % (1 << 20))) + last.flush()
    return b"\x78\xda" + piece * (count >> 20) + rest + struct.pack(">HH", count % 65_521, 1)


def _flat_gif(side: int) -> bytes:
    return encoded(Image.new("P", (side, side)), "GIF")


def _tiff(tags: dict[int, int | None], order: str, data: bytes) -> bytes:
    """A TIFF of one directory with whole numbers; the data (273 is 8 where it stands) comes behind it."""
    given = {tag: value for tag, value in sorted(tags.items()) if value is not None}
    start = 8 + 2 + 12 * len(given) + 4
    places = {273: start, 324: start}
    entries = b"".join(
        struct.pack(order + "HHII", tag, 4, 1, places.get(tag, value) if value == 8 else value)
        for tag, value in given.items()
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(given))
    return head + entries + bytes(4) + data


def _icc(number: int, body: bytes) -> bytes:
    return b"\xff\xe2" + struct.pack(">H", 16 + len(body)) + b"ICC_PROFILE\0" + bytes([number, 255]) + body


def _app1(tiff: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff
