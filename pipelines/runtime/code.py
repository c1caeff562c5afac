"""The code that decides a stage's bytes, as one digest that comments, docstrings, annotations and layout do not change.

A stage declares in `Stage.code` which packages and modules decide what its units write. Of a package those modules count that
the stage's own folder reaches by imports, also by those inside functions: a change of `distill.labels` is none of `cda`, though
`cda` declares `distill`. A module named by itself counts always. What belongs there is the way from a unit's payload and rows to its
files: the method, what decodes and encodes images, what earlier stages left and how it is read, the writers of shards. What does not:
what plans (it shows in payloads and rows), what runs and watches (`runtime`), what shows (`section.py`, `report`), and what only
checks bytes, since other bytes are an error and not another result.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeGuard

from pipelines.runtime.job import Stage

#: Modules that decide how a sample becomes members of a shard and a row beside it.
WRITERS = ("pipelines.shards.keys", "pipelines.shards.sample", "pipelines.shards.sidecar", "pipelines.shards.tar")
#: A module of this name shows a stage's results and makes none.
SHOWS = "section"
#: What files were found to mean is kept here, by their content.
_CACHE = f"limbeck/code-{sys.version_info[0]}.{sys.version_info[1]}.json"
#: Names from these are read by people and type checkers.
_TYPING = frozenset({"__future__", "typing", "collections.abc"})


def code_digest(stage: Stage[Any], item: str = "") -> str:
    """32 hex characters over the code that decides what the units of a stage, or of an item of it, write."""
    return _digest(own_modules(stage), stage.code_of(item), stage.reduces)


def reduce_digest(stage: Stage[Any]) -> str:
    """32 hex characters over the code that only `Stage.finish` uses; empty where a stage names none."""
    return _digest(stage.reduces, (), ()) if stage.reduces else ""


def code_modules(stage: Stage[Any], item: str = "") -> list[str]:
    """The modules that `code_digest` covers, sorted."""
    return sorted(_reached(own_modules(stage), stage.code_of(item), stage.reduces))


def own_modules(stage: Stage[Any]) -> tuple[str, ...]:
    """The modules of a stage's own folder; of a stage that is one file, this file, and those of the stages it is derived from."""
    own: list[str] = []
    for kind in type(stage).__mro__:
        if not issubclass(kind, Stage) or kind is Stage:
            continue
        package, _, last = kind.__module__.rpartition(".")
        folder = _file(package) if last == "stage" else None
        if folder is None:
            own.append(kind.__module__)
        else:
            own += [f"{package}.{path.stem}" for path in sorted(folder.parent.glob("*.py")) if path != folder]
    return tuple(dict.fromkeys(own))


@cache
def _digest(own: tuple[str, ...], code: tuple[str, ...], without: tuple[str, ...]) -> str:
    form = sorted((module, meaning) for module, (meaning, _) in _reached(own, code, without).items())
    return hashlib.sha256(json.dumps(form).encode()).hexdigest()[:32]


def _reached(
    own: tuple[str, ...], code: tuple[str, ...], without: tuple[str, ...] = ()
) -> dict[str, tuple[str, list[str]]]:
    """What the modules mean that decide bytes, and what they import, by name."""
    packages = {name for name in code if (file := _file(name)) is not None and file.name == "__init__.py"}
    meanings, waiting = _Meanings(), [*own, *(name for name in code if name not in packages)]
    reached: dict[str, tuple[str, list[str]]] = {}
    while waiting:
        name = waiting.pop()
        file = _file(name)
        if name in reached or name in without or name.rpartition(".")[2] == SHOWS or file is None:
            continue
        reached[name] = meanings.of(file)
        waiting += [one for one in reached[name][1] if one in own or _lies_in(one, packages)]
    meanings.keep()
    return reached


def _lies_in(module: str, packages: set[str]) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


