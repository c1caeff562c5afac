"""RGB pixels to JPEG, PNG or WebP bytes: the same bytes for the same pixels, options and library versions."""

from __future__ import annotations

import cv2
import simplejpeg

from pipelines.images.colour import Pixels
from pipelines.images.params import ImageParams
from pipelines.images.probe import Format

#: File name endings of the formats that are ever stored.
EXTENSIONS: dict[str, str] = {"jpeg": "jpg", "png": "png", "webp": "webp"}
#: The longest side each format can hold.
LONGEST_SIDE = {"jpeg": 65_500, "png": 1_000_000, "webp": 16_383}

_PNG_LEVEL = 6


def stored_format(params: ImageParams, source: Format) -> str:
    """`params.format`, with `keep` resolved to the source's own format where that can be stored, else PNG."""
    if params.format != "keep":
        return params.format
    return source if source in EXTENSIONS else "png"


def encode(pixels: Pixels, name: str, params: ImageParams) -> bytes:
    """Encode uint8 (H, W, 3) RGB as `name` (`jpeg | png | webp`); sides must be within `LONGEST_SIDE`."""
    if name == "jpeg":
        return bytes(
            simplejpeg.encode_jpeg(
                pixels, quality=params.quality, colorspace="RGB", colorsubsampling=params.subsampling
            )
        )
    options = (
        [cv2.IMWRITE_WEBP_QUALITY, params.quality] if name == "webp" else [cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL]
    )
    done, data = cv2.imencode("." + name, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    assert done, f"OpenCV cannot encode {name}"
    return bytes(data.tobytes())
