"""The perceptual hash finds the same picture and tells different ones apart."""

from __future__ import annotations

import numpy as np
from PIL import Image

from pipelines.images import ImageParams, Processed, process
from pipelines.images.phash import distance, phash
from tests.images.making import encoded, picture


def _hash(raw: bytes, **params: object) -> str:
    result = process(raw, ImageParams(**params))
    assert isinstance(result, Processed)
    return result.phash


def test_it_has_sixteen_hex_digits_and_is_the_dct_of_a_small_grey_picture() -> None:
    grey = np.asarray(Image.fromarray(picture(32, 32)).convert("L"))
    frequency, position = np.meshgrid(np.arange(8), np.arange(32), indexing="ij")
    basis = np.cos(np.pi * frequency * (2 * position + 1) / 64)
    low = basis @ grey @ basis.T
    expected = "".join("1" if value > np.median(low) else "0" for value in low.ravel())
    assert phash(np.repeat(grey[:, :, None], 3, axis=2)) == f"{int(expected, 2):016x}"


def test_size_format_and_quality_hardly_change_it() -> None:
    for seed in range(5):
        photo = picture(400, 500, seed)
        reference = _hash(encoded(photo, "PNG"))
        assert distance(reference, _hash(encoded(photo, "JPEG", quality=40))) <= 6
        assert distance(reference, _hash(encoded(picture(200, 250, seed), "WEBP"))) <= 6
        assert distance(reference, _hash(encoded(photo, "JPEG"), resize="shorter", size=64)) <= 6
        assert distance(reference, _hash(encoded(photo, "PNG"), resize="center_crop", size=224)) <= 6


def test_different_pictures_are_far_apart() -> None:
    hashes = [_hash(encoded(picture(100, 100, seed), "PNG")) for seed in range(12)]
    assert min(distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) > 10


def test_plain_images_have_the_same_hash_whatever_their_colour() -> None:
    assert {phash(np.full((50, 70, 3), level, np.uint8)) for level in (1, 90, 255)} == {"8000000000000000"}
