"""Reads back what `evaluate` wrote of one product, for the report, and says a comparison as a cell of a table does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.evaluation.protocol import RESULTS_FILE
from pipelines.report.reading import Outputs, inner
from pipelines.report.words import UNKNOWN, number, signed

#: What a row says of a comparison, by its outcome.
VERDICTS = {"win": "wins", "loss": "loses", "level": "not told apart", "unproved": "one seed"}


def output_of(name: str) -> str:
    """The output that holds an evaluation, as `Outputs` takes it."""
    return f"evaluate@{name}"


def results_of(outputs: Outputs, name: str) -> dict[str, Any]:
    """The whole table of an evaluation: arms, comparisons, protocol; empty when it is not finished."""
    return outputs.json(output_of(name), RESULTS_FILE)


def params_of(outputs: Outputs, name: str) -> dict[str, Any]:
    """The parameters that an evaluation ran with; empty when it is not finished."""
    record = outputs.stages.get(output_of(name))
    return inner(inner(record.config, "evaluate"), name) if record is not None else {}


def run_seed(outputs: Outputs, name: str) -> int | None:
    """The seed of the run that measured."""
    record = outputs.stages.get(output_of(name))
    seed = number(inner(record.config, "run").get("seed")) if record is not None else None
    return None if seed is None else int(seed)


def interval(comparison: Mapping[str, Any]) -> str:
    """`+5.3 (−1.0 to +11.6)`: a difference in percentage points and its 95 % interval, as far as they are there."""
    gap, low, high = (number(comparison.get(name)) for name in ("gap", "low", "high"))
    if gap is None:
        return UNKNOWN
    ends = "" if low is None or high is None else f" ({signed(round(low, 1))} to {signed(round(high, 1))})"
    return signed(round(gap, 1)) + ends


def verdict_of(comparison: Mapping[str, Any]) -> str:
    """The outcome in a word or two."""
    return VERDICTS.get(str(comparison.get("outcome")), UNKNOWN)
