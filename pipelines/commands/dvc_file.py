"""`limbeck dvc`: what parameters name of the user's own becomes a dependency of its stage in dvc.yaml.

DVC runs a stage again when a dependency has changed; photos that no stage names may change unseen. Only the lists of
dependencies are edited, in the text, so that comments and layout stay. Under `meta.limbeck` stands which dependencies came
from here: when a parameter names another folder, the old one goes and a hand-written one stays.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipelines.commands.jobs import section_models
from pipelines.config import load_sections, read_params
from pipelines.errors import LimbeckError, UserError
from pipelines.locations import is_url, local_path
from pipelines.stages import STAGES, get_stage

DVC_FILE = Path("dvc.yaml")
_MARK = "limbeck"


@dataclass(frozen=True)
class Change:
    """What a stage of dvc.yaml lacks or names in vain."""

    stage: str
    added: tuple[str, ...]
    removed: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"adds {', '.join(self.added)}"] if self.added else []
        parts += [f"drops {', '.join(self.removed)}"] if self.removed else []
        return f"{self.stage}: {' and '.join(parts)}"


def update(check: bool, file: Path = DVC_FILE) -> list[Change]:
    """Bring the dependencies in a dvc.yaml up to date with the parameters, or only look; returns what changed or would."""
    text = _text(file)
    changes = []
    for name, body in reversed(_bodies(text, file)):  # from the end, so that places before it stay true
        wanted = own_inputs(body, file.parent)
        edited = _with_inputs(text, body, wanted)
        if edited != text:
            had, ours = set(_scalars(_child(body, "deps"))), set(_ours(body))
            gone = sorted(ours - set(wanted))
            changes.append(Change(name, tuple(path for path in wanted if path not in had), tuple(gone)))
            text = edited
    if changes and not check:
        temporary = file.with_name(f".{file.name}.limbeck-{os.getpid()}")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(file)
    return changes[::-1]


def unseen(stage: str, data: str, paths: Iterable[str], file: Path = DVC_FILE) -> list[str]:
    """Which inputs of a stage dvc.yaml does not name; none where no dvc.yaml runs this stage into this data folder."""
    here = (stage, _place(data, file.parent))
    try:
        found = _bodies(_text(file), file)
        bodies = [
            body for _, body in found if here in {(ran, _data(given, file.parent)) for ran, given in _commands(body)}
        ]
    except LimbeckError:
        return []
    seen = [_place(path, file.parent) for body in bodies for path in _scalars(_child(body, "deps"))]
    local = [path for path in paths if not is_url(path) and local_path(path).exists()]
    return [path for path in local if bodies and not _covered(_place(path, file.parent), seen)]


def own_inputs(body: yaml.MappingNode, root: Path) -> list[str]:
    """The local files and folders that the parameters of a stage's commands name, as dvc.yaml writes them."""
    found: dict[str, None] = {}
    written = []
    for stage, options in _commands(body):
        raw = read_params(root / options.get("--params", ["params.yaml"])[-1], options.get("--set", []))
        sections: dict[str, Any] = load_sections(raw, section_models(), options.get("--params", ["params.yaml"])[-1])
        written.append(_data(options, root) / stage)
        for path in get_stage(stage).reads(sections[stage]).values():
            place = _place(path, root)
            if is_url(path) or not place.exists() or _covered(place, written):
                continue
            found[_as_written(path, place, root)] = None
    return list(found)


def _as_written(path: str, place: Path, root: Path) -> str:
    """Relative to dvc.yaml where the parameter is; absolute where it leads out by itself."""
    if Path(path).is_absolute() or path.startswith(("~", "file:", "local:")):
        return str(place)
    return Path(os.path.relpath(place, root.absolute())).as_posix()


def _place(path: str, root: Path) -> Path:
    written = local_path(path) if path.startswith(("~", "file:", "local:")) else root.absolute() / path
    return Path(os.path.normpath(written))


def _data(options: dict[str, list[str]], root: Path) -> Path:
    """The data folder of a command."""
    return _place(options.get("--data", ["data"])[-1], root)


def _covered(place: Path, by: Sequence[Path]) -> bool:
    return any(place.is_relative_to(other) for other in by)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"no {file} here; run it where your {file.name} is, or copy the one of the repository"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}: {error}") from None


def _bodies(text: str, file: Path) -> list[tuple[str, yaml.MappingNode]]:
    """Name and body of every stage, in order; of one with `foreach` what it does."""
    try:
        top = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    stages = _child(top, "stages")
    if not isinstance(stages, yaml.MappingNode):
        raise UserError(f"{file} has no stages; see `dvc stage add --help`, or copy the one of the repository")
    found = []
    for key, node in stages.value:
        body = _child(node, "do") or node
        if isinstance(body, yaml.MappingNode):
            found.append((str(key.value), body))
    return found


def _child(node: yaml.Node | None, name: str) -> yaml.Node | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((value for key, value in pairs if key.value == name), None)


def _scalars(node: yaml.Node | None) -> list[str]:
    """Texts of a sequence; of an item that is a mapping (a path with options) its key."""
    items = node.value if isinstance(node, yaml.SequenceNode) else []
    plain = (item.value[0][0] if isinstance(item, yaml.MappingNode) and item.value else item for item in items)
    return [str(item.value) for item in plain if isinstance(item, yaml.ScalarNode)]


def _ours(body: yaml.MappingNode) -> list[str]:
    return _scalars(_child(_child(body, "meta"), _MARK))