@cache
def _file(module: str) -> Path | None:
    """The source of a module, or of a package its `__init__.py`; None if there is none."""
    top, *parts = module.split(".")
    try:
        spec = find_spec(top)
    except ValueError:  # a program's main module
        return None
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    if parts:
        path = path.parent.joinpath(*parts)
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return path if path.suffix == ".py" and path.is_file() else None


class _Meanings:
    """What source files mean, looked up by their content: a file is parsed once on a machine."""

    def __init__(self) -> None:
        cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self._path, self._new = cached / _CACHE, False
        try:
            self._known: dict[str, tuple[str, list[str]]] = {
                content: (str(meaning), [str(name) for name in imports])
                for content, (meaning, imports) in json.loads(self._path.read_bytes()).items()
            }
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            self._known = {}

    def of(self, file: Path) -> tuple[str, list[str]]:
        """A digest of what the file does, and the modules that it may import."""
        source = file.read_bytes()
        content = hashlib.sha256(source).hexdigest()[:32]
        if content not in self._known:
            self._known[content], self._new = meaning_of(source), True
        meaning, imports = self._known[content]
        # `from package import name` may mean a module or what a package holds.
        modules = {name if _file(name) else name.rpartition(".")[0] for name in imports}
        return meaning, sorted(modules)

    def keep(self) -> None:
        """Write what was learnt; a folder that cannot be written to costs time and nothing else."""
        if not self._new:
            return
        temporary = self._path.with_suffix(f".{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self._known))
            temporary.replace(self._path)
        except OSError:
            pass


def meaning_of(source: bytes) -> tuple[str, list[str]]:
    """32 hex characters over what a module does, and the modules and names that it imports, as MODULE or MODULE.NAME.

    Left out: comments, layout, texts that stand alone (docstrings), annotations of functions and of their variables, imports for type
    checkers. Annotations of a class stay: a dataclass or a parameter model is made of them.
    """
    tree = ast.parse(source)
    words: list[str] = []
    _tell(tree, words, inside=False)
    imports = sorted(set(_imports(tree)))
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:32], imports


def _imports(tree: ast.Module) -> Iterator[str]:
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module not in _TYPING:
            yield from (f"{node.module}.{name.name}" for name in node.names)
        waiting.extend(node.orelse if _for_checkers(node) else ast.iter_child_nodes(node))


def _for_checkers(node: ast.AST) -> TypeGuard[ast.If]:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _tell(node: Any, words: list[str], inside: bool) -> None:
    """Append what a node does; `inside` a function annotations say nothing. Fields without a value are left out, so that a
    release of Python that adds one changes nothing."""
    if isinstance(node, list):
        words.append("[")
        for one in node:
            if not _says_nothing(one):
                _tell(one, words, inside)
        words.append("]")
    elif isinstance(node, ast.AST):
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        within = inside or function
        skipped = {"ctx", "kind", "type_comment", "type_ignores", "type_params"}
        if function or isinstance(node, ast.arg) or (inside and isinstance(node, ast.AnnAssign)):
            skipped |= {"annotation", "returns", "simple"}
        if _for_checkers(node):
            skipped |= {"test", "body"}
        if isinstance(node, ast.ClassDef):
            within = False
        words.append("Assign" if inside and isinstance(node, ast.AnnAssign) else type(node).__name__)
        for name in node._fields:
            value = getattr(node, name, None)
            if name not in skipped and value is not None and value != []:
                # An annotated assignment inside a function is an assignment.
                targets = name == "target" and isinstance(node, ast.AnnAssign) and inside
                words.append("targets" if targets else name)
                _tell([value] if targets else value, words, within)
        words.append(".")
    else:
        words.append(repr(node))


def _says_nothing(node: Any) -> bool:
    """Whether a statement does nothing: a text or `...` alone, `pass`, an import for type checkers."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.If):
        return _for_checkers(node) and not node.orelse
    return isinstance(node, ast.Pass) or (isinstance(node, ast.ImportFrom) and node.module in _TYPING)
