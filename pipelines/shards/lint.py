"""Checks a WebDataset, ours or anyone's: a tar, a folder of tars, a dataset folder, or a folder of datasets.

Everything wrong is a finding, never an exception; only a location that cannot be read at all raises. A dataset of ours
is recognised by its `index.json` (or by `meta/*.parquet`, when it is unfinished) and all that its describing files say
is compared with the bytes. What is checked inside a tar is in `lint_shard`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipelines.errors import UserError
from pipelines.shards.findings import Finding, Findings, LintReport
from pipelines.shards.index import INDEX, Index, ShardEntry, read_index
from pipelines.shards.lint_shard import Decode, SeenSample, ShardCheck, ShardFacts
from pipelines.shards.members import COMPRESSED, split_name
from pipelines.shards.publish import CLASSES_FILE, CROISSANT_FILE, SIZES_FILE, STATS_FILE
from pipelines.shards.sidecar import read_sidecar
from pipelines.shards.walker import TarDamage, TarWalker
from pipelines.storage import Storage

__all__ = ["Finding", "LintReport", "lint"]


def lint(url: str, decode: Decode | None = None) -> LintReport:
    """Check what lies at `url`; raises `UserError` when nothing is there.

    `decode` takes encoded image bytes and raises when they are unsound; without it only the first bytes of images are
    looked at. Shards are streamed; what grows with the dataset is 8 bytes a sample.
    """
    if url.endswith(".tar"):
        folder, _, name = url.rpartition("/")
        storage, files = Storage(folder or "."), [name]
        if not storage.exists(name):
            raise UserError(f"no file at {url}")
    else:
        storage = Storage(url)
        if not storage.exists():
            raise UserError(f"nothing at {url}")
        files = storage.list()
    run = _Run(storage, decode)
    roots = sorted(
        path[: -len(INDEX)] for path in files if path.rsplit("/", 1)[-1] == INDEX and _is_ours(storage, path)
    )
    for root in roots:
        run.dataset(root, [path[len(root) :] for path in files if path.startswith(root)])
    if not roots:
        run.tars(files)
    return LintReport(run.findings.all(), run.samples, run.bytes)


class _Run:
    """One call of `lint`: the findings and totals over everything it visits."""

    def __init__(self, storage: Storage, decode: Decode | None) -> None:
        self._root = storage
        self._decode = decode
        self.findings = Findings()
        self.samples = 0
        self.bytes = 0

    def tars(self, files: list[str]) -> None:
        """Other people's tars, or a dataset of ours that was never finished."""
        if any("/meta/" in f"/{path}" and path.endswith(".parquet") for path in files):
            self.findings.error("unfinished", INDEX, "no index.json: the dataset is unfinished; see `limbeck status`")
        shards = [path for path in files if path.endswith(".tar")]
        for path in files:
            if path.endswith(tuple(COMPRESSED)):
                self.findings.warning("compressed_shard", path, "not checked: decompress it first")
        if not shards:
            self.findings.error("no_shards", ".", "there is no .tar here")
        classes = self._classes(self._root) if CLASSES_FILE in files else None
        keys = _KeyHashes()
        sizes: dict[str, int] = {}
        for path in shards:
            sizes[path] = self._shard(self._root, path, keys, ours=False, classes=classes).samples
        for path in (path for path in files if path.rsplit("/", 1)[-1] == "sizes.json"):
            folder = path[: -len("sizes.json")]
            here = {
                name[len(folder) :]: n for name, n in sizes.items() if name.rpartition("/")[0] == folder.rstrip("/")
            }
            self._sizes(self._root, path, here)
        self._duplicates(self._root, keys)

    def dataset(self, folder: str, files: list[str]) -> None:
        """A finished dataset of ours in `folder` (empty or with a slash at its end)."""
        self.findings.prefix = folder
        storage = self._root.child(folder.rstrip("/"))
        try:
            index = read_index(storage)
        except UserError as error:
            self.findings.error("index_damaged", INDEX, str(error))
            return
        classes = self._classes(storage)
        keys = _KeyHashes()
        for entry in index.shards:
            if entry.path not in files:
                self.findings.error("missing_shard", entry.path, "the index names it but it is not there")
                continue
            seen, sound = self._our_shard(storage, entry, keys, classes)
            if entry.sidecar not in files:
                self.findings.error("missing_sidecar", entry.sidecar, "the index names it but it is not there")
            else:
                self._sidecar(storage, entry, seen, sound, classes)
        self._duplicates(storage, keys)
        self._sizes(storage, SIZES_FILE, {entry.path.rsplit("/", 1)[-1]: entry.samples for entry in index.shards})
        self._stats(storage, index)
        if self._json(storage, CROISSANT_FILE, dict) is None:
            self.findings.warning("no_description", CROISSANT_FILE, "it is missing or not a JSON object")
        named = {path for entry in index.shards for path in (entry.path, entry.sidecar)} | {SIZES_FILE}
        for path in files:
            if path.startswith(("shards/", "meta/")) and path not in named:
                self.findings.warning("leftover_file", path, "the index does not name it")

    def _shard(
        self,
        storage: Storage,
        path: str,
        keys: _KeyHashes,
        *,
        ours: bool,
        classes: int | None,
        seen: list[SeenSample] | None = None,
    ) -> ShardFacts:
        keys.begin(path)

        def on_sample(sample: SeenSample) -> None:
            keys.add(sample.key)
            if seen is not None:
                seen.append(sample)

        check = ShardCheck(path, self.findings, on_sample, ours=ours, classes=classes, decode=self._decode)
        with storage.open(path) as stream:
            facts = check.run(stream)
        self.samples += facts.samples
        self.bytes += facts.bytes
        return facts

    def _our_shard(
        self, storage: Storage, entry: ShardEntry, keys: _KeyHashes, classes: int | None
    ) -> tuple[list[SeenSample], bool]:
        """Compare a shard with its entry; returns its samples and whether the tar could be read to its end."""
        seen: list[SeenSample] = []
        facts = self._shard(storage, entry.path, keys, ours=True, classes=classes, seen=seen)
        says = f"the index says {{}}, the shard {'has' if facts.sound else '(damaged) has'} {{}}"
        if facts.samples != entry.samples:
            self.findings.error("index_count", entry.path, says.format(entry.samples, facts.samples) + " samples")
        if facts.bytes != entry.bytes:
            self.findings.error("index_bytes", entry.path, says.format(entry.bytes, facts.bytes) + " bytes")
        if facts.sha256 != entry.sha256:
            self.findings.error("index_sha256", entry.path, says.format(entry.sha256, facts.sha256) + " as SHA-256")
        return seen, facts.sound

    def _sidecar(
        self, storage: Storage, entry: ShardEntry, seen: list[SeenSample], sound: bool, classes: int | None
    ) -> None:
        """Compare the sidecar with the samples of the tar: keys, their order, spans and labels."""
        where = entry.sidecar
        try:
            table = read_sidecar(storage, where, ("key", "outcome", "label", "members"))
        except UserError as error:
            self.findings.error("sidecar_damaged", where, str(error))
            return
        is_kept = pc.equal(table["outcome"], "kept")
        if pc.any(pc.and_(pc.invert(is_kept), pc.is_valid(table["members"]))).as_py():
            self.findings.error("members_of_rejected", where, "a row that was not kept claims members in the shard")
        rows = table.filter(is_kept).to_pylist()
        if sound and len(rows) != len(seen):
            self.findings.error("sidecar_count", where, f"{len(rows)} kept rows, {len(seen)} samples in {entry.path}")
        for row, sample in zip(rows, seen, strict=False):
            if row["key"] != sample.key:
                self.findings.error("sidecar_keys", where, f"the shard has {sample.key} in its place", row["key"])
                break  # everything after a shift would differ too
            spans = [(span["ext"], span["offset"], span["size"]) for span in row["members"] or ()]
            if spans != sample.spans:
                self.findings.error("sidecar_offsets", where, f"says {spans}, the shard {sample.spans}", row["key"])
            if sample.label is not None and row["label"] != sample.label:
                message = f"label {row['label']}, but its cls member says {sample.label}"
                self.findings.error("label_mismatch", where, message, row["key"])
            elif row["label"] is not None and classes is not None and not 0 <= row["label"] < classes:
                self.findings.error("label_out_of_range", where, f"label {row['label']} of {classes}", row["key"])

    def _classes(self, storage: Storage) -> int | None:
        names = self._json(storage, CLASSES_FILE, list)
        if names is None:
            self.findings.error("classes_damaged", CLASSES_FILE, "it is missing or not a JSON list")
            return None
        if len(set(map(str, names))) != len(names):
            self.findings.warning("classes_repeat", CLASSES_FILE, "two labels have one name")
        return len(names)

    def _sizes(self, storage: Storage, path: str, counts: dict[str, int]) -> None:
        sizes = self._json(storage, path, dict)
        if sizes is None:
            self.findings.error("sizes_damaged", path, "it is missing or not a JSON object")
            return
        for name in sorted(sizes.keys() | counts.keys()):
            if sizes.get(name) != counts.get(name):
                message = f"says {sizes.get(name)} samples for {name}, there are {counts.get(name)}"
                self.findings.error("sizes_lie", path, message)

    def _stats(self, storage: Storage, index: Index) -> None:
        stats = self._json(storage, STATS_FILE, dict) or {}
        outcomes = stats.get("outcomes")
        if not isinstance(outcomes, dict):
            self.findings.error("stats_damaged", STATS_FILE, "it is missing or has no outcomes")
        elif outcomes.get("kept") != index.samples:
            self.findings.error("stats_lie", STATS_FILE, f"{outcomes.get('kept')} kept, the index says {index.samples}")

    def _json(self, storage: Storage, path: str, kind: type) -> Any:
        """The document, or None when it is missing, broken or of another kind."""
        try:
            document = json.loads(storage.read_bytes(path))
        except (FileNotFoundError, ValueError, RecursionError):
            return None
        return document if isinstance(document, kind) else None

    def _duplicates(self, storage: Storage, keys: _KeyHashes) -> None:
        """Name the keys that more than one shard holds, by reading the headers of those shards again."""
        repeated = keys.repeated()
        holders: dict[str, list[str]] = {}
        for path in keys.shards_with(repeated):
            for key in _keys_of(storage, path):
                if _key_hash(key) in repeated and path not in holders.setdefault(key, []):
                    holders[key].append(path)
        for key, paths in sorted(holders.items()):
            if len(paths) > 1:
                self.findings.error("duplicate_key", paths[1], f"also in {paths[0]}", key)


