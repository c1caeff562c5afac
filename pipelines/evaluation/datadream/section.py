"""What the report shows of DataDream's worth: the control table, differences in pairs of seeds, and what they amount to in words.

Reads `results.json` only; what is not there or not a number becomes a dash. Comparisons were computed with the numbers; nothing is
compared here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipelines.evaluation.outputs import interval, results_of, verdict_of
from pipelines.report.blocks import Beside, Block, Definitions, Folded, GroupedTable, NamedRow, Row, Sentences, Table
from pipelines.report.reading import Outputs, inner, inner_list
from pipelines.report.section import Options, Section
from pipelines.report.words import grouped, human_bytes, listed, number, percent

#: Columns of the control table, after the name of the arm.
HEAD = (
    "test, %",
    "verdict",
    "seeds",
    "validation, %",
    "real images",
    "synthetic",
    "steps",
    "image bytes",
    "adapters",
    "together",
)
WORDS = ("verdict",)
#: Columns that a terminal of 80 characters has no room for; the report has them.
LEFT_OUT = ("seeds", "validation, %", "real images", "steps", "image bytes", "adapters", "together")
NOTE = (
    "± is one standard deviation over seeds. A difference is in percentage points and in pairs of seeds, with its own 95 % interval "
    "(Student's t). The verdict holds all comparisons of the table to 95 % together (Holm), so an interval may leave out zero "
    "without a win. Real and synthetic images are trained on together. Together is what was stored: images, class numbers and "
    "adapters; the generator comes on top of it."
)
_KINDS = {"clip": "CLIP with LoRA", "student": "network from scratch"}
_REFERENCES = {"zero_shot_clip": "CLIP, not trained", "full": "all of train"}
#: Variants that are adapted to the few-shot images: DataDream proper.
ADAPTED = ("cls", "dset", "loft")
VARIANTS = {"zero_shot": "zero-shot", "cls": "cls", "dset": "dset", "loft": "LoFT"}
#: Controls of the arms with real and generated images, as rows call them.
_AGAINST = {"real": "real only", "pooled_zero_shot": "real + zero-shot"}


def section(outputs: Outputs, options: Options) -> Section | None:
    """The classifiers; None while they are not measured."""
    form = results_of(outputs, "datadream")
    if not form:
        return None
    table, sentences = control_table(form), Sentences(control_sentences(form))
    blocks: list[Block] = [table, *([sentences] if sentences.texts else [])]
    protocol, per_class = control_protocol(form), per_class_table(form)
    beside: list[list[Block]] = [[Definitions("Protocol", protocol)]] if protocol else []
    beside += [[per_class]] if per_class is not None else []
    blocks += [Folded("Protocol and accuracy per class", [Beside(beside)])] if beside else []
    title = "DataDream: what its images are worth"
    return Section("datadream", title, 20, control_headline(form), blocks, [table, sentences], form)


def control_table(form: Mapping[str, Any]) -> GroupedTable:
    """Groups by shots and classifier: the arms, below each its differences from the controls; reference lines last."""
    groups: list[tuple[str, list[NamedRow]]] = []
    for shots in _shots(form):
        for kind, arms in _kinds(form, f"shots_{shots}"):
            compared = _comparisons(form, shots, kind)
            rows = []
            for arm, one in _in_order(arms):
                rows.append(NamedRow(name_of_arm(arm), _cells(one), _is_ours(arm)))
                rows += [_difference(comparison) for comparison in compared if comparison.get("arm") == arm]
            groups.append((f"{shots} shots, {_KINDS.get(kind, kind)}", rows))
    for kind, arms in _kinds(form, "reference"):
        rows = [NamedRow(_REFERENCES[arm], _cells(inner(arms, arm))) for arm in _REFERENCES if inner(arms, arm)]
        if rows:
            groups.append((f"For reference, {_KINDS.get(kind, kind)}", rows))
    title = "Classifiers on real, generated and both kinds of images"
    return GroupedTable(title, "trained on", HEAD, groups, NOTE, WORDS, LEFT_OUT)


def _difference(comparison: Mapping[str, Any]) -> NamedRow:
    against = str(comparison.get("against"))
    name = f"less {_AGAINST.get(against, against)}, 95 % interval"
    seeds = number(comparison.get("seeds"))
    pairs = "" if seeds is None else f"{grouped(seeds)} pair{'s' if seeds > 1 else ''}"
    cells = (interval(comparison), verdict_of(comparison), pairs)
    return NamedRow(name, (*cells, *[""] * (len(HEAD) - len(cells))), difference=True)


def _is_ours(arm: str) -> bool:
    """Whether an arm is of real and adapted images together."""
    kind, _, variant = arm.partition("_")
    return kind == "pooled" and variant in ADAPTED


def name_of_arm(arm: str) -> str:
    """`pooled_zero_shot` -> `real + zero-shot`."""
    kind, _, variant = arm.partition("_")
    named = VARIANTS.get(variant, variant)
    return {"real": "real only", "synthetic": f"{named} only", "pooled": f"real + {named}"}.get(kind, arm)


def control_headline(form: Mapping[str, Any]) -> str:
    """One sentence: which adapted variants beat real images only, by number of shots."""
    parts = []
    for shots in _shots(form):
        adapted: list[tuple[str, str]] = []
        for kind in ("student", "clip"):  # CLIP's where there are both
            against_real = [one for one in _comparisons(form, shots, kind) if one.get("against") == "real"]
            named = [(str(one.get("arm")).removeprefix("pooled_"), str(one.get("outcome"))) for one in against_real]
            adapted = [(variant, outcome) for variant, outcome in named if variant in ADAPTED] or adapted
        outcomes = [outcome for _, outcome in adapted]
        wins, losses = outcomes.count("win"), outcomes.count("loss")
        limit = " (one choice of few-shot images)" if wins + losses and _one_choice(form, shots) else ""
        if set(outcomes) == {"unproved"}:
            parts.append(f"at {shots} shots one seed proves nothing")
        elif len(adapted) == 1:
            verb = {"win": "beats", "loss": "loses to"}.get(outcomes[0], "is not told apart from")
            parts.append(f"at {shots} shots DataDream ({VARIANTS[adapted[0][0]]}) {verb} real images only{limit}")
        elif adapted:
            variants = f"{wins or 'none'} of {len(adapted)} DataDream variants beat{'s' if wins <= 1 else ''}"
            losing = f" and {losses} lose{'s' if losses == 1 else ''} to them" if losses else ""
            parts.append(f"at {shots} shots {variants} real images only{losing}{limit}")
    if not parts:
        return "DataDream's images are not compared with real images only."
    text = "; ".join(parts) + "."
    return text[0].upper() + text[1:]


def _one_choice(form: Mapping[str, Any], shots: int) -> bool:
    """Whether several seeds stand on one choice of few-shot images, so that chance in it is in no spread."""
    compared = (one for one in inner_list(form, "wins") if isinstance(one, Mapping) and one.get("shots") == shots)
    return any(one.get("products") == 1 and (number(one.get("seeds")) or 1) > 1 for one in compared)


def control_sentences(form: Mapping[str, Any]) -> list[str]:
    """What a reader must know about the numbers."""
    reasons = (one for one in inner_list(form, "why_not") if isinstance(one, Mapping))
    sentences = [str(one["sentence"]) for one in reasons if one.get("sentence")]
    protocol = inner(form, "protocol")
    seeds = inner_list(protocol, "few_shot_seeds")
    if len(seeds) == 1:
        sentences.append("One choice of few-shot images was drawn.")
    elif seeds:
        sentences.append(f"{len(seeds)} choices of few-shot images were drawn.")
    note = str(protocol.get("note") or "").strip()
    return [*sentences, note] if note else sentences


def control_protocol(form: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What held for every row, as name and value."""
    protocol = inner(form, "protocol")
    shown = {
        name: value for name, value in protocol.items() if name not in ("note", "generator_bytes", "few_shot_seeds")
    }
    rows = [
        (name.replace("_", " "), value if isinstance(value, str) else json.dumps(value))
        for name, value in shown.items()
        if value is not None
    ]
    models = inner(protocol, "generator_bytes")
    sizes = [f"{role} {human_bytes(number(size))}" for role, size in models.items()]
    return [*rows, ("stored models", listed(sizes))] if sizes else rows


