"""Augmentation per second: ours next to Kornia, torchvision v2 and albumentations, one operation at a time and whole policies.

    python -m tests.bench.augment                        # every size and batch, a quarter of an hour on a core
    python -m tests.bench.augment --quick                # 32 and 224 px, batches of 1 and 32
    python -m tests.bench.augment --compiled             # also Kornia under torch.compile, which compiles for minutes
    python -m tests.bench.augment --boxes                # policies with boxes, against those who move boxes too

Everybody gets the same uint8 images in the layout it likes (ours and torch's: channels last), draws its own parameters
from the same ranges anew for every image, and hands out a batch: uint8 for ours on cv2, torchvision and albumentations,
floats for ours on torch and Kornia, whose conversion counts. torchvision and albumentations take one image at a time,
because a batch would share one draw; Kornia and ours take the batch. Candidates take turns within a repeat; a figure is
the median of the repeats in images per second. With a CUDA device the batched ones run there too, beside the
share of a plain copy's bandwidth that ours reaches (uint8 in, float32 out).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from augment.augmenter import Augmenter

Run = Callable[[], Any]
#: Operations that the presets use: ours, Kornia's, torchvision's and albumentations' way to say it.
KORNIA: dict[str, Callable[[Any, int], Any]] = {
    "resized_crop": lambda k, s: k.RandomResizedCrop((s, s)),
    "horizontal_flip": lambda k, s: k.RandomHorizontalFlip(p=0.5),
    "rotate": lambda k, s: k.RandomRotation(30.0, p=1.0),
    "affine": lambda k, s: k.RandomAffine(0.0, (0.1, 0.1), (0.5, 1.5), p=1.0),
    "shear_x": lambda k, s: k.RandomShear((-15.0, 15.0), p=1.0),
    "brightness": lambda k, s: k.ColorJitter(brightness=0.4),
    "contrast": lambda k, s: k.ColorJitter(contrast=0.4),
    "saturation": lambda k, s: k.ColorJitter(saturation=0.4),
    "hue": lambda k, s: k.ColorJitter(hue=0.1),
    "color_jitter": lambda k, s: k.ColorJitter(0.4, 0.4, 0.4, 0.1),
    "grayscale": lambda k, s: k.RandomGrayscale(p=1.0),
    "solarize": lambda k, s: k.RandomSolarize(thresholds=(0.3, 0.7), additions=(0.0, 0.0), p=1.0),
    "posterize": lambda k, s: k.RandomPosterize(4.0, p=1.0),
    "invert": lambda k, s: k.RandomInvert(p=1.0),
    "equalize": lambda k, s: k.RandomEqualize(p=1.0),
    "autocontrast": lambda k, s: k.RandomAutoContrast(p=1.0),
    "sharpness": lambda k, s: k.RandomSharpness((0.2, 1.8), p=1.0),
    "gaussian_blur": lambda k, s: k.RandomGaussianBlur(_kernel(s), (0.1, 2.0), p=1.0),
    "erase": lambda k, s: k.RandomErasing((0.02, 0.33), (0.3, 3.3), p=1.0),
}
OURS: dict[str, Callable[[int], Any]] = {
    "resized_crop": lambda s: {"resized_crop": {"size": s}},
    "horizontal_flip": lambda s: "horizontal_flip",
    "rotate": lambda s: {"rotate": {"degrees": [-30, 30]}},
    "affine": lambda s: {"affine": {"translate_x": [-0.1, 0.1], "translate_y": [-0.1, 0.1], "scale": [0.5, 1.5]}},
    "shear_x": lambda s: {"shear_x": {"degrees": [-15, 15]}},
    "brightness": lambda s: {"color_jitter": {"brightness": 0.4}},
    "contrast": lambda s: {"color_jitter": {"contrast": 0.4}},
    "saturation": lambda s: {"color_jitter": {"saturation": 0.4}},
    "hue": lambda s: {"color_jitter": {"hue": 0.1}},
    "color_jitter": lambda s: {"color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}},
    "grayscale": lambda s: "grayscale",
    "solarize": lambda s: {"solarize": {"threshold": [0.3, 0.7]}},
    "posterize": lambda s: {"posterize": {"bits": 4}},
    "invert": lambda s: "invert",
    "equalize": lambda s: "equalize",
    "autocontrast": lambda s: "autocontrast",
    "sharpness": lambda s: {"sharpness": {"factor": [0.2, 1.8]}},
    "gaussian_blur": lambda s: {"gaussian_blur": {"sigma": [0.1, 2.0], "kernel": _kernel(s)[0]}},
    "erase": lambda s: {"erase": {"p": 1.0}},
}
TORCHVISION: dict[str, Callable[[Any, int], Any]] = {
    "resized_crop": lambda v, s: v.RandomResizedCrop(s, antialias=True),
    "horizontal_flip": lambda v, s: v.RandomHorizontalFlip(0.5),
    "rotate": lambda v, s: v.RandomRotation(30, interpolation=v.InterpolationMode.BILINEAR),
    "affine": lambda v, s: v.RandomAffine(0, (0.1, 0.1), (0.5, 1.5), interpolation=v.InterpolationMode.BILINEAR),
    "shear_x": lambda v, s: v.RandomAffine(0, shear=15, interpolation=v.InterpolationMode.BILINEAR),
    "brightness": lambda v, s: v.ColorJitter(brightness=0.4),
    "contrast": lambda v, s: v.ColorJitter(contrast=0.4),
    "saturation": lambda v, s: v.ColorJitter(saturation=0.4),
    "hue": lambda v, s: v.ColorJitter(hue=0.1),
    "color_jitter": lambda v, s: v.ColorJitter(0.4, 0.4, 0.4, 0.1),
    "grayscale": lambda v, s: v.Grayscale(3),
    "solarize": lambda v, s: v.RandomSolarize(128, p=1.0),
    "posterize": lambda v, s: v.RandomPosterize(4, p=1.0),
    "invert": lambda v, s: v.RandomInvert(1.0),
    "equalize": lambda v, s: v.RandomEqualize(1.0),
    "autocontrast": lambda v, s: v.RandomAutocontrast(1.0),
    "sharpness": lambda v, s: v.RandomAdjustSharpness(1.8, p=1.0),
    "gaussian_blur": lambda v, s: v.GaussianBlur(_kernel(s)[0], (0.1, 2.0)),
    "erase": lambda v, s: v.RandomErasing(p=1.0),
}
ALBUMENTATIONS: dict[str, Callable[[Any, int], Any]] = {
    "resized_crop": lambda a, s: a.RandomResizedCrop((s, s)),
    "horizontal_flip": lambda a, s: a.HorizontalFlip(p=0.5),
    "rotate": lambda a, s: a.Rotate(30, p=1.0),
    "affine": lambda a, s: a.Affine(translate_percent=(-0.1, 0.1), scale=(0.5, 1.5), p=1.0),
    "shear_x": lambda a, s: a.Affine(shear={"x": (-15, 15), "y": (0, 0)}, p=1.0),
    "brightness": lambda a, s: a.ColorJitter((0.6, 1.4), (1, 1), (1, 1), (0, 0), p=1.0),
    "contrast": lambda a, s: a.ColorJitter((1, 1), (0.6, 1.4), (1, 1), (0, 0), p=1.0),
    "saturation": lambda a, s: a.ColorJitter((1, 1), (1, 1), (0.6, 1.4), (0, 0), p=1.0),
    "hue": lambda a, s: a.ColorJitter((1, 1), (1, 1), (1, 1), (-0.1, 0.1), p=1.0),
    "color_jitter": lambda a, s: a.ColorJitter((0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.1, 0.1), p=1.0),
    "grayscale": lambda a, s: a.ToGray(p=1.0),
    "solarize": lambda a, s: a.Solarize((0.3, 0.7), p=1.0),
    "posterize": lambda a, s: a.Posterize(4, p=1.0),
    "invert": lambda a, s: a.InvertImg(p=1.0),
    "equalize": lambda a, s: a.Equalize(p=1.0),
    "autocontrast": lambda a, s: a.AutoContrast(p=1.0),
    "sharpness": lambda a, s: a.Sharpen(p=1.0),
    "gaussian_blur": lambda a, s: a.GaussianBlur(_kernel(s)[0], (0.1, 2.0), p=1.0),
    "erase": lambda a, s: a.Erasing((0.02, 0.33), (0.3, 3.3), p=1.0),
}
POLICIES: dict[str, tuple[str, ...]] = {
    "imagenet": ("resized_crop", "horizontal_flip", "color_jitter"),
    "simclr": ("resized_crop", "horizontal_flip", "color_jitter", "grayscale", "gaussian_blur"),
    "detection": ("affine", "horizontal_flip", "color_jitter"),
}


def _kernel(side: int) -> tuple[int, int]:
    kernel = max(int(0.1 * side) // 2 * 2 + 1, 3)
    return kernel, kernel


def policy_of(name: str, side: int) -> Any:
    """Ours: an operation, or a policy made of the same operations as everybody else's."""
    names = POLICIES.get(name, (name,))
    return [OURS[one](side) for one in names]


