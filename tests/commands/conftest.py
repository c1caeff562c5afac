"""A small project folder, and the command line run in this process as its console script runs it."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import cli
from tests.faults.making import lay, png


@dataclass(frozen=True)
class Said:
    """What a command printed, with its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


#: Runs `limbeck WORDS`.
Limbeck = Callable[..., Said]
PARAMS: dict[str, Any] = {
    "run": {"threads": 1, "device": "cpu"},
    "ingest": {"sources": [{"type": "folder", "path": "photos"}], "image": {"format": "png"}},
    "split": {"strategy": "random", "validation": 0.2, "test": 0.2, "few_shot": [1]},
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: ten pictures of two classes, and parameters for `ingest` and `split`."""
    monkeypatch.chdir(tmp_path)
    lay(tmp_path, {f"photos/{'cat' if number % 2 else 'dog'}/{number}.png": png(number) for number in range(10)})
    write_params(PARAMS)
    return tmp_path


def write_params(sections: dict[str, Any], file: str = "params.yaml") -> None:
    Path(file).write_text(yaml.safe_dump(sections))


@pytest.fixture
def limbeck(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Limbeck]:
    """The command line; every call ends as the console script does."""
    before = signal.getsignal(signal.SIGTERM)
    for console in (cli.console, cli.errors):  # made at import, they may have taken the width of whoever imported them
        monkeypatch.setattr(console, "_width", 200)

    def run(*words: str) -> Said:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["limbeck", *words])
            with pytest.raises(SystemExit) as ended:
                cli.main()
        printed = capsys.readouterr()
        return Said(int(ended.value.code or 0), printed.out, printed.err)

    yield run
    signal.signal(signal.SIGTERM, before)
