"""How much memory an image takes on its way, from its header and before anything is decoded.

Measured with the releases that the tests run with (`python -m tests.bench.images FOLDER` shows the peaks beside these) and
rounded up. Decoders are charged for what they hold at once, whatever it is that the file makes them hold.
"""

from __future__ import annotations

from pipelines.images.decode import by_opencv, scale_for
from pipelines.images.formats.base import Probe
from pipelines.images.geometry import Size

_RGB = 3
#: Bytes a pixel that Pillow's decoders hold beside the RGB array that is made of them.
_PILLOW = {"png": 4, "gif": 5, "bmp": 4, "pnm": 4, "tiff": 4, "webp": 8}
#: An animated WebP is drawn on two canvases and handed over as bytes.
_ANIMATED = {"webp": 12, "gif": 4}
#: All that OpenCV holds a pixel when it checks an AVIF, without alpha and with; Pillow holds less after it.
_AVIF, _AVIF_ALPHA = 24, 40
_CHANNELS = {"grey": 1, "rgb": 3, "palette": 1, "cmyk": 4, "other": 4}


def decoding(header: Probe, floor: Size | None) -> int:
    """Bytes held at once while a picture is decoded."""
    pixels = header.width * header.height
    if header.format == "jpeg":
        factor = scale_for(header, floor)
        out = -(-header.width // factor) * -(-header.height // factor)
        channels = _CHANNELS[header.colour]
        # Coefficients of all blocks are held where they come in more than one scan, 2 bytes each, at every scale.
        held = 2 * channels * pixels if header.buffered else 0
        return held + out * (_RGB + 6 if header.colour == "cmyk" else _RGB)  # Pillow has it twice for a moment
    if by_opencv(header):
        deep = header.bits == 16
        channels = _CHANNELS[header.colour] + header.alpha
        return pixels * (2 * channels + channels + _RGB if deep else _RGB)
    if header.format == "avif":
        return pixels * (_AVIF_ALPHA if header.alpha else _AVIF) + 2 * header.packed
    animated = _ANIMATED.get(header.format, 0) if header.animated else 0
    return pixels * (_PILLOW[header.format] + animated + _RGB) + 2 * header.packed


def processing(header: Probe, floor: Size, resized: Size, final: Size) -> int:
    """Bytes held at once from decoding to encoding: the largest of the steps."""
    factor = scale_for(header, floor)
    source = _RGB * -(-header.width // factor) * -(-header.height // factor)
    whole, stored = _RGB * resized[0] * resized[1], _RGB * final[0] * final[1]
    turned = source * (2 if header.orientation > 1 else 1)
    resizing = source + 2 * whole if whole != source else source
    encoding = (source if whole == source else whole) + (stored if stored != whole else 0) + 2 * stored
    return max(decoding(header, floor), turned, resizing, encoding)
