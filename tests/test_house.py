"""The imports of the house have no circle, and none leads from one stage to another, in functions either.

`python -m tests.test_house` prints how many there are. That imports go down only is held by import-linter.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipelines", "synth", "distill", "augment")


def import_graph() -> dict[str, set[str]]:
    """The modules of the house, and what each imports of it."""
    files = [path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    names = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in files}
    return {name: _imports(ROOT / path) & names.keys() - {name} for name, path in names.items()}


def _imports(path: Path) -> set[str]:
    imported = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module:
            imported |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}
    return imported


def stage_of(module: str) -> str:
    """The stage whose folder a module lies in; empty for all others."""
    parts = module.split(".")
    return parts[2] if parts[:2] == ["pipelines", "stages"] and len(parts) > 3 else ""


def between_stages(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Imports from one stage's folder into another's."""
    return [
        (module, other)
        for module, imported in sorted(graph.items())
        for other in sorted(imported)
        if stage_of(module) and stage_of(other) and stage_of(module) != stage_of(other)
    ]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import one another in a circle; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert circle(import_graph()) == []


def test_no_stage_imports_another() -> None:
    assert between_stages({"pipelines.stages.cda.stage": {"pipelines.stages.split.params"}})
    assert between_stages(import_graph()) == []


if __name__ == "__main__":
    everything = import_graph()
    print(f"{len(everything)} modules, {sum(map(len, everything.values()))} imports of one another")
    print(f"circles: {circle(everything) or 'none'}; imports between stages: {between_stages(everything) or 'none'}")
