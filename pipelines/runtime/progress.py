"""Progress of a running stage: a live bar on a terminal, a plain line now and then elsewhere (logs, `dvc repro` in CI).

Shows units, samples per second, time left, outcome counts and the commonest reasons for loss.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipelines.runtime.units import Marker
from pipelines.terminal import shown

#: Seconds between plain lines.
INTERVAL = 10.0


class ProgressView:
    """Context manager; fed by the runner with finished units and ticks of running ones."""

    def __init__(self, stage: str, total: int, done: int, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr)
        self._stage, self._total, self._done = stage, total, done
        self._fractions: dict[str, float] = {}
        self._counts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._start = self._last_line = time.monotonic()
        self._resumed = done
        self._note = ""
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(stage, total=total, completed=done, note="")

    def __enter__(self) -> ProgressView:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if not self._console.is_terminal:
            self._line()

    def finished(self, marker: Marker) -> None:
        self._done += 1
        self._fractions.pop(marker.name, None)
        self._counts.update(marker.counts)
        self._reasons.update(marker.reasons)
        self._refresh()

    def tick(self, unit: str, done: float, total: float, note: str) -> None:
        self._fractions[unit] = min(done / total, 1.0) if total else 0.0
        self._note = note
        self._refresh()

    def _refresh(self) -> None:
        completed = self._done + sum(self._fractions.values())
        self._bar.update(self._task, completed=completed, note=self._describe())
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line >= INTERVAL:
            self._last_line = now
            self._line()

    def _describe(self) -> str:
        parts = []
        attempted = sum(self._counts.values())
        elapsed = time.monotonic() - self._start
        if attempted and elapsed > 0:
            parts.append(f"{attempted / elapsed:,.0f} samples/s")
            parts += [f"{name} {count:,}" for name, count in sorted(self._counts.items())]
        parts += [f"{reason} {count}" for reason, count in self._reasons.most_common(2)]
        if self._note and self._fractions:
            parts.append(self._note)
        return shown(" · ".join(parts))

    def _line(self) -> None:
        fraction = self._done + sum(self._fractions.values())
        elapsed = time.monotonic() - self._start
        progressed = fraction - self._resumed
        left = f", about {(self._total - fraction) * elapsed / progressed:.0f} s left" if progressed > 0 else ""
        shown = f"{fraction:.1f}" if self._fractions else str(self._done)
        detail = self._describe()
        ending = left if self._done < self._total else ""
        self._console.print(
            f"{self._stage}: {shown}/{self._total} units, {elapsed:.0f} s{ending}{' · ' + detail if detail else ''}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
