"""The control table of DataDream as `evaluate` measured it, for the page and the console, and what it amounts to in words.

Reads `metrics.json` only; what is not there or not a number becomes a dash. Comparisons and their sentences were computed with
the numbers, in pairs of seeds; nothing is compared here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.report.blocks import Row, Table
from pipelines.report.words import UNKNOWN, grouped, human_bytes, listed, number, percent, signed

#: Columns of the control table, after the name of the arm.
CONTROL_HEAD = (
    "test, %",
    "against real only",
    "against zero-shot",
    "seeds",
    "validation, %",
    "real images",
    "synthetic",
    "steps",
    "image bytes",
    "adapters",
    "together",
)
CONTROL_NOTE = (
    "± beside an accuracy is one standard deviation over seeds; beside a difference, in percentage points, the standard error of "
    "the mean difference of paired seeds. Who beats whom is Student's t at 95 %, all comparisons of the report held to it together "
    "(Holm). Real and synthetic images are trained on together. Together is what was stored: images, "
    "class numbers and adapters; the generator comes on top of it."
)
_KINDS = {"clip": "CLIP with LoRA", "student": "network from scratch"}
_REFERENCES = {"zero_shot_clip": "CLIP, not trained", "full": "all of train"}
#: Variants that are adapted to the few-shot images: DataDream proper.
ADAPTED = ("cls", "dset", "loft")
VARIANTS = {"zero_shot": "zero-shot", "cls": "cls", "dset": "dset", "loft": "LoFT"}

Groups = list[tuple[str, list[tuple[str, Row]]]]


def control_rows(form: Mapping[str, Any]) -> Groups:
    """Groups (shots and classifier) of rows (arm, cells under `CONTROL_HEAD`), reference lines last."""
    groups: Groups = []
    for shots in _shots(form):
        for kind, arms in _kinds(form, f"shots_{shots}"):
            gaps = {(win.get("arm"), win.get("against")): win for win in _wins(form, shots, kind)}
            rows = [(name_of_arm(arm), _cells(numbers, arm, gaps)) for arm, numbers in _in_order(arms)]
            groups.append((f"{shots} shots, {_KINDS.get(kind, kind)}", rows))
    for kind, arms in _kinds(form, "reference"):
        known = [(_REFERENCES[arm], arms[arm]) for arm in _REFERENCES if isinstance(arms.get(arm), dict)]
        rows = [(name, _cells(numbers, name, {})) for name, numbers in known]
        if rows:
            groups.append((f"For reference, {_KINDS.get(kind, kind)}", rows))
    return groups


def name_of_arm(arm: str) -> str:
    """`pooled_zero_shot` -> `real + zero-shot`."""
    kind, _, variant = arm.partition("_")
    named = VARIANTS.get(variant, variant)
    return {"real": "real only", "synthetic": f"{named} only", "pooled": f"real + {named}"}.get(kind, arm)


def is_ours(name: str) -> bool:
    """Whether a row of the table is of real and adapted images together."""
    return name in {f"real + {VARIANTS[variant]}" for variant in ADAPTED}


def control_headline(form: Mapping[str, Any]) -> str:
    """One sentence: which adapted variants beat real images only, by number of shots."""
    parts = []
    for shots in _shots(form):
        found: list[tuple[str, Any]] = []
        for kind in ("student", "clip"):  # CLIP's where there are both
            against_real = [win for win in _wins(form, shots, kind) if win.get("against") == "real"]
            named = [(str(win.get("arm")).removeprefix("pooled_"), win.get("outcome")) for win in against_real]
            found = [(variant, outcome) for variant, outcome in named if variant in ADAPTED] or found
        outcomes = [outcome for _, outcome in found]
        wins, losses = outcomes.count("win"), outcomes.count("loss")
        limit = " (one choice of few-shot images)" if wins + losses and _one_choice(form, shots) else ""
        if set(outcomes) == {"unproved"}:
            parts.append(f"at {shots} shots one seed proves nothing")
        elif len(found) == 1:
            verb = {"win": "beats", "loss": "loses to"}.get(str(outcomes[0]), "is not told apart from")
            parts.append(f"at {shots} shots DataDream ({VARIANTS[found[0][0]]}) {verb} real images only{limit}")
        elif found:
            text = (
                f"at {shots} shots {wins or 'none'} of {len(found)} DataDream variants beat{'s' if wins <= 1 else ''}"
            )
            text += " real images only" + (f" and {losses} lose{'s' if losses == 1 else ''} to them" if losses else "")
            parts.append(text + limit)
    if not parts:
        return "DataDream's images are not compared with real images only."
    text = "; ".join(parts) + "."
    return text[0].upper() + text[1:]


def _one_choice(form: Mapping[str, Any], shots: int) -> bool:
    """Whether several seeds stand on one choice of few-shot images, so that chance in it is in no spread."""
    wins = [win for win in _list(form, "wins") if isinstance(win, Mapping) and win.get("shots") == shots]
    return any(win.get("products") == 1 and (number(win.get("seeds")) or 1) > 1 for win in wins)


def control_sentences(form: Mapping[str, Any]) -> list[str]:
    """Every comparison in words, and what a reader must know about the numbers."""
    told = [*_list(form, "why_not"), *_list(form, "wins")]
    found = [str(one["sentence"]) for one in told if isinstance(one, Mapping) and one.get("sentence")]
    protocol = _object(form, "protocol")
    seeds = protocol.get("few_shot_seeds")
    if isinstance(seeds, list) and seeds:
        found.append(
            f"{len(seeds)} choices of few-shot images were drawn."
            if len(seeds) > 1
            else "One choice of few-shot images was drawn."
        )
    note = str(protocol.get("note") or "").strip()
    return [*found, note] if note else found


def control_protocol(form: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What held for every row, as name and value."""
    protocol = _object(form, "protocol")
    shown = {
        name: value for name, value in protocol.items() if name not in ("note", "generator_bytes", "few_shot_seeds")
    }
    rows = [
        (name.replace("_", " "), value if isinstance(value, str) else json.dumps(value))
        for name, value in shown.items()
        if value is not None
    ]
    models = _object(protocol, "generator_bytes")
    sizes = [f"{role} {human_bytes(number(size))}" for role, size in models.items()]
    return [*rows, ("stored models", listed(sizes))] if sizes else rows


