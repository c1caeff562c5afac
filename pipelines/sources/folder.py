"""Image files in a folder, labelled by the folders they lie in."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pipelines.errors import UserError
from pipelines.outcomes import Outcome
from pipelines.shards.members import IMAGE_ENDINGS
from pipelines.sources.base import (
    Record,
    digest,
    handed_over,
    hash_in_order,
    is_hidden,
    read_object,
    resolve,
    too_many_bytes,
    unreadable,
)
from pipelines.sources.params import FolderParams
from pipelines.storage import Storage

log = logging.getLogger(__name__)

_LABELLED_DEPTH = {"flat": 1, "class": 2, "split_class": 3}


class FolderSource:
    """See `FolderParams`. Links out of the folder and links to folders are not followed; a warning counts them."""

    def __init__(self, params: FolderParams) -> None:
        self._params = params
        self._storage = Storage(resolve(params.path))

    def scan(self, max_bytes: int | None = None) -> Iterator[Record]:
        """Files sorted by their relative path."""
        files = self._files()
        label_of = {name: label for label, name in enumerate(self._class_names(files))}
        beside = _beside(files)
        images = [file for file in self._chosen(files) if beside.get(_stem(file)) != file]
        for file, length, sha256, unread in hash_in_order(images, lambda file: self._hash(file, max_bytes)):
            split, name = self._place(file)
            label = None if name is None else label_of[name]
            document = self._document(beside.get(_stem(file)))
            problem = unread or (document if isinstance(document, Outcome) else None)
            said = None if isinstance(document, Outcome) else document
            yield Record(file, file, 0, length, -1, label, name, split, None, sha256, said, problem=problem)

    def read(self, record: Record) -> bytes:
        return self._storage.read_bytes(record.file)

    def _document(self, file: str | None) -> str | Outcome | None:
        if file is None:
            return None
        try:
            found = read_object(self._storage.read_bytes(file), "the json beside it")
        except OSError as error:
            return unreadable(error)
        return found if isinstance(found, Outcome) else handed_over(found)

    def passed_over(self) -> Counter[str]:
        return Counter()

    def classes(self) -> list[str]:
        """Of all splits, so that a class keeps its label whichever split is picked."""
        return [] if self._params.layout == "flat" else self._class_names(self._files())

    def _class_names(self, files: list[str]) -> list[str]:
        found = sorted({name for file in files if (name := self._place(file)[1]) is not None})
        if self._params.classes is None:
            return found
        unknown = [name for name in found if name not in self._params.classes]
        if unknown:
            raise UserError(
                f"{self._params.path} has a folder {unknown[0]!r} that `classes` does not name; add it or move it away"
            )
        return list(self._params.classes)

    def _place(self, file: str) -> tuple[str | None, str | None]:
        """(split, class name) of a file by its folders."""
        parts = file.split("/")
        if self._params.layout == "flat":
            return self._params.split, None
        if self._params.layout == "class":
            return self._params.split, parts[0]
        return parts[0], parts[1]

    def _files(self) -> list[str]:
        if not self._storage.exists():
            raise UserError(f"no folder at {self._params.path}; check the path of this source")
        names = self._local_files() if self._storage.is_local else self._storage.list()
        layout = self._params.layout
        seen = [name for name in sorted(names) if not is_hidden(name)]
        depth = _LABELLED_DEPTH[layout]
        files = [name for name in seen if name.count("/") + 1 >= depth]
        if len(files) < len(seen):
            above = len(seen) - len(files)
            log.warning("%s: %d files lie above the %s folders: passed over", self._params.path, above, layout)
        if seen and not files:
            raise UserError(
                f"{self._params.path} has files but none at the depth of layout {layout}; use layout: flat, or sort "
                "them into one folder per class"
            )
        return files

    def _chosen(self, files: list[str]) -> list[str]:
        """The files of the wanted split."""
        split = self._params.split
        if self._params.layout != "split_class" or split is None:
            return files
        chosen = [name for name in files if name.startswith(split + "/")]
        if files and not chosen:
            there = sorted({name.split("/")[0] for name in files})
            raise UserError(f"{self._params.path} has no split {split!r}; there is {', '.join(there)}")
        return chosen

    def _local_files(self) -> list[str]:
        """Relative paths of all regular files, not leaving the folder through links."""
        root = self._storage.root
        inside = str(root.resolve()) + os.sep
        found: list[str] = []
        refused = 0
        pending = [""]
        while pending:
            folder = pending.pop()
            try:
                entries = list(os.scandir(root / folder))
            except NotADirectoryError:
                raise UserError(f"{self._params.path} is a file, not a folder; for a tar use type: tar") from None
            except PermissionError:
                raise UserError(f"may not read the folder {root / folder}; change its permissions") from None
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append(name)
                elif entry.is_file() and (not entry.is_symlink() or str(Path(entry.path).resolve()).startswith(inside)):
                    found.append(name)
                elif entry.is_symlink():
                    refused += 1
        if refused:
            log.warning("%s: %d links lead elsewhere or to folders: not followed", self._params.path, refused)
        return found

    def _hash(self, file: str, limit: int | None) -> tuple[int, bytes] | Outcome:
        path = self._storage.local_path(file)
        size = self._storage.size(file) if path is None else path.stat().st_size
        if limit is not None and size > limit:
            return too_many_bytes(size, limit)
        if path is None:
            return digest(self._storage.read_bytes(file))
        with path.open("rb") as handle:
            sha256 = hashlib.file_digest(handle, "sha256").digest()
            return handle.tell(), sha256


def _stem(file: str) -> str:
    folder, slash, name = file.rpartition("/")
    return folder + slash + name.rpartition(".")[0]


def _beside(files: list[str]) -> dict[str, str]:
    """The .json files that have an image beside them, by the name they share."""
    sides = {_stem(file): file for file in files if file.lower().endswith(".json")}
    images = {_stem(file) for file in files if file.rpartition(".")[2].lower() in IMAGE_ENDINGS} if sides else set()
    return {stem: file for stem, file in sides.items() if stem in images}
