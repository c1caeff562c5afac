"""The one safe image path: probe, cap, decode, orient, resize, encode, hash. Every image enters Limbeck through here.

Bytes in, bytes and facts out; no files, no network. Bad data gives an `Outcome`, never an exception: whatever bytes
come in, `process` and `decode_rgb` return. Which rule applies to which kind of image is the table in `process`.
"""

from pipelines.images.params import ImageLimits, ImageParams
from pipelines.images.process import Processed, decode_rgb, process

__all__ = ["ImageLimits", "ImageParams", "Processed", "decode_rgb", "process"]
