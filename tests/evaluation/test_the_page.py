"""The code of docs/add_a_stage.md is that of the house which test_joining adds to and runs."""

from __future__ import annotations

import re
from pathlib import Path

HOUSE = Path(__file__).with_name("house")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "add_a_stage.md"


def test_the_page_shows_the_files_that_are_run() -> None:
    blocks = re.findall(r"```python\n# pipelines/(\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert {path for path, _ in blocks} == {
        *("stages/toy/params.py", "stages/toy/stage.py"),
        *(f"evaluation/depth/{name}.py" for name in ("params", "evaluation", "section")),
    }
    for path, code in blocks:
        file = (HOUSE / path).read_text().replace("  # type: ignore[import-not-found]", "")
        assert file == code, f"docs/add_a_stage.md shows another {path}"