def kornia_of(name: str, side: int) -> Any:
    from kornia import augmentation

    found = [KORNIA[one](augmentation, side) for one in POLICIES.get(name, (name,))]
    return augmentation.AugmentationSequential(*found, data_keys=["input"]) if len(found) > 1 else found[0]


class TorchvisionNames:
    """v2's transforms and its interpolation modes under one name."""

    def __getattr__(self, name: str) -> Any:
        from torchvision.transforms import InterpolationMode, v2

        return InterpolationMode if name == "InterpolationMode" else getattr(v2, name)


def _images(side: int, batch: int) -> tuple[np.ndarray, torch.Tensor, list[str]]:
    """The same uint8 pixels as (n, H, W, C) and as (n, C, H, W), and their keys."""
    coarse = np.random.default_rng(0).integers(0, 256, (batch, 8, 8, 3), np.uint8)
    pixels = np.stack([cv2.resize(one, (side, side), interpolation=cv2.INTER_CUBIC) for one in coarse])
    return pixels, torch.from_numpy(pixels).permute(0, 3, 1, 2), [f"{index:026d}" for index in range(batch)]


def candidates(name: str, side: int, batch: int, device: str, compiled: bool) -> dict[str, Run]:
    """What runs on one cell of the table."""
    import albumentations
    from torchvision.transforms import v2

    pixels, images, keys = _images(side, batch)
    epoch = iter(range(1 << 40))

    def ours(augmenter: Augmenter, where: torch.Tensor) -> Run:
        def run() -> Any:
            augmenter.epoch = next(epoch)
            return augmenter(where, keys).images

        return run

    policy = policy_of(name, side)
    found: dict[str, Run] = {}
    if device == "cpu":
        found["ours cv2"] = ours(Augmenter(policy, backend="cv2"), images)
        tv = v2.Compose([TORCHVISION[one](TorchvisionNames(), side) for one in POLICIES.get(name, (name,))])
        single = [image.contiguous() for image in images]
        found["torchvision"] = lambda: torch.stack([tv(image) for image in single])
        compose = albumentations.Compose(
            [ALBUMENTATIONS[one](albumentations, side) for one in POLICIES.get(name, (name,))]
        )
        found["albumentations"] = lambda: np.stack([compose(image=image)["image"] for image in pixels])
    there = images.to(device)
    found["ours torch"] = ours(Augmenter(policy, backend="torch", output="float"), there)
    eager = kornia_of(name, side)
    found["kornia"] = lambda: eager(there.contiguous().float() / 255)
    if compiled:
        fast = torch.compile(kornia_of(name, side))
        found["kornia compiled"] = lambda: fast(there.contiguous().float() / 255)
    return found