class _KeyHashes:
    """64-bit hashes of the keys of every shard: 8 bytes a sample, whatever the keys look like."""

    def __init__(self) -> None:
        self._shards: list[tuple[str, bytearray]] = []

    def begin(self, path: str) -> None:
        self._shards.append((path, bytearray()))

    def add(self, key: str) -> None:
        self._shards[-1][1].extend(_key_hash(key))

    def repeated(self) -> set[bytes]:
        """Hashes that occur twice or more, be it in one shard (`ShardCheck` has reported those) or in several."""
        joined = np.concatenate([np.zeros(0, np.uint64), *(self._array(raw) for _, raw in self._shards)])
        joined.sort()
        again = np.unique(joined[1:][joined[1:] == joined[:-1]])
        return {value.tobytes() for value in again}

    def shards_with(self, hashes: set[bytes]) -> Iterable[str]:
        wanted = np.frombuffer(b"".join(hashes), np.uint64)
        return [path for path, raw in self._shards if wanted.size and np.isin(self._array(raw), wanted).any()]

    @staticmethod
    def _array(raw: bytearray) -> np.ndarray[Any, np.dtype[np.uint64]]:
        return np.frombuffer(bytes(raw), np.uint64)


def _is_ours(storage: Storage, path: str) -> bool:
    """Other tools have an index.json too; ours has a schema version. A broken one is taken for ours."""
    try:
        document = json.loads(storage.read_bytes(path))
    except (ValueError, RecursionError):
        return True
    return isinstance(document, dict) and "schema_version" in document


def _key_hash(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest()


def _keys_of(storage: Storage, path: str) -> Iterable[str]:
    """Keys of a tar from its headers, as far as they can be read."""
    keys = []
    with storage.open(path) as stream:
        try:
            for member in TarWalker(stream):
                named = split_name(member.name) if member.kind == "file" else None
                if named is not None:
                    keys.append(named[0])
        except TarDamage:
            return keys  # reported when the shard was checked
    return keys
