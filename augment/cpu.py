"""The CPU path: uint8 images one by one through OpenCV, with the same drawn parameters as the torch path.

Each pass rounds to eight bits, OpenCV places warped pixels on a grid of 1/32, and shrinking averages areas where the torch
path weighs a triangle; tests hold how far the two are apart. What is to be done is worked out for the batch at once and leaves
each image a short list of OpenCV calls. OpenCV frees the interpreter's lock, so threads share the images of a batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from augment.cpu_colour import add_colour_calls
from augment.cpu_warp import Call, CallLists, add_warp_calls
from augment.program import Blend, Colour, Filter, Segment, Warp


def run_cpu(images: np.ndarray, segments: Sequence[Segment], threads: int = 1) -> np.ndarray:
    """Carry out a program on images (n, H, W, C) uint8, on so many threads; returns new images (n, h, w, C) uint8."""
    call_lists = calls_of(segments, len(images))
    size = images.shape[1:3]
    for segment in segments:
        if isinstance(segment, Warp):
            size = segment.size
    out = np.empty((len(images), *size, images.shape[3]), np.uint8)

    colour = images.shape[3] > 1

    def carry_out(index: int) -> None:
        """Call after call on one image; the last one writes to its place in `out`."""
        image, target = (images[index], out[index]) if colour else (images[index, :, :, 0], out[index, :, :, 0])
        calls = call_lists[index]
        for call in calls[:-1]:
            image = call(image, None)
        if calls:
            image = calls[-1](image, target)
        if image is not target:
            target[...] = image

    if threads > 1 and len(images) > 1:
        list(_pool(threads).map(carry_out, range(len(images)), chunksize=max(len(images) // (4 * threads), 1)))
    else:
        for index in range(len(images)):
            carry_out(index)
    return out


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    """Start threads, which stay for the next batch."""
    return ThreadPoolExecutor(threads, "augment")


# A forked process has the pool without its threads, and would wait for them for ever.
os.register_at_fork(after_in_child=_pool.cache_clear)


def calls_of(segments: Sequence[Segment], count: int) -> CallLists:
    """List for each of `count` images the calls that carry out a program."""
    call_lists: CallLists = [[] for _ in range(count)]
    for segment in segments:
        if isinstance(segment, Warp):
            add_warp_calls(call_lists, segment)
        elif isinstance(segment, Colour):
            add_colour_calls(call_lists, segment)
        elif isinstance(segment, Filter):
            _add_filter_calls(call_lists, segment)
        else:
            _add_blend_calls(call_lists, segment)
    return call_lists


def _add_filter_calls(call_lists: CallLists, step: Filter) -> None:
    """Append each image's call to its list."""
    make_call = _FILTERS[step.name]
    columns = {name: column.tolist() for name, column in step.values.items()}
    for index in np.flatnonzero(step.on).tolist():
        call_lists[index].append(make_call({name: column[index] for name, column in columns.items()}, step.constants))


def _gaussian_blur(values: dict[str, Any], constants: dict[str, Any]) -> Call:
    """Blur by one pass along each axis. What lies beyond four sigma is 6e-5 of all weight, a sixtieth of a level: it is left out."""
    sigma = values["sigma"]
    kernel = min(constants["kernel"], 2 * int(np.ceil(4 * sigma)) + 1)
    if kernel == 1:
        return lambda image, target: image
    offset = np.arange(kernel) - kernel // 2
    weights = np.exp(-(offset**2) / (2 * sigma**2))
    weights = (weights / weights.sum()).astype(np.float32)
    # OpenCV mirrors as torch's reflect does, and needs a kernel that fits the image.
    return lambda image, target: cv2.sepFilter2D(
        image, -1, weights, weights, dst=target, borderType=cv2.BORDER_REFLECT_101
    )


def _sharpness(values: dict[str, Any], constants: dict[str, Any]) -> Call:
    """Sharpen by one 3 x 3 kernel: the blend of the image and its smoothing is linear. The border keeps its pixels."""
    factor = values["factor"]
    kernel = np.full((3, 3), (1 - factor) / 13, np.float32)
    kernel[1, 1] = 5 * (1 - factor) / 13 + factor

    def call(image: np.ndarray, target: np.ndarray | None) -> np.ndarray:
        sharpened = cv2.filter2D(image, -1, kernel, dst=target)
        sharpened[0], sharpened[-1], sharpened[:, 0], sharpened[:, -1] = image[0], image[-1], image[:, 0], image[:, -1]
        return sharpened

    return call


def _erase(values: dict[str, Any], constants: dict[str, Any]) -> Call:
    """Paint a rectangle over a copy."""
    top, left, height, width = (values[side] for side in ("top", "left", "height", "width"))
    value = round(255 * constants["value"])

    def call(image: np.ndarray, target: np.ndarray | None) -> np.ndarray:
        erased = image.copy()
        erased[top : top + height, left : left + width] = value
        return erased

    return call


def _gaussian_noise(values: dict[str, Any], constants: dict[str, Any]) -> Call:
    """Add the noise that the torch path draws from the same seed, channel by channel."""

    def call(image: np.ndarray, target: np.ndarray | None) -> np.ndarray:
        planes = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
        noise = np.random.Generator(np.random.PCG64(values["seed"])).standard_normal(planes.shape, np.float32)
        noise = noise[0] if image.ndim == 2 else noise.transpose(1, 2, 0)
        return np.rint(image + noise * np.float32(255 * values["std"])).clip(0, 255).astype(np.uint8)

    return call


def _kornia(values: dict[str, Any], constants: dict[str, Any]) -> Call:
    """Call Kornia itself, in floats: there is no other implementation of its operations."""
    seed = np.array([values["seed"]])

    def call(image: np.ndarray, target: np.ndarray | None) -> np.ndarray:
        import torch

        from augment.filters import apply_filter

        planes = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
        result = apply_filter(planes, Filter("kornia", np.ones(1, bool), {"seed": seed}, constants))
        return (result[0].permute(1, 2, 0) * 255).round().clamp(0, 255).to(torch.uint8).numpy()

    return call


_FILTERS: dict[str, Callable[[dict[str, Any], dict[str, Any]], Call]] = {
    "gaussian_blur": _gaussian_blur,
    "sharpness": _sharpness,
    "erase": _erase,
    "gaussian_noise": _gaussian_noise,
    "kornia": _kornia,
}


def _add_blend_calls(call_lists: CallLists, blend: Blend) -> None:
    """Append each image's blend to its list."""
    chains = [calls_of(chain, len(call_lists)) for chain in blend.chains]
    weights, share = blend.weights.tolist(), blend.share.tolist()
    for index in np.flatnonzero(blend.on).tolist():
        calls = [(chain[index], weight) for chain, weight in zip(chains, weights[index], strict=True)]
        call_lists[index].append(_blended(calls, share[index]))


def _blended(chains: list[tuple[list[Call], float]], share: float) -> Call:
    """One call that carries out all chains on copies of an image and blends what they give with it."""

    def call(image: np.ndarray, target: np.ndarray | None) -> np.ndarray:
        mixed = image.astype(np.float32) * (1 - share)
        for calls, weight in chains:
            result = image
            for chained in calls:
                result = chained(result, None)
            mixed += result * np.float32(share * weight)
        return np.rint(mixed).clip(0, 255).astype(np.uint8)

    return call