def boxed_candidates(name: str, side: int, batch: int, device: str) -> dict[str, Run]:
    """The same with three boxes an image: Kornia's as it takes them, a tensor padded to a batch."""
    import albumentations
    from kornia import augmentation
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    pixels, images, keys = _images(side, batch)
    rng = np.random.default_rng(1)
    corners = np.sort(rng.uniform(0, side, (batch, 3, 2, 2)), axis=2).reshape(batch, 3, 4)
    corners[..., 2:] = np.minimum(corners[..., 2:] + 3, side)
    boxes, epoch = list(corners), iter(range(1 << 40))

    def ours(augmenter: Augmenter, where: torch.Tensor) -> Run:
        def run() -> Any:
            augmenter.epoch = next(epoch)
            return augmenter(where, keys, boxes=boxes)

        return run

    policy = policy_of(name, side)
    found: dict[str, Run] = {}
    if device == "cpu":
        found["ours cv2"] = ours(Augmenter(policy, backend="cv2"), images)
        tv = v2.Compose([TORCHVISION[one](TorchvisionNames(), side) for one in POLICIES.get(name, (name,))])
        single = [
            (
                tv_tensors.Image(image.contiguous()),
                tv_tensors.BoundingBoxes(each, format="XYXY", canvas_size=(side, side)),
            )
            for image, each in zip(images, torch.from_numpy(corners), strict=True)
        ]
        found["torchvision"] = lambda: [tv(*each) for each in single]
        compose = albumentations.Compose(
            [ALBUMENTATIONS[one](albumentations, side) for one in POLICIES.get(name, (name,))],
            bbox_params=albumentations.BboxParams("pascal_voc", label_fields=["labels"], min_visibility=0.5),
        )
        labels = list(range(3))
        found["albumentations"] = lambda: [
            compose(image=image, bboxes=each, labels=labels) for image, each in zip(pixels, boxes, strict=True)
        ]
    there, padded = images.to(device), torch.from_numpy(corners).float().to(device)
    found["ours torch"] = ours(Augmenter(policy, backend="torch", output="float"), there)
    each = [KORNIA[one](augmentation, side) for one in POLICIES.get(name, (name,))]
    eager = augmentation.AugmentationSequential(*each, data_keys=["input", "bbox_xyxy"])
    found["kornia"] = lambda: eager(there.contiguous().float() / 255, padded)
    return found