def per_class_table(form: Mapping[str, Any]) -> Table | None:
    """Accuracy of each class at the largest number of shots, by arm."""
    classes = [str(name) for name in _list(form, "classes")]
    for shots in reversed(_shots(form)):
        for kind, arms in _kinds(form, f"shots_{shots}"):
            known = [(name_of_arm(arm), one["per_class"]) for arm, one in _in_order(arms) if _list(one, "per_class")]
            known = [(name, values) for name, values in known if len(values) == len(classes)]
            if known:
                rows = [
                    [name, *(percent(number(values[place]), False) for _, values in known)]
                    for place, name in enumerate(classes)
                ]
                title = f"Test accuracy per class, %: {shots} shots, {_KINDS.get(kind, kind)}"
                return Table(title, ("class", *(name for name, _ in known)), rows)
    return None


def _cells(form: Mapping[str, Any], arm: str, gaps: Mapping[Any, Mapping[str, Any]]) -> Row:
    mean, std, seeds = (number(form.get(name)) for name in ("mean", "std", "seeds"))
    shown = percent(mean, False) + (f" ± {percent(std, False)}" if std is not None and (seeds or 1) > 1 else "")
    images, stored = _object(form, "images"), _object(form, "bytes")
    pictures = [number(stored.get(name)) for name in ("real_bytes", "synthetic_bytes")]
    return (
        shown,
        _gap(gaps.get((arm, "real"))),
        _gap(gaps.get((arm, "pooled_zero_shot"))),
        grouped(seeds),
        percent(number(form.get("val")), False),
        grouped(number(images.get("real"))),
        grouped(number(images.get("synthetic"))),
        grouped(number(form.get("steps"))),
        human_bytes(
            sum(size for size in pictures if size is not None) if any(p is not None for p in pictures) else None
        ),
        human_bytes(number(stored.get("adapter_bytes"))),
        human_bytes(number(stored.get("together"))),
    )


def _gap(win: Mapping[str, Any] | None) -> str:
    if win is None:
        return ""
    gap, error = number(win.get("gap")), number(win.get("standard_error"))
    return UNKNOWN if gap is None else signed(round(gap, 1)) + ("" if error is None else f" ± {error:.1f}")


def _in_order(arms: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Real images first, then synthetic ones, then both; variants from zero-shot on."""
    kinds, variants = ("real", "synthetic", "pooled"), ("", *VARIANTS)

    def place(arm: str) -> tuple[int, int, str]:
        kind, _, variant = arm.partition("_")
        known = kind in kinds and variant in variants
        return (kinds.index(kind), variants.index(variant), arm) if known else (len(kinds), 0, arm)

    return [(arm, arms[arm]) for arm in sorted(arms, key=place) if isinstance(arms[arm], Mapping)]


def _kinds(form: Mapping[str, Any], key: str) -> list[tuple[str, dict[str, Any]]]:
    """(classifier, its arms)."""
    return [(kind, arms) for kind, arms in _object(form, key).items() if isinstance(arms, dict)]


def _shots(form: Mapping[str, Any]) -> list[int]:
    names = (key.removeprefix("shots_") for key in form if key.startswith("shots_"))
    return sorted(int(name) for name in names if name.isdecimal())


def _wins(form: Mapping[str, Any], shots: int, kind: str) -> list[Mapping[str, Any]]:
    wins = (win for win in _list(form, "wins") if isinstance(win, Mapping))
    return [win for win in wins if win.get("shots") == shots and win.get("classifier") == kind]


def _object(form: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = form.get(key)
    return value if isinstance(value, dict) else {}


def _list(form: Mapping[str, Any], key: str) -> Sequence[Any]:
    value = form.get(key)
    return value if isinstance(value, list) else []
