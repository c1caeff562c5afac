"""Which files a source of archives or tables reads: one file, a folder of them, or a pattern that names several."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from pipelines.errors import UserError
from pipelines.locations import is_url
from pipelines.shards.members import COMPRESSED
from pipelines.sources.base import is_hidden, resolve
from pipelines.storage import Storage

_MAGIC = re.compile(r"[*?\[{]")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
#: Names that one pair of braces may stand for.
_MOST_NAMES = 1_000_000
_SHOWN = 5


class Files(NamedTuple):
    """A storage, the files of it that are read, sorted, and what else lies there, by reason."""

    storage: Storage
    names: list[str]
    passed: Counter[str]


def open_files(path: str, endings: tuple[str, ...], what: str, hidden: Callable[[str], bool] = is_hidden) -> Files:
    """The files with one of `endings` at `path`: a file, a folder, or a pattern (`x-{000..127}.tar`, `train/*.tar`)."""
    url = resolve(path).rstrip("/")
    parent, _, name = url.rpartition("/")
    folder = Storage(parent or ("/" if url.startswith("/") else "."))
    files = _regular(_found(url, path, name, folder, endings, what, hidden), path, what)
    if files.names and not files.storage.serves_parts(files.names[0]):
        raise UserError(
            f"the server of {path} sends whole files only (it takes no range requests), and a {what} is read in parts; "
            f"set path: simplecache::{path} to keep a copy while this runs, or copy the files here"
        )
    return files


def _found(
    url: str, path: str, name: str, folder: Storage, endings: tuple[str, ...], what: str, hidden: Callable[[str], bool]
) -> Files:
    if name and url.lower().endswith((*endings, *COMPRESSED)) and folder.exists(name) and not folder.is_folder(name):
        _refuse_compressed([name], path)
        return Files(folder, [name], Counter())
    if _MAGIC.search(url) and not folder.exists(name):
        return _matching(url, path, endings, what)
    if url.lower().endswith(endings) and not folder.exists(name):
        raise UserError(f"no {what} at {path}; check the path of this source")
    storage = Storage(url)
    files, passed = _sorted_out(storage, endings, hidden)
    _refuse_compressed([file for file in passed["compressed"] if not _has_twin(file, files)], path)
    if not files:
        there = ", ".join(f"{len(names)} {reason}" for reason, names in passed.items() if names)
        raise UserError(
            f"no {what} ({' or '.join(endings)}) at {path}{f' ({there})' if there else ''}; check the path of this source"
        )
    return Files(storage, files, Counter({reason: len(names) for reason, names in passed.items() if names}))


def _sorted_out(
    storage: Storage, endings: tuple[str, ...], hidden: Callable[[str], bool]
) -> tuple[list[str], dict[str, list[str]]]:
    files: list[str] = []
    passed: dict[str, list[str]] = {"hidden": [], "compressed": [], "link_not_followed": [], "other_file": []}
    for name in storage.list():
        low = name.lower()
        if hidden(name):
            passed["hidden"].append(name)
        elif low.endswith(endings):
            files.append(name)
        elif low.endswith(tuple(COMPRESSED)):
            passed["compressed"].append(name)
        elif storage.is_local and (storage.root / name).is_dir():
            passed["link_not_followed"].append(name)
        elif name.rpartition("/")[2] != "classes.json":
            passed["other_file"].append(name)
    return files, passed


def _has_twin(file: str, files: Sequence[str]) -> bool:
    """Whether the unpacked form of a compressed tar lies beside it."""
    return any(f"{file[: -len(ending)]}.tar" in files for ending in COMPRESSED if file.lower().endswith(ending))


def _refuse_compressed(files: Sequence[str], path: str) -> None:
    """End with a sentence if there are compressed tars among the files."""
    files = [file for file in files if file.lower().endswith(tuple(COMPRESSED))]
    if not files:
        return
    command = next(command for ending, command in COMPRESSED.items() if files[0].lower().endswith(ending))
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    raise UserError(
        f"{files[0]}{more} at {path}: compressed, and members are read by their offset; unpack such files with `{command}` "
        "or move them away"
    )


def _matching(url: str, path: str, endings: tuple[str, ...], what: str) -> Files:
    """The files that a pattern names. What braces spell out has to be there."""
    parts = url.split("/")
    first = next(place for place, part in enumerate(parts) if _MAGIC.search(part))
    here = not is_url(url)
    while here and first + 1 < len(parts) and Path("/".join(parts[: first + 1])).expanduser().is_dir():
        first += 1  # a folder whose own name holds such signs
    storage = Storage("/".join(parts[:first]) or ("/" if url.startswith("/") else "."))
    there = () if here else frozenset(storage.list())
    matches: dict[str, None] = {}
    missing = []
    for name in _spelled(parts[first:]):
        wanted = name.split("/")
        if here:
            matching = sorted(_below(storage.root, "", wanted))
        elif name in there:
            matching = [name]
        else:
            matching = [file for file in there if _is_like(file.split("/"), wanted)]
        if not matching:
            missing.append(name)
        matches.update(dict.fromkeys(matching))
    if missing:
        listed = ", ".join(missing[:_SHOWN]) + (f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else "")
        raise UserError(f"no {what} at {path}: nothing is called {listed}; check the path of this source")
    refused = [file for file in matches if not file.lower().endswith(endings)]
    _refuse_compressed(refused, path)
    if refused:
        raise UserError(
            f"{refused[0]} at {path} is no {what} ({' or '.join(endings)}); narrow the pattern of this source"
        )
    return Files(storage, sorted(matches), Counter())


def _is_like(inside: Sequence[str], wanted: Sequence[str]) -> bool:
    return len(inside) == len(wanted) and all(map(fnmatchcase, inside, wanted))


def _below(root: Path, folder: str, wanted: Sequence[str]) -> Iterator[str]:
    """Relative paths of the local files that a pattern's parts name; only folders that it names are looked into."""
    first, *rest = wanted
    start = root / folder
    if os.path.lexists(start / first):
        names = [first]
    else:
        names = [entry.name for entry in os.scandir(start) if fnmatchcase(entry.name, first)] if start.is_dir() else []
    for name in names:
        path = f"{folder}/{name}" if folder else name
        if not rest:
            yield path
        elif (root / path).is_dir():
            yield from _below(root, path, rest)


