"""What can become of one sample. Outcomes are values: bad data never raises past the unit that met it.

Exceptions are for bugs and broken machines (see `pipelines.errors`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["kept", "dropped", "failed"]
ErrorClass = Literal["transient", "permanent", "policy"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The decision about one attempted sample.

    `reason` is a short, stable, snake_case word that groups well in a histogram (`too_many_pixels`), `detail` the
    sentence for a person. `error_class` says whether trying again can help: `transient` (yes), `permanent` (no, the
    data is bad), `policy` (no, a rule of ours forbids it).
    """

    status: Status
    reason: str = ""
    error_class: ErrorClass | None = None
    detail: str = ""


KEPT = Outcome("kept")


def dropped(reason: str, detail: str = "") -> Outcome:
    """A sample that is sound but not wanted (a duplicate, too small, opted out)."""
    return Outcome("dropped", reason, "policy", detail)


def failed(reason: str, error_class: ErrorClass = "permanent", detail: str = "") -> Outcome:
    """A sample that could not be used."""
    return Outcome("failed", reason, error_class, detail)


def internal_error(error: Exception) -> Outcome:
    """A bug of ours met one sample: a failed row in its place, so that it stops no other; the breaker counts it.

    The detail names the innermost function of ours and nothing of the data or the machine, so that it is the same for
    every run and every sample that meets the bug.
    """
    place, trace = "an unknown place", error.__traceback__
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] == "pipelines":
            place = f"{module}.{trace.tb_frame.f_code.co_name}"
        trace = trace.tb_next
    return failed("internal_error", detail=f"{type(error).__name__} in {place}: a bug of Limbeck's, please report it")
