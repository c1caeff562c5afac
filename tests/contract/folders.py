"""What the contract tests share: make a job over a fresh folder, run it, look at what it left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from pipelines.config import BreakerParams, RunParams
from pipelines.runtime.execute import Runner, execute
from pipelines.runtime.job import Job
from pipelines.runtime.serial import SerialRunner
from tests.contract.toy import Toy, ToyParams, write_source


class Workplace:
    """A data folder with a toy source, switches, and the output of the toy stage."""

    def __init__(self, root: Path, units: int = 8, lines: int = 20) -> None:
        self.root = root
        self.source, self.controls, self.output = root / "source", root / "controls", root / "toy"
        if not root.exists():
            write_source(self.source, units, lines)
            self.controls.mkdir()

    def copy_to(self, root: Path) -> Workplace:
        """An equal workplace at another place."""
        shutil.copytree(self.root, root)
        return Workplace(root)

    def job(self, breaker: dict[str, Any] | None = None, **params: Any) -> Job[ToyParams]:
        run = RunParams(breaker=BreakerParams(**(breaker or {})))
        return Job("toy", ToyParams(**params), run, str(self.root))

    def run(
        self,
        runner: Callable[[], Runner] = SerialRunner,
        stage: Toy | None = None,
        job: Job[ToyParams] | None = None,
        verify: bool = False,
        again: Collection[str] = (),
        keep_code: bool = False,
    ) -> dict[str, Any]:
        """Bring the output up to date and return what `execute` returns."""
        return execute(stage or Toy(), job or self.job(), runner, verify, again, keep_code=keep_code)

    def delay(self, seconds: float) -> None:
        """The longest pause before each sample."""
        (self.controls / "delay").write_text(str(seconds))

    def ran(self) -> list[str]:
        """Names of the units that began since the last call, in order."""
        log = self.controls / "ran"
        names = log.read_text().split() if log.exists() else []
        log.unlink(missing_ok=True)
        return names

    def edit(self, index: int, before: str, after: str) -> None:
        """Change the text of one source file."""
        path = self.source / f"{index:03d}.txt"
        assert before in path.read_text()
        path.write_text(path.read_text().replace(before, after, 1))

    def tree(self) -> dict[str, bytes]:
        return tree(self.output)

    def stage_file(self) -> dict[str, Any]:
        form: dict[str, Any] = json.loads((self.output / "stage.json").read_bytes())
        return form


def tree(folder: Path) -> dict[str, bytes]:
    """Every file and folder below, hidden ones too: relative path to content (folders end in a slash)."""
    return {
        f"{path.relative_to(folder)}{'/' if path.is_dir() else ''}": b"" if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


def assert_same(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """Equal file by file; names the first differences instead of printing bytes."""
    assert sorted(found) == sorted(expected)
    differing = [name for name in expected if found[name] != expected[name]]
    assert not differing, f"these files differ: {differing}"


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start_driver(place: Workplace, *more: str) -> subprocess.Popen[bytes]:
    """`limbeck run toy` in a process of its own."""
    parameters = place.root / "params.yaml"
    parameters.write_text("ingest: {sources: [{type: folder, path: unused}]}\n")
    words = ["run", "toy", "--params", str(parameters), "--data", str(place.root), *more]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.contract.limbeck_toy", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        # A suite started in the background ignores SIGINT, and its children would inherit that.
        preexec_fn=_heed_interrupts,
    )


def no_runner() -> Runner:
    """A runner for runs that must not need one."""
    raise AssertionError("a runner was started although nothing was to do")
