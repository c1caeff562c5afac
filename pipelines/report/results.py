"""`evaluate`'s numbers as rows, and what they amount to in words. No page and no console here.

The comparison that decides is distilled against the same number of random real images, same labels, same protocol.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.report.words import grouped, listed, number, percent, points

#: Arms in the order of the table: name in metrics.json -> (images, labels).
ARMS = {
    "distilled_soft": ("distilled", "soft"),
    "random_soft": ("random real", "soft"),
    "distilled_hard": ("distilled", "hard"),
    "random_hard": ("random real", "hard"),
}
FULL_ARM = "real_hard"
Outcome = Literal["win", "loss", "level"]


@dataclass(frozen=True)
class Arm:
    """One row: accuracies are fractions, spreads standard deviations over seeds, sizes in bytes; None is unknown."""

    name: str
    images_from: str
    labels: str
    mean: float | None
    std: float | None
    best: float | None
    seeds: int | None
    images: float | None
    image_bytes: float | None
    label_bytes: float | None

    @property
    def bytes(self) -> float | None:
        """Images and labels together: what has to be stored."""
        if self.image_bytes is None:
            return None
        return self.image_bytes + (self.label_bytes or 0)


@dataclass(frozen=True)
class Comparison:
    """Distilled against its control. `gap` in percentage points of the shown figures."""

    outcome: Outcome
    gap: float
    spread: float | None


@dataclass(frozen=True)
class Results:
    """All that `evaluate` measured. `by_ipc` is in rising order of images per class."""

    by_ipc: Mapping[int, Mapping[str, Arm]]
    full: Arm | None
    teacher_network: str
    teacher_accuracy: float | None
    protocol: Mapping[str, Any]

    def __bool__(self) -> bool:
        return bool(self.by_ipc or self.full)

    @property
    def arms(self) -> list[Arm]:
        found = [arm for arms in self.by_ipc.values() for arm in arms.values()]
        return found + ([self.full] if self.full else [])

    @property
    def note(self) -> str:
        return str(self.protocol.get("note") or "").strip()


def read_results(metrics: Mapping[str, Any]) -> Results:
    """`metrics.json` of `evaluate` as rows; what is not there or not a number becomes None."""
    by_ipc: dict[int, dict[str, Arm]] = {}
    for key, arms in metrics.items():
        ipc = key.removeprefix("ipc_")
        if key != ipc and ipc.isdecimal() and isinstance(arms, dict):
            known = {name: _arm(name, arms[name], *ARMS[name]) for name in ARMS if isinstance(arms.get(name), dict)}
            if known:
                by_ipc[int(ipc)] = known
    full, teacher, protocol = (_object(metrics, name) for name in ("full", "teacher", "protocol"))
    whole = _object(full, FULL_ARM)
    return Results(
        dict(sorted(by_ipc.items())),
        _arm(FULL_ARM, whole, "all real", "hard") if whole else None,
        str(teacher.get("network") or ""),
        number(teacher.get("test_top1")),
        protocol,
    )


def _object(form: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = form.get(key)
    return value if isinstance(value, dict) else {}


def _arm(name: str, form: Mapping[str, Any], images_from: str, labels: str) -> Arm:
    seeds = form.get("seeds")
    count = len(seeds) if isinstance(seeds, list) else number(seeds)
    return Arm(
        name,
        images_from,
        labels,
        number(form.get("last_mean")),
        number(form.get("last_std")),
        number(form.get("best_mean")),
        int(count) if count else None,
        number(form.get("images")),
        number(form.get("image_bytes")),
        number(form.get("label_bytes")),
    )


def compare(arms: Mapping[str, Arm], labels: str) -> Comparison | None:
    """Distilled against random real under `labels`; None when either is not there.

    Level means that the difference does not reach the spread over seeds (both standard deviations, in quadrature), or,
    with one seed, that the shown figures are equal.
    """
    distilled, control = arms.get(f"distilled_{labels}"), arms.get(f"random_{labels}")
    if distilled is None or control is None or distilled.mean is None or control.mean is None:
        return None
    gap = points(distilled.mean, control.mean)
    spread = None
    if min(distilled.seeds or 1, control.seeds or 1) > 1 and distilled.std is not None and control.std is not None:
        spread = 100 * math.hypot(distilled.std, control.std)
    exact = 100 * (distilled.mean - control.mean)
    if gap == 0 or (spread is not None and abs(exact) <= spread):
        return Comparison("level", gap, spread)
    return Comparison("win" if exact > 0 else "loss", gap, spread)


def headline(results: Results) -> str:
    """One sentence: who won, soft labels on both sides."""
    found: dict[Outcome, list[str]] = {"win": [], "loss": [], "level": []}
    for ipc, arms in results.by_ipc.items():
        comparison = compare(arms, "soft")
        if comparison is not None:
            found[comparison.outcome].append(f"IPC {ipc}")
    verbs = {"win": "beat", "loss": "lose to", "level": "are level with"}
    parts: list[str] = []
    for outcome in ("win", "loss", "level"):
        if found[outcome]:
            whom = "them" if parts else "the same number of random real images"
            parts.append(f"{verbs[outcome]} {whom} at {listed(found[outcome])}")
    if not parts:
        return "There is no comparison with random real images yet."
    return f"Distilled images {listed(parts)}."


def verdict(results: Results) -> list[str]:
    """The paragraph after the headline, a sentence per element, computed from the numbers alone."""
    sentences: list[str] = []
    for ipc, arms in results.by_ipc.items():
        sentences += _at_ipc(ipc, arms)
    whole = []
    if results.full is not None and results.full.mean is not None:
        count = f" ({grouped(results.full.images)} images)" if results.full.images else ""
        whole.append(f"the full real set{count} reaches {percent(results.full.mean)}")
    if results.teacher_accuracy is not None:
        network = f", {results.teacher_network}," if results.teacher_network else ""
        whole.append(f"the teacher{network} {'reaches ' if not whole else ''}{percent(results.teacher_accuracy)}")
    if whole:
        text = listed(whole)
        sentences.append(text[0].upper() + text[1:] + ".")
    sentences += _seeds(results.arms)
    if results.note:
        sentences.append(results.note if results.note.endswith((".", "!", "?")) else results.note + ".")
    return sentences


def _at_ipc(ipc: int, arms: Mapping[str, Arm]) -> list[str]:
    distilled = arms.get("distilled_soft")
    if distilled is None or distilled.mean is None:
        return []
    start = f"At IPC {ipc} distilled + soft labels reaches {percent(distilled.mean)}"
    soft = compare(arms, "soft")
    if soft is None:
        return [f"{start}; there is no random real control, so this alone says nothing about distillation."]
    control = percent(arms["random_soft"].mean)
    sentences = [f"{start} against {control} for random real images with the same labels: {_gap(soft)}."]
    hard = compare(arms, "hard")
    if hard is not None:
        a, b = percent(arms["distilled_hard"].mean), percent(arms["random_hard"].mean)
        sentences.append(f"With hard labels it is {a} against {b}: {_gap(hard)}.")
    return sentences


def _gap(comparison: Comparison) -> str:
    size = f"{abs(comparison.gap):.1f} points"
    if comparison.outcome == "win":
        return f"distilled wins by {size}"
    if comparison.outcome == "loss":
        return f"distilled loses by {size}"
    if comparison.spread is None:
        return "no difference"
    return f"{size} apart, which is inside the spread of the seeds (±{comparison.spread:.1f})"


def _seeds(arms: Sequence[Arm]) -> list[str]:
    counts = sorted({arm.seeds for arm in arms if arm.seeds})
    if not counts:
        return []
    if counts == [1]:
        return ["Accuracies are those of the last epoch of one seed each, so chance is not ruled out."]
    shown = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    short = "" if counts[0] >= 3 else ", fewer than the three that a quoted number needs"
    return [f"Accuracies are those of the last epoch, means over {shown} seeds{short}."]