def _regular(files: Files, path: str, what: str) -> Files:
    """The files less those that are none: opening a pipe would wait for ever. Links that lead nowhere stay, to be told."""
    if not files.storage.is_local:
        return files
    names, passed = [], files.passed.copy()
    for name in files.names:
        place = files.storage.root / name
        if place.is_file() or not place.exists():
            names.append(name)
        elif place.is_dir():
            passed["link_not_followed" if place.is_symlink() else "folder"] += 1
        else:
            passed["not_a_file"] += 1
    if not names:
        raise UserError(f"no {what} at {path}: what is called so is no file; check the path of this source")
    return Files(files.storage, names, passed)


def _spelled(parts: Sequence[str]) -> Iterator[str]:
    """Every name that the braces of a path stand for."""
    pieces = _BRACES.split("/".join(parts))  # text, inside of braces, text, ...
    choices = [list(_choices(piece)) if place % 2 else [piece] for place, piece in enumerate(pieces)]
    for chosen in itertools.product(*choices):
        yield "".join(chosen)


def _choices(inside: str) -> Iterator[str]:
    span = _RANGE.fullmatch(inside)
    if span is None:
        yield from inside.split(",")
        return
    first, last = int(span[1]), int(span[2])
    if abs(last - first) >= _MOST_NAMES:
        raise UserError(f"{{{inside}}} stands for more than {_MOST_NAMES} names; use a pattern with *")
    width = len(span[1]) if span[1].startswith("0") or span[2].startswith("0") else 0
    for number in range(first, last + 1) if first <= last else range(first, last - 1, -1):
        yield f"{number:0{width}d}"
