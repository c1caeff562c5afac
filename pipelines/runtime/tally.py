"""What became of all samples of a stage, in one line: every run says it, whether it ends well or is stopped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.runtime.units import Marker

TRANSIENT = "failed:transient:"
_SHOWN = 3


@dataclass
class Tally:
    """Sums over markers: samples by status, and by reason where they were not kept.

    Where a stage decides again on samples that its other units made, `counted` is the folder of the last decision: `decided`
    and `line` say each sample once, `counts` and `reasons` (for the breaker) every decision.
    """

    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    counted: str = ""
    #: what was met beside the samples and has no row, by reason
    passed_over: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._last: tuple[Counter[str], Counter[str]] = (Counter(), Counter())

    def add(self, marker: Marker) -> None:
        self.counts.update(marker.counts)
        self.reasons.update(marker.reasons)
        if self.counted and marker.name.startswith(f"{self.counted}/"):
            self._last[0].update(marker.counts)
            self._last[1].update(marker.reasons)

    @property
    def decided(self) -> Counter[str]:
        """Samples by status, each once; before the last decision on any, as they were made."""
        return self._last[0] or self.counts

    @property
    def attempted(self) -> int:
        return self.counts.total()

    @property
    def transient(self) -> int:
        """Failures that trying again may cure."""
        return transient_of(self.reasons)

    @property
    def commonest(self) -> str:
        return _commonest(self.reasons)

    def line(self, stage: str) -> str:
        """`ingest: 62 samples: kept 56, dropped 2, failed 4 (...)`; empty for a stage without samples."""
        if not self.attempted:
            return ""
        counts, why = self._last if self._last[0] else (self.counts, self.reasons)
        parts = ", ".join(f"{status} {counts[status]:,}" for status in ("kept", "dropped", "failed"))
        reasons = f" ({_commonest(why)})" if why else ""
        again = (
            f"; {self.transient:,} failed for a time, limbeck run {stage} tries them again" if self.transient else ""
        )
        passed = sum(self.passed_over.values())
        beside = f"; passed over {passed:,} ({_commonest(Counter(self.passed_over))})" if passed else ""
        return f"{stage}: {counts.total():,} samples: {parts}{reasons}{beside}{again}"


def _commonest(reasons: Counter[str]) -> str:
    """The first by count, then by name, whatever order units came in."""
    counted = sorted((-count, reason) for reason, count in reasons.items() if count)
    return ", ".join(f"{reason} {-count:,}" for count, reason in counted[:_SHOWN])


def transient_of(reasons: Mapping[str, int]) -> int:
    """Transient failures in a histogram of reasons."""
    return sum(count for reason, count in reasons.items() if reason.startswith(TRANSIENT))
