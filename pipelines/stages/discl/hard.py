"""Decides which training images of a profile are hard: images of small classes, those that are named, those that judges are wrong about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.artifacts.profiles import Profile
from pipelines.config import read_yaml
from pipelines.errors import UserError
from pipelines.seeds import hash_ranks
from pipelines.stages.discl.params import HardParams


@dataclass(frozen=True)
class HardImage:
    """One hard image, and why: `value` is what the rule measured, such as the images of its class or the judge's confidence."""

    key: str
    label: int
    reason: str
    value: float

    def to_json(self) -> dict[str, Any]:
        return {"key": self.key, "label": self.label, "reason": self.reason, "value": self.value}


def small_classes(profile: Profile, params: HardParams) -> list[int]:
    """The classes that the rule `tail` means, by number; `UserError` where that is none, or all."""
    counts = profile.counts.tolist()
    if params.share is not None:
        number = max(1, round(params.share * len(counts)))
        chosen = sorted(np.argsort(counts, kind="stable")[:number].tolist())
    else:
        below = profile.limits[1] if params.below is None else params.below
        chosen = [label for label, count in enumerate(counts) if count < below]
        if not chosen:
            raise UserError(
                f"no class of the profile {profile.name!r} has fewer than {below} images ({min(counts)} to {max(counts)}), so none is "
                f"hard; raise discl.hard.below, or take a stronger tail in split.profiles.{profile.name}"
            )
    if len(chosen) == len(counts):
        raise UserError(
            f"every class of the profile {profile.name!r} is hard; lower discl.hard.{'below' if params.share is None else 'share'}"
        )
    return chosen


def of_small_classes(profile: Profile, params: HardParams) -> list[HardImage]:
    """Images of the small classes, class by class."""
    labels = profile.labels.tolist()
    return [
        HardImage(key, label, "few_images", float(profile.counts[label]))
        for label in small_classes(profile, params)
        for key, own in zip(profile.keys, labels, strict=True)
        if own == label
    ]


def listed(profile: Profile, path: str) -> list[HardImage]:
    """The images that a file names, class by class; `UserError` for a key that is none of the profile's, or twice."""
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"discl.hard.file: {path} cannot be read ({error.strerror}); give a list of keys") from None
    parsed = read_yaml(text, path)
    keys = [str(key) for key in parsed] if isinstance(parsed, list) else text.split()
    label_of = dict(zip(profile.keys, profile.labels.tolist(), strict=True))
    if not keys:
        raise UserError(f"discl.hard.file: {path} names no image; give keys, one a line")
    for key in keys:
        if key not in label_of:
            raise UserError(
                f"discl.hard.file: {path} names {key}, which is no image of the profile {profile.name!r}; leave it out"
            )
    if len(set(keys)) < len(keys):
        twice = next(key for place, key in enumerate(keys) if key in keys[:place])
        raise UserError(f"discl.hard.file: {path} names {twice} twice; keep one")
    return [HardImage(key, label_of[key], "listed", 1.0) for key in sorted(keys, key=lambda key: (label_of[key], key))]


def fold_of(profile: Profile, folds: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The fold of each image of a profile (n,): every class is dealt out in an order that follows from the keys."""
    rank = hash_ranks(profile.keys, str(seed))
    fold = np.zeros(len(profile.keys), np.int64)
    for label in range(len(profile.classes)):
        own = np.flatnonzero(profile.labels == label)
        # Each class begins at another fold, so that small ones do not all leave the same fold.
        fold[own[np.argsort(rank[own], kind="stable")]] = (np.arange(len(own)) + label) % folds
    return fold


def worst(profile: Profile, measured: Mapping[str, float], measure: str, count: int) -> list[HardImage]:
    """The `count` images of least confidence, or of the largest loss; equal values in the order of keys."""
    sign = 1.0 if measure == "confidence" else -1.0
    label_of = dict(zip(profile.keys, profile.labels.tolist(), strict=True))
    chosen = sorted(measured, key=lambda key: (sign * measured[key], key))[:count]
    reason = "low_confidence" if measure == "confidence" else "high_loss"
    return [HardImage(key, label_of[key], reason, round(measured[key], 6)) for key in chosen]


def tail_share(profile: Profile, params: HardParams, hard: Sequence[str]) -> Fraction:
    """The share of an epoch that hard images have: that of the hard classes among all (as published), else of the hard images."""
    if params.rule == "tail":
        return Fraction(len(small_classes(profile, params)), len(profile.classes))
    return Fraction(len(hard), len(profile.keys))
