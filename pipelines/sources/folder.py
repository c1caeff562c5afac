"""Image files in a folder, labelled by the folders they lie in or by a table beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pipelines.outcomes import Outcome
from pipelines.sources.base import (
    MAX_SIDE_BYTES,
    Record,
    bad_record,
    caption_from,
    handed_over,
    hash_in_order,
    read_object,
    resolve,
    unreadable,
)
from pipelines.sources.folder_contents import Contents, Look, place, stem_of
from pipelines.sources.folder_tables import document_of
from pipelines.sources.folder_walk import hash_file, native_name, read_file, readable, stored_name
from pipelines.sources.labels import Label, StatedNames, label_from
from pipelines.sources.params import FolderParams
from pipelines.storage import Storage


class FolderSource:
    """See `FolderParams`."""

    def __init__(self, params: FolderParams) -> None:
        self._params = params
        self._storage = Storage(resolve(params.path))
        self._stated = StatedNames(self._storage, params.classes)
        self._found: Contents | None = None

    def scan(self, max_bytes: int | None = None) -> Iterator[Record]:
        """Images sorted by their relative path, then what could not be looked at."""
        contents = self._found = Look(self._storage, self._params, self._stated).contents()
        params = self._params.model_copy(update={"layout": contents.layout})
        label_of = {name: label for label, name in enumerate(contents.classes)}
        for file, length, sha256, unread in hash_in_order(
            contents.images, lambda file: hash_file(self._storage, file, max_bytes)
        ):
            split, name = place(params, file)
            label = Label() if name is None else Label(label_of.get(name), name)
            label, caption, document, problem = self._described(file, label, contents)
            where = (readable(file), stored_name(file), 0, length, -1)
            problem = unread or problem
            yield Record(*where, label.index, label.name, split, caption, sha256, document, problem=problem)
        for name, problem in contents.problems.items():
            yield bad_record(readable(name), problem, self._params.split)

    def read(self, record: Record) -> bytes:
        most = record.length + 1  # a file that grew is told by its hash
        return read_file(self._storage, native_name(record.file), most)

    def classes(self) -> list[str]:
        """Of all splits, so that a class keeps its label whichever split is picked."""
        return list((self._found or Look(self._storage, self._params, self._stated).contents()).classes)

    def passed_over(self) -> Counter[str]:
        return Counter() if self._found is None else self._found.passed.copy()

    def _described(
        self, file: str, label: Label, contents: Contents
    ) -> tuple[Label, str | None, str | None, Outcome | None]:
        """(label, caption, document, problem) of an image, from its folder, the table, and the files beside it."""
        entry = contents.tables.entries.get(file)
        names = self._stated.of(file)
        if entry is not None and self._params.label_column in entry.values:
            label = label_from(entry.values[self._params.label_column], names)
        caption: str | Outcome | None = None
        document: str | Outcome | None = None
        if entry is not None:
            caption = caption_from(entry.values.get(self._params.caption_column))
            document = document_of(entry, names)
        if caption is None:
            caption = self._caption(_beside(file, contents.captions), contents)
        if document is None:
            document = self._document(_beside(file, contents.documents))
        problem = next((said for said in (document, label.problem, caption) if isinstance(said, Outcome)), None)
        if isinstance(caption, Outcome) or isinstance(document, Outcome):
            return label, None, None, problem
        return label, caption, document, problem

    def _caption(self, file: str | None, contents: Contents) -> str | Outcome | None:
        if file is None:
            return None
        try:
            raw = read_file(self._storage, file, MAX_SIDE_BYTES + 1)
        except OSError as error:
            return unreadable(error)
        if _holds_boxes(raw):
            contents.passed["box_text"] += 1
            return None
        said = caption_from(raw)
        return (said.strip() or None) if isinstance(said, str) else said

    def _document(self, file: str | None) -> str | Outcome | None:
        if file is None:
            return None
        try:
            document = read_object(read_file(self._storage, file, MAX_SIDE_BYTES + 1), "the json beside it")
        except OSError as error:
            return unreadable(error)
        return document if isinstance(document, Outcome) else handed_over(document)


def _beside(file: str, sides: dict[str, str]) -> str | None:
    """The side file of an image: `a.jpg.txt`, else `a.txt`."""
    return sides.get(file) or sides.get(stem_of(file))


def _holds_boxes(raw: bytes) -> bool:
    """Whether a text beside an image is YOLO's: on every line a class and at least four numbers."""
    lines = [line for line in raw.splitlines() if line.strip()]
    return bool(lines) and all(len(words := line.split()) >= 5 and all(map(_is_number, words)) for line in lines)


def _is_number(word: bytes) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
