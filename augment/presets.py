"""Policies by name: each is a function from its options to what params.yaml could have spelled out.

The papers that they follow, with the numbers that are theirs, stand in `docs/specs/augment.md`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from augment.errors import PolicyError
from augment.operations.base import read_pair

Spec = dict[str, Any]


def none() -> Spec:
    """Nothing."""
    return {"operations": []}


def imagenet(size: Any = 224, scale: Any = (0.08, 1.0), color: float = 0.4) -> Spec:
    """Inception's crop and flip with jitter of brightness, contrast and saturation: timm's default for ImageNet."""
    jitter = [{"color_jitter": {"brightness": color, "contrast": color, "saturation": color}}] if color else []
    return {"operations": [{"resized_crop": {"size": size, "scale": scale}}, "horizontal_flip", *jitter]}


def randaugment(count: int = 2, magnitude: Any = 9.0, size: Any = None) -> Spec:
    """RandAugment (Cubuk et al. 2020) in the space and on the scale of 0 to 30 of torchvision and Kornia.

    `count` operations a sample, with replacement; signs are tossed; a crop to `size` and a flip come first where it is given.
    `magnitude: [0, 9]` grows in proportion to training progress, as EfficientTrain has it (Wang et al. 2023).
    """
    low, high = read_pair("randaugment.magnitude", magnitude, 0, 30)

    def grow(value_at: Callable[[float], Any]) -> Any:
        """A value at the magnitude's share of 30, or one that moves as the magnitude does."""
        return value_at(low / 30) if low == high else {"start": value_at(low / 30), "end": value_at(high / 30)}

    slope = grow(lambda share: {"signed": math.degrees(math.atan(0.3 * share))})
    shift = grow(lambda share: {"signed": 150 / 331 * share})
    factor = grow(lambda share: {"around": 0.9 * share})
    space = [
        {"shear_x": {"degrees": slope}},
        {"shear_y": {"degrees": slope}},
        {"translate_x": {"share": shift}},
        {"translate_y": {"share": shift}},
        {"rotate": {"degrees": grow(lambda share: {"signed": 30 * share})}},
        *({name: {"factor": factor}} for name in ("brightness", "saturation", "contrast", "sharpness")),
        {"posterize": {"bits": grow(lambda share: 8 - round(4 * share))}},
        {"solarize": {"threshold": grow(lambda share: 1 - share)}},
        "autocontrast",
        "equalize",
    ]
    return {"operations": [*_crop(size), {"choose": count, "from": ["identity", *space]}]}


def trivial(size: Any = None) -> Spec:
    """TrivialAugment, wide (Mueller and Hutter 2021): one operation of RandAugment's at a magnitude of its own."""
    wide = [
        {"shear_x": {"degrees": {"signed": [0, 44.71]}}},
        {"shear_y": {"degrees": {"signed": [0, 44.71]}}},
        {"translate_x": {"share": {"signed": [0, 0.45]}}},
        {"translate_y": {"share": {"signed": [0, 0.45]}}},
        {"rotate": {"degrees": {"signed": [0, 135]}}},
        *({name: {"factor": [0.01, 1.99]}} for name in ("brightness", "saturation", "contrast", "sharpness")),
        {"posterize": {"bits": [2, 8]}},
        {"solarize": {"threshold": [0.0, 1.0]}},
        "autocontrast",
        "equalize",
    ]
    return {"operations": [*_crop(size), {"one_of": ["identity", *wide]}]}


def augmix(severity: float = 3.0, width: int = 3, depth: int = 3, alpha: float = 1.0, size: Any = None) -> Spec:
    """AugMix (Hendrycks et al. 2020): blended chains of one to `depth` operations, none of which ImageNet-C uses."""
    if not 0 < severity <= 10:
        raise PolicyError(f"augmix.severity takes 0 to 10, got {severity!r}")
    share = severity / 10
    space = [
        "autocontrast",
        "equalize",
        {"posterize": {"bits": [8 - round(4 * share), 8]}},
        {"rotate": {"degrees": {"signed": [0, 30 * share]}}},
        {"solarize": {"threshold": [1 - share, 1.0]}},
        {"shear_x": {"degrees": {"signed": [0, 16.7 * share]}}},
        {"shear_y": {"degrees": {"signed": [0, 16.7 * share]}}},
        {"translate_x": {"share": {"signed": [0, share / 3]}}},
        {"translate_y": {"share": {"signed": [0, share / 3]}}},
    ]
    return {"operations": [*_crop(size), {"augmix": space, "width": width, "depth": depth, "alpha": alpha}]}


def simclr(size: Any = 224, strength: float = 1.0, scale: Any = (0.08, 1.0), blur: float = 0.5) -> Spec:
    """SimCLR's view (Chen et al. 2020): crop, flip, jitter at 0.8, greys at 0.2, blur over a tenth of the side at 0.5."""
    return _contrastive(size, scale, [0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength], blur, 0.0)


