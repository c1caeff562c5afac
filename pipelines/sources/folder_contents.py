"""What a folder holds, sorted out before a single image is read: images, what stands beside them, classes, and the rest.

Everything that is passed over is counted by reason, and what a user would want to know at plan time is said once.
"""

from __future__ import annotations

import errno
import logging
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipelines.errors import UserError
from pipelines.outcomes import Outcome
from pipelines.sources.folder_splits import SPLITS, layout_of
from pipelines.sources.folder_tables import TABLES, Tables, read_tables
from pipelines.sources.folder_walk import Listing, readable, walk
from pipelines.sources.labels import StatedNames
from pipelines.sources.params import FolderParams, Layout
from pipelines.storage import Storage

log = logging.getLogger(__name__)

_LABELLED_DEPTH = {"flat": 1, "class": 2, "split_class": 3}
_TEXTS = {
    "txt",
    "json",
    "jsonl",
    "ndjson",
    "xml",
    "csv",
    "tsv",
    "md",
    "rst",
    "html",
    "htm",
    "yaml",
    "yml",
    "toml",
    "ini",
}
_CODE = {
    "cfg",
    "conf",
    "log",
    "db",
    "sqlite",
    "lock",
    "url",
    "py",
    "ipynb",
    "sh",
    "bat",
    "js",
    "css",
    "doc",
    "docx",
    "xls",
}
_ARRAYS = {"npy", "npz", "mat", "h5", "hdf5", "pkl", "pickle", "pt", "pth", "ckpt", "safetensors", "parquet", "arrow"}
_PACKED = {
    "zip",
    "tar",
    "gz",
    "tgz",
    "bz2",
    "xz",
    "zst",
    "7z",
    "rar",
    "crc",
    "md5",
    "sha1",
    "sha256",
    "xlsx",
    "feather",
}
#: Endings of files that stand beside images and are none; any other file is tried.
NO_IMAGE = frozenset(_TEXTS | _CODE | _ARRAYS | _PACKED)
_TOLD = 5  # names in a message


@dataclass(slots=True)
class Contents:
    """The `images` to look at, captions and documents by stem, tables, rows to be (`problems`), classes, and the rest."""

    images: list[str]
    captions: dict[str, str]
    documents: dict[str, str]
    tables: Tables
    problems: dict[str, Outcome]
    classes: list[str]
    passed: Counter[str]
    layout: Layout


