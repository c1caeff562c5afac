"""Reads `results.json` of `evaluate@distilled` as rows; what is not there or not a number becomes None. Nothing is compared here.

An arm is called by its images and its labels: `random_soft`, `real_hard`, `SOURCE_hard` of a condensed set, `SOURCE_start_soft` of the
real images that a set started from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from pipelines.artifacts.distilled import source_slug
from pipelines.evaluation.distilled.rows import FULL_ARM, IMAGES, LABELS, Arm, Comparison, Outcome, Place, Results
from pipelines.report.reading import Outputs, inner, inner_list
from pipelines.report.words import number, points

#: The kind of product whose outputs are condensed sets.
PRODUCT = "distilled"
#: Where the results hold comparisons, and which images those are with that do not name them.
COMPARISONS = {"comparisons": "random", "against_start": "start", "against_controls": "source"}


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


def other_forms(form: Mapping[str, Any], titles: Mapping[str, str] | None = None) -> list[tuple[int, Arm]]:
    """The rows of sets whose stored labels were stored in other forms too (`SOURCE_soft_int8`), with their images per class.

    They are no rows of the table: their images and kind of labels are there already.
    """
    titles, students = titles or {}, inner(form, "other_students")
    found = []
    for rows in (form, *(inner(students, name) for name in students)):
        for key in (key for key in rows if key.startswith("ipc_") and key.removeprefix("ipc_").isdecimal()):
            for name in inner(rows, key):
                images, soft, stored = name.rpartition("_soft_")
                row = inner(inner(rows, key), name)
                arm = _arm(f"{images}_soft", row, titles) if soft and stored and row else None
                if arm is not None:
                    kind = f"{arm.label_kind}, {row.get('label_format') or stored}"
                    found.append((int(key.removeprefix("ipc_")), replace(arm, name=name, label_kind=kind)))
    return found


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
