"""Pixels that Limbeck computed, as samples: the encoded image, what is known of it, its class, and the row of the sidecar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.images.colour import Pixels
from pipelines.images.encode import EXTENSIONS, encode
from pipelines.images.params import ImageParams
from pipelines.images.phash import phash
from pipelines.images.process import pixel_sha256
from pipelines.shards.sample import Sample
from pipelines.storage import canonical_json


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An encoded image: `member` is (extension, bytes); `row` has the sidecar's columns that follow from the pixels."""

    member: tuple[str, bytes]
    row: dict[str, Any]

    @property
    def size(self) -> dict[str, int]:
        """Width and height in pixels, as a sample's `json` says them."""
        return {"width": self.row["width"], "height": self.row["height"]}


def encode_pixels(pixels: Pixels, params: ImageParams) -> EncodedImage:
    """Encode uint8 (H, W, 3) RGB in the format of `params`, which is not `keep`, and hash it."""
    pixels = np.ascontiguousarray(pixels)
    data = encode(pixels, params.format, params)
    height, width = pixels.shape[:2]
    row = {"width": width, "height": height, "bytes": len(data)}
    return EncodedImage(
        (EXTENSIONS[params.format], data), row | {"pixel_sha256": pixel_sha256(pixels), "phash": phash(pixels)}
    )


def synthetic_sample(
    key: str,
    pixels: Pixels,
    params: ImageParams,
    label: tuple[int, str],
    row: Mapping[str, Any],
    described: Mapping[str, Any] | None = None,
    arrays: bytes | None = None,
    caption: str | None = None,
) -> Sample:
    """Encode pixels and make their sample, as `training_sample` does."""
    return training_sample(key, encode_pixels(pixels, params), label, row, described, arrays, caption)


def training_sample(
    key: str,
    image: EncodedImage,
    label: tuple[int, str],
    row: Mapping[str, Any],
    described: Mapping[str, Any] | None = None,
    arrays: bytes | None = None,
    caption: str | None = None,
) -> Sample:
    """Make the sample of a training image that is encoded already.

    `label` is (class number, class name), `row` the sidecar's columns about how the image was made, `described` what its `json`
    says besides key, label and size, `arrays` the bytes of an `npy` member, `caption` a text about it (`json` and `txt`).
    """
    number, name = label
    named = {"label": number, "label_name": name}
    about = (
        {"key": key} | named | image.size | dict(described or {}) | ({} if caption is None else {"caption": caption})
    )
    members = [image.member, ("json", canonical_json(about)), ("cls", str(number).encode())]
    if caption is not None:
        members.append(("txt", caption.encode()))
    if arrays is not None:
        members.append(("npy", arrays))
    return Sample(key, tuple(members), {"split": "train"} | named | image.row | dict(row))
