"""The numbers of `evaluate@distilled` as rows, and what was compared with what. No words, no page and no console here.

The comparison that decides is a measured set against the best of its controls: as many random real images, the real images that it
started from, the sets of `evaluate.distilled.controls`; same labels, same student, same protocol. Whether it tells them apart was
judged by `evaluate` (`pipelines.evaluation.verdicts`); nothing is compared here.

An arm is called by its images and its labels: `random_soft`, `real_hard`, `SOURCE_hard` of a condensed set, `SOURCE_start_soft` of the
real images that a set started from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from pipelines.artifacts.distilled import source_slug
from pipelines.report.reading import Outputs, inner, inner_list
from pipelines.report.words import number, points

#: The kind of product whose outputs are condensed sets.
PRODUCT = "distilled"
#: Kinds of labels, in the order of columns.
LABELS = ("hard", "online", "soft")
FULL_ARM = "real_hard"
#: Where the results hold comparisons, and which images those are with that do not name them.
COMPARISONS = {"comparisons": "random", "against_start": "start", "against_controls": "source"}
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
    """All that was measured. `by_student` has the main student first; rows are in rising order of images per class.

    `titles` are what sets are called, by the slug of their source.
    """

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


def titles_of(outputs: Outputs) -> dict[str, str]:
    """What condensed sets are called, by the slug of their source."""
    return {source_slug(record.name): record.title for record in outputs.finished(product=PRODUCT)}


def read_results(form: Mapping[str, Any], titles: Mapping[str, str] | None = None) -> Results:
    """`results.json` as rows; what is not there or not a number becomes None. `titles` are what sets are called, by slug."""
    titles, protocol, teacher = titles or {}, inner(form, "protocol"), inner(form, "teacher")
    others = inner(form, "other_students")
    networks = protocol.get("networks")
    first = networks[0] if isinstance(networks, list) and networks else protocol.get("network")
    main, full = str(first or ""), inner(inner(form, "full"), FULL_ARM)
    rows = _rows(form, titles)
    if not main:
        main = next((arm.student for arms in rows.values() for arm in arms.values() if arm.student), "")
    by_student = {main: rows} | {
        name: _rows(inner(others, name), titles) for name in others if _rows(inner(others, name), titles)
    }
    results = Results(
        by_student,
        _arm(FULL_ARM, full, titles),
        str(teacher.get("network") or ""),
        number(teacher.get("test_top1")),
        protocol,
    )
    return replace(results, comparisons=_comparisons(results, form))


def _rows(form: Mapping[str, Any], titles: Mapping[str, str]) -> dict[int, dict[str, Arm]]:
    by_ipc: dict[int, dict[str, Arm]] = {}
    for key in form:
        ipc = key.removeprefix("ipc_")
        if key != ipc and ipc.isdecimal():
            read = (_arm(name, inner(inner(form, key), name), titles) for name in inner(form, key))
            if arms := [arm for arm in read if arm is not None]:
                by_ipc[int(ipc)] = {arm.name: arm for arm in in_order(arms)}
    return dict(sorted(by_ipc.items()))


def named_arm(name: str, titles: Mapping[str, str] | None = None) -> Arm | None:
    """The arm that a name stands for, nothing measured; None for a name that is none."""
    images, _, labels = name.rpartition("_")
    if labels not in LABELS or not images:
        return None
    if images in ("random", "real"):
        return Arm(name, images, "", labels, {"random": "random real", "real": "all real"}[images], "control")
    source = images.removesuffix("_start")
    title = (titles or {}).get(source) or source.replace("_", " ")
    if source != images:
        return Arm(name, "start", source, labels, f"start of {title}", "control")
    return Arm(name, "source", source, labels, title, "source")


def _arm(name: str, form: Mapping[str, Any], titles: Mapping[str, str]) -> Arm | None:
    arm = named_arm(name, titles)
    if not form or arm is None:
        return None
    seeds = form.get("seeds")
    count = len(seeds) if isinstance(seeds, list) else number(seeds)
    sets = number(form.get("sets"))
    return replace(
        arm,
        role="control" if form.get("role") == "control" else arm.role,
        mean=number(form.get("last_mean")),
        std=number(form.get("last_std")),
        best=number(form.get("best_mean")),
        seeds=int(count) if count else None,
        sets=int(sets) if sets else None,
        last=_numbers(inner_list(form, "last")),
        at_epochs=_at_epochs(inner(form, "at_epochs")),
        label_kind=str(form.get("label_kind") or ""),
        student=str(form.get("network") or ""),
        norm=str(form.get("norm") or ""),
        images=number(form.get("images")),
        image_bytes=number(form.get("image_bytes")),
        label_bytes=number(form.get("label_bytes")),
        teacher_bytes=number(form.get("teacher_bytes")),
        generator_bytes=number(form.get("generator_bytes")),
    )


def in_order(arms: Iterable[Arm]) -> list[Arm]:
    """What was measured first, each set before its start, then random images, then other controls; by kind of labels within."""
    return sorted(arms, key=_rank)


def _rank(arm: Arm) -> tuple[Any, ...]:
    group = 0 if arm.is_measured or arm.images_of == "start" else 1 if arm.images_of == "random" else 2
    return (group, arm.source, IMAGES.index(arm.images_of), LABELS.index(arm.labels))


def _numbers(values: Sequence[Any]) -> list[float]:
    numbers = [number(one) for one in values]
    return [one for one in numbers if one is not None] if None not in numbers else []


def _at_epochs(form: Mapping[str, Any]) -> dict[int, float]:
    read = {int(epoch): number(form[epoch]) for epoch in form if epoch.isdecimal()}
    return {epoch: mean for epoch, mean in sorted(read.items()) if mean is not None}


def _comparisons(results: Results, form: Mapping[str, Any]) -> dict[Place, Comparison]:
    """As `evaluate` judged them; nothing is compared here."""
    comparisons: dict[Place, Comparison] = {}
    for key, images in COMPARISONS.items():
        for one in inner_list(form, key):
            if not isinstance(one, Mapping) or not _is_whole(one):
                continue
            ipc, student = int(number(one.get("ipc")) or 0), str(one.get("network") or results.student)
            arms = results.by_student.get(student, {}).get(ipc, {})
            arm = arms.get(str(one.get("arm")))
            control = None if arm is None else arms.get(str(one.get("against") or _control_of(arm, images)))
            if arm is not None and control is not None and arm.mean is not None and control.mean is not None:
                outcome: Outcome = one["outcome"] if one["outcome"] in ("win", "loss") else "level"
                gap = points(arm.mean, control.mean)
                comparisons[student, ipc, arm.name, control.name] = Comparison(outcome, gap, one)
    return comparisons


def _control_of(arm: Arm, images: str) -> str:
    """The name of the control where a comparison does not say it."""
    return f"{arm.source}_start_{arm.labels}" if images == "start" else f"random_{arm.labels}"


def _is_whole(one: Mapping[str, Any]) -> bool:
    needed = {"outcome", "gap", "errors", "needed", "seeds", "products", "of"}
    return needed <= one.keys() and one["outcome"] in (*get_args(Outcome), "unproved")
