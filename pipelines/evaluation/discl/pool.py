"""The images of a long tail that students may be shown, and the lists of them that the epochs of each arm have. Numbers, no pixels.

Places count the real images of the profile first, then the synthetic ones. All arms have as many epochs of as many images: those of
DisCL's mix (`synth.discl.mix`), so that all take the same steps at the same learning rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from distill.sampling import Places, cut, repeat_factors, repeated, shuffled
from pipelines.evaluation.discl.arms import Shows
from synth.discl.groups import Group
from synth.discl.mix import Mix, draw_epoch, mix
from synth.discl.progress import guidance_set
from synth.discl.schedules import REAL, EpochLevels, Strategy, schedule

#: The level of images that were made of text alone.
TEXT = 0


@dataclass(frozen=True, eq=False)
class Pool:
    """What an arm may be shown.

    `labels` (n,) are of the real images, `levels` and `synthetic_labels` (m,) of the synthetic ones, `parents` (m,) the places of the real
    images that these were made of, -1 for one that is not here; `groups` and `few_limit` are of the classes.
    """

    labels: np.ndarray[Any, np.dtype[np.int64]]
    groups: Sequence[Group]
    few_limit: int
    levels: np.ndarray[Any, np.dtype[np.int64]]
    synthetic_labels: np.ndarray[Any, np.dtype[np.int64]]
    parents: np.ndarray[Any, np.dtype[np.int64]]

    @cached_property
    def counts(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Real images of each class (classes,)."""
        return np.bincount(self.labels, minlength=len(self.groups)).astype(np.int64)

    @cached_property
    def tail(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which real images are hard (n,): those of classes with few."""
        few = np.array([group == "few" for group in self.groups])
        chosen: np.ndarray[Any, np.dtype[np.bool_]] = few[self.labels]
        return chosen

    @cached_property
    def every_label(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Labels (n + m,) by place."""
        return np.concatenate([self.labels, self.synthetic_labels])

    def shown(self, epochs: Sequence[Places]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """How many images of each class (classes,) lists show, repeated ones as often as they are repeated."""
        return sum(
            (np.bincount(self.every_label[places], minlength=len(self.groups)) for places in epochs),
            start=np.zeros(len(self.groups), np.int64),
        )

    def mix(self, downsample: float) -> Mix:
        return mix(self.counts.tolist(), self.few_limit, downsample)


@dataclass(frozen=True)
class Course:
    """How a training goes through a pool: `epochs` of them, `curriculum` of these by the strategy and the rest on real images; classes with
    a smaller share than `repeat` are repeated where an arm repeats any, None standing for that of a balanced set."""

    epochs: int
    curriculum: int
    downsample: float
    repeat: float | None = None


def course_of(epochs: int, curriculum: float | None, downsample: float, repeat: float | None) -> Course:
    """The course of so many epochs, a share `curriculum` of them by the strategy."""
    return Course(epochs, round((curriculum or 0.0) * epochs), downsample, repeat)


def lists(pool: Pool, course: Course, shows: Shows, strategy: Strategy, seed: int, full: int = 0) -> list[Places]:
    """The places that each epoch shows; `seed` is of the student, `full` counts the images of all of train for the arm that has them."""
    plan, length = pool.mix(course.downsample), len(pool.mix(course.downsample))
    count = len(pool.labels)
    if shows in ("real", "full"):
        return cut(lambda number: shuffled(full or count, seed, number), length, course.epochs)
    if shows == "repeated":
        threshold = 1 / len(pool.groups) if course.repeat is None else course.repeat
        factors = repeat_factors(pool.counts, threshold)

        def one(number: int) -> Places:
            # Shuffled, so that a pass that is cut has lost no class in particular.
            places = repeated(pool.labels, factors, seed, number)
            return places[shuffled(len(places), seed, number)]

        return cut(one, length, course.epochs)
    epochs = [
        draw_epoch(seed, row.epoch, plan, row.levels, pool.tail, pool.levels).positions
        for row in levels_of(pool, course, shows, strategy, seed)
    ]
    if shows == "unordered":
        joined = np.concatenate(epochs)
        joined = joined[shuffled(len(joined), seed, 0)]
        return [joined[epoch * length : (epoch + 1) * length] for epoch in range(course.epochs)]
    return epochs


def guidance_of(pool: Pool, held_out: int, seed: int) -> tuple[Places, Places, np.ndarray[Any, Any]]:
    """Hold out hard images to measure progress on: their places (h,), and places and levels (s,) of what is measured, real ones last.

    `SynthError` where no image has one of every level, or none would be left.
    """
    hard, count = np.flatnonzero(pool.tail), len(pool.labels)
    number = np.full(count, -1)
    number[hard] = np.arange(len(hard))
    made = np.flatnonzero(np.isin(pool.parents, hard))
    levels = sorted({int(level) for level in pool.levels})
    chosen = guidance_set(number[pool.parents[made]], pool.levels[made], pool.labels[hard], levels, held_out, seed)
    out: Places = hard[chosen.images]
    places = np.concatenate([(made[chosen.samples] + count).ravel(), out])
    return out, places, np.concatenate([np.tile(chosen.levels[:-1], len(out)), np.full(len(out), REAL)])


def levels_of(pool: Pool, course: Course, shows: Shows, strategy: Strategy, seed: int) -> Sequence[EpochLevels]:
    """The levels that each epoch of an arm with the mix has; `SynthError` for a course that is too short for its strategy."""
    levels = [*sorted({int(level) for level in pool.levels}), REAL]
    if shows == "tail":
        return schedule("repeat", levels, course.epochs, 0)
    if shows == "text":
        return schedule("fixed", [TEXT], course.epochs, course.epochs)
    if shows == "levels":
        return schedule("all_levels", levels, course.epochs, course.epochs)
    return schedule(strategy, levels, course.epochs, course.curriculum, seed=seed)
