"""The CPU path: uint8 images one by one through OpenCV, with the same drawn parameters as the torch path.

Each pass rounds to eight bits, OpenCV places warped pixels on a grid of 1/32, and shrinking averages areas where the torch
path weighs a triangle; tests hold how far the two are apart. Planning is done for the batch at once and leaves each image a
short list of OpenCV calls. OpenCV frees the interpreter's lock, so threads share the images of a batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from augment.cpu_colour import plan_colour
from augment.cpu_warp import Call, plan_warp
from augment.program import Blend, Colour, Filter, Segment, Warp

Plan = list[list[Call]]


def run_cpu(images: np.ndarray, segments: Sequence[Segment], threads: int = 1) -> np.ndarray:
    """Carry out a program on images (n, H, W, C) uint8; returns (n, h, w, C) uint8. The input is not written to."""
    plan = plan_program(segments, len(images))
    size = images.shape[1:3]
    for segment in segments:
        if isinstance(segment, Warp):
            size = segment.size
    out = np.empty((len(images), *size, images.shape[3]), np.uint8)

    colour = images.shape[3] > 1

    def carry_out(index: int) -> None:
        image, target = (images[index], out[index]) if colour else (images[index, :, :, 0], out[index, :, :, 0])
        calls = plan[index]
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
    return ThreadPoolExecutor(threads, "augment")


# A forked process has the pool without its threads, and would wait for them for ever.
os.register_at_fork(after_in_child=_pool.cache_clear)


def plan_program(segments: Sequence[Segment], count: int) -> Plan:
    """For each image, the calls that carry out a program."""
    plan: Plan = [[] for _ in range(count)]
    for segment in segments:
        if isinstance(segment, Warp):
            plan_warp(plan, segment)
        elif isinstance(segment, Colour):
            plan_colour(plan, segment)
        elif isinstance(segment, Filter):
            _plan_filter(plan, segment)
        else:
            _plan_blend(plan, segment)
    return plan


def _plan_filter(plan: Plan, step: Filter) -> None:
    make = _FILTERS[step.name]
    columns = {name: column.tolist() for name, column in step.values.items()}
    for index in np.flatnonzero(step.on).tolist():
        plan[index].append(make({name: column[index] for name, column in columns.items()}, step.constants))


def _gaussian_blur(values: dict[str, Any], constants: dict[str, Any]) -> Call:
    """Weights beyond four sigma are 6e-5 of the largest, a sixtieth of a level: they are left out."""
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
    """One 3 x 3 kernel: the blend of the image and its smoothing is linear. The border keeps its pixels."""
    factor = values["factor"]
    kernel = np.full((3, 3), (1 - factor) / 13, np.float32)
    kernel[1, 1] = 5 * (1 - factor) / 13 + factor

    def call(image: np.ndarray, target: np.ndarray | None) -> np.ndarray:
        made = cv2.filter2D(image, -1, kernel, dst=target)
        made[0], made[-1], made[:, 0], made[:, -1] = image[0], image[-1], image[:, 0], image[:, -1]
        return made

    return call


def _erase(values: dict[str, Any], constants: dict[str, Any]) -> Call:
    top, left, height, width = (values[side] for side in ("top", "left", "height", "width"))
    value = round(255 * constants["value"])

    def call(image: np.ndarray, target: np.ndarray | None) -> np.ndarray:
        made = image.copy()
        made[top : top + height, left : left + width] = value
        return made

    return call


def _gaussian_noise(values: dict[str, Any], constants: dict[str, Any]) -> Call:
    def call(image: np.ndarray, target: np.ndarray | None) -> np.ndarray:
        planes = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
        noise = np.random.Generator(np.random.PCG64(values["seed"])).standard_normal(planes.shape, np.float32)
        noise = noise[0] if image.ndim == 2 else noise.transpose(1, 2, 0)
        return np.rint(image + noise * np.float32(255 * values["std"])).clip(0, 255).astype(np.uint8)

    return call


def _kornia(values: dict[str, Any], constants: dict[str, Any]) -> Call:
    """Through Kornia itself, in floats: there is no other implementation of it."""
    seed = np.array([values["seed"]])

    def call(image: np.ndarray, target: np.ndarray | None) -> np.ndarray:
        import torch

        from augment.filters import apply_filter

        planes = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
        made = apply_filter(planes, Filter("kornia", np.ones(1, bool), {"seed": seed}, constants))
        return (made[0].permute(1, 2, 0) * 255).round().clamp(0, 255).to(torch.uint8).numpy()

    return call


_FILTERS: dict[str, Callable[[dict[str, Any], dict[str, Any]], Call]] = {
    "gaussian_blur": _gaussian_blur,
    "sharpness": _sharpness,
    "erase": _erase,
    "gaussian_noise": _gaussian_noise,
    "kornia": _kornia,
}


def _plan_blend(plan: Plan, blend: Blend) -> None:
    chains = [plan_program(chain, len(plan)) for chain in blend.chains]
    weights, share = blend.weights.tolist(), blend.share.tolist()
    for index in np.flatnonzero(blend.on).tolist():
        calls = [(chain[index], weight) for chain, weight in zip(chains, weights[index], strict=True)]
        plan[index].append(_blended(calls, share[index]))


def _blended(chains: list[tuple[list[Call], float]], share: float) -> Call:
    def call(image: np.ndarray, target: np.ndarray | None) -> np.ndarray:
        mixed = image.astype(np.float32) * (1 - share)
        for calls, weight in chains:
            made = image
            for step in calls:
                made = step(made, None)
            mixed += made * np.float32(share * weight)
        return np.rint(mixed).clip(0, 255).astype(np.uint8)

    return call
