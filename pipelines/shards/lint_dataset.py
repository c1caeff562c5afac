"""Checks a finished dataset of ours: all that its describing files say is compared with the bytes.

Hashes tell that a file is another than the one that was written; the comparisons behind them tell what is wrong with it, and
find what was wrong when it was written.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import UserError
from pipelines.shards.checksum import sum_of
from pipelines.shards.findings import Findings, LintReport
from pipelines.shards.index import INDEX, Index, ShardEntry, read_index
from pipelines.shards.lint_keys import KeyHashes, report_repeated
from pipelines.shards.lint_shard import Decode, SeenSample, ShardCheck, ShardFacts
from pipelines.shards.publish import CLASSES_FILE, CROISSANT_FILE, SIZES_FILE, STATS_FILE
from pipelines.shards.sample import MemberSpan
from pipelines.shards.sidecar import read_sidecar
from pipelines.storage import Storage


class Checker:
    """One call of `lint`: the findings and totals over everything it visits."""

    def __init__(self, findings: Findings, decode: Decode | None) -> None:
        self.findings = findings
        self._decode = decode
        self.samples = 0
        self.bytes = 0

    def report(self) -> LintReport:
        """All that was found."""
        return LintReport(self.findings.all(), self.samples, self.bytes)

    def dataset(self, storage: Storage, files: list[str]) -> None:
        """A finished dataset; `files` are all paths in it."""
        index = self._index(storage)
        if index is None:
            return
        self._describing_files(storage, index, files)
        classes = self.classes(storage)
        keys = KeyHashes()
        rows = 0
        for entry in index.shards:
            if entry.path not in files:
                self.findings.error("missing_shard", entry.path, "the index names it but it is not there")
                continue
            seen, sound = self._our_shard(storage, entry, keys, classes)
            if entry.sidecar not in files:
                self.findings.error("missing_sidecar", entry.sidecar, "the index names it but it is not there")
            else:
                rows += self._sidecar(storage, entry, seen, sound, classes)
        report_repeated(storage, keys, self.findings)
        self.sizes(storage, SIZES_FILE, {entry.path.rsplit("/", 1)[-1]: entry.samples for entry in index.shards})
        self._stats(storage, index, rows)
        if self._json(storage, CROISSANT_FILE, dict) is None:
            self.findings.warning("no_description", CROISSANT_FILE, "it is missing or not a JSON object")
        self._unnamed(index, files)

    def shard(
        self,
        storage: Storage,
        path: str,
        keys: KeyHashes,
        *,
        ours: bool,
        classes: int | None,
        seen: list[SeenSample] | None = None,
    ) -> ShardFacts:
        """One tar; its samples are appended to `seen`."""
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

    def classes(self, storage: Storage) -> int | None:
        """How many classes `classes.json` names."""
        names = self._json(storage, CLASSES_FILE, list)
        if names is None:
            self.findings.error("classes_damaged", CLASSES_FILE, "it is missing or not a JSON list")
            return None
        if len(set(map(str, names))) != len(names):
            self.findings.warning("classes_repeat", CLASSES_FILE, "two labels have one name")
        return len(names)

    def sizes(self, storage: Storage, path: str, counts: dict[str, int]) -> None:
        """Compare a `sizes.json` with the samples that there are."""
        sizes = self._json(storage, path, dict)
        if sizes is None:
            self.findings.error("sizes_damaged", path, "it is missing or not a JSON object")
            return
        for name in sorted(sizes.keys() | counts.keys()):
            if sizes.get(name) != counts.get(name):
                message = f"says {sizes.get(name)} samples for {name}, there are {counts.get(name)}"
                self.findings.error("sizes_lie", path, message)

    def _index(self, storage: Storage) -> Index | None:
        try:
            return read_index(storage)
        except UserError as error:
            self.findings.error("index_damaged", INDEX, str(error))
        try:
            return read_index(storage, signed=False)  # what it says may tell what was changed
        except UserError:
            return None

    def _describing_files(self, storage: Storage, index: Index, files: list[str]) -> None:
        for path, recorded in index.files.items():
            if path in files and sum_of(storage.read_bytes(path)) != recorded:
                self.findings.error(
                    "file_changed", path, "it is not the file that the index names: its SHA-256 is another"
                )

    def _our_shard(
        self, storage: Storage, entry: ShardEntry, keys: KeyHashes, classes: int | None
    ) -> tuple[list[SeenSample], bool]:
        """Compare a shard with its entry; returns its samples and whether the tar could be read to its end."""
        seen: list[SeenSample] = []
        facts = self.shard(storage, entry.path, keys, ours=True, classes=classes, seen=seen)
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
    ) -> int:
        """Compare the sidecar with the samples of the tar: keys, their order, spans, checksums and labels. Returns its rows."""
        where = entry.sidecar
        if sum_of(storage.read_bytes(where)).sha256 != entry.sidecar_sha256:
            self.findings.error(
                "sidecar_changed", where, "it is not the file that the index names: its SHA-256 is another"
            )
        try:
            table = read_sidecar(storage, where, ("key", "outcome", "label", "members"))
        except UserError as error:
            self.findings.error("sidecar_damaged", where, str(error))
            return 0
        is_kept = pc.equal(table["outcome"], "kept")
        if pc.any(pc.and_(pc.invert(is_kept), pc.is_valid(table["members"]))).as_py():
            self.findings.error("members_of_rejected", where, "a row that was not kept claims members in the shard")
        self._kept(where, entry, table.filter(is_kept), seen, sound, classes)
        return int(table.num_rows)

    def _kept(
        self, where: str, entry: ShardEntry, table: pa.Table, seen: list[SeenSample], sound: bool, classes: int | None
    ) -> None:
        rows = table.to_pylist()
        if sound and len(rows) != len(seen):
            self.findings.error("sidecar_count", where, f"{len(rows)} kept rows, {len(seen)} samples in {entry.path}")
        for row, sample in zip(rows, seen, strict=False):
            if row["key"] != sample.key:
                self.findings.error("sidecar_keys", where, f"the shard has {sample.key} in its place", row["key"])
                break  # everything after a shift would differ too
            self._spans(where, [MemberSpan(**span) for span in row["members"] or ()], sample)
            if sample.label is not None and row["label"] != sample.label:
                message = f"label {row['label']}, but its cls member says {sample.label}"
                self.findings.error("label_mismatch", where, message, row["key"])
            elif row["label"] is not None and classes is not None and not 0 <= row["label"] < classes:
                self.findings.error("label_out_of_range", where, f"label {row['label']} of {classes}", row["key"])

    def _spans(self, where: str, said: list[MemberSpan], sample: SeenSample) -> None:
        """Compare a row's members with those in the tar."""
        places, seen = [span[:3] for span in said], [span[:3] for span in sample.spans]
        if places != seen:
            self.findings.error("sidecar_offsets", where, f"says {places}, the shard {seen}", sample.key)
            return
        for span, actual in zip(said, sample.spans, strict=True):
            if actual.xxh3 is not None and span.xxh3 != actual.xxh3:
                message = f"the {span.ext} in the shard is not what was written there: its XXH3 is another"
                self.findings.error("member_changed", where, message, sample.key)

    def _stats(self, storage: Storage, index: Index, rows: int) -> None:
        stats = self._json(storage, STATS_FILE, dict) or {}
        outcomes = stats.get("outcomes")
        if not isinstance(outcomes, dict):
            self.findings.error("stats_damaged", STATS_FILE, "it is missing or has no outcomes")
        elif outcomes.get("kept") != index.samples:
            self.findings.error("stats_lie", STATS_FILE, f"{outcomes.get('kept')} kept, the index says {index.samples}")
        elif stats.get("attempted") != index.account.rows:
            message = f"{stats.get('attempted')} attempted, the account of the index has {index.account.rows} rows"
            self.findings.error("stats_lie", STATS_FILE, message)
        account = index.account
        if account.rows != rows:
            message = f"its account has {account.rows} rows, the sidecars hold {rows}"
            self.findings.error("account_rows", INDEX, message)
        if account.missing:
            message = f"{account.to_json()} does not add up: {account.missing} seen have neither a row nor a reason"
            self.findings.error("account_sum", INDEX, message)

    def _unnamed(self, index: Index, files: list[str]) -> None:
        """What lies where shards lie and is not named by the index: its samples would be missed in silence."""
        named = index.sums.keys() | {SIZES_FILE}
        for path in files:
            if path.startswith(("shards/", "meta/")) and path not in named:
                if path.endswith((".tar", ".parquet")):
                    self.findings.error("unnamed_shard", path, "the index does not name it, so no reader sees it")
                else:
                    self.findings.warning("leftover_file", path, "the index does not name it")

    def _json(self, storage: Storage, path: str, kind: type) -> Any:
        """The document, or None when it is missing, broken or of another kind."""
        try:
            document = json.loads(storage.read_bytes(path))
        except (FileNotFoundError, ValueError, RecursionError):
            return None
        return document if isinstance(document, kind) else None
