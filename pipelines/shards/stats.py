"""`stats.json`: what a dataset holds, counted from its sidecars. Counts add up in any order."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_COUNTED = ("split", "src_format", "decoder")
_SIZES = ("width", "height", "src_width", "src_height", "bytes")
#: The only columns that are read from a sidecar.
STATS_COLUMNS = ("outcome", "reason", "error_class", "label", *_COUNTED, *_SIZES)

#: Lower edges of the bins; a value counts in the last bin whose edge it reaches.
_PIXEL_EDGES = (0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_BYTE_EDGES = tuple(0 if power == 9 else 1 << power for power in range(9, 26))


class DatasetStats:
    """Mergeable counts over sidecar rows."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.reasons: Counter[tuple[str, str, str]] = Counter()  # (outcome, reason, error class)
        self.labels: Counter[int | None] = Counter()
        self.values: dict[str, Counter[str]] = {name: Counter() for name in _COUNTED}
        self.histograms: dict[str, Counter[int]] = {name: Counter() for name in _SIZES}
        self.image_bytes = 0

    @classmethod
    def of(cls, table: pa.Table) -> DatasetStats:
        """Counts of one sidecar; `table` has `STATS_COLUMNS`."""
        stats = cls()
        stats.outcomes.update(_counts(table["outcome"]))
        is_kept = pc.equal(table["outcome"], "kept")
        rest = table.filter(pc.invert(is_kept))
        reasons = (rest[name].to_pylist() for name in ("outcome", "reason", "error_class"))
        stats.reasons.update(
            (outcome, reason or "", kind or "") for outcome, reason, kind in zip(*reasons, strict=True)
        )
        kept_rows = table.filter(is_kept)
        stats.labels.update(_counts(kept_rows["label"]))
        for name, counter in stats.values.items():
            counter.update({value or "": count for value, count in _counts(kept_rows[name]).items()})
        for name, histogram in stats.histograms.items():
            edges = _edges(name)
            for value, count in _counts(kept_rows[name].drop_null()).items():
                histogram[bisect_right(edges, value) - 1] += count
        stats.image_bytes = pc.sum(kept_rows["bytes"]).as_py() or 0
        return stats

    def merge(self, other: DatasetStats) -> None:
        """Add the counts of `other`."""
        self.outcomes.update(other.outcomes)
        self.reasons.update(other.reasons)
        self.labels.update(other.labels)
        for name in _COUNTED:
            self.values[name].update(other.values[name])
        for name in _SIZES:
            self.histograms[name].update(other.histograms[name])
        self.image_bytes += other.image_bytes

    def to_json(self, classes: list[str]) -> dict[str, Any]:
        """The document; `classes[label]` is the name of a label, and every label must have one."""
        named = {label for label in self.labels if label is not None}
        assert all(0 <= label < len(classes) for label in named), f"labels {sorted(named)} but {len(classes)} classes"
        return {
            "attempted": self.outcomes.total(),
            "outcomes": {name: self.outcomes[name] for name in ("kept", "dropped", "failed")},
            "reasons": [
                {"outcome": outcome, "reason": reason, "error_class": kind or None, "count": count}
                for (outcome, reason, kind), count in sorted(self.reasons.items())
            ],
            "classes": [
                {"label": label, "name": name, "kept": self.labels[label]} for label, name in enumerate(classes)
            ],
            "unlabelled": self.labels[None],
            "splits": dict(self.values["split"]),
            "formats": dict(self.values["src_format"]),
            "decoders": dict(self.values["decoder"]),
            "image_bytes": self.image_bytes,
            "histograms": {
                name: {"edges": list(edges), "counts": [histogram[place] for place in range(len(edges))]}
                for name, histogram in self.histograms.items()
                for edges in [_edges(name)]
            },
        }


def merged(parts: Iterable[DatasetStats]) -> DatasetStats:
    """The sum of many counts."""
    total = DatasetStats()
    for part in parts:
        total.merge(part)
    return total


def _edges(name: str) -> tuple[int, ...]:
    return _BYTE_EDGES if name == "bytes" else _PIXEL_EDGES


def _counts(column: pa.ChunkedArray) -> dict[Any, int]:
    return {pair["values"].as_py(): pair["counts"].as_py() for pair in pc.value_counts(column)}
