"""The rows of `evaluate@distilled`: what was trained on what, what it reached and takes, and what it was compared with. No words here.

The comparison that decides is a measured set against the best of its controls: as many random real images, the real images that it
started from, the sets of `evaluate.distilled.controls`; same labels, same student, same protocol. Whether it tells them apart was
judged by `evaluate` (`pipelines.evaluation.verdicts`); nothing is compared here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

#: Kinds of labels, in the order of columns.
LABELS = ("hard", "fixed", "online", "soft")
FULL_ARM = "real_hard"
#: Images of an arm: a condensed set, the real images that it started from, random ones, all.
IMAGES = ("source", "start", "random", "real")
Outcome = Literal["win", "loss", "level"]


@dataclass(frozen=True)
class Arm:
    """One row: accuracies are fractions, spreads standard deviations, sizes in bytes; None is unknown.

    `images_of` is one of `IMAGES`, `source` the slug of the set that it is of, `title` what its images are called. `last` are the
    accuracies of all students, `sets` the sets of images that they were trained on, `at_epochs` means after so many epochs.
    """

    name: str
    images_of: str
    source: str
    labels: str
    title: str = ""
    role: str = ""
    mean: float | None = None
    std: float | None = None
    best: float | None = None
    seeds: int | None = None
    sets: int | None = None
    last: Sequence[float] = ()
    at_epochs: Mapping[int, float] = field(default_factory=dict)
    images: float | None = None
    image_bytes: float | None = None
    label_bytes: float | None = None
    teacher_bytes: float | None = None
    generator_bytes: float | None = None
    label_kind: str = ""
    student: str = ""
    norm: str = ""

    @property
    def key(self) -> str:
        """What it is called without its labels: rows of one table stand under it."""
        return self.name.rpartition("_")[0]

    @property
    def is_distilled(self) -> bool:
        """Whether its images are those of a condensed set, measured or a control."""
        return self.images_of == "source"

    @property
    def is_measured(self) -> bool:
        """Whether it is what the table is about, and no control."""
        return self.role == "source"

    @property
    def students(self) -> int | None:
        """All students: of several sets those of each."""
        return len(self.last) or self.seeds

    @property
    def bytes(self) -> float | None:
        """What has to be stored to train on it: images and labels, and with online labels the teacher."""
        if self.image_bytes is None:
            return None
        return self.image_bytes + (self.label_bytes or 0) + (self.teacher_bytes or 0)

    @property
    def bytes_with_generator(self) -> float | None:
        """The same with the generator that made the images."""
        return None if self.bytes is None else self.bytes + (self.generator_bytes or 0)


@dataclass(frozen=True)
class Comparison:
    """A measured set against a control. `gap` in percentage points of the shown figures; `judged` is what `verdicts` says of it.

    Arms are `level` where nothing tells them apart, be it that one seed proves nothing.
    """

    outcome: Outcome
    gap: float
    judged: Mapping[str, Any]

    @property
    def unproved(self) -> bool:
        """Whether there is a single difference, which nothing can be measured with."""
        return bool(self.judged["outcome"] == "unproved")


@dataclass(frozen=True)
class Margin:
    """A measured set and the best of its controls: that with the highest mean, whether or not it is told apart from the others."""

    student: str
    ipc: int
    arm: Arm
    control: Arm
    comparison: Comparison

    @property
    def outcome(self) -> str:
        """`win`, `loss`, `level`, or `unproved`."""
        return "unproved" if self.comparison.unproved else self.comparison.outcome


Arms = Mapping[int, Mapping[str, Arm]]
#: Student, images per class, name of the measured arm, name of its control.
Place = tuple[str, int, str, str]


@dataclass(frozen=True)
class Results:
    """All that was measured. `by_student` has the main student first; rows are in rising order of images per class."""

    by_student: Mapping[str, Arms]
    full: Arm | None
    teacher_network: str
    teacher_accuracy: float | None
    protocol: Mapping[str, Any]
    comparisons: Mapping[Place, Comparison] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.by_ipc or self.full)

    @property
    def student(self) -> str:
        """The main one."""
        return next(iter(self.by_student), "")

    @property
    def others(self) -> list[str]:
        """The other students."""
        return list(self.by_student)[1:]

    @property
    def by_ipc(self) -> Arms:
        """The rows of the main student."""
        return self.by_student.get(self.student, {})

    @property
    def arms(self) -> list[Arm]:
        """The rows of the main student, one after another."""
        arms = [arm for by_name in self.by_ipc.values() for arm in by_name.values()]
        return arms + ([self.full] if self.full else [])

    @property
    def labels(self) -> list[str]:
        """The kinds of labels that were measured."""
        return [labels for labels in LABELS if any(arm.labels == labels for arm in self.arms)]

    @property
    def measured(self) -> dict[str, str]:
        """The slugs and the titles of the sets that were measured."""
        return {arm.source: arm.title for arm in self.arms if arm.is_measured}

    @property
    def alone(self) -> bool:
        """Whether there is one condensed set only, which needs no name."""
        return len({arm.source for arm in self.arms if arm.is_distilled}) == 1

    @property
    def note(self) -> str:
        return str(self.protocol.get("note") or "").strip()

    def margins(self, student: str = "", source: str = "") -> list[Margin]:
        """Of a student, and of a source: every measured set against the best of its controls, by images per class, then labels."""
        student = student or self.student
        margins = []
        for ipc, arms in self.by_student.get(student, {}).items():
            for arm in arms.values():
                controls = self.controls(student, ipc, arm) if arm.is_measured and arm.mean is not None else []
                if controls and source in ("", arm.source):
                    best = max(controls, key=lambda control: control.mean or 0.0)
                    margins.append(Margin(student, ipc, arm, best, self.comparisons[student, ipc, arm.name, best.name]))
        return margins

    def controls(self, student: str, ipc: int, arm: Arm) -> list[Arm]:
        """Those that a measured arm was compared with."""
        arms = self.by_student.get(student, {}).get(ipc, {})
        return [one for one in arms.values() if (student, ipc, arm.name, one.name) in self.comparisons]

    def best_controls(self, student: str = "") -> set[tuple[int, str]]:
        """The controls, by images per class and name, that are the best of some measured set."""
        return {(margin.ipc, margin.control.name) for margin in self.margins(student)}
