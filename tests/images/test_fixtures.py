"""Real oddities: every file of `dedup_fixtures.tar.xz` ends in the outcome that is written here."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from pipelines.images import ImageParams, Processed, decode_rgb, process
from pipelines.outcomes import Outcome
from tests.images.making import closeness

pytestmark = pytest.mark.shared_data

PARAMS = ImageParams(resize="shorter", size=224)
#: Files that are no images, whatever they are called. `ukbench09268_corrupt.jpg` has lost its very first bytes:
#: nothing says that it was a JPEG, so it is unknown and not truncated.
REFUSED = {
    "SOURCE.txt": "unsupported_format",
    "LICENSE": "unsupported_format",
    "README.md": "unsupported_format",
    "haystack.txt": "unsupported_format",
    "needles.txt": "unsupported_format",
    "long256.dat": "unsupported_format",
    "long64.dat": "unsupported_format",
    "order256.dat": "unsupported_format",
    "short256.dat": "unsupported_format",
    "short64.dat": "unsupported_format",
    "ukbench09268_corrupt.jpg": "unsupported_format",
}
#: (format, decoder, orientation, width, height) of the odd ones that are kept. Every other file is a plain JPEG.
KEPT = {
    "alpha_channel_image.png": ("png", "pillow", 1, 299, 224),
    "baboon.pgm": ("pnm", "opencv", 1, 224, 224),
    "copyleft.tiff": ("tiff", "pillow", 1, 220, 220),
    "giphy.gif": ("gif", "pillow", 1, 224, 285),
    "ukbench09268.jpg": ("jpeg", "simplejpeg", 6, 224, 299),
    "ukbench09380.bmp": ("jpeg", "simplejpeg", 1, 299, 224),
    "ukbench09380.png": ("jpeg", "simplejpeg", 1, 299, 224),
    "ukbench09380.svg": ("jpeg", "simplejpeg", 1, 299, 224),
    "ukbench09380.webp": ("webp", "opencv", 1, 299, 224),
    "c.png": ("png", "pillow", 1, 395, 224),
    "1.png": ("png", "pillow", 1, 357, 224),
    "CMYK.jpg": ("jpeg", "simplejpeg", 1, 357, 224),
    "F.webp": ("webp", "opencv", 1, 357, 224),
    "HSV.webp": ("webp", "opencv", 1, 357, 224),
    "I.webp": ("webp", "opencv", 1, 357, 224),
    "LAB.webp": ("webp", "opencv", 1, 357, 224),
    "PA.webp": ("webp", "opencv", 1, 357, 224),
    "L.png": ("png", "opencv", 1, 357, 224),
    "LA.png": ("png", "pillow", 1, 357, 224),
    "P.png": ("png", "pillow", 1, 357, 224),
    "RGBA.png": ("png", "pillow", 1, 357, 224),
    "pen-and-coaster.png": ("png", "pillow", 1, 282, 224),
    "small.jpg": ("jpeg", "simplejpeg", 1, 224, 399),
    "wee.jpg": ("jpeg", "simplejpeg", 1, 34, 42),
    "shrink-a-lot.jpg": ("jpeg", "simplejpeg", 1, 160, 100),
    "square-128x128.jpg": ("jpeg", "simplejpeg", 1, 128, 128),
    "exif-rotn-1.jpg": ("jpeg", "simplejpeg", 1, 299, 224),
    "exif-rotn-3.jpg": ("jpeg", "simplejpeg", 3, 299, 224),
    "exif-rotn-6.jpg": ("jpeg", "simplejpeg", 6, 224, 299),
    "exif-rotn-8.jpg": ("jpeg", "simplejpeg", 8, 224, 299),
}


@pytest.fixture(scope="module")
def fixtures(shared_data: Path) -> dict[str, bytes]:
    """Bytes of every file by its path inside the archive."""

    def files() -> Iterator[tuple[str, bytes]]:
        with tarfile.open(shared_data / "dedup_fixtures.tar.xz") as archive:
            for member in archive:
                handle = archive.extractfile(member)
                if handle is not None:
                    yield member.name, handle.read()

    return dict(files())


def _named(fixtures: dict[str, bytes], name: str) -> bytes:
    return next(raw for path, raw in fixtures.items() if PurePosixPath(path).name == name)


def test_every_file_ends_in_its_stated_outcome(fixtures: dict[str, bytes]) -> None:
    wrong = []
    for path, raw in fixtures.items():
        name = PurePosixPath(path).name
        result = process(raw, PARAMS)
        if isinstance(result, Outcome):
            said: object = (result.status, result.reason, result.error_class)
            expected: object = ("failed", REFUSED.get(name, "nothing: it is kept"), "permanent")
        elif name in KEPT:
            said = (result.src_format, result.decoder, result.orientation, result.width, result.height)
            expected = KEPT[name]
        else:
            said = (result.src_format, result.decoder, result.orientation, name in REFUSED)
            expected = ("jpeg", "simplejpeg", 1, False)
        if said != expected:
            wrong.append(f"{path}: {said}, expected {expected}")
    assert not wrong, "\n".join(wrong)
    names = {PurePosixPath(path).name for path in fixtures}
    assert len(fixtures) == 91
    assert names >= set(REFUSED) | set(KEPT)


@pytest.mark.parametrize("name", [f"exif-rotn-{number}.jpg" for number in (1, 3, 6, 8)])
def test_turned_photographs_come_out_as_pillow_turns_them(fixtures: dict[str, bytes], name: str) -> None:
    raw = _named(fixtures, name)
    with Image.open(io.BytesIO(raw)) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB").reduce(8)
    stored = process(raw, ImageParams(resize="exact", size=400, format="png"))
    assert isinstance(stored, Processed)
    shown = np.asarray(Image.open(io.BytesIO(stored.data)))
    assert closeness(shown, np.asarray(expected.resize((400, 400), Image.Resampling.BOX))) < 3
    # The four are different photographs of one desk: the bright wall is above, the dark desk below, in each.
    assert shown[:100].mean() > shown[-100:].mean()


def _small(fixtures: dict[str, bytes], name: str) -> np.ndarray:
    """100 x 63 pixels of a file: dithering and JPEG noise average out, colours stay."""
    pixels = decode_rgb(_named(fixtures, name))
    assert isinstance(pixels, np.ndarray)
    return cv2.resize(pixels, (100, 63), interpolation=cv2.INTER_AREA)


COLOURED = ["CMYK.jpg", "YCbCr.jpg", "RGB.jpg", "P.png", "PA.webp", "RGBA.png", "HSV.webp", "LAB.webp"]


@pytest.mark.parametrize("name", COLOURED)
def test_colour_modes_show_the_original_colours(fixtures: dict[str, bytes], name: str) -> None:
    assert closeness(_small(fixtures, name), _small(fixtures, "original.jpg")) < 1


@pytest.mark.parametrize("name", ["1.png", "L.png", "LA.png", "F.webp", "I.webp"])
def test_grey_modes_show_the_originals_lightness(fixtures: dict[str, bytes], name: str) -> None:
    shown = _small(fixtures, name)
    grey = cv2.cvtColor(_small(fixtures, "original.jpg"), cv2.COLOR_RGB2GRAY)
    assert closeness(shown, np.repeat(grey[:, :, None], 3, axis=2)) < 1.5


def test_an_animated_gif_gives_its_first_frame_or_is_dropped(fixtures: dict[str, bytes]) -> None:
    raw = _named(fixtures, "giphy.gif")
    assert isinstance(process(raw, PARAMS), Processed)
    outcome = process(raw, ImageParams(animated="drop"))
    assert isinstance(outcome, Outcome)
    assert (outcome.status, outcome.reason) == ("dropped", "animated")
