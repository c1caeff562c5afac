"""What a person sees of a running stage."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pipelines.runtime import progress
from pipelines.runtime.progress import ProgressView
from pipelines.runtime.units import Marker

MARKER = Marker("a", "id", (), {"kept": 90, "failed": 10}, {"failed:permanent:corrupt": 10})


def test_without_a_terminal_it_says_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    said = io.StringIO()
    with ProgressView("ingest", total=4, done=1, console=Console(file=said)) as view:
        view.tick("b", 1, 2, "loss 3.1")
        view.finished(MARKER)
    lines = said.getvalue().splitlines()
    assert lines[0].startswith("ingest: 1.5/4 units")
    assert "loss 3.1" in lines[0]
    assert lines[-1].startswith("ingest: 2.5/4 units")
    assert "s left" in lines[-1]
    for part in ("samples/s", "kept 90", "failed 10", "failed:permanent:corrupt 10"):
        assert part in lines[-1]


def test_a_unit_that_ticked_counts_once_when_it_ends() -> None:
    said = io.StringIO()
    with ProgressView("cda", total=1, done=0, console=Console(file=said)) as view:
        view.tick("a", 5, 0, "")
        view.tick("a", 7, 5, "")
        view.finished(MARKER)
    assert said.getvalue().startswith("cda: 1/1 units")
