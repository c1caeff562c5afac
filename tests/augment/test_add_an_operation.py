"""docs/add_an_operation.md adds what it says: its code, at the places it names in a copy of the package, runs on every backend."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("kornia", reason="kornia is not installed: limbeck[augment]")

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "add_an_operation.md").read_text()
EDIT = re.compile(
    r"^In `(augment/[\w/]+\.py)`, (above|below|at the end)(?: `([^`]+)`)?:\n\n```python\n(.*?)```", re.M | re.S
)
#: After the last block of the page: no toy depends on the batch it is drawn in.
ALONE = """
from tests.augment.company import SIZES, WAYS, unequal

for operation in ({"squeeze": {"p": 0.5, "factor": [0.5, 1.5]}}, "swap_red_blue", {"scanlines": {"factor": [0.1, 0.9]}}):
    for way in WAYS:
        assert unequal([operation], SIZES[1], way, "cpu") == [], (operation, way.name)
"""


def edit(path: Path, where: str, anchor: str, code: str) -> None:
    """Put code at the end of a file, or next to the one line that begins with the anchor, indented as that is."""
    lines = path.read_text().splitlines(keepends=True)
    if where == "at the end":
        path.write_text("".join([*lines, "\n\n", code]))
        return
    (place,) = (number for number, line in enumerate(lines) if line.lstrip().startswith(anchor))
    indent = lines[place][: len(lines[place]) - len(lines[place].lstrip())]
    added = [indent + line if line.strip() else line for line in code.splitlines(keepends=True)]
    cut = place + (where == "below")
    path.write_text("".join([*lines[:cut], *added, *lines[cut:]]))


def test_the_operations_of_the_page_work_once_its_code_is_in_place(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "augment", tmp_path / "augment", ignore=shutil.ignore_patterns("__pycache__"))
    edits = EDIT.findall(PAGE)
    assert len(edits) == PAGE.count("```python") - 1, "a block of the page names no place"
    for name, where, anchor, code in edits:
        edit(tmp_path / name, where, anchor, code)
    tried = PAGE.split("## Try it")[1].split("```python\n")[1].split("```")[0]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", tried + ALONE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
