"""Which code decides a stage's bytes, and what of it says nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import invalidate_caches
from pathlib import Path
from typing import Any

import pytest

from pipelines.evaluation import EVALUATIONS
from pipelines.runtime import code
from pipelines.runtime.code import code_digest, code_modules, meaning_of
from pipelines.stages import STAGES, get_stage

PLAIN = '''
"""What lives here."""
from typing import Any
import math


def area(radius: float, *, scale: float = 2.0) -> float:
    """Of a circle."""
    squared: float = radius * radius
    return scale * math.pi * squared


class Shape:
    sides: int = 3
'''


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"""What lives here."""', '"""Something else lives here."""  # and a comment'),
        ('    """Of a circle."""\n', ""),
        ("radius: float, *, scale: float = 2.0) -> float", "\n    radius,\n    *,\n    scale = 2.0,\n)"),
        ("squared: float = radius * radius", "squared = (radius *\n        radius)"),
        ("from typing import Any\n", "from typing import TYPE_CHECKING, Any\nif TYPE_CHECKING:\n    import torch\n"),
        ("import math\n", "import math\n\n'a text alone'\n"),
    ],
)
def test_comments_docstrings_annotations_and_layout_say_nothing(before: str, after: str) -> None:
    assert before in PLAIN
    assert meaning_of(PLAIN.replace(before, after).encode())[0] == meaning_of(PLAIN.encode())[0]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("2.0", "2.5"),
        ("math.pi", "math.e"),
        ("import math", "import cmath as math"),
        ("sides: int", "sides: float"),
        ("scale * math.pi * squared", "scale * (math.pi * squared)"),
        ("def area", "@staticmethod\ndef area"),
    ],
)
def test_what_is_done_says_something(before: str, after: str) -> None:
    assert before in PLAIN
    assert meaning_of(PLAIN.replace(before, after).encode())[0] != meaning_of(PLAIN.encode())[0]


METHODS = {
    "method_a/__init__.py": "",
    "method_a/used.py": "RATE = 1\n",
    "method_a/deeper.py": "def f():\n    from method_a.used import RATE\n    return RATE\n",
    "method_a/unused.py": "RATE = 2\n",
    "method_b.py": "ALONE = 3\n",
    "stages_c/__init__.py": "",
    "stages_c/toy/__init__.py": "",
    "stages_c/toy/section.py": "import method_a.unused\nWORDS = 1\n",
    "stages_c/toy/worker.py": "from method_a import deeper\n",
    "stages_c/toy/stage.py": (
        "from tests.contract.toy import Toy\nimport stages_c.toy.section\n"
        "class Toying(Toy):\n    name, code = 'toying', ('method_a', 'method_b')\n"
    ),
}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[str], str]]:
    """Writes the files, some of them changed, and says which modules count and what their digest is."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def measured(**changed: str) -> tuple[list[str], str]:
        for name, text in METHODS.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(changed.get(Path(name).stem, text))
        for known in (code._digest, code._file):
            known.cache_clear()
        invalidate_caches()
        for module in [name for name in sys.modules if name.startswith(("stages_c", "method_"))]:
            del sys.modules[module]
        stage: Any = __import__("stages_c.toy.stage", fromlist=["Toying"]).Toying()
        return [name for name in code_modules(stage) if not name.startswith("tests")], code_digest(stage)

    return measured


def test_the_own_folder_counts_without_its_section_and_of_a_package_what_is_reached(
    tree: Callable[..., tuple[list[str], str]],
) -> None:
    assert tree()[0] == [
        "method_a.deeper",
        "method_a.used",
        "method_b",
        "stages_c.toy.stage",
        "stages_c.toy.worker",
    ]


@pytest.mark.parametrize("name", ["used", "deeper", "method_b", "worker"])
def test_a_change_of_what_counts_is_another_digest(tree: Callable[..., tuple[list[str], str]], name: str) -> None:
    before = tree()[1]
    text = next(text for path, text in METHODS.items() if Path(path).stem == name)
    assert tree(**{name: f"{text}MORE = 4\n"})[1] != before
    assert tree()[1] == before


@pytest.mark.parametrize("name", ["unused", "section"])
def test_a_change_of_what_does_not_count_is_not(tree: Callable[..., tuple[list[str], str]], name: str) -> None:
    assert tree(**{name: "import math\n"})[1] == tree()[1]


def test_the_second_look_is_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished stage answers in about a second; this is to be no part of it that anybody notices."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    parsed: list[bytes] = []
    monkeypatch.setattr(code, "meaning_of", lambda source: parsed.append(source) or meaning_of(source))
    for _ in range(2):
        code._digest.cache_clear()
        first = {name: code_digest(get_stage(name)) for name in STAGES}
        seen, parsed = list(parsed), []
    assert seen == []
    assert set(first) == set(STAGES)


#: Packages of pipelines whose modules count where a stage reaches them, and those that decide nothing: see the rule in `code`.
COUNTS = ("artifacts", "evaluation", "images", "loaders")
DECIDES_NOTHING = (
    *("cli", "commands", "config", "errors", "fields", "locations", "networks", "outcomes", "redaction", "remote"),
    *("report", "runtime", "sample", "seeds", "shards", "sources", "stages", "storage", "terminal", "workspace"),
)


def test_of_every_package_it_is_said_whether_it_decides_bytes() -> None:
    found = {path.stem for path in Path(code.__file__).parents[1].iterdir() if not path.stem.startswith("_")}
    assert found == {*COUNTS, *DECIDES_NOTHING} - {name for name in DECIDES_NOTHING if name not in found}


@pytest.mark.parametrize(
    "name", [*sorted(set(STAGES) - {"report", "evaluate"}), *(f"evaluate@{name}" for name in EVALUATIONS)]
)
def test_a_stage_declares_all_that_its_units_reach_and_no_more(name: str) -> None:
    """Too narrow and what other code made would pass for this code's; too wide and dvc.yaml waits for what nobody reads.

    The report is drawn from what others left: it declares what draws.
    """
    named, _, item = name.partition("@")
    stage = get_stage(named)
    every = ("augment", "distill", "synth", *(f"pipelines.{package}" for package in COUNTS))
    roots = (*code.own_modules(stage), *(one for one in stage.code_of(item) if one not in stage.code))
    counted = code_modules(stage, item)
    assert set(code._reached(roots, every, stage.reduces)) <= set(counted)
    assert [one for one in stage.code if not any(code._lies_in(module, {one}) for module in counted)] == []


def test_an_evaluation_does_not_hang_on_another() -> None:
    first, second = (set(code_modules(get_stage("evaluate"), name)) for name in ("distilled", "datadream"))
    assert not [
        module for module in first if module.startswith(("pipelines.evaluation.datadream", "synth.datadream.fit"))
    ]
    assert "pipelines.evaluation.datadream.worker" in second
