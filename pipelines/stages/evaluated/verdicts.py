"""From single trainings to the control table of DataDream, and what the numbers say in words. Arithmetic only.

A comparison is paired: seed s has the same reals, the same start and the same order in both arms, so that its standard error is
that of the mean difference over seeds, std(differences) / sqrt(n).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

#: Standard errors from which a mean of n = 2, 3, ... differences is told apart from nothing: Student's t at 95 %, two-sided.
T95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
#: Arms that see no number of shots stand beside all of them.
REFERENCES = ("zero_shot_clip", "full")

_AGAINST = {"real": "real images only", "pooled_zero_shot": "real and zero-shot images"}

Student = Mapping[str, Any]


def arm_name(arm: str, variant: str) -> str:
    """`real`, `synthetic_cls`, `pooled_zero_shot`."""
    return f"{arm}_{variant}" if variant else arm


def control_table(
    students: Sequence[Student], shots: Sequence[int], adapters: Mapping[str, Mapping[str, int]], classes: int
) -> dict[str, Any]:
    """Reference lines, every arm by shots and classifier, and who wins. `adapters`: bytes by variant and few-shot set."""
    rows = [{**one, "adapter_bytes": _adapter_bytes(one, adapters)} for one in students]
    found: dict[str, Any] = {"reference": _arms([row for row in rows if row["arm"] in REFERENCES], classes)}
    wins: list[dict[str, Any]] = []
    why_not: list[dict[str, Any]] = []
    for count in shots:
        # Zero-shot images alone were made, and are trained on, without any real image: one training serves every number of shots.
        here = [row for row in rows if row["arm"] not in REFERENCES and row["shots"] in (0, count)]
        found[f"shots_{count}"] = _arms(here, classes)
        for classifier in sorted({row["classifier"] for row in here}):
            new = _wins(count, classifier, [row for row in here if row["classifier"] == classifier])
            told = why(new, found[f"shots_{count}"][classifier])
            wins += new
            why_not += [{"shots": count, "classifier": classifier, "sentence": told}] if told else []
    return found | {"wins": wins, "why_not": why_not}


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
    gap, reals = 100 * (alone[best] - arms["real"]["mean"]), arms["real"]["images"]["real"]
    start = (
        f"No adapted variant beats both controls at {comparisons[0]['shots']} shots ({comparisons[0]['classifier']}):"
    )
    taught = f"on their own its images teach {100 * alone[best]:.1f} % at best ({best.removeprefix('synthetic_')})"
    if gap < 0:
        return f"{start} {taught}, {-gap:.1f} points less than the {reals} real ones, which leaves them little to add."
    return (
        f"{start} {taught}, {gap:.1f} points more than the {reals} real ones, so that more seeds may tell them apart."
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


def _wins(shots: int, classifier: str, rows: Sequence[Student]) -> list[dict[str, Any]]:
    by_arm: dict[str, dict[int, float]] = {}
    for row in rows:
        by_arm.setdefault(arm_name(row["arm"], row["variant"]), {})[row["seed"]] = row["test"]
    found = []
    for name, ours in by_arm.items():
        for control in _AGAINST:
            if name.startswith("pooled_") and name != control and control in by_arm:
                told = {"shots": shots, "classifier": classifier, "arm": name, "against": control}
                found.append(told | compare(ours, by_arm[control]))
    return [one | {"sentence": sentence(one)} for one in found]


def compare(ours: Mapping[int, float], control: Mapping[int, float]) -> dict[str, Any]:
    """Accuracies by seed -> the paired difference in percentage points, its standard error, and what that allows to say.

    `outcome`: `win` or `loss` from `needed` standard errors on (Student's t at 95 %), else `level`; `unproved` with one seed.
    """
    seeds = sorted(set(ours) & set(control))
    differences = [100 * (ours[seed] - control[seed]) for seed in seeds]
    gap = statistics.fmean(differences)
    if len(differences) < 2:
        return {
            "gap": gap,
            "standard_error": None,
            "errors": None,
            "needed": None,
            "seeds": len(seeds),
            "outcome": "unproved",
        }
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    errors = abs(gap) / error if error > 0 else None
    needed = T95[min(len(differences), len(T95) + 1) - 2]
    told_apart = gap != 0 and (errors is None or errors >= needed)
    outcome = ("win" if gap > 0 else "loss") if told_apart else "level"
    found = {"gap": gap, "standard_error": error, "errors": errors, "needed": needed}
    return found | {"seeds": len(seeds), "outcome": outcome}


def sentence(found: Mapping[str, Any]) -> str:
    """A comparison in words that follow from its numbers."""
    variant = found["arm"].removeprefix("pooled_").replace("_", "-")
    start = f"At {found['shots']} shots ({found['classifier']}) real and {variant} images"
    against, size = _AGAINST[found["against"]], f"{abs(found['gap']):.1f} points"
    ahead = "ahead of" if found["gap"] >= 0 else "behind"
    if found["outcome"] == "unproved":
        return f"{start} are {size} {ahead} {against}, with one seed: chance is not ruled out."
    errors, seeds = found["errors"], found["seeds"]
    measured = f"over {seeds} paired seeds"
    spread = "the same for every seed" if errors is None else f"{errors:.1f} standard errors"
    if found["outcome"] == "level":
        if found["gap"] == 0:
            return f"{start} are level with {against} {measured}."
        asked = f"where {found['needed']:.1f} would tell"
        return f"{start} are {size} {ahead} {against}, only {spread} {measured} {asked}: not told apart."
    verb = "beat" if found["outcome"] == "win" else "lose to"
    return f"{start} {verb} {against} by {size}, {spread} {measured}."
