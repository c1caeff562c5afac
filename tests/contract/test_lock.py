"""What `dvc.lock` records is what was made: `dvc repro` makes again what a change of the code decides, and no more."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import yaml

from tests.contract.golden import COMPUTED, small_picture

PACKAGES = ("augment", "distill", "synth", "pipelines")
PARAMS = {
    **{name: COMPUTED[name] for name in ("run", "ingest", "split")},
    "squeeze": {"network": "convnet2_w8", "training": {"epochs": 1, "batch_size": 8}},
    "cda": {"ipc": 1, "recover": {"iterations": 2, "jitter": 1, "log_every": 1}},
}


class Copy:
    """A copy of the four packages with parameters, pictures and a pipeline of its own."""

    def __init__(self, root: Path, repository: Path) -> None:
        self.root = root
        for package in PACKAGES:
            shutil.copytree(repository / package, root / package, ignore=shutil.ignore_patterns("__pycache__", "*.gz"))
        (root / "params.yaml").write_text(yaml.safe_dump(PARAMS))
        for split, count in (("train", 8), ("test", 2)):
            for label, name in enumerate(("left", "right")):
                (root / "source" / split / name).mkdir(parents=True)
                for place in range(count):
                    path = root / "source" / split / name / f"{place}.png"
                    cv2.imwrite(str(path), small_picture(label, 20 * (split == "test") + place))
        self.run("dvc", "init", "--no-scm", "--quiet")
        self.run("pipelines", "dvc")

    def run(self, *words: str) -> str:
        """What a module's command prints, run in the copy with the code of the copy."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {
            **os.environ,
            "PATH": path,
            "PYTHONPATH": str(self.root),
            "XDG_CACHE_HOME": str(self.root / ".cache"),
        }
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=self.root, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def repro(self) -> dict[str, bool]:
        """`dvc repro` up to cda: for every stage whose command it ran, whether the stage had anything to do."""
        said = self.run("dvc", "repro", "cda")
        return {
            name: what != "up to date"
            for name, what in re.findall(r"^([\w@]+): (up to date|\d+ of \d+ units ran)", said, re.MULTILINE)
        }

    def edit(self, path: str, before: str, after: str) -> None:
        text = (self.root / path).read_text()
        assert text.count(before) == 1
        (self.root / path).write_text(text.replace(before, after))


@pytest.mark.timeout(1800)  # fourteen commands, most of which load torch: 50 seconds of one core
def test_dvc_repro_makes_again_what_a_change_of_the_code_decides_and_no_more(tmp_path: Path, repository: Path) -> None:
    pytest.importorskip("dvc", reason="DVC is not installed: limbeck[dvc]")
    copy = Copy(tmp_path, repository)
    assert copy.repro() == {"ingest": True, "split": True, "squeeze": True, "cda": True}

    def images() -> bytes:
        return (tmp_path / "data/cda/shards/cda-000000.tar").read_bytes()

    first = images()
    copy.edit("distill/cda.py", '"""Return the rate to set before `step`', '"""Return the learning rate before `step`')
    (tmp_path / "distill/training.py").write_text((tmp_path / "distill/training.py").read_text() + "\n# the end\n")
    (tmp_path / "distill/labels.py").write_text((tmp_path / "distill/labels.py").read_text() + "\nOTHERS = 3\n")
    assert copy.repro() == {"squeeze": False, "cda": False}
    assert images() == first
    copy.edit("distill/cda.py", "config.learning_rate * 0.5 * (1", "config.learning_rate * 0.4 * (1")
    assert copy.repro() == {"squeeze": False, "cda": True}
    assert images() != first
    assert copy.repro() == {}
    copy.edit("distill/cda.py", "config.learning_rate * 0.4 * (1", "config.learning_rate * 0.3 * (1")
    second = images()
    assert "1 of 1 units that other code made are kept" in copy.run("pipelines", "run", "cda", "--keep-code")
    assert copy.repro() == {"squeeze": False, "cda": False}
    assert images() == second
