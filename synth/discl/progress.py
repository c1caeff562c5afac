"""The adaptive curriculum: train on the level at which the network has lately learned most, by hard images that it is not trained on.

The published rule and what its code does instead are in `docs/specs/discl.md`, adaptive rule. Arithmetic only: who calls this trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from augment.seeds import sample_seeds
from synth.discl.schedules import REAL, Mode
from synth.errors import SynthError

#: Values further than so many interquartile ranges outside the quartiles are outliers (Tukey).
FENCE = 1.5


def without_outliers(values: np.ndarray) -> np.ndarray:
    """Return the values (n,) inside [Q1 - 1.5 IQR, Q3 + 1.5 IQR], in order; quartiles are linear between values, as numpy's."""
    low, high = np.percentile(values, [25, 75])
    reach = FENCE * (high - low)
    return values[(values >= low - reach) & (values <= high + reach)]


def level_progress(
    now: np.ndarray, before: np.ndarray | None, levels: np.ndarray, outliers: Literal["drop", "keep"] = "drop"
) -> dict[int, float]:
    """Return each level's progress: the mean over its samples of p_now(y | x) - p_before(y | x), outliers dropped.

    `now` and `before` (n,) are probabilities of the true class, `levels` (n,) int of the samples; without `before` it is 0, as
    in the first call of the published code. `keep` is its ImageNet variant. SynthError for a probability that is no number.
    """
    gains = now - (0 if before is None else before)
    if not np.isfinite(gains).all():
        raise SynthError("a probability of the guidance validation set is no finite number: the network has diverged")
    by_level = {int(level): gains[levels == level] for level in np.unique(levels)}
    return {
        level: float((without_outliers(part) if outliers == "drop" else part).mean())
        for level, part in by_level.items()
    }


def best_level(progress: Mapping[int, float]) -> int:
    """Return the level of the largest progress; of several as large the lowest, which is the most diverse."""
    return min(progress, key=lambda level: (-progress[level], level))


@dataclass
class AdaptiveRule:
    """Alternates blocks of uniform training on real images with blocks on the level that made most progress meanwhile.

    Begin each uniform block with `begin_uniform`, giving the probabilities of the true class (n,) on the validation set after
    `refresh_after` steps of it; end it with `end_uniform`, which returns the level of the block that follows. That block has the
    images of this level alone.

    Mode `reference`: the first progress is measured against 0, which is a level's probability and no progress at all; later ones
    begin a step into the block. Mode `improved` measures before the first step of every block, so that all progress is over whole
    blocks. `levels` (n,) are those of the validation samples. `state` is plain values, to go on from.
    """

    levels: np.ndarray
    mode: Mode = "improved"
    outliers: Literal["drop", "keep"] = "drop"
    history: list[dict[int, float]] = field(default_factory=list)
    before: np.ndarray | None = None
    uniform: bool = False

    @property
    def refresh_after(self) -> int:
        """Steps of a uniform block after which its first probabilities are taken."""
        return 1 if self.mode == "reference" else 0

    def begin_uniform(self, probabilities: np.ndarray) -> None:
        """Take what progress of this block is measured from; in mode `reference` that of the first block is dropped for 0."""
        self.uniform = True
        self.before = None if self.mode == "reference" and not self.history else np.array(probabilities, np.float64)

    def end_uniform(self, probabilities: np.ndarray) -> int:
        """Measure every level's progress over the block, remember it, and return the level to train on; SynthError outside a block."""
        if not self.uniform:
            raise SynthError("progress is measured over a uniform block: begin_uniform comes first")
        self.uniform = False
        progress = level_progress(np.asarray(probabilities, np.float64), self.before, self.levels, self.outliers)
        self.history.append(progress)
        return best_level(progress)

    def state(self) -> dict[str, Any]:
        """Return all that the next choice depends on, as JSON has it."""
        history = [{str(level): value for level, value in row.items()} for row in self.history]
        before = None if self.before is None else self.before.tolist()
        return {"history": history, "before": before, "uniform": self.uniform}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load what `state` gave."""
        self.history = [{int(level): value for level, value in row.items()} for row in state["history"]]
        self.before = None if state["before"] is None else np.array(state["before"], np.float64)
        self.uniform = bool(state["uniform"])


@dataclass(frozen=True, eq=False)
class GuidanceSet:
    """What progress is measured on: `images` (n,) are places of hard images that are not trained on, `levels` their levels, REAL last.

    `samples` (n, levels - 1) are places of synthetic samples, one for each image and synthetic level.
    """

    images: np.ndarray
    samples: np.ndarray
    levels: tuple[int, ...]

    def trained_on(self, parents: np.ndarray) -> np.ndarray:
        """Say which synthetic samples may be trained on, (m,) bool, by the place of their hard image (m,): none of a held-out one."""
        return ~np.isin(parents, self.images)


def guidance_set(
    parents: np.ndarray,
    sample_levels: np.ndarray,
    labels: np.ndarray,
    levels: Sequence[int],
    count: int,
    seed: int,
    mode: Mode = "improved",
) -> GuidanceSet:
    """Choose up to `count` hard images that have a sample at every synthetic level, and one sample for each image and level.

    `parents` (m,) is the place of each synthetic sample's hard image, `sample_levels` (m,) its level; `labels` (hard images,). The order
    follows from (seed, place). Mode `improved` holds out no more than half of a class's hard images, rounded down, so that none is
    left without; `reference` looks at no class. SynthError where no image can be taken or none would be left to train on.
    """
    synthetic = tuple(sorted({int(level) for level in levels} - {REAL}))
    if not synthetic or count < 1:
        raise SynthError(
            f"a guidance set takes one synthetic level or more and 1 image or more, got {list(levels)} and {count}"
        )
    rank = sample_seeds(seed, np.arange(len(parents)))
    chosen: dict[tuple[int, int], int] = {}
    for place in np.argsort(rank, kind="stable")[
        ::-1
    ]:  # of several samples of an image and level the first in rank stays
        chosen[int(parents[place]), int(sample_levels[place])] = int(place)
    whole = [image for image in range(len(labels)) if all((image, level) in chosen for level in synthetic)]
    sizes, held = np.bincount(labels), np.zeros(int(labels.max()) + 1, np.int64)
    images: list[int] = []
    order = np.argsort(sample_seeds(seed, np.arange(len(labels)), view=1), kind="stable")
    for image in order[np.isin(order, whole)][: count if mode == "reference" else None]:
        label = int(labels[image])
        if mode == "reference" or held[label] < sizes[label] // 2:
            images.append(int(image))
            held[label] += 1
        if len(images) == count:
            break
    if not images or len(images) == len(labels):
        raise SynthError(
            f"{len(whole)} of {len(labels)} hard images have a sample at each of the levels {list(synthetic)}: a guidance set "
            f"needs some, and some others to train on; generate more, or fewer levels"
        )
    places = np.sort(np.array(images))
    samples = np.array([[chosen[int(image), level] for level in synthetic] for image in places])
    return GuidanceSet(places, samples, (*synthetic, REAL))
