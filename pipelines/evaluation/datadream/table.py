"""From single trainings to the control table of DataDream, and what the numbers say in words. Arithmetic only.

Who is told apart from whom is decided in `pipelines.evaluation.verdicts`, in pairs of seeds: seed s has the same reals, the same
start and the same order in both arms.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.evaluation.verdicts import Comparison, compare, how_sure, settle

#: Arms that see no number of shots stand beside all of them.
REFERENCES = ("zero_shot_clip", "full")

_AGAINST = {"real": "real images only", "pooled_zero_shot": "real and zero-shot images"}

Student = Mapping[str, Any]


def arm_name(arm: str, variant: str) -> str:
    """`real`, `synthetic_cls`, `pooled_zero_shot`."""
    return f"{arm}_{variant}" if variant else arm


def control_table(
    students: Sequence[Student],
    shots: Sequence[int],
    adapters: Mapping[str, Mapping[str, int]],
    classes: int,
    settled: Sequence[Comparison] | None = None,
) -> dict[str, Any]:
    """Reference lines, every arm by shots and classifier, and who wins. `adapters`: bytes by variant and few-shot set.

    `settled` are `comparisons` of the same students, judged together with whatever else is compared in the report.
    """
    rows = [{**one, "adapter_bytes": _adapter_bytes(one, adapters)} for one in students]
    judged = settle(comparisons(students, shots)) if settled is None else settled
    wins = [{**one, "sentence": sentence(one)} for one in judged]
    found: dict[str, Any] = {"reference": _arms([row for row in rows if row["arm"] in REFERENCES], classes)}
    why_not: list[dict[str, Any]] = []
    for count in shots:
        arms = found[f"shots_{count}"] = _arms(_at(rows, count), classes)
        for classifier in sorted(arms):
            here = [one for one in wins if (one["shots"], one["classifier"]) == (count, classifier)]
            told = why(here, arms[classifier])
            why_not += [{"shots": count, "classifier": classifier, "sentence": told}] if told else []
    return found | {"wins": wins, "why_not": why_not}


def comparisons(students: Sequence[Student], shots: Sequence[int], test_images: int | None = None) -> list[Comparison]:
    """Every pooled variant against its controls, by shots and classifier; to be settled with the report's other comparisons."""
    found = []
    for count in shots:
        here = _at(students, count)
        for classifier in sorted({row["classifier"] for row in here}):
            found += _compared(count, classifier, [row for row in here if row["classifier"] == classifier], test_images)
    return found


def _at(rows: Sequence[Student], shots: int) -> list[Student]:
    # Zero-shot images alone were made, and are trained on, without any real image: one training serves every number of shots.
    return [row for row in rows if row["arm"] not in REFERENCES and row["shots"] in (0, shots)]


def why(comparisons: Sequence[Mapping[str, Any]], arms: Mapping[str, Any]) -> str | None:
    """Why no adapted variant beats both controls, as far as what its images teach on their own can say; None where one does."""
    adapted = {one["arm"] for one in comparisons} - {"pooled_zero_shot"}
    lacking = {one["arm"] for one in comparisons if one["outcome"] != "win"}
    alone = {
        name: arms[name]["mean"] for arm in sorted(adapted) if (name := arm.replace("pooled_", "synthetic_")) in arms
    }
    if adapted - lacking or not alone or "real" not in arms:
        return None
    best = max(alone, key=lambda name: alone[name])
    real = arms["real"]
    return (
        f"No adapted variant beats both controls at {comparisons[0]['shots']} shots ({comparisons[0]['classifier']}): on their own its "
        f"images teach {100 * alone[best]:.1f} % at best ({best.removeprefix('synthetic_')}), the {real['images']['real']} real ones "
        f"{100 * real['mean']:.1f} %."
    )


def _adapter_bytes(student: Student, adapters: Mapping[str, Mapping[str, int]]) -> int:
    return adapters.get(student["variant"], {}).get(f"{student['shots']}-{student['few_shot_seed']}", 0)


def _arms(rows: Sequence[Student], classes: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for row in rows:
        found.setdefault(row["classifier"], {}).setdefault(arm_name(row["arm"], row["variant"]), []).append(row)
    return {
        classifier: {name: summary(same, classes) for name, same in arms.items()} for classifier, arms in found.items()
    }


def summary(students: Sequence[Student], classes: int) -> dict[str, Any]:
    """Mean and standard deviation over seeds, and what was stored for it (a mean where seeds differ)."""
    tests = [one["test"] for one in students]
    label = 1 if classes <= 256 else 2
    sizes = {
        name: round(statistics.fmean(one[name] for one in students))
        for name in ("real_bytes", "synthetic_bytes", "adapter_bytes")
    }
    sizes["label_bytes"] = round(label * statistics.fmean(one["real"] + one["synthetic"] for one in students))
    return {
        "mean": statistics.fmean(tests),
        "std": statistics.stdev(tests) if len(tests) > 1 else 0.0,
        "seeds": len(tests),
        "few_shot_seeds": sorted({one["few_shot_seed"] for one in students if one["few_shot_seed"] is not None}),
        "val": statistics.fmean(one["val"] for one in students),
        "images": {kind: round(statistics.fmean(one[kind] for one in students)) for kind in ("real", "synthetic")},
        "fewest_synthetic": min(one["fewest_synthetic"] for one in students),
        "steps": round(statistics.fmean(one["steps"] for one in students)),
        "bytes": sizes | {"together": sum(sizes.values())},
        "per_class": [_mean([one["per_class"][place] for one in students]) for place in range(classes)],
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _compared(shots: int, classifier: str, rows: Sequence[Student], test_images: int | None) -> list[Comparison]:
    by_arm: dict[str, dict[int, float]] = {}
    products: dict[int, Any] = {}
    for row in rows:
        by_arm.setdefault(arm_name(row["arm"], row["variant"]), {})[row["seed"]] = row["test"]
        if row["few_shot_seed"] is not None:  # reals, and the images that were made for them
            products[row["seed"]] = row["few_shot_seed"]
    found = []
    for name, ours in by_arm.items():
        for control in _AGAINST:
            if name.startswith("pooled_") and name != control and control in by_arm:
                told = {"shots": shots, "classifier": classifier, "arm": name, "against": control}
                found.append(told | compare(ours, by_arm[control], products, test_images))
    return found


def sentence(found: Mapping[str, Any]) -> str:
    """A comparison in words that follow from its numbers."""
    variant = found["arm"].removeprefix("pooled_").replace("_", "-")
    start = f"At {found['shots']} shots ({found['classifier']}) real and {variant} images"
    against, size = _AGAINST[found["against"]], f"{abs(found['gap']):.1f} points"
    ahead = "ahead of" if found["gap"] >= 0 else "behind"
    # What was made once is one draw: chance in making it is in no standard error.
    once = ["one choice of few-shot images"] if found["products"] == 1 and found["seeds"] > 1 else []
    once += ["zero-shot images were made once"] if "pooled_zero_shot" in (found["arm"], found["against"]) else []
    limits = f" ({'; '.join(once)})" if once and found["outcome"] in ("win", "loss") else ""
    if found["outcome"] in ("win", "loss"):
        verb = "beat" if found["outcome"] == "win" else "lose to"
        return f"{start} {verb} {against} by {size}, {how_sure(found)}{limits}."
    if found["gap"] == 0 and found["outcome"] == "level":
        return f"{start} are level with {against} over {found['seeds']} paired seeds."
    return f"{start} are {size} {ahead} {against}, {how_sure(found)}."
