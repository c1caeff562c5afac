"""The numbers of `evaluate@distilled` as rows, and what they amount to in words. No page and no console here.

The comparison that decides is a distilled set against the same number of random real images, same labels, same protocol. Whether
it tells them apart was judged by `evaluate` (`pipelines.evaluation.verdicts`); nothing is compared here.

An arm is called by its images and its labels: `random_soft`, `real_hard`, `SOURCE_hard` of a distilled set, `SOURCE_start_soft` of the
real images that a set started from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from pipelines.evaluation.verdicts import SEEDS_TO_QUOTE, beats_chance
from pipelines.report.reading import inner, inner_list
from pipelines.report.words import listed, number, percent, points

LABELS = ("soft", "hard")
FULL_ARM = "real_hard"
#: The controls of a distilled set: where the results hold the comparisons with it -> which images it is trained on.
CONTROLS = {"comparisons": "random", "against_start": "start"}
#: Images of an arm: the set of a source, the real images that it started from, random ones, all.
IMAGES = ("source", "start", "random", "real")
Outcome = Literal["win", "loss", "level"]


@dataclass(frozen=True)
class Arm:
    """One row: accuracies are fractions, spreads standard deviations over seeds, sizes in bytes; None is unknown.

    `images_of` is one of `IMAGES`; `last` are the accuracies by seed; `sets` the sets of images that its seeds were trained on.
    """

    name: str
    images_of: str
    source: str
    labels: str
    mean: float | None = None
    std: float | None = None
    best: float | None = None
    seeds: int | None = None
    images: float | None = None
    image_bytes: float | None = None
    label_bytes: float | None = None
    last: Mapping[int, float] = field(default_factory=dict)
    sets: int | None = None
    label_kind: str = ""
    student: str = ""
    norm: str = ""

    @property
    def images_from(self) -> str:
        """As a row calls them."""
        source = self.source.replace("_", " ")
        return {"source": source, "start": f"start of {source}", "random": "random real"}.get(
            self.images_of, "all real"
        )

    @property
    def is_distilled(self) -> bool:
        return self.images_of == "source"

    @property
    def bytes(self) -> float | None:
        """Images and labels together: what has to be stored."""
        if self.image_bytes is None:
            return None
        return self.image_bytes + (self.label_bytes or 0)


@dataclass(frozen=True)
class Comparison:
    """A distilled set against its control. `gap` in percentage points of the shown figures; `judged` is what `verdicts` says of it.

    Arms are `level` where nothing tells them apart, be it that one seed proves nothing.
    """

    outcome: Outcome
    gap: float
    judged: Mapping[str, Any]

    @property
    def unproved(self) -> bool:
        """Whether there is a single difference, which nothing can be measured with."""
        return bool(self.judged["outcome"] == "unproved")

    @property
    def one_set(self) -> bool:
        """Whether several seeds stand on one distilled set, so that chance in distilling it is in no spread."""
        return bool(self.judged["products"] == 1 and self.judged["seeds"] > 1)


#: Images per class, name of the distilled arm, and its control: `random` or `start`.
Place = tuple[int, str, str]


@dataclass(frozen=True)
class Results:
    """All that was measured. `by_ipc` is in rising order of images per class; the arms of one are in the order of the table."""

    by_ipc: Mapping[int, Mapping[str, Arm]]
    full: Arm | None
    teacher_network: str
    teacher_accuracy: float | None
    protocol: Mapping[str, Any]
    comparisons: Mapping[Place, Comparison] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.by_ipc or self.full)

    @property
    def arms(self) -> list[Arm]:
        arms = [arm for by_name in self.by_ipc.values() for arm in by_name.values()]
        return arms + ([self.full] if self.full else [])

    @property
    def sources(self) -> list[str]:
        """The distilled sets that were measured."""
        return list(dict.fromkeys(arm.source for arm in self.arms if arm.is_distilled))

    @property
    def note(self) -> str:
        return str(self.protocol.get("note") or "").strip()


def read_results(form: Mapping[str, Any]) -> Results:
    """`results.json` as rows; what is not there or not a number becomes None."""
    by_ipc: dict[int, dict[str, Arm]] = {}
    for key in form:
        ipc = key.removeprefix("ipc_")
        if key != ipc and ipc.isdecimal():
            arms = [arm for name in inner(form, key) if (arm := _arm(name, inner(inner(form, key), name))) is not None]
            if arms:
                by_ipc[int(ipc)] = {arm.name: arm for arm in in_order(arms)}
    teacher, protocol = inner(form, "teacher"), inner(form, "protocol")
    rows = dict(sorted(by_ipc.items()))
    return Results(
        rows,
        _arm(FULL_ARM, inner(inner(form, "full"), FULL_ARM)),
        str(teacher.get("network") or ""),
        number(teacher.get("test_top1")),
        protocol,
        _comparisons(rows, form),
    )


def named_arm(name: str) -> Arm | None:
    """The arm that a name stands for, nothing measured; None for a name that is none."""
    images, _, labels = name.rpartition("_")
    if labels not in LABELS or not images:
        return None
    images_of, source = _images_of(images)
    return Arm(name, images_of, source, labels)


def _arm(name: str, form: Mapping[str, Any]) -> Arm | None:
    arm = named_arm(name)
    if not form or arm is None:
        return None
    seeds = form.get("seeds")
    count = len(seeds) if isinstance(seeds, list) else number(seeds)
    last = _numbers(inner_list(form, "last"))
    sets = number(form.get("sets"))
    return replace(
        arm,
        mean=number(form.get("last_mean")),
        std=number(form.get("last_std")),
        best=number(form.get("best_mean")),
        seeds=int(count) if count else None,
        images=number(form.get("images")),
        image_bytes=number(form.get("image_bytes")),
        label_bytes=number(form.get("label_bytes")),
        last=dict(enumerate(last)),
        sets=int(sets) if sets else None,
        label_kind=str(form.get("label_kind") or ""),
        student=str(form.get("network") or ""),
        norm=str(form.get("norm") or ""),
    )


def _images_of(images: str) -> tuple[str, str]:
    """Which of `IMAGES` an arm's name stands for, and its source."""
    if images in ("random", "real"):
        return images, ""
    source = images.removesuffix("_start")
    return ("source" if source == images else "start"), source


