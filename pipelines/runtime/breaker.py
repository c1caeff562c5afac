"""The breaker: stops a run whose input or machine is bad before it has turned everything into failures."""

from __future__ import annotations

from collections import Counter

from pipelines.config import BreakerParams
from pipelines.errors import StageStopped
from pipelines.runtime.units import Marker


class Breaker:
    """Fed with every finished unit and every unit error; raises `StageStopped` when a limit is crossed."""

    def __init__(self, stage: str, params: BreakerParams) -> None:
        self._stage, self._params = stage, params
        self._counts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._consecutive = 0
        self.unit_errors: dict[str, str] = {}

    def finished(self, marker: Marker) -> None:
        """Count a unit's outcomes; judge when enough samples were seen."""
        self._consecutive = 0
        self._counts.update(marker.counts)
        self._reasons.update(marker.reasons)
        attempted = sum(self._counts.values())
        if attempted < self._params.min_attempted:
            return
        transient = sum(n for reason, n in self._reasons.items() if reason.startswith("failed:transient"))
        self._judge("failed", self._counts["failed"] / attempted, self._params.max_failed, attempted, marker.name)
        self._judge("transient", transient / attempted, self._params.max_transient, attempted, marker.name)

    def _judge(self, what: str, rate: float, limit: float, attempted: int, unit: str) -> None:
        if rate <= limit:
            return
        top = ", ".join(f"{reason} {count}" for reason, count in self._reasons.most_common(3))
        raise StageStopped(
            f"{self._stage} stopped: {rate:.0%} of {attempted} samples {what} (limit {limit:.0%}), last in {unit}; "
            f"most often: {top}. Look at them with: limbeck info --failed {self._stage}; then mend the source or raise "
            f"run.breaker.max_{what}, and run the stage again: finished units are kept"
        )

    def unit_error(self, unit: str, error: str) -> None:
        """A unit raised: a bug or a broken machine. A few in a row end the run."""
        self.unit_errors[unit] = error
        self._consecutive += 1
        if self._consecutive >= self._params.max_unit_errors:
            self.raise_if_any()

    def raise_if_any(self) -> None:
        if not self.unit_errors:
            return
        unit, error = next(iter(self.unit_errors.items()))
        raise StageStopped(
            f"{self._stage}: {len(self.unit_errors)} unit(s) raised, first {unit}: {error}. Finished units are kept; "
            f"run the stage again to retry, or limbeck run {self._stage} --debug for the traceback"
        )
