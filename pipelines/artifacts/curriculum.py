"""A curriculum as a file, `curriculum/STRATEGY.json`: a table that a plain trainer can follow, and that `loaders.curriculum` plays.

`docs/format.md` describes it. JSON only; the rules are in `synth.discl`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.artifacts.datasets import finished
from pipelines.errors import UserError
from pipelines.runtime.job import Job
from pipelines.storage import canonical_json
from synth.discl.mix import Mix
from synth.discl.schedules import REAL, Mode, Strategy
from synth.discl.table import Curriculum, EpochRow

#: What files of this kind call themselves.
FORMAT = "limbeck curriculum 1"
FOLDER = "curriculum"

Count = Annotated[int, Field(ge=0)]
Level = Annotated[int, Field(ge=0, le=REAL)]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    epoch: Count
    levels: list[Level] = Field(min_length=1)
    adaptive: bool
    real: Count
    tail: Count
    synthetic: Count


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    format: str
    strategy: Strategy
    mode: Mode
    seed: int
    epochs: list[_Row] = Field(min_length=1)
    hard: list[str]
    others: list[str] | None
    held_out: list[str]


def curriculum_bytes(table: Curriculum) -> bytes:
    """Write a curriculum as JSON: a line for each epoch, then the keys. The bytes follow from the curriculum alone."""
    rows = ",\n  ".join(
        canonical_json({name: getattr(row, name) for name in _Row.model_fields}).decode() for row in table.epochs
    )
    facts = {"format": FORMAT, "strategy": table.strategy, "mode": table.mode, "seed": table.seed}
    keys = {"hard": table.hard, "others": table.others, "held_out": table.held_out}
    lines = [f' "{name}": {canonical_json(value).decode()}' for name, value in facts.items()]
    lines += [f' "epochs": [\n  {rows}\n ]']
    lines += [f' "{name}": {canonical_json(value).decode()}' for name, value in keys.items()]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def read_curriculum(source: str | Path | bytes, name: str = "") -> Curriculum:
    """Read a curriculum from a path, or from its bytes, which `name` names; `UserError` for a file that is none or does not add up."""
    name = name or (source.name if isinstance(source, Path) else str(source) if isinstance(source, str) else "this")
    try:
        raw = source if isinstance(source, bytes) else Path(source).read_bytes()
        parsed = _File.model_validate(json.loads(raw))
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror}); make it with: limbeck run discl") from None
    except (ValidationError, ValueError) as error:
        raise UserError(f"{name} is no curriculum: {_first(error)}; make it anew with: limbeck run discl") from None
    problem = _problem(parsed)
    if problem is not None:
        raise UserError(f"{name} does not add up: {problem}; make it anew with: limbeck run discl")
    trained = len(parsed.hard) - len(parsed.held_out)
    first = parsed.epochs[0]
    mix = Mix(first.real, trained, first.tail + first.synthetic - trained)
    rows = tuple(EpochRow(**{**row.model_dump(), "levels": tuple(row.levels)}) for row in parsed.epochs)
    return Curriculum(
        parsed.strategy,
        parsed.mode,
        parsed.seed,
        mix,
        rows,
        tuple(parsed.hard),
        None if parsed.others is None else tuple(parsed.others),
        tuple(parsed.held_out),
    )


def load_curriculum(job: Job[Any], strategy: str, item: str = "") -> Curriculum:
    """Read the curriculum that stage `discl`, or an item of it, left for a strategy, checked against its seal."""
    path = f"{FOLDER}/{strategy}.json"
    output = finished(job, "discl", item)
    if not output.has(path):
        raise UserError(f"discl made no curriculum {strategy!r}; add it to discl.curricula, then: limbeck run discl")
    return read_curriculum(output.read(path), path)


def _problem(file: _File) -> str | None:
    """Say what is wrong with a file of the right form, if anything is."""
    if file.format != FORMAT:
        return f"its format is {file.format!r}, this is read: {FORMAT!r}"
    for keys in (file.hard, file.others or (), file.held_out):
        if (repeated := _repeated(keys)) is not None:
            return f"it names the image {repeated} twice"
    hard = set(file.hard)
    if both := hard & set(file.others or ()):
        return f"the image {min(both)} is hard and one of the others"
    if lost := set(file.held_out) - hard:
        return f"the image {min(lost)} is held out and not hard"
    trained = len(file.hard) - len(file.held_out)
    first = file.epochs[0]
    for number, row in enumerate(file.epochs):
        if row.epoch != number:
            return f"epoch {row.epoch} stands in place {number}"
        if _repeated(row.levels) is not None:
            return f"epoch {number} has the levels {row.levels}"
        if row.synthetic and row.levels == [REAL]:
            return f"epoch {number} has {row.synthetic} synthetic images at level {REAL} alone, which is real images"
        if file.others is not None and row.real > len(file.others):
            return f"epoch {number} has {row.real} of {len(file.others)} other images"
        if row.tail < trained or (row.tail and not trained):
            return f"epoch {number} has {row.tail} hard images of {trained}"
        if (row.real, row.tail + row.synthetic) != (first.real, first.tail + first.synthetic):
            return f"epoch {number} has {row.real} other images and {row.tail + row.synthetic} of the hard part, unlike epoch 0"
    return None


def _repeated(values: Sequence[Any]) -> Any | None:
    """What stands in `values` more than once, if anything does."""
    return next((value for value, times in Counter(values).items() if times > 1), None)


def _first(error: Exception) -> str:
    """What the first mistake of a file is."""
    if isinstance(error, ValidationError):
        mistake = error.errors()[0]
        return f"{'.'.join(map(str, mistake['loc']))}: {mistake['msg']}"
    return str(error)
