"""Whether a sample depends on its company: its program alone against the same in batches, for every operation and backend.

    python -m tests.augment.company                    # presets, every operation, random triples; some minutes on a core
    python -m tests.augment.company --triples 50
    python -m tests.augment.company --device cuda      # the torch paths on a device; needs torch and numpy, nothing else

A case is one policy, one size and one way to carry it out. Seven samples go through it together, in another order, in two
parts, one by one, and one by one from what was written down; pixels, boxes, their places, masks and points have to be the same to the bit.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from augment.augmenter import Augmented, Augmenter
from augment.draws import from_rows
from augment.errors import PolicyError
from augment.policy import load
from augment.presets import NAMES
from tests.augment.making import photo

COUNT = 7
SIZES = ((24, 24), (33, 20), (100, 98))  # the last is large enough for what goes image by image
OPERATIONS: dict[str, Any] = {
    "resized_crop small": {"resized_crop": {"size": [12, 15]}},
    "resized_crop large": {"resized_crop": {"size": [40, 36]}},
    "random_crop": {"random_crop": {"size": [20, 18], "padding": 3}},
    "resize small": {"resize": {"size": [13, 9]}},
    "resize large": {"resize": {"size": [50, 41]}},
    "letterbox small": {"letterbox": {"size": [14, 21]}},
    "letterbox large": {"letterbox": {"size": [48, 60]}},
    "center_crop": {"center_crop": {"size": [9, 8]}},
    "identity": "identity",
    "horizontal_flip": "horizontal_flip",
    "vertical_flip": "vertical_flip",
    "affine": {"affine": {"p": 0.5, "degrees": [-40, 40], "scale": [0.4, 1.7], "scale_y": [0.4, 1.7], "translate_x": [-0.3, 0.3]}},
    "scale": {"affine": {"p": 0.5, "scale": [0.3, 1.5], "translate_x": [-0.2, 0.2], "translate_y": [-0.2, 0.2]}},
    "rotate": {"rotate": {"p": 0.5, "degrees": [-90, 90]}},
    "shear_x": {"shear_x": {"p": 0.5, "degrees": [-40, 40]}},
    "shear_y": {"shear_y": {"p": 0.5, "degrees": [-40, 40]}},
    "translate_x": {"translate_x": {"p": 0.5, "share": [-0.5, 0.5]}},
    "translate_y": {"translate_y": {"p": 0.5, "share": [-0.5, 0.5]}},
    "perspective": {"perspective": {"p": 0.5, "distortion": 0.6}},
    "roll": {"roll": {"p": 0.5, "pixels": 5}},
    "shift": {"shift": {"p": 0.5, "share": 0.3}},
    "brightness": {"brightness": {"p": 0.5, "factor": [0.3, 1.8]}},
    "contrast": {"contrast": {"p": 0.5, "factor": [0.3, 1.8]}},
    "saturation": {"saturation": {"p": 0.5, "factor": [0.3, 1.8]}},
    "hue": {"hue": {"p": 0.5, "turns": [-0.5, 0.5]}},
    "color_jitter": {"color_jitter": {"p": 0.5, "brightness": 0.6, "contrast": 0.6, "saturation": 0.6, "hue": 0.3}},
    "gamma": {"gamma": {"p": 0.5, "gamma": [0.4, 2.5]}},
    "solarize": {"solarize": {"p": 0.5, "threshold": [0.2, 0.8]}},
    "posterize": {"posterize": {"p": 0.5, "bits": [1, 8]}},
    "invert": {"invert": {"p": 0.5}},
    "grayscale": {"grayscale": {"p": 0.5}},
    "channel_shuffle": {"channel_shuffle": {"p": 0.5}},
    "autocontrast": {"autocontrast": {"p": 0.5}},
    "equalize": {"equalize": {"p": 0.5}},
    "brightness_shift": {"brightness_shift": {"p": 0.5, "shift": [-0.6, 0.6]}},
    "saturation_mean": {"saturation_mean": {"p": 0.5, "factor": [0.0, 2.0]}},
    "contrast_mean": {"contrast_mean": {"p": 0.5, "factor": [0.5, 1.9]}},
    "gaussian_blur": {"gaussian_blur": {"p": 0.5, "kernel": 5}},
    "sharpness": {"sharpness": {"p": 0.5, "factor": [0.0, 2.5]}},
    "erase": {"erase": {"p": 0.5, "value": 0.3}},
    "gaussian_noise": {"gaussian_noise": {"p": 0.5, "std": [0.0, 0.3]}},
    "kornia": {"kornia": {"p": 0.5, "operation": "RandomPlasmaContrast"}},
}  # fmt: skip
GROUPS: dict[str, Any] = {
    "one_of": {"one_of": [{"rotate": {"degrees": [-30, 30]}}, "invert", ["horizontal_flip", {"gamma": {"gamma": 2}}], "erase"]},
    "choose": {"choose": 2, "from": ["identity", {"shear_x": {"degrees": {"signed": 20}}}, {"roll": {"pixels": 4}}, "equalize"]},
    "augmix": {"augmix": ["autocontrast", {"rotate": {"degrees": [-20, 20]}}, {"brightness_shift": {"shift": 0.4}}], "p": 0.6},
}  # fmt: skip
SIZED = {"imagenet", "simclr", "dino_global1", "dino_global2", "dino_local", "detection"}


class Way(NamedTuple):
    """One way to carry a policy out."""

    name: str
    backend: Any
    dtype: torch.dtype
    normalised: bool = False
    channels_last: bool = False
    recorded: bool = False


WAYS = (
    Way("torch float32", "torch", torch.float32),
    Way("torch float32, channels last, normalised", "torch", torch.float32, True, True),
    Way("torch float32, for a gradient", "torch", torch.float32, recorded=True),
    Way("torch float64", "torch", torch.float64),
    Way("torch uint8", "torch", torch.uint8),
    Way("cv2", "cv2", torch.uint8),
    Way("kornia", "kornia", torch.float32),
)


def policies(triples: int, seed: int = 0) -> Iterator[tuple[str, Any]]:
    """Every preset, shrinking and growing, every operation alone, and random triples of operations and groups."""
    for name in NAMES:
        for size in (18, 42) if name in SIZED else (None,):
            yield f"{name} {size or ''}", {"preset": name} | ({"size": size} if size else {})
    for name in ("randaugment", "trivial", "augmix"):
        yield f"{name} 18", {"preset": name, "size": 18}
    everything = OPERATIONS | GROUPS
    for name, operation in everything.items():
        yield name, [operation]
    rng = random.Random(seed)
    for number in range(triples):
        names = rng.sample(list(everything), 3)
        settings = {
            "fill": 0.4 if number % 3 == 1 else 0.0,
            "interpolation": "nearest" if number % 5 == 4 else "bilinear",
        }
        yield " > ".join(names), {"operations": [everything[name] for name in names], **settings}


def available(name: str, way: Way, device: str) -> bool:
    """Whether a policy can be carried out this way here."""
    wants = {"cv2": way.backend == "cv2", "kornia": way.backend == "kornia" or "kornia" in name.split(" > ")}
    if any(wanted and importlib.util.find_spec(module) is None for module, wanted in wants.items()):
        return False
    return device == "cpu" or way.backend == "torch"


def targets(size: tuple[int, int], boxes: bool, anything: bool) -> dict[str, Any]:
    """Boxes, thin ones and ones that stick out among them, masks and points of `COUNT` images."""
    rng = np.random.default_rng(3)
    if not anything:
        return {}
    high = np.array(size[::-1])
    corners = [np.sort(rng.uniform(0, high, (count, 2, 2)), axis=1).reshape(-1, 4) for count in (3, 0, 1, 4, 2, 3, 5)]
    for each in corners:
        each[:, 2:] += 0.4
    found: dict[str, Any] = {
        "masks": torch.from_numpy(rng.integers(0, 3, (COUNT, 2, *size), dtype=np.uint8)),
        "keypoints": [rng.uniform(-2, high + 2, (count, 2)) for count in (2, 1, 0, 3, 1, 2, 4)],
    }
    return found | ({"boxes": corners} if boxes else {})


def some(given: dict[str, Any], places: Sequence[int]) -> dict[str, Any]:
    """The targets of some of the images."""
    return {
        name: each[list(places)] if name == "masks" else [each[place] for place in places]
        for name, each in given.items()
    }


def unequal(policy: Any, size: tuple[int, int], way: Way, device: str = "cpu") -> list[str]:
    """What differs, and in which company; empty where nothing does."""
    images = photo(COUNT, *size)
    images[2], images[5] = (
        255,
        torch.arange(3).mul(90).to(torch.uint8)[:, None, None],
    )  # flat ones round to beyond the range
    made = images if way.dtype == torch.uint8 else (images.double() / 255).to(way.dtype)
    made = made.to(device)
    if way.channels_last:
        made = made.contiguous(memory_format=torch.channels_last)
    options: dict[str, Any] = (
        {"output": "normalised", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]} if way.normalised else {}
    )
    augmenter = Augmenter(policy, seed=11, backend=way.backend, min_visible=0.3, **options)
    found, keys = augmenter.policy, [f"sample {number}" for number in range(COUNT)]
    given = targets(size, not found.rolls, not found.blends_geometry)
    given |= {"masks": given["masks"].to(device)} if given else {}
    if way.recorded:
        made.requires_grad_()

    def run(places: Sequence[int]) -> list[Augmented]:
        index = list(places)
        result = augmenter(made[index], [keys[place] for place in places], **some(given, places))
        return [_only(result, place) for place in range(len(index))]

    try:
        together = run(range(COUNT))
    except PolicyError:
        return (
            [] if all(_refused(lambda place=place: run([place])) for place in range(COUNT)) else ["refused by chance"]
        )
    companies = {"another order": [4, 2, 6, 0, 5, 3, 1], "in parts": None, "one by one": None}
    bad = []
    for company, order in companies.items():
        parts = (
            [order]
            if order
            else ([[0, 1, 2], [3, 4, 5, 6]] if company == "in parts" else [[place] for place in range(COUNT)])
        )
        for part in parts:
            bad += [company for place, one in zip(part, run(part), strict=True) if not _same(one, together[place])]
    whole = augmenter.draw(keys, size)
    for place, row in enumerate(json.loads(json.dumps(whole.rows()))):
        again = augmenter.replay(made[[place]], from_rows(found, size, [row]), **some(given, [place]))
        bad += [] if _same(_only(again, 0), together[place]) else ["replayed alone"]
    return bad


def _refused(run: Callable[[], Any]) -> bool:
    try:
        run()
    except PolicyError:
        return True
    return False


def _only(result: Augmented, place: int) -> Augmented:
    """One image of a result."""
    lists = (None if each is None else [each[place]] for each in (result.boxes, result.kept, result.keypoints))
    boxes, kept, points = lists
    masks = None if result.masks is None else result.masks[place]
    return Augmented(result.images[place], result.draws, boxes, kept, masks, points)


def _same(one: Augmented, other: Augmented) -> bool:
    arrays = [(one.boxes, other.boxes), (one.kept, other.kept), (one.keypoints, other.keypoints)]
    if not torch.equal(one.images, other.images):
        return False
    if one.masks is not None and not torch.equal(one.masks, other.masks):
        return False
    return all(mine is None or (theirs is not None and np.array_equal(mine[0], theirs[0])) for mine, theirs in arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--triples", type=int, default=300, help="random triples of operations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", help="ways whose name has this in it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ways = [way for way in WAYS if not options.only or options.only in way.name]
    tried, failed = Counter[str](), Counter[str]()
    for number, (name, policy) in enumerate(policies(options.triples, options.seed)):
        for way, size in itertools.product(ways, SIZES):
            large_kornia = way.backend == "kornia" and size == SIZES[-1]
            if not available(name, way, options.device) or large_kornia or (way.dtype == torch.float64 and number % 2):
                continue
            try:
                load(policy)
                bad = unequal(policy, size, way, options.device)
            except Exception as error:
                raise RuntimeError(f"{name} on {size} by {way.name}") from error
            tried[way.name] += 1
            if bad:
                failed[way.name] += 1
                print(f"unequal: {name} on {size} by {way.name}: {dict(Counter(bad))}", flush=True)
    for way in ways:
        print(f"{way.name}: {tried[way.name]} cases, {failed[way.name]} unequal")
    print(f"{sum(tried.values())} cases on {options.device}, {sum(failed.values())} unequal")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
