"""How much of a bare decode-resize-encode loop is left when every rule of the safe image path is kept.

    python -m tests.bench.images FOLDER_WITH_JPEGS

One thread, CPU time (the machine may be shared), the same images in alternating blocks, the median of the block
ratios. The bare loop is simplejpeg decode, OpenCV AREA resize where the size changes, simplejpeg encode: no probe, no
limits, no hashes.

Then what it costs to decode in processes of their own, as `ingest` does: CPU seconds of this process and of the decoder
over those of the same work here, and pictures a second with two threads each way. Last, what a large picture of each kind
takes in memory, beside what `budget` says that it takes.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import simplejpeg
from PIL import Image

from pipelines.images import ImageLimits, ImageParams, Processed, process
from pipelines.images.budget import processing
from pipelines.images.decode import decode
from pipelines.images.geometry import plan
from pipelines.images.isolation import Decoders
from pipelines.images.phash import phash
from pipelines.images.probe import Probe, probe
from pipelines.images.process import pixel_sha256
from pipelines.stages.ingest.worker import BATCH
from tests.bench.hostile import decoder_seconds
from tests.images.making import encoded

BLOCK, BLOCKS = 200, 8


def bare(raw: bytes, params: ImageParams) -> bytes:
    """What a reader would write by hand for JPEG files known to be good."""
    pixels = simplejpeg.decode_jpeg(raw)
    sizes = plan(pixels.shape[:2], params)
    assert sizes is not None
    if sizes.resized != pixels.shape[:2]:
        pixels = cv2.resize(pixels, sizes.resized[::-1], interpolation=cv2.INTER_AREA)
    return simplejpeg.encode_jpeg(pixels, quality=params.quality, colorsubsampling=params.subsampling)


def seconds(work: Callable[[Any], object], images: Sequence[Any]) -> float:
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


def batches(images: list[bytes]) -> list[list[bytes]]:
    """Pictures as `ingest` hands them to a decoder."""
    return [images[start : start + BATCH] for start in range(0, len(images), BATCH)]


def isolated(images: list[bytes], params: ImageParams) -> None:
    """The same pictures here and in decoders, in alternating blocks."""
    added, ours, theirs = [], 0.0, 0.0
    with Decoders(params, 2) as decoders, ThreadPoolExecutor(2) as pool:
        for block in range(BLOCKS):
            part = images[block * BLOCK : (block + 1) * BLOCK] or images[:BLOCK]
            decoders.process(part[0])
            before = decoder_seconds(psutil.Process())
            apart = seconds(decoders.process_all, batches(part)) + decoder_seconds(psutil.Process()) - before
            added.append((apart - seconds(lambda raw: process(raw, params), part)) / len(part))
            start = time.monotonic()
            list(pool.map(decoders.process_all, batches(part)))
            middle = time.monotonic()
            list(pool.map(lambda raw: process(raw, params), part))
            ours, theirs = ours + middle - start, theirs + time.monotonic() - middle
    print(
        f"in processes of their own    {statistics.median(added) * 1e6:+.0f} us of CPU time per image; "
        f"with two threads {len(images) / ours:.0f} img/s against {len(images) / theirs:.0f} img/s here"
    )


def memory() -> None:
    """Peak resident memory of a decoder for flat pictures of 25 million pixels, over what it had, and the budget's word."""
    side, params = 5000, ImageParams(limits=ImageLimits(max_memory=1 << 32))
    grey = Image.new("L", (side, side), 90)
    colour, clear = grey.convert("RGB"), grey.convert("RGBA")
    made = {
        "JPEG": encoded(colour, "JPEG"),
        "JPEG progressive": encoded(colour, "JPEG", progressive=True),
        "JPEG cmyk": encoded(grey.convert("CMYK"), "JPEG"),
        "PNG": encoded(colour, "PNG"),
        "PNG alpha": encoded(clear, "PNG"),
        "PNG 16 bits": cv2.imencode(".png", np.full((side, side, 3), 9999, np.uint16))[1].tobytes(),
        "WebP": encoded(colour, "WEBP"),
        "WebP alpha": encoded(clear, "WEBP"),
        "WebP animated": encoded(colour, "WEBP", save_all=True, append_images=[colour.transpose(0)]),
        "GIF": encoded(grey, "GIF"),
        "TIFF": encoded(colour, "TIFF", compression="tiff_lzw"),
        "AVIF": encoded(colour, "AVIF", speed=10),
        "AVIF alpha": encoded(clear, "AVIF", speed=10),
    }
    for name, raw in made.items():
        header = probe(raw)
        assert isinstance(header, Probe)
        size = (side, side)
        with Decoders(params, 1) as decoders:
            decoders.process(encoded(grey.resize((64, 64)), "PNG"))
            ((decoder,),) = (server.children() for server in psutil.Process().children() if server.children())
            status = Path(f"/proc/{decoder.pid}/status")
            before = decoder.memory_info().rss
            decoders.process(raw)
            peak = next(int(line.split()[1]) << 10 for line in status.read_text().splitlines() if "VmHWM" in line)
        told = processing(header, size, size, size) + 2 * len(raw)
        print(f"{name:28s} {(peak - before) / side**2:5.1f} bytes a pixel, budget {told / side**2:5.1f}")


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
    for params in (ImageParams(), ImageParams(resize="shorter", size=160)):
        isolated(images, params)
    memory()


if __name__ == "__main__":
    main()