def measure(runs: dict[str, Run], batch: int, device: str, repeats: int, seconds: float) -> dict[str, dict[str, Any]]:
    """Median and interquartile range of images per second; a candidate that fails has its reason instead."""
    found: dict[str, dict[str, Any]] = {}
    rates: dict[str, list[float]] = {}
    loops: dict[str, int] = {}
    for label, run in runs.items():
        try:
            run()
            loops[label] = max(int(seconds / timed(run, 1, device)), 1)
            rates[label] = []
        except Exception as error:
            found[label] = {
                "failed": f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}"
            }
    for _ in range(repeats):
        for label in rates:
            rates[label].append(batch * loops[label] / timed(runs[label], loops[label], device))
    for label, each in rates.items():
        low, _, high = statistics.quantiles(each, n=4)
        found[label] = {"median": round(statistics.median(each), 1), "iqr": round(high - low, 1)}
    return found


def timed(run: Run, loops: int, device: str) -> float:
    """Seconds of so many calls."""
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(loops):
        run()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def bandwidth(rate: float, side: int) -> float:
    """Bytes per second that must move at this rate: uint8 in, float32 out, three channels."""
    return rate * side * side * 3 * (1 + 4)


@lru_cache
def copy_bandwidth() -> float:
    """Bytes per second, read and written, of a large copy on the device: what it can really do."""
    source = torch.empty(1 << 28, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    timed(lambda: target.copy_(source), 3, "cuda")
    return 2 * source.nbytes * 10 / timed(lambda: target.copy_(source), 10, "cuda")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="32 and 224 px, batches of 1 and 32")
    parser.add_argument("--compiled", action="store_true", help="also Kornia under torch.compile, on the policies")
    parser.add_argument("--boxes", action="store_true", help="the policies with three boxes an image")
    parser.add_argument("--only", nargs="*", help="names of operations or policies")
    parser.add_argument("--batches", type=int, nargs="*", help="images in a batch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.03, help="of each measurement, at least one call")
    parser.add_argument(
        "--pixels", type=float, default=40e6, help="cells with more pixels in a batch are left out on a CPU"
    )
    parser.add_argument("--json", type=Path, help="also write the results here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sizes, batches = ([32, 224], [1, 32]) if options.quick else ([32, 224, 512], [1, 32, 256])
    if options.boxes:
        sizes, batches = [32, 224], [1, 64]
    batches = options.batches or batches
    device = "cuda" if torch.cuda.is_available() else "cpu"
    names = options.only or ([*POLICIES, "horizontal_flip", "affine"] if options.boxes else [*OURS, *POLICIES])
    facts = {
        "machine": platform.machine(),
        "cpu": _cpu(),
        "threads": 1,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "opencv": cv2.__version__,
        "repeats": options.repeats,
    }
    rows: list[dict[str, Any]] = []
    for name in names:
        for side in sizes:
            for batch in batches:
                if device == "cpu" and side * side * batch > options.pixels:
                    continue
                compiled = options.compiled and name in POLICIES and batch > 1
                for where in dict.fromkeys(("cpu", device)):
                    runs = (
                        boxed_candidates(name, side, batch, where)
                        if options.boxes
                        else candidates(name, side, batch, where, compiled)
                    )
                    found = measure(runs, batch, where, options.repeats, options.seconds)
                    rows.append({"name": name, "side": side, "batch": batch, "device": where, "results": found})
                    if where == "cuda" and "median" in found["ours torch"]:
                        rows[-1]["bandwidth_share"] = bandwidth(found["ours torch"]["median"], side) / copy_bandwidth()
                    show(rows[-1])
                    if options.json:  # after each, so that a run that is cut off leaves what it has
                        form = {"facts": facts, "summary": summary(rows), "rows": rows}
                        options.json.write_text(json.dumps(form) + "\n")
    summarise(rows)


def show(row: dict[str, Any]) -> None:
    """One line, as it comes."""
    parts = [
        f"{label} {one['median']:,.0f}" if "median" in one else f"{label} failed"
        for label, one in row["results"].items()
    ]
    print(
        f"{row['name']:16s} {row['side']:4d} px x {row['batch']:<4d} {row['device']:4s} {'   '.join(parts)}", flush=True
    )


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Ratios that the goals are about, and every cell where somebody else is more than 10 % faster."""
    ratios = []
    for row in rows:
        rates = {label: one["median"] for label, one in row["results"].items() if "median" in one}
        ours = max((rate for label, rate in rates.items() if label.startswith("ours")), default=0.0)
        others = {label: rate for label, rate in rates.items() if not label.startswith("ours")}
        best = max(others, key=lambda label: others[label]) if others else ""
        against = ours / others[best] if best else float("nan")
        eager = ours / rates["kornia"] if "kornia" in rates else float("nan")
        cell = {"name": row["name"], "side": row["side"], "batch": row["batch"], "device": row["device"], "ours": ours}
        ratios.append({**cell, "over_kornia": round(eager, 2), "over_best": round(against, 2), "best": best})
    return {"ratios": ratios, "losses": [one for one in ratios if one["over_best"] < 0.9]}


def summarise(rows: list[dict[str, Any]]) -> None:
    """The table of policies and losses, and what single operations come to."""
    table = Table(title="images/s, ratio of our faster backend to the others' (median over the cells)")
    for column in ("what", "device", "px", "batch", "ours", "/ kornia", "/ best of others", "who"):
        table.add_column(column)
    found = summary(rows)
    ratios = found["ratios"]
    for one in ratios:
        if one["name"] in POLICIES or one in found["losses"]:
            place = (one["name"], one["device"], str(one["side"]), str(one["batch"]))
            table.add_row(
                *place, f"{one['ours']:,.0f}", f"{one['over_kornia']:.1f}x", f"{one['over_best']:.2f}x", one["best"]
            )
    console = Console(width=120)
    console.print(table)
    single = [
        one["over_best"] for one in ratios if one["name"] not in POLICIES and one["over_best"] == one["over_best"]
    ]
    if single:
        console.print(
            f"{len(single)} cells of single operations: median {statistics.median(single):.2f}x the best of the others, "
            f"lowest {min(single):.2f}x; more than 10 % slower in {sum(one < 0.9 for one in single)}"
        )


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
