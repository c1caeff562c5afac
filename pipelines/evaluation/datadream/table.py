"""From single trainings to the control table of DataDream, and what the numbers say in words. Arithmetic only.

Who is told apart from whom is decided in `pipelines.evaluation.verdicts`, in pairs of seeds: seed s has the same reals, the same
start and the same order in both arms.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.evaluation.datadream.classifier import Arm, Classifier
from pipelines.evaluation.verdicts import Comparison, compare, how_sure, settle

#: Arms that see no number of shots stand beside all of them.
REFERENCES = ("zero_shot_clip", "full")

#: Controls of the arms with real and generated images, and what sentences call them.
_AGAINST = {"real": "real images only", "pooled_zero_shot": "real and zero-shot images"}


def control_table(
    classifiers: Sequence[Classifier],
    shots: Sequence[int],
    adapters: Mapping[str, Mapping[str, int]],
    classes: int,
    judged: Sequence[Comparison] | None = None,
) -> dict[str, Any]:
    """Reference lines, every arm by shots and classifier, and who wins. `adapters`: bytes by variant and few-shot set.

    `judged` are the `comparisons` of these classifiers, settled.
    """
    judged = settle(comparisons(classifiers, shots)) if judged is None else judged
    wins = [{**one, "sentence": sentence(one)} for one in judged]
    table: dict[str, Any] = {
        "reference": _arms([row for row in classifiers if row.arm.images in REFERENCES], classes, adapters)
    }
    why_not: list[dict[str, Any]] = []
    for count in shots:
        arms = table[f"shots_{count}"] = _arms(_at(classifiers, count), classes, adapters)
        for kind in sorted(arms):
            here = [one for one in wins if (one["shots"], one["classifier"]) == (count, kind)]
            reason = explain_no_win(here, arms[kind])
            why_not += [{"shots": count, "classifier": kind, "sentence": reason}] if reason else []
    return table | {"wins": wins, "why_not": why_not}


def numbers(table: Mapping[str, Any]) -> dict[str, Any]:
    """The few numbers of a control table: test accuracies by shots, classifier and arm, and the differences that were judged."""
    accuracy = {
        group: {kind: {name: arm["mean"] for name, arm in arms.items()} for kind, arms in kinds.items()}
        for group, kinds in table.items()
        if group == "reference" or group.startswith("shots_")
    }
    difference: dict[str, Any] = {}
    for one in table["wins"]:
        kinds = difference.setdefault(f"shots_{one['shots']}", {})
        kinds.setdefault(one["classifier"], {})[f"{one['arm']}-{one['against']}"] = one["gap"]
    return {"accuracy": accuracy, "difference": difference}


def comparisons(
    classifiers: Sequence[Classifier], shots: Sequence[int], test_images: int | None = None
) -> list[Comparison]:
    """Every pooled variant against its controls, by shots and classifier; to be settled together."""
    pairs = []
    for count in shots:
        here = _at(classifiers, count)
        for kind in sorted({row.kind for row in here}):
            pairs += _compared(count, kind, [row for row in here if row.kind == kind], test_images)
    return pairs


def _at(rows: Sequence[Classifier], shots: int) -> list[Classifier]:
    # Zero-shot images alone were made, and are trained on, without any real image: one training serves every number of shots.
    return [row for row in rows if row.arm.images not in REFERENCES and row.shots in (0, shots)]


def explain_no_win(judged: Sequence[Mapping[str, Any]], arms: Mapping[str, Any]) -> str | None:
    """Why no adapted variant beats both controls, as far as what its images teach on their own can say; None where one does."""
    adapted = {one["variant"] for one in judged} - {"zero_shot"}
    lacking = {one["variant"] for one in judged if one["outcome"] != "win"}
    alone = {
        variant: arms[name]["mean"] for variant in sorted(adapted) if (name := Arm("synthetic", variant).name) in arms
    }
    if adapted - lacking or not alone or "real" not in arms:
        return None
    best = max(alone, key=lambda variant: alone[variant])
    real = arms["real"]
    return (
        f"No adapted variant beats both controls at {judged[0]['shots']} shots ({judged[0]['classifier']}): on their own its "
        f"images teach {100 * alone[best]:.1f} % at best ({best}), the {real['images']['real']} real ones {100 * real['mean']:.1f} %."
    )


def _adapter_bytes(classifier: Classifier, adapters: Mapping[str, Mapping[str, int]]) -> int:
    return adapters.get(classifier.arm.variant, {}).get(f"{classifier.shots}-{classifier.few_shot_seed}", 0)


def _arms(rows: Sequence[Classifier], classes: int, adapters: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """The summary of every arm, by kind of classifier."""
    by_kind: dict[str, dict[Arm, list[Classifier]]] = {}
    for row in rows:
        by_kind.setdefault(row.kind, {}).setdefault(row.arm, []).append(row)
    return {
        kind: {arm.name: summary(same, classes, adapters) for arm, same in arms.items()}
        for kind, arms in by_kind.items()
    }


def summary(
    classifiers: Sequence[Classifier], classes: int, adapters: Mapping[str, Mapping[str, int]]
) -> dict[str, Any]:
    """Mean and standard deviation over seeds, and what was stored for it (a mean where seeds differ)."""
    trainings = [one.training for one in classifiers]
    tests = [one.test for one in trainings]
    label = 1 if classes <= 256 else 2
    sizes = {
        "real_bytes": round(statistics.fmean(one.real_bytes for one in classifiers)),
        "synthetic_bytes": round(statistics.fmean(one.synthetic_bytes for one in classifiers)),
        "adapter_bytes": round(statistics.fmean(_adapter_bytes(one, adapters) for one in classifiers)),
        "label_bytes": round(label * statistics.fmean(one.real + one.synthetic for one in classifiers)),
    }
    return {
        "mean": statistics.fmean(tests),
        "std": statistics.stdev(tests) if len(tests) > 1 else 0.0,
        "seeds": len(tests),
        "few_shot_seeds": sorted({one.few_shot_seed for one in classifiers if one.few_shot_seed is not None}),
        "val": statistics.fmean(one.val for one in trainings),
        "images": {
            "real": round(statistics.fmean(one.real for one in classifiers)),
            "synthetic": round(statistics.fmean(one.synthetic for one in classifiers)),
        },
        "fewest_synthetic": min(one.fewest_synthetic for one in classifiers),
        "steps": round(statistics.fmean(one.steps for one in trainings)),
        "bytes": sizes | {"together": sum(sizes.values())},
        "per_class": [_mean([one.per_class[place] for one in trainings]) for place in range(classes)],
    }


def _mean(values: Sequence[float | None]) -> float | None:
    measured = [value for value in values if value is not None]
    return statistics.fmean(measured) if measured else None


def _compared(shots: int, kind: str, rows: Sequence[Classifier], test_images: int | None) -> list[Comparison]:
    by_arm: dict[Arm, dict[int, float]] = {}
    products: dict[int, Any] = {}
    for row in rows:
        by_arm.setdefault(row.arm, {})[row.seed] = row.training.test
        if row.few_shot_seed is not None:  # reals, and the images that were made for them
            products[row.seed] = row.few_shot_seed
    by_name = {arm.name: accuracies for arm, accuracies in by_arm.items()}
    pairs = []
    for arm, ours in by_arm.items():
        for control in _AGAINST:
            if arm.images == "pooled" and arm.name != control and control in by_name:
                named = {
                    "shots": shots,
                    "classifier": kind,
                    "arm": arm.name,
                    "variant": arm.variant,
                    "against": control,
                }
                pairs.append(named | compare(ours, by_name[control], products, test_images))
    return pairs


def sentence(judged: Mapping[str, Any]) -> str:
    """A comparison in words that follow from its numbers."""
    variant = judged["variant"].replace("_", "-")
    start = f"At {judged['shots']} shots ({judged['classifier']}) real and {variant} images"
    against, size = _AGAINST[judged["against"]], f"{abs(judged['gap']):.1f} points"
    ahead = "ahead of" if judged["gap"] >= 0 else "behind"
    # What was made once is one draw: chance in making it is in no standard error.
    once = ["one choice of few-shot images"] if judged["products"] == 1 and judged["seeds"] > 1 else []
    once += ["zero-shot images were made once"] if "pooled_zero_shot" in (judged["arm"], judged["against"]) else []
    limits = f" ({'; '.join(once)})" if once and judged["outcome"] in ("win", "loss") else ""
    if judged["outcome"] in ("win", "loss"):
        verb = "beat" if judged["outcome"] == "win" else "lose to"
        return f"{start} {verb} {against} by {size}, {how_sure(judged)}{limits}."
    if judged["gap"] == 0 and judged["outcome"] == "level":
        return f"{start} are level with {against} over {judged['seeds']} paired seeds."
    return f"{start} are {size} {ahead} {against}, {how_sure(judged)}."
