"""`evaluate`'s numbers as rows, and what they amount to in words. No page and no console here.

The comparison that decides is distilled against the same number of random real images, same labels, same protocol. Whether it
tells them apart follows from `pipelines.evaluation.verdicts` alone: judged by `evaluate` together with all else that it compared,
or here, where an older `metrics.json` has no more than means and deviations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pipelines.evaluation import verdicts as comparing
from pipelines.evaluation.verdicts import beats_chance, how_sure
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
    """One row: accuracies are fractions, spreads standard deviations over seeds, sizes in bytes; None is unknown.

    `last` are the accuracies by seed; `sets` the sets of images that its seeds were trained on.
    """

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
    last: Mapping[int, float] = field(default_factory=dict)
    sets: int | None = None

    @property
    def bytes(self) -> float | None:
        """Images and labels together: what has to be stored."""
        if self.image_bytes is None:
            return None
        return self.image_bytes + (self.label_bytes or 0)


@dataclass(frozen=True)
class Comparison:
    """Distilled against its control. `gap` in percentage points of the shown figures; `told` is what `comparing` found.

    Arms are `level` where nothing tells them apart, be it that one seed proves nothing.
    """

    outcome: Outcome
    gap: float
    told: Mapping[str, Any]

    @property
    def unproved(self) -> bool:
        """Whether there is a single difference, which nothing can be measured with."""
        return bool(self.told["outcome"] == "unproved")

    @property
    def one_set(self) -> bool:
        """Whether several seeds stand on one distilled set, so that chance in distilling it is in no spread."""
        return self.told["products"] == 1 and self.told["seeds"] > 1


@dataclass(frozen=True)
class Results:
    """All that `evaluate` measured. `by_ipc` is in rising order of images per class."""

    by_ipc: Mapping[int, Mapping[str, Arm]]
    full: Arm | None
    teacher_network: str
    teacher_accuracy: float | None
    protocol: Mapping[str, Any]
    comparisons: Mapping[tuple[int, str], Comparison] = field(default_factory=dict)

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
    rows = dict(sorted(by_ipc.items()))
    return Results(
        rows,
        _arm(FULL_ARM, whole, "all real", "hard") if whole else None,
        str(teacher.get("network") or ""),
        number(teacher.get("test_top1")),
        protocol,
        _comparisons(rows, metrics.get("comparisons"), number(protocol.get("test_images"))),
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
        dict(enumerate(last)) if (last := _numbers(form.get("last"))) else {},
        int(sets) if (sets := number(form.get("sets"))) else None,
    )


def _numbers(value: Any) -> list[float]:
    found = [number(one) for one in value] if isinstance(value, list) else []
    return [one for one in found if one is not None] if None not in found else []


def _comparisons(
    by_ipc: Mapping[int, Mapping[str, Arm]], judged: Any, test_images: float | None
) -> dict[tuple[int, str], Comparison]:
    """By IPC and labels: as `evaluate` judged them, else all that can be compared, judged together."""
    places = [(ipc, labels) for ipc in by_ipc for labels in ("soft", "hard")]
    measured = {place: _measured(by_ipc[place[0]], place[1], test_images) for place in places}
    known = {place: one for place, one in measured.items() if one is not None}
    known = dict(zip(known, comparing.settle(list(known.values())), strict=True))
    for one in judged if isinstance(judged, list) else ():
        if isinstance(one, Mapping) and (place := (one.get("ipc"), one.get("labels"))) in known and _is_whole(one):
            known[place] = dict(one)
    return {place: _shown(by_ipc[place[0]], place[1], one) for place, one in known.items()}


def _is_whole(one: Mapping[str, Any]) -> bool:
    known = {"outcome", "gap", "errors", "needed", "seeds", "products", "of"} <= one.keys()
    return known and one["outcome"] in (*get_args(Outcome), "unproved")


def _measured(arms: Mapping[str, Arm], labels: str, test_images: float | None = None) -> comparing.Comparison | None:
    distilled, control = arms.get(f"distilled_{labels}"), arms.get(f"random_{labels}")
    if distilled is None or control is None or distilled.mean is None or control.mean is None:
        return None
    if distilled.last and control.last:
        one_set = dict.fromkeys(distilled.last, 0) if distilled.sets == 1 else None
        return comparing.compare(distilled.last, control.last, one_set, int(test_images) if test_images else None)
    return comparing.compare_summaries(
        *((arm.mean or 0.0, arm.std or 0.0, arm.seeds or 1) for arm in (distilled, control))
    )


def _shown(arms: Mapping[str, Arm], labels: str, told: Mapping[str, Any]) -> Comparison:
    distilled, control = arms[f"distilled_{labels}"].mean, arms[f"random_{labels}"].mean
    assert distilled is not None
    assert control is not None
    outcome: Outcome = told["outcome"] if told["outcome"] in ("win", "loss") else "level"
    return Comparison(outcome, points(distilled, control), told)


#: Stands beside every claim about several students of one distilled set.
ONE_SET = " (one distillation seed: the ± is of students only)"


def headline(results: Results) -> str:
    """One sentence: who won, soft labels on both sides."""
    found: dict[str, list[str]] = {"win": [], "loss": [], "level": [], "unproved": []}
    one_set = False
    for ipc in results.by_ipc:
        comparison = results.comparisons.get((ipc, "soft"))
        if comparison is not None:
            found["unproved" if comparison.unproved else comparison.outcome].append(f"IPC {ipc}")
            one_set |= comparison.one_set and comparison.outcome != "level"
    if not any(found.values()):
        return "There is no comparison with random real images yet."
    if len(found["unproved"]) == sum(map(len, found.values())):
        return "One seed proves nothing: whether distilled images beat as many random real ones is not known."
    verbs = {"win": "beat", "loss": "lose to", "level": "are not told apart from", "unproved": "have one seed against"}
    parts: list[str] = []
    for outcome, verb in verbs.items():
        if found[outcome]:
            whom = "them" if parts else "the same number of random real images"
            parts.append(f"{verb} {whom} at {listed(found[outcome])}")
    what, limit = ("These distilled images", ONE_SET) if one_set else ("Distilled images", "")
    return f"{what} {listed(parts)}{limit}."


def verdict(results: Results) -> list[str]:
    """The paragraph after the headline, a sentence per element, computed from the numbers alone."""
    sentences: list[str] = []
    for ipc, arms in results.by_ipc.items():
        sentences += _at_ipc(ipc, arms, results.comparisons)
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
    sentences += _chance(results) + _seeds(results.arms)
    if results.note:
        sentences.append(results.note if results.note.endswith((".", "!", "?")) else results.note + ".")
    return sentences


def _at_ipc(ipc: int, arms: Mapping[str, Arm], comparisons: Mapping[tuple[int, str], Comparison]) -> list[str]:
    distilled = arms.get("distilled_soft")
    if distilled is None or distilled.mean is None:
        return []
    start = f"At IPC {ipc} distilled + soft labels reaches {percent(distilled.mean)}"
    soft = comparisons.get((ipc, "soft"))
    if soft is None:
        return [f"{start}; there is no random real control, so this alone says nothing about distillation."]
    control = percent(arms["random_soft"].mean)
    sentences = [f"{start} against {control} for random real images with the same labels: {_gap(soft)}."]
    hard = comparisons.get((ipc, "hard"))
    if hard is not None:
        a, b = percent(arms["distilled_hard"].mean), percent(arms["random_hard"].mean)
        sentences.append(f"With hard labels it is {a} against {b}: {_gap(hard)}.")
    return sentences


def _gap(comparison: Comparison) -> str:
    size, sure = f"{abs(comparison.gap):.1f} points", how_sure(comparison.told)
    if comparison.outcome in ("win", "loss"):
        verb = "wins" if comparison.outcome == "win" else "loses"
        return (
            f"this distilled set {verb} by {size}, {sure}"
            if comparison.one_set
            else f"distilled {verb} by {size}, {sure}"
        )
    return f"{size} apart, {sure}"


def _chance(results: Results) -> list[str]:
    """Who is no better than whoever names one class every time. Finite losses do not tell: a dead network has a very even one."""
    chance, images = (number(results.protocol.get(name)) for name in ("chance", "test_images"))
    if chance is None or not images or not 0 < chance < 1:
        return []
    reached: dict[str, float | None] = {"the teacher": results.teacher_accuracy}
    for ipc, arms in results.by_ipc.items():
        reached |= {f"{arm.images_from} + {arm.labels} labels at IPC {ipc}": arm.mean for arm in arms.values()}
    reached |= {"the full real set": results.full.mean} if results.full is not None else {}
    blind = [who for who, mean in reached.items() if mean is not None and not beats_chance(mean, chance, int(images))]
    if not blind:
        return []
    text = listed(blind)
    return [
        f"{text[0].upper() + text[1:]} {'is' if len(blind) == 1 else 'are'} no better than naming the commonest class every time "
        f"({percent(chance)}), which takes no learning."
    ]


def _seeds(arms: Sequence[Arm]) -> list[str]:
    counts = sorted({arm.seeds for arm in arms if arm.seeds})
    if not counts:
        return []
    if counts == [1]:
        return ["Accuracies are those of the last epoch of one seed each, so chance is not ruled out."]
    shown = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    short = "" if counts[0] >= 3 else ", fewer than the three that a quoted number needs"
    told = [f"Accuracies are those of the last epoch, means over {shown} seeds{short}."]
    if any(arm.images_from == "distilled" and arm.sets == 1 and (arm.seeds or 1) > 1 for arm in arms):
        told.append(
            "There is one distillation seed: the ± of distilled images is of students only, that of random ones of their choice too."
        )
    return told
