"""Whatever the bytes, `process` returns. Damage is tried by chance (fixed seeds) on one valid file of every format."""

from __future__ import annotations

import random
import warnings

import pytest
from PIL import Image

from pipelines.images import ImageParams, Processed, decode_rgb, process
from pipelines.outcomes import Outcome
from tests.images.making import encoded, exif, picture

MAGICS = [
    b"",
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"RIFF\x50\0\0\0WEBP",
    b"RIFF\x50\0\0\0WEBPVP8X",
    b"GIF89a",
    b"BM",
]
MAGICS += [b"P5\n9 9\n255\n", b"P6 ", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"\0\0\0\x20ftypavif"]
KINDS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "progressive", "CMYK", "RGBA", "P"]
PARAMS = ImageParams(resize="pad", size=32)


def _valid(kind: str) -> bytes:
    image = Image.fromarray(picture(40, 50))
    if kind == "progressive":
        return encoded(image, "JPEG", progressive=True, exif=exif(6))
    if kind == "CMYK":
        return encoded(image.convert("CMYK"), "JPEG")
    if kind in ("RGBA", "P"):
        return encoded(image.convert(kind), "PNG")
    return encoded(image, kind, exif=exif(5)) if kind in ("JPEG", "PNG", "WEBP", "AVIF") else encoded(image, kind)


def _returns(raw: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about damage that it then tells as well
        result = process(raw, PARAMS)
        pixels = decode_rgb(raw, PARAMS.limits)
    assert isinstance(result, Processed | Outcome)
    if isinstance(result, Outcome):
        assert result.status in ("failed", "dropped")
        assert result.reason
    else:
        assert (result.width, result.height) == (32, 32)
    assert isinstance(pixels, Outcome) == isinstance(result, Outcome)


@pytest.mark.parametrize("magic", MAGICS)
def test_on_random_bytes(magic: bytes) -> None:
    rng = random.Random(repr(magic))
    for _ in range(150):
        _returns(magic + rng.randbytes(rng.randrange(400)))


@pytest.mark.parametrize("kind", KINDS)
def test_on_files_cut_anywhere(kind: str) -> None:
    raw = _valid(kind)
    cuts = {*range(min(len(raw), 120)), *random.Random(kind).choices(range(len(raw)), k=120)}
    for cut in sorted(cuts):
        _returns(raw[:cut])


@pytest.mark.parametrize("kind", KINDS)
def test_on_flipped_bits(kind: str) -> None:
    raw, rng = _valid(kind), random.Random(kind)
    for _ in range(250):
        damaged = bytearray(raw)
        for _ in range(rng.choice((1, 1, 4, 32))):
            # Headers are small and decide most: half of the flips go there.
            damaged[rng.randrange(len(raw) if rng.random() < 0.5 else min(200, len(raw)))] ^= 1 << rng.randrange(8)
        _returns(bytes(damaged))
