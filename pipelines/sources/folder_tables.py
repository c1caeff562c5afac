"""Tables beside images: what `metadata.jsonl`, `metadata.csv` or a named table says of the files in its folder and below.

As Hugging Face's image folders have it: `file_name` is relative to the table, a label is an index or a name, `text` is a
caption, `objects` holds `bbox` (x, y, width, height) and `categories`. A line that cannot be used is a row of its own.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.outcomes import Outcome, failed
from pipelines.sources.base import MAX_SIDE_BYTES, escapes, read_object, unreadable
from pipelines.sources.labels import Names
from pipelines.sources.params import FolderParams
from pipelines.storage import Storage, canonical_json

#: Read wherever they lie, unless a table is named.
TABLES = ("metadata.jsonl", "metadata.csv")
#: What numbers look like in a CSV: pandas makes 1.0 of a 1 where a cell of the column is empty, and may write that as nan.
_WHOLE = re.compile(r"\s*([+-]?[0-9]{1,40})(\.0*)?\s*")
_NAN = re.compile(r"\s*nan\s*", re.IGNORECASE)
_OBJECTS = "objects"


@dataclass(frozen=True, slots=True)
class Entry:
    """What a table says of one file: the `values` of its columns, and `where` it says so."""

    where: str
    values: Mapping[str, Any]


@dataclass(slots=True)
class Tables:
    """Entries by file (relative to the source), lines that cannot be used, and every column that was met."""

    entries: dict[str, Entry] = field(default_factory=dict)
    problems: dict[str, Outcome] = field(default_factory=dict)
    columns: dict[str, None] = field(default_factory=dict)


def read_tables(storage: Storage, tables: Iterable[str], files: Iterable[str], params: FolderParams) -> Tables:
    """All of `tables` (relative paths); `files` are the files there are, so that a missing one is told."""
    read, there = Tables(), frozenset(files)
    for table in tables:
        folder = table.rpartition("/")[0]
        for where, values in _lines(storage, table, params.label_column):
            if isinstance(values, Outcome):
                read.problems[where] = values
                continue
            read.columns.update(dict.fromkeys(values))
            file = _file(values.get(params.file_column), folder, there)
            if isinstance(file, Outcome):
                read.problems[where] = file
            elif file in read.entries:
                read.problems[where] = failed("bad_metadata", detail=f"{read.entries[file].where} names the file too")
            else:
                read.entries[file] = Entry(where, values)
    return read


def _file(named: Any, folder: str, there: frozenset[str]) -> str | Outcome:
    """The path, relative to the source, of a file that a table in `folder` names."""
    if not isinstance(named, str) or not named:
        return failed("bad_metadata", detail="the line names no file")
    for name in (named, named.replace("\\", "/")):
        path = f"{folder}/{name.removeprefix('./')}" if folder else name.removeprefix("./")
        if path in there:
            return path
    if escapes(named):
        return failed("bad_path", "policy", f"{ascii(named)[:200]} leads out of the folder of the table")
    return failed("missing_file", detail=f"there is no file {ascii(named)[:200]} beside the table")


def _lines(storage: Storage, table: str, label_column: str) -> Iterator[tuple[str, dict[str, Any] | Outcome]]:
    """(where, columns) of each line of a table."""
    try:
        if table.lower().endswith((".jsonl", ".ndjson")):
            yield from _json_lines(storage, table)
        else:
            yield from _csv_lines(storage.read_bytes(table), table, label_column)
    except OSError as error:
        yield table, unreadable(error)


def _json_lines(storage: Storage, table: str) -> Iterator[tuple[str, dict[str, Any] | Outcome]]:
    with storage.open(table) as stream:
        number = 0
        while line := stream.readline(MAX_SIDE_BYTES + 1):
            number += 1
            if line.strip():
                row = read_object(line.removeprefix(b"\xef\xbb\xbf"), "the line")
                yield f"{table}#{number}", row
            while len(line) > MAX_SIDE_BYTES and not line.endswith(b"\n"):  # the rest of a line that is too long
                line = stream.readline(MAX_SIDE_BYTES + 1)


def _csv_lines(raw: bytes, table: str, label_column: str) -> Iterator[tuple[str, dict[str, Any] | Outcome]]:
    """A CSV has no types: a label column of whole numbers only is one of numbers, and an empty cell says nothing."""
    lines: list[tuple[str, dict[str, Any] | Outcome]] = []
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield table, failed("bad_metadata", detail=f"the table is no text in UTF-8 (byte {error.start})")
        return
    dialect = "excel-tab" if _tabbed(text) else "excel"
    reader = csv.DictReader(io.StringIO(text, newline=""), dialect=dialect, strict=True)  # an open quote is an error
    try:
        columns = list(reader.fieldnames or ())
    except csv.Error as error:
        yield f"{table}#1", failed("bad_metadata", detail=str(error))
        return
    twice = [name for name in columns if columns.count(name) > 1]
    if twice:
        yield table, failed("bad_metadata", detail=f"the table has two columns {ascii(twice[0])[:60]}")
        return
    while True:
        try:
            line = next(reader, None)
        except csv.Error as error:  # of this line; the next ones may be sound
            lines.append((f"{table}#{reader.line_num}", failed("bad_metadata", detail=str(error))))
            continue
        if line is None:
            break
        values: dict[str, Any] = {
            name: value for name, value in line.items() if isinstance(name, str) and value not in (None, "")
        }
        lines.append((f"{table}#{reader.line_num}", values))
    _read_numbers([said for _, said in lines if isinstance(said, dict) and label_column in said], label_column)
    yield from lines


def _read_numbers(lines: Sequence[dict[str, Any]], column: str) -> None:
    """Make numbers of a column's cells where all are whole numbers; nan beside numbers says nothing."""
    cells = [(line, _WHOLE.fullmatch(line[column])) for line in lines if not _NAN.fullmatch(line[column])]
    if not cells or any(whole is None for _, whole in cells):
        return
    for line in lines:
        if _NAN.fullmatch(line[column]):
            del line[column]
    for line, whole in cells:
        line[column] = int(whole[1]) if whole else None


def _tabbed(text: str) -> bool:
    first = text.partition("\n")[0]
    return "\t" in first and "," not in first


def document_of(entry: Entry, names: Names) -> str | Outcome | None:
    """The COCO annotations that the `objects` of an entry say; numbers among their categories count from 0."""
    objects = entry.values.get(_OBJECTS)
    if objects is None:
        return None
    boxes = objects.get("bbox") if isinstance(objects, dict) else None
    kinds = objects.get("categories", objects.get("category")) if isinstance(objects, dict) else None
    if not isinstance(boxes, list) or not (kinds is None or (isinstance(kinds, list) and len(kinds) == len(boxes))):
        return failed("bad_annotations", detail="objects has no list `bbox` with one of `categories` for each box")
    items: list[dict[str, Any]] = [{"bbox": box, "iscrowd": 0} for box in boxes]
    for item, kind in zip(items, kinds or [], strict=bool(kinds)):
        if isinstance(kind, str):
            item["category_name"] = kind
        elif isinstance(kind, int) and not isinstance(kind, bool) and kind >= 0:
            item["category_id"] = kind + 1
            if kind < len(names):
                item["category_name"] = names[kind]
        else:
            return failed("bad_annotations", detail=f"a category is a name or an index, not {ascii(kind)[:60]}")
    return canonical_json({"annotations": items}).decode()
