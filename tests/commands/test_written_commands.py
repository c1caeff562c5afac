"""Commands that the Makefile and the heads of recipes tell people to type are verbs that there are."""

from __future__ import annotations

import re
from pathlib import Path

from pipelines.cli import app


def test_the_makefile_and_the_recipes_name_verbs_that_exist(repository: Path) -> None:
    verbs = {(command.name or command.callback.__name__) for command in app.registered_commands if command.callback}
    demo = re.findall(r"\$\(BIN\)/limbeck (\S+)", (repository / "Makefile").read_text())
    assert demo == ["ray", "results"]
    recipes = [path.read_text() for path in sorted((repository / "recipes").glob("*.yaml"))]
    named = {verb for text in recipes for verb in re.findall(r"^#.*\blimbeck (?:ray -- limbeck )?([a-z]+)", text, re.M)}
    assert "run" in named
    assert {*demo, *named} <= verbs
