"""When the breaker stops a run, and when it keeps out of the way."""

from __future__ import annotations

import pytest

from pipelines.config import BreakerParams
from pipelines.errors import StageStopped
from pipelines.runtime.breaker import Breaker
from pipelines.runtime.tally import Tally
from pipelines.runtime.units import Marker


def marker(kept: int, permanent: int = 0, transient: int = 0, dropped: int = 0) -> Marker:
    counts = {"kept": kept, "dropped": dropped, "failed": permanent + transient}
    reasons = {"failed:permanent:corrupt": permanent, "failed:transient:timeout": transient, "dropped:small": dropped}
    return Marker("u", "id", (), counts, reasons)


def test_a_rate_at_the_limit_is_allowed_and_one_above_is_not() -> None:
    breaker = Breaker("s", BreakerParams(min_attempted=1, max_failed=0.5))
    breaker.finished(marker(5, permanent=5))
    with pytest.raises(StageStopped, match="55% of 11 samples failed"):
        breaker.finished(marker(0, permanent=1))


def test_it_waits_until_it_has_seen_enough() -> None:
    breaker = Breaker("s", BreakerParams(min_attempted=20))
    breaker.finished(marker(0, permanent=19))
    with pytest.raises(StageStopped):
        breaker.finished(marker(0, permanent=1))


def test_it_judges_everything_at_the_end() -> None:
    breaker = Breaker("s", BreakerParams(min_attempted=1000))
    breaker.finished(marker(0, permanent=3))
    with pytest.raises(StageStopped, match="100% of 3 samples failed"):
        breaker.conclude()


def test_what_earlier_runs_did_counts() -> None:
    known = Tally()
    known.add(marker(0, permanent=90))
    breaker = Breaker("s", BreakerParams(min_attempted=10), known)
    with pytest.raises(StageStopped, match="90% of 100"):
        breaker.finished(marker(10))


def test_dropped_samples_are_no_failures() -> None:
    breaker = Breaker("s", BreakerParams(min_attempted=1))
    breaker.finished(marker(1, dropped=99))
    breaker.conclude()


def test_a_set_of_which_nothing_is_kept_is_no_result() -> None:
    breaker = Breaker("s", BreakerParams())
    breaker.finished(marker(0, dropped=40))
    with pytest.raises(StageStopped, match=r"none of 40 samples were kept .* --set run.breaker.min_kept=0"):
        breaker.conclude()
    accepting = Breaker("s", BreakerParams(min_kept=0))
    accepting.finished(marker(0, dropped=40))
    accepting.conclude()


def test_almost_half_failed_is_too_much_by_default() -> None:
    breaker = Breaker("s", BreakerParams())
    breaker.finished(marker(53, permanent=47))
    with pytest.raises(StageStopped, match=r"47% of 100 samples failed \(limit 45%\)"):
        breaker.conclude()


def test_transient_failures_trip_earlier() -> None:
    breaker = Breaker("s", BreakerParams(min_attempted=1))
    breaker.finished(marker(75, permanent=25))
    with pytest.raises(StageStopped, match=r"max_transient"):
        Breaker("s", BreakerParams(min_attempted=1)).finished(marker(70, transient=30))


def test_a_unit_that_succeeds_in_between_starts_the_count_of_errors_anew() -> None:
    breaker = Breaker("s", BreakerParams(max_unit_errors=2))
    breaker.unit_error("a", "E: x")
    breaker.finished(marker(1))
    breaker.unit_error("b", "E: y")
    with pytest.raises(StageStopped, match=r"3 unit\(s\) raised, first a: E: x"):
        breaker.unit_error("c", "E: z")


def test_a_single_error_is_told_at_the_end() -> None:
    breaker = Breaker("s", BreakerParams(max_unit_errors=2))
    breaker.unit_error("a", "E: x")
    breaker.finished(marker(1))
    with pytest.raises(StageStopped, match=r"1 unit\(s\) raised, first a: E: x"):
        breaker.conclude()


def test_a_stage_without_samples_ends_in_peace() -> None:
    Breaker("s", BreakerParams()).conclude()