def in_order(arms: Iterable[Arm]) -> list[Arm]:
    """Soft labels first; of each kind the distilled sets, then their control."""
    return sorted(arms, key=lambda arm: (LABELS.index(arm.labels), IMAGES.index(arm.images_of), arm.name))


def _numbers(values: Sequence[Any]) -> list[float]:
    numbers = [number(one) for one in values]
    return [one for one in numbers if one is not None] if None not in numbers else []


def _comparisons(by_ipc: Mapping[int, Mapping[str, Arm]], form: Mapping[str, Any]) -> dict[Place, Comparison]:
    """As `evaluate` judged them; nothing is compared here."""
    comparisons: dict[Place, Comparison] = {}
    for key, images in CONTROLS.items():
        for one in inner_list(form, key):
            if not isinstance(one, Mapping) or not _is_whole(one):
                continue
            ipc = int(number(one.get("ipc")) or 0)
            arms = by_ipc.get(ipc, {})
            arm = arms.get(str(one.get("arm")))
            control = None if arm is None else _control(arms, arm, images)
            if arm is not None and control is not None and arm.mean is not None and control.mean is not None:
                outcome: Outcome = one["outcome"] if one["outcome"] in ("win", "loss") else "level"
                comparisons[ipc, arm.name, images] = Comparison(outcome, points(arm.mean, control.mean), one)
    return comparisons


def _control(arms: Mapping[str, Arm], arm: Arm, images: str) -> Arm | None:
    """The arm that a distilled one is compared with."""
    name = {"random": f"random_{arm.labels}", "start": f"{arm.source}_start_{arm.labels}"}[images]
    return arms.get(name)