def dino_global1(size: Any = 224, scale: Any = (0.4, 1.0)) -> Spec:
    """DINO's first global view (Caron et al. 2021): always blurred."""
    return _contrastive(size, scale, [0.4, 0.4, 0.2, 0.1], 1.0, 0.0)


def dino_global2(size: Any = 224, scale: Any = (0.4, 1.0)) -> Spec:
    """DINO's second global view: blurred at 0.1, solarised at 0.2."""
    return _contrastive(size, scale, [0.4, 0.4, 0.2, 0.1], 0.1, 0.2)


def dino_local(size: Any = 96, scale: Any = (0.05, 0.4)) -> Spec:
    """DINO's local views: small crops, blurred at 0.5."""
    return _contrastive(size, scale, [0.4, 0.4, 0.2, 0.1], 0.5, 0.0)


def dsa(crop: float = 0.125, scale: float = 1.2, degrees: float = 15.0, cutout: float = 0.5) -> Spec:
    """Differentiable siamese augmentation (Zhao and Bilen 2021): one of colour, crop, cutout, flip, scale, rotate a step.

    Every sample of a step gets the same draw, so a real and a synthetic batch with the same seed, epoch and view match.
    Colours are never clamped and gradients pass through everything. Scale is drawn for the content, theirs for its inverse,
    in the same range; the cutout lies inside the frame.
    """
    colour = [
        {"brightness_shift": {"shift": [-0.5, 0.5]}},
        {"saturation_mean": {"factor": [0.0, 2.0]}},
        {"contrast_mean": {"factor": [0.5, 1.5]}},
    ]
    strategies = [
        colour,
        {"shift": {"share": crop}},
        {"erase": {"p": 1.0, "scale": cutout**2, "ratio": 1.0}},
        {"horizontal_flip": {"p": 0.5}},
        {"affine": {"scale": [1 / scale, scale], "scale_y": [1 / scale, scale]}},
        {"rotate": {"degrees": [-degrees, degrees]}},
    ]
    return {"siamese": True, "operations": [{"one_of": strategies}]}


def detection(size: Any = 640, scale: Any = (0.5, 1.5), translate: float = 0.1, fill: float = 114 / 255) -> Spec:
    """A one-stage detector's: letterbox, scale and shift, flip, jitter (YOLOv5's ranges), grey beyond the frame."""
    shift = [-translate, translate]
    return {
        "fill": fill,
        "operations": [
            {"letterbox": {"size": size}},
            {"affine": {"scale": scale, "translate_x": shift, "translate_y": shift}},
            "horizontal_flip",
            {"color_jitter": {"brightness": 0.4, "saturation": 0.7, "hue": 0.015}},
        ],
    }


_PRESETS: dict[str, Callable[..., Spec]] = {
    preset.__name__: preset
    for preset in (
        none, imagenet, randaugment, trivial, augmix, simclr, dino_global1, dino_global2, dino_local, dsa, detection
    )
}  # fmt: skip
NAMES = tuple(_PRESETS)


def build(name: Any, options: Mapping[str, Any]) -> Spec:
    """Build a preset's policy as a mapping. Raises `PolicyError` with the nearest name, or the options there are."""
    if name not in _PRESETS:
        near = get_close_matches(str(name), NAMES, 1)
        raise PolicyError(
            f"there is no preset {name!r}; " + (f"did you mean {near[0]}?" if near else f"known are {', '.join(NAMES)}")
        )
    words = list(inspect.signature(_PRESETS[name]).parameters)
    for word in options:
        if word not in words:
            raise PolicyError(f"the preset {name} does not take {word!r}; it takes {', '.join(words) or 'no options'}")
    try:
        return {"name": name, **_PRESETS[name](**options)}
    except TypeError as error:
        raise PolicyError(f"the preset {name} cannot use {dict(options)}: {error}") from error


def _crop(size: Any) -> list[Any]:
    """A random crop to `size` and a flip, or nothing for None."""
    return [] if size is None else [{"resized_crop": {"size": size}}, "horizontal_flip"]


def _contrastive(size: Any, scale: Any, jitter: list[float], blur: float, solarize: float) -> Spec:
    """A contrastive view: crop, flip, jitter (brightness, contrast, saturation, hue), greys, blur and solarize by their shares."""
    brightness, contrast, saturation, hue = jitter
    operations: list[Any] = [
        {"resized_crop": {"size": size, "scale": scale}},
        "horizontal_flip",
        {
            "color_jitter": {
                "p": 0.8, "brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue
            }
        },
        {"grayscale": {"p": 0.2}},
    ]  # fmt: skip
    if blur:
        operations.append({"gaussian_blur": {"p": blur}})
    if solarize:
        operations.append({"solarize": {"p": solarize, "threshold": 0.5}})
    return {"operations": operations}
