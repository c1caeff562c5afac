"""The breaker: stops a run whose input or machine is bad before it has turned everything into failures."""

from __future__ import annotations

from pipelines.config import BreakerParams
from pipelines.errors import StageStopped
from pipelines.runtime.tally import Tally
from pipelines.runtime.units import Marker


class Breaker:
    """Fed with every unit and every unit error; raises `StageStopped` when a limit is crossed.

    Units that earlier runs finished count too: a stage that was stopped does not slip through by being run again.
    """

    def __init__(self, stage: str, params: BreakerParams, known: Tally | None = None) -> None:
        self._stage, self._params = stage, params
        #: what became of all samples so far; begins with what earlier runs did
        self.tally = known or Tally()
        self._consecutive = 0
        self.unit_errors: dict[str, str] = {}
        self._all_come_again = True

    def finished(self, marker: Marker) -> None:
        """Count a unit's outcomes; judge when enough samples were seen."""
        self._consecutive = 0
        self.tally.add(marker)
        if self.tally.attempted >= self._params.min_attempted:
            self._judge(f", last in {marker.name}")

    def conclude(self) -> None:
        """All units are in: no unit may have raised, and now the limits hold however few the samples are."""
        self._raise_if_any()
        self._judge("")
        kept, wanted = self.tally.counts["kept"], self._params.min_kept
        if self.tally.attempted and kept < wanted:
            raise StageStopped(
                f"{self._stage} stopped: {kept or 'none'} of {self.tally.attempted} samples were kept (at least {wanted} "
                f"wanted); most often: {self.tally.commonest}. Look at them with: limbeck info --failed {self._stage}. Mend "
                f"the source or the parameters, or accept it with --set run.breaker.min_kept={kept}: finished units are kept"
            )

    def _judge(self, where: str) -> None:
        attempted = max(self.tally.attempted, 1)
        transient = self.tally.transient
        # Transient first: its cure is another than that of bad data.
        cure = f"limbeck run {self._stage} tries those again; or"
        self._limit("transient", "failed for a time", transient / attempted, attempted, where, cure)
        failed = self.tally.counts["failed"] / attempted
        self._limit("failed", "failed", failed, attempted, where, "Mend the source, or")

    def _limit(self, name: str, what: str, rate: float, attempted: int, where: str, cure: str) -> None:
        limit = getattr(self._params, f"max_{name}")
        if rate <= limit:
            return
        raise StageStopped(
            f"{self._stage} stopped: {rate:.0%} of {attempted} samples {what} (limit {limit:.0%}){where}; most often: "
            f"{self.tally.commonest}. Look at them with: limbeck info --failed {self._stage}. {cure} raise run.breaker.max_{name}, and "
            f"run the stage again: finished units are kept"
        )

    def unit_error(self, unit: str, error: str, comes_again: bool = False) -> None:
        """Note that a unit raised, by a bug or a broken machine; a few in a row end the run with `StageStopped`.

        `comes_again`: the error follows from the code and its input, so running the stage again would meet it once more.
        """
        self.unit_errors[unit] = error
        self._all_come_again &= comes_again
        self._consecutive += 1
        if self._consecutive >= self._params.max_unit_errors:
            self._raise_if_any()

    def _raise_if_any(self) -> None:
        if not self.unit_errors:
            return
        unit, error = next(iter(self.unit_errors.items()))
        cure = "run the stage again to retry"
        if self._all_come_again:
            cure = "the same units would fail in the same way again: this is a fault of Limbeck or of a package it uses, please report it"
        raise StageStopped(
            f"{self._stage}: {len(self.unit_errors)} unit(s) raised, first {unit}: {error}. Finished units are kept; {cure}. "
            f"Tracebacks are in .limbeck/errors/{self._stage} in the data folder"
        )