def _is_whole(one: Mapping[str, Any]) -> bool:
    needed = {"outcome", "gap", "errors", "needed", "seeds", "products", "of"}
    return needed <= one.keys() and one["outcome"] in (*get_args(Outcome), "unproved")


#: Stands beside every claim about several students of one distilled set.
ONE_SET = " (one distillation seed: the ± is of students only)"


def headline(results: Results) -> str:
    """A sentence for each distilled set: who won, soft labels on both sides."""
    sources = results.sources
    sentences = [_headline(results, source, len(sources) == 1) for source in sources]
    return " ".join(filter(None, sentences)) or "There is no comparison with random real images yet."


def _headline(results: Results, source: str, alone: bool) -> str:
    by_outcome: dict[str, list[str]] = {"win": [], "loss": [], "level": [], "unproved": []}
    one_set = False
    for ipc in results.by_ipc:
        comparison = results.comparisons.get((ipc, f"{source}_soft", "random"))
        if comparison is not None:
            by_outcome["unproved" if comparison.unproved else comparison.outcome].append(f"IPC {ipc}")
            one_set |= comparison.one_set and comparison.outcome != "level"
    if not any(by_outcome.values()):
        return ""
    whose = "distilled images" if alone else f"the images of {source}"
    if len(by_outcome["unproved"]) == sum(map(len, by_outcome.values())):
        return f"One seed proves nothing: whether {whose} beat as many random real ones is not known."
    verbs = {"win": "beat", "loss": "lose to", "level": "are not told apart from", "unproved": "have one seed against"}
    parts: list[str] = []
    for outcome, verb in verbs.items():
        if by_outcome[outcome]:
            whom = "them" if parts else "the same number of random real images"
            parts.append(f"{verb} {whom} at {listed(by_outcome[outcome])}")
    limit = ONE_SET if one_set else ""
    if alone:
        whose = "these distilled images" if one_set else whose
    return f"{whose[0].upper()}{whose[1:]} {listed(parts)}{limit}."


def remarks(results: Results) -> list[str]:
    """What a reader must know beside the table, a sentence per element, computed from the numbers alone."""
    sentences = _chance(results) + _without_control(results) + _seeds(results.arms)
    if results.note:
        sentences.append(results.note if results.note.endswith((".", "!", "?")) else results.note + ".")
    return sentences


def called(arm: Arm, results: Results) -> str:
    """What a row calls the images of an arm: by their source where there are several."""
    if len(results.sources) > 1:
        return arm.images_from
    return {"source": "distilled", "start": "its start"}.get(arm.images_of, arm.images_from)


def _without_control(results: Results) -> list[str]:
    """Sets whose accuracy says nothing yet."""
    alone = [
        f"{called(arm, results)} + {arm.labels} labels at IPC {ipc}"
        for ipc, arms in results.by_ipc.items()
        for arm in arms.values()
        if arm.is_distilled and arm.mean is not None and (ipc, arm.name, "random") not in results.comparisons
    ]
    if not alone:
        return []
    return [f"There is no random real control of {listed(alone)}, so this alone says nothing about distillation."]


def _chance(results: Results) -> list[str]:
    """Who is no better than whoever names one class every time. Finite losses do not tell: a dead network has a very even one."""
    chance, images = (number(results.protocol.get(name)) for name in ("chance", "test_images"))
    if chance is None or not images or not 0 < chance < 1:
        return []
    reached: dict[str, float | None] = {"the teacher": results.teacher_accuracy}
    for ipc, arms in results.by_ipc.items():
        reached |= {f"{called(arm, results)} + {arm.labels} labels at IPC {ipc}": arm.mean for arm in arms.values()}
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
    short = "" if counts[0] >= SEEDS_TO_QUOTE else ", fewer than the three that a quoted number needs"
    sentences = [f"Accuracies are those of the last epoch, means over {shown} seeds{short}."]
    if any(arm.is_distilled and arm.sets == 1 and (arm.seeds or 1) > 1 for arm in arms):
        sentences.append(
            "There is one distillation seed: the ± of distilled images is of students only, that of random ones of their choice too."
        )
    return sentences