def _commands(body: yaml.MappingNode) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """(stage, values of its options) of every `limbeck run` in a stage's commands."""
    node = _child(body, "cmd")
    lines = _scalars(node) if isinstance(node, yaml.SequenceNode) else [str(node.value)] if node is not None else []
    for line in lines:
        try:
            words = shlex.split(line)
        except ValueError:
            continue
        for place, word in enumerate(words[:-2]):
            stage = words[place + 2].partition("@")[0]
            if word.rsplit("/", 1)[-1] in ("limbeck", "pipelines") and words[place + 1] == "run" and stage in STAGES:
                yield stage, _options(words[place + 3 :])


def _options(words: Sequence[str]) -> dict[str, list[str]]:
    options: dict[str, list[str]] = {}
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if equals and name.startswith("--"):
            options.setdefault(name, []).append(value)
        elif word.startswith("--") and place + 1 < len(words):
            options.setdefault(word, []).append(words[place + 1])
        elif word in ("&&", ";", "||", "|"):
            break
    return options


def _with_inputs(text: str, body: yaml.MappingNode, wanted: Sequence[str]) -> str:
    """The text with a stage's dependencies brought up to date; as it was where they are."""
    before, ours = _scalars(_child(body, "deps")), _ours(body)
    kept = [path for path in before if path not in ours or path in wanted]
    marked = [path for path in wanted if path in ours or path not in before]  # hand-written ones stay the hand's
    lists = {"deps": [*kept, *(path for path in wanted if path not in before)], "meta": marked}
    if lists["deps"] == before and marked == ours:
        return text
    edits = [_edit_deps(text, body, lists["deps"]), _edit_mark(text, body, marked)]
    for start, end, new in sorted((edit for edit in edits if edit is not None), reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _edit_deps(text: str, body: yaml.MappingNode, paths: Sequence[str]) -> tuple[int, int, str] | None:
    """(start, end, new text) for the list of dependencies, in the style that it has."""
    node = _child(body, "deps")
    if not isinstance(node, yaml.SequenceNode) or not node.value:
        return _replace_key(text, body, "deps", f"[{', '.join(map(_quoted, paths))}]") if paths else None
    written = dict(zip(_scalars(node), (text[i.start_mark.index : i.end_mark.index] for i in node.value), strict=True))
    items = [written.get(path, _quoted(path)) for path in paths]
    if node.flow_style:
        return node.start_mark.index, node.end_mark.index, f"[{', '.join(items)}]"
    return _edit_block(text, node, paths)


def _edit_block(text: str, node: yaml.SequenceNode, paths: Sequence[str]) -> tuple[int, int, str]:
    """A block list: lines of items that go are taken out, new ones follow the last, and comments stay where they are."""
    lines = text.splitlines(keepends=True)
    first, last = node.value[0].start_mark.line, _last_line(node.value[-1])
    indent = lines[first][: lines[first].index("-")]
    before = _scalars(node)
    gone = {item.start_mark.line for item, path in zip(node.value, before, strict=True) if path not in paths}
    body = [lines[place] for place in range(first, last + 1) if place not in gone]
    if body and not body[-1].endswith("\n"):
        body[-1] += "\n"
    body += [f"{indent}- {_quoted(path)}\n" for path in paths if path not in before]
    start = sum(map(len, lines[:first]))
    return start, start + sum(map(len, lines[first : last + 1])), "".join(body)


def _last_line(node: yaml.Node) -> int:
    """Where an item ends by its own text: the parser counts what follows up to the next token."""
    if isinstance(node, yaml.ScalarNode) or not node.value:
        return node.start_mark.line
    inner = node.value[-1]
    return max(map(_last_line, inner)) if isinstance(inner, tuple) else _last_line(inner)


def _edit_mark(text: str, body: yaml.MappingNode, marked: Sequence[str]) -> tuple[int, int, str] | None:
    """The edit of `meta.limbeck`, which stands in the flow style that it is written in here."""
    meta = _child(body, "meta")
    mine = _child(meta, _MARK)
    if mine is not None:
        return mine.start_mark.index, mine.end_mark.index, f"[{', '.join(map(_quoted, marked))}]"
    if not marked:
        return None
    new = f"{_MARK}: [{', '.join(map(_quoted, marked))}]"
    if not isinstance(meta, yaml.MappingNode) or not meta.value:
        return _replace_key(text, body, "meta", f"{{{new}}}")
    place = meta.value[0][0].start_mark
    ending = ", " if meta.flow_style else "\n" + " " * place.column
    return place.index, place.index, new + ending


def _replace_key(text: str, body: yaml.MappingNode, name: str, value: str) -> tuple[int, int, str]:
    """Give a key of a stage's body a value in one line; a key that is not there comes behind the command."""
    node = _child(body, name)
    if node is not None:
        return (
            node.start_mark.index,
            node.end_mark.index,
            value if node.start_mark.index < node.end_mark.index else f" {value}",
        )
    keys = [key for key, _ in body.value]
    behind = [key for before, key in itertools.pairwise(keys) if before.value == "cmd"]
    place = (behind or keys)[0].start_mark
    ending = ", " if body.flow_style else "\n" + " " * place.column
    return place.index, place.index, f"{name}: {value}{ending}"


def _quoted(path: str) -> str:
    """A path as a YAML scalar that stands in a flow list too, safe from DVC's ${} as well as YAML's own signs."""
    plain = bool(path) and all(char.isalnum() or char in "/._-+@" for char in path) and path[0] not in "-@"
    return path if plain and not path.replace(".", "").isdigit() else json.dumps(path, ensure_ascii=False)