def per_class_table(form: Mapping[str, Any]) -> Table | None:
    """Accuracy of each class at the largest number of shots, by arm."""
    classes = [str(name) for name in inner_list(form, "classes")]
    for shots in reversed(_shots(form)):
        for kind, arms in _kinds(form, f"shots_{shots}"):
            columns = [
                (name_of_arm(arm), one["per_class"]) for arm, one in _in_order(arms) if inner_list(one, "per_class")
            ]
            columns = [(name, values) for name, values in columns if len(values) == len(classes)]
            if columns:
                rows = [
                    [name, *(percent(number(values[place]), False) for _, values in columns)]
                    for place, name in enumerate(classes)
                ]
                title = f"Test accuracy per class, %: {shots} shots, {_KINDS.get(kind, kind)}"
                return Table(title, ("class", *(name for name, _ in columns)), rows)
    return None


def _cells(form: Mapping[str, Any]) -> Row:
    mean, std, seeds = (number(form.get(name)) for name in ("mean", "std", "seeds"))
    shown = percent(mean, False) + (f" ± {percent(std, False)}" if std is not None and (seeds or 1) > 1 else "")
    images, stored = inner(form, "images"), inner(form, "bytes")
    pictures = [number(stored.get(name)) for name in ("real_bytes", "synthetic_bytes")]
    sizes = [size for size in pictures if size is not None]
    return (
        shown,
        "",
        grouped(seeds),
        percent(number(form.get("val")), False),
        grouped(number(images.get("real"))),
        grouped(number(images.get("synthetic"))),
        grouped(number(form.get("steps"))),
        human_bytes(sum(sizes) if sizes else None),
        human_bytes(number(stored.get("adapter_bytes"))),
        human_bytes(number(stored.get("together"))),
    )


def _in_order(arms: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Real images first, then synthetic ones, then both; variants from zero-shot on."""
    kinds, variants = ("real", "synthetic", "pooled"), ("", *VARIANTS)

    def place(arm: str) -> tuple[int, int, str]:
        kind, _, variant = arm.partition("_")
        listed = kind in kinds and variant in variants
        return (kinds.index(kind), variants.index(variant), arm) if listed else (len(kinds), 0, arm)

    return [(arm, arms[arm]) for arm in sorted(arms, key=place) if isinstance(arms[arm], Mapping)]


def _kinds(form: Mapping[str, Any], key: str) -> list[tuple[str, dict[str, Any]]]:
    """(classifier, its arms)."""
    return [(kind, arms) for kind, arms in inner(form, key).items() if isinstance(arms, dict)]


def _shots(form: Mapping[str, Any]) -> list[int]:
    names = (key.removeprefix("shots_") for key in form if key.startswith("shots_"))
    return sorted(int(name) for name in names if name.isdecimal())


def _comparisons(form: Mapping[str, Any], shots: int, kind: str) -> list[Mapping[str, Any]]:
    compared = (one for one in inner_list(form, "wins") if isinstance(one, Mapping))
    return [one for one in compared if one.get("shots") == shots and one.get("classifier") == kind]