class Look:
    """One look at a folder with what its parameters say; `contents` does it."""

    def __init__(self, storage: Storage, params: FolderParams, stated: StatedNames) -> None:
        self._storage, self._params, self._stated = storage, params, stated
        self._guessed = params.layout == "auto"

    def contents(self) -> Contents:
        listing = self._listing()
        passed, path = listing.passed, self._storage.url
        tables = self._tables(listing.files)
        named = read_tables(self._storage, tables, listing.files, self._params)
        if tables and not named.entries:
            raise UserError(self._useless(tables, named))
        looked_at = [file for file in listing.files if ending_of(file) not in NO_IMAGE]
        unnamed = [file for file in looked_at if not _labelled(named, file, self._params.label_column)]
        layout = layout_of(self._params, map(readable, unnamed), path)
        self._params = self._params.model_copy(update={"layout": layout})
        depth = _LABELLED_DEPTH[layout]
        deep = [file for file in looked_at if file.count("/") + 1 >= depth]
        passed["above_layout"] += len(looked_at) - len(deep)
        if looked_at and not deep:
            raise UserError(
                f"{path} has files but none at the depth of layout {self._params.layout}; use layout: flat, or sort "
                f"them into one folder per class{self._hint(passed)}"
            )
        images = self._chosen(deep)
        if self._guessed and layout == "split_class":
            there = ", ".join(dict.fromkeys(place(self._params, file)[0] or "" for file in sorted(deep)))
            only = f", of which {self._params.split} is taken" if self._params.split else ""
            log.warning(
                "%s: read as splits %s%s (layout: split_class; layout: class says that they are classes)",
                path,
                there,
                only,
            )
        passed["other_split"] += len(deep) - len(images)
        stems = {stem_of(file) for file in images} | set(images)
        captions = {
            stem_of(file): file for file in listing.files if ending_of(file) == "txt" and stem_of(file) in stems
        }
        documents = {
            stem_of(file): file for file in listing.files if ending_of(file) == "json" and stem_of(file) in stems
        }
        beside = {*captions.values(), *documents.values(), *tables}
        rest = [file for file in listing.files if ending_of(file) in NO_IMAGE and file not in beside]
        passed["no_image_ending"] += len(rest)
        problems = {name: why for name, why in listing.problems.items() if ending_of(name) not in NO_IMAGE}
        passed["no_image_ending"] += len(listing.problems) - len(problems)
        classes = self._class_names(deep, named)
        contents = Contents(images, captions, documents, named, problems | named.problems, classes, +passed, layout)
        if not images and not contents.problems:
            raise UserError(f"no images in {path}: {_told(contents.passed)}{self._hint(contents.passed)}")
        self._tell(contents, rest, tables)
        return contents

    def _listing(self) -> Listing:
        path = self._storage.url
        if not self._storage.exists():
            pattern = any(sign in path for sign in "*?[{")
            cure = (
                "a pattern names files, not folders: give one source each"
                if pattern
                else "check the path of this source"
            )
            raise UserError(f"no folder at {path}; {cure}")
        try:
            return walk(self._storage, self._params.follow_links)
        except NotADirectoryError:
            archive = path.lower().endswith((".zip", ".tgz", ".gz", ".7z", ".rar"))
            cure = "unpack it" if archive else "for a tar use type: tar"
            if path.lower().endswith(".zip"):
                cure = f"a zip of folders is read with path: zip://::{path}"
            raise UserError(f"{path} is a file, not a folder; {cure}") from None
        except OSError as error:
            raise UserError(f"may not read the folder {path}: {os.strerror(error.errno or errno.EIO)}") from None

    def _tables(self, files: Sequence[str]) -> list[str]:
        """The tables to read."""
        wanted = self._params.table
        if wanted is None:
            return [file for file in files if file.rpartition("/")[2].lower() in TABLES]
        if wanted not in files:
            raise UserError(f"{self._storage.url} has no file {wanted}; `table` is relative to the folder")
        return [wanted]

    def _useless(self, tables: Sequence[str], named: Tables) -> str:
        """Why tables of which no line fits are no help."""
        table, column = f"{tables[0]} in {self._storage.url}", self._params.file_column
        if named.columns and column not in named.columns:
            has = ", ".join(list(named.columns)[:_TOLD])
            return f"{table} has no column {column!r} (it has {has}); name the column of the files in `file_column`"
        first = next(iter(named.problems.items()), None)
        problem = "it is empty" if first is None else f"{first[0]}: {first[1].detail}"
        return f"{table} names no file that is there ({problem}); names are relative to the table: move it or mend it"

    def _chosen(self, files: list[str]) -> list[str]:
        """The files of the wanted split."""
        split = self._params.split
        if self._params.layout != "split_class" or split is None:
            return files
        chosen = [name for name in files if split in (name.split("/")[0], place(self._params, name)[0])]
        if files and not chosen:
            there = sorted({readable(name.split("/")[0]) for name in files})
            raise UserError(f"{self._storage.url} has no split {split!r}; there is {', '.join(there)}")
        return chosen

    def _class_names(self, files: Sequence[str], tables: Tables) -> list[str]:
        """Class names by label: of the folders, and where a table labels files those it can mean."""
        by_table = {file for file in tables.entries if _labelled(tables, file, self._params.label_column)}
        folders = sorted(
            {name for file in files if file not in by_table and (name := place(self._params, file)[1]) is not None}
        )
        stated = self._stated.merged(by_table)
        if self._params.classes is None:
            self._refuse_splits(folders, files)
            return list(dict.fromkeys([*stated, *folders]))
        unknown = [name for name in folders if name not in self._params.classes]
        if unknown:
            listed = ", ".join(repr(name) for name in unknown[:_TOLD])
            more = f" and {len(unknown) - _TOLD} more" if len(unknown) > _TOLD else ""
            raise UserError(
                f"{self._storage.url} has a folder {listed}{more} that `classes` does not name; add it or move it away"
            )
        return list(self._params.classes) if folders or by_table else []

    def _refuse_splits(self, names: Sequence[str], files: Sequence[str]) -> None:
        """Folders that are all called like splits are no classes."""
        explicit = self._params.layout == "class" and not self._guessed
        if explicit or not names or any(name.lower() not in SPLITS for name in names):
            return
        deeper = any(file.count("/") + 1 > _LABELLED_DEPTH[self._params.layout] for file in files)
        cure = "layout: split_class" if deeper else f"layout: flat and one source per split, such as {names[0]}"
        if self._params.layout == "split_class":
            cure = "layout: class, if they hold the splits of one class each"
        raise UserError(
            f"the class folders of {self._storage.url} are called {', '.join(names)}, which are splits and not classes; "
            f"set {cure}, or name them in `classes` if they are classes"
        )

    def _tell(self, contents: Contents, rest: Iterable[str], tables: Sequence[str]) -> None:
        path, passed = self._storage.url, contents.passed
        aside = {reason: count for reason, count in passed.items() if reason not in ("hidden", "other_split")}
        if aside:
            log.warning("%s: passed over %s%s", path, _told(aside), self._hint(passed))
        if contents.problems:
            names = ", ".join(readable(name) for name in list(contents.problems)[:_TOLD])
            log.warning("%s: %d entries cannot be used, as their rows say: %s", path, len(contents.problems), names)
        if tables:
            column = self._params.label_column
            columns = (self._params.file_column, column, self._params.caption_column, "objects")
            unused = [name for name in contents.tables.columns if name not in columns]
            dropped = f"; its columns {', '.join(unused[:_TOLD])} are not kept" if unused else ""
            log.warning("%s: %s read for %d files%s", path, tables[0], len(contents.tables.entries), dropped)
        other = [file for file in rest if ending_of(file) in ("csv", "tsv", "jsonl")]
        if other:
            names = ", ".join(readable(name) for name in other[:_TOLD])
            log.warning(
                "%s: %s not read; `table`, `file_column` and `label_column` name a table of labels", path, names
            )
        if self._params.layout != "flat":
            empty = sorted(
                {place(self._params, name)[1] or "" for name in rest if name.count("/") + 1 >= self._depth()}
            )
            empty = [name for name in empty if name not in contents.classes]
            if empty:
                log.warning(
                    "%s: folders without an image are no classes: %s", path, ", ".join(map(repr, empty[:_TOLD]))
                )
            splits = [name for name in contents.classes if name.lower() in SPLITS]
            if splits and self._params.classes is None:
                log.warning("%s: classes called like splits: %s; see layout: split_class", path, ", ".join(splits))
            alike = _alike(contents.classes)
            if alike:
                log.warning(
                    "%s: classes that differ by case, spaces or form only: %s", path, ", ".join(map(ascii, alike))
                )

    def _depth(self) -> int:
        return _LABELLED_DEPTH[self._params.layout]

    def _hint(self, passed: Counter[str]) -> str:
        linked = passed["link_not_followed"] and not self._params.follow_links
        return "; follow_links: true follows links out of the folder and to folders" if linked else ""


def place(params: FolderParams, file: str) -> tuple[str | None, str | None]:
    """(split, class name) of a file by the folders it lies in."""
    parts = file.split("/")
    if params.layout == "flat":
        return params.split, None
    if params.layout == "class":
        return params.split, readable(parts[0])
    split = readable(parts[0])
    return SPLITS.get(split.lower(), split), readable(parts[1])


def _labelled(tables: Tables, file: str, column: str) -> bool:
    """Whether a table says the label of a file."""
    entry = tables.entries.get(file)
    return entry is not None and column in entry.values


def ending_of(file: str) -> str:
    stem, dot, ending = file.rpartition("/")[2].rpartition(".")
    return ending.lower() if dot and stem else ""


def stem_of(file: str) -> str:
    folder, slash, name = file.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)


def _told(passed: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(passed.items())) or "it is empty"


def _alike(names: Iterable[str]) -> list[str]:
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[" ".join(unicodedata.normalize("NFKC", name).casefold().split())].append(name)
    return [name for group in groups.values() if len(group) > 1 for name in group][:_TOLD]
