"""How much of a bare decode-resize-encode loop is left when every rule of the safe image path is kept.

    python -m tests.bench.images FOLDER_WITH_JPEGS

One thread, CPU time (the machine may be shared), the same images in alternating blocks, the median of the block
ratios. The bare loop is simplejpeg decode, OpenCV AREA resize where the size changes, simplejpeg encode: no probe, no
limits, no hashes.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import simplejpeg

from pipelines.images import ImageParams, Processed, process
from pipelines.images.decode import decode
from pipelines.images.geometry import plan
from pipelines.images.phash import phash
from pipelines.images.probe import Probe, probe
from pipelines.images.process import pixel_sha256

BLOCK, BLOCKS = 200, 8


def bare(raw: bytes, params: ImageParams) -> bytes:
    """What a reader would write by hand for JPEG files known to be good."""
    pixels = simplejpeg.decode_jpeg(raw)
    sizes = plan(pixels.shape[:2], params)
    assert sizes is not None
    if sizes.resized != pixels.shape[:2]:
        pixels = cv2.resize(pixels, sizes.resized[::-1], interpolation=cv2.INTER_AREA)
    return simplejpeg.encode_jpeg(pixels, quality=params.quality, colorsubsampling=params.subsampling)


def seconds(work: Callable[[bytes], object], images: list[bytes]) -> float:
    start = time.process_time()
    for raw in images:
        work(raw)
    return time.process_time() - start


def compare(images: list[bytes], params: ImageParams) -> None:
    ratios, ours, theirs, done = [], 0.0, 0.0, 0
    for block in range(BLOCKS):
        part = images[block * BLOCK : (block + 1) * BLOCK] or images[:BLOCK]
        left = seconds(lambda raw: process(raw, params), part)
        right = seconds(lambda raw: bare(raw, params), part)
        ours, theirs, done = ours + left, theirs + right, done + len(part)
        ratios.append(right / left)
    name = f"{params.resize} {params.size or ''} {params.format} q{params.quality} {params.subsampling}"
    print(
        f"{name:28s} process {done / ours:6.0f} img/s   bare {done / theirs:6.0f} img/s   "
        f"ratio {statistics.median(ratios):.3f} (min {min(ratios):.3f}, max {max(ratios):.3f})"
    )


def parts(images: list[bytes]) -> None:
    """Microseconds of each piece on its own."""
    headers = [header for raw in images if isinstance(header := probe(raw), Probe)]
    arrays = [simplejpeg.decode_jpeg(raw) for raw in images]
    for name, work in (
        ("probe", lambda: [probe(raw) for raw in images]),
        ("decode", lambda: [decode(r, h, (0, 0, 0), None, 10**9) for r, h in zip(images, headers, strict=True)]),
        ("phash", lambda: [phash(pixels) for pixels in arrays]),
        ("pixel_sha256", lambda: [pixel_sha256(pixels) for pixels in arrays]),
    ):
        start = time.process_time()
        work()
        print(f"{name:28s} {(time.process_time() - start) / len(images) * 1e6:8.1f} us per image")


def main() -> None:
    cv2.setNumThreads(1)
    files = sorted(path for path in Path(sys.argv[1]).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    images = [path.read_bytes() for path in files[:: max(1, len(files) // (BLOCK * BLOCKS))]][: BLOCK * BLOCKS]
    images = [raw for raw in images if isinstance(process(raw, ImageParams()), Processed)]
    print(f"{len(images)} images of {len(files)} in {sys.argv[1]}")
    parts(images[:500])
    for params in (
        ImageParams(),
        ImageParams(format="keep"),
        ImageParams(resize="center_crop", size=224, upscale=True),
        ImageParams(resize="shorter", size=160),
        ImageParams(resize="shorter", size=160, quality=90, subsampling="420"),
        ImageParams(resize="shorter", size=64),
    ):
        compare(images, params)


if __name__ == "__main__":
    main()
