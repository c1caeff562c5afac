"""Records of equal bytes in `ingest`: which one is kept, what the labels of the others say, and that bad bytes stay bad.

Of equal bytes one record is kept: of the evaluation sets before the training set (`SPLIT_RANK`), one with a label before one
without, the earlier before the later; sources stand in order of precedence. A record with a problem of its own is nobody's
twin. The others are dropped as `duplicate`, and where their label is another one as `label_conflict`. Two labels in one source
and one split have no precedence but the order of their names: `conflicts: drop` then keeps none, `error` stops.

That the bytes are sound is not known before a unit tries them, and the kept record may lie in another unit. So every twin is
tried like any other record, once for each unit and content: six hundred copies of one error page fail six hundred times. A few
copies lie in the unit of the record that is kept, and cost nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import UserError
from pipelines.images.process import Processed
from pipelines.outcomes import Outcome, dropped
from pipelines.stages.ingest.records import with_column

log = logging.getLogger(__name__)

#: Evaluation sets keep their images; a training image equal to one of them is the duplicate.
SPLIT_RANK = ("test", "val", "train")
#: Share of duplicates from which on a line says so.
_MANY = 0.5
#: Records of equal bytes that are put into one unit; more are left where they are.
_NEIGHBOURS = 16

Ints = np.ndarray[Any, np.dtype[np.int64]]


def mark_twins(
    records: pa.Table, duplicates: Literal["drop", "error"], conflicts: Literal["first", "drop", "error"]
) -> tuple[pa.Table, Ints]:
    """The records with `duplicate_of` (the source of the record that is kept, for all others of equal bytes) and `conflict`
    (a sentence where labels differ); and by place whose neighbour a record is to be: its own, or its keeper's.

    Neighbours share a unit, where equal bytes are tried once. Beyond a few copies that would make units of unequal size.
    """
    sound = pc.and_(pc.is_valid(records["sha256"]), pc.is_null(records["problem"]))
    places = np.flatnonzero(sound.to_numpy())
    groups, keepers = _groups(records, places)
    anchors: Ints = np.arange(records.num_rows)
    if not len(groups):
        return records, anchors
    sources = records["source"]
    twins = groups != keepers
    if duplicates == "error":
        first = int(np.flatnonzero(twins)[0])
        raise UserError(
            f"{sources[int(groups[first])]} has the same bytes as {sources[int(keepers[first])]}, one of "
            f"{int(twins.sum())} duplicates; remove them or set ingest.duplicates: drop"
        )
    kept: list[str | None] = [None] * records.num_rows
    for place, keeper in zip(groups[twins].tolist(), keepers[twins].tolist(), strict=True):
        kept[place] = sources[keeper].as_py()
    conflict = _conflicts(records, groups, keepers, conflicts)
    _tell(records, int(twins.sum()), conflict)
    records = with_column(records, "duplicate_of", pa.array(kept, pa.string()))
    sentences = [conflict.get(place) for place in range(records.num_rows)] if conflict else [None] * records.num_rows
    kept_ones, copies = np.unique(keepers, return_counts=True)
    few = np.isin(keepers, kept_ones[copies <= _NEIGHBOURS])
    anchors[groups[few]] = keepers[few]
    return with_column(records, "conflict", pa.array(sentences, pa.string())), anchors


def _groups(records: pa.Table, places: Ints) -> tuple[Ints, Ints]:
    """Places of all records that share their bytes with another, the keeper of each group first; and each one's keeper."""
    column = records["sha256"].take(pa.array(places)).combine_chunks()
    digests = np.frombuffer(column.buffers()[1], dtype=">u8", count=4 * len(places)).reshape(-1, 4)
    heads = digests[:, 0].astype(np.uint64)
    in_order = np.sort(heads)
    # A few of many: the rest is not sorted in full.
    likely = np.isin(heads, in_order[1:][in_order[1:] == in_order[:-1]])
    places, digests = places[likely], digests[likely]
    rank = _taken(pc.fill_null(pc.index_in(records["split"], pa.array(SPLIT_RANK)), len(SPLIT_RANK)), places)
    unlabelled = _taken(pc.is_null(records["label"]), places)
    order = np.lexsort((places, unlabelled, rank, *digests.T[::-1]))
    same = (digests[order][1:] == digests[order][:-1]).all(axis=1)
    starts = np.concatenate([[True], ~same])[: len(order)]
    shared = ~starts | np.concatenate([same, [False]])[: len(order)]
    first = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    return places[order][shared], places[order][first][shared]


def _taken(column: Any, places: Ints) -> np.ndarray[Any, Any]:
    return np.asarray(column)[places]


def _conflicts(
    records: pa.Table, groups: Ints, keepers: Ints, conflicts: Literal["first", "drop", "error"]
) -> dict[int, str]:
    """By place: why a record of a group with two labels is not kept."""
    label = np.asarray(pc.fill_null(records["label"], -1))
    differs = (label[groups] != label[keepers]) & (label[groups] >= 0) & (label[keepers] >= 0)
    if not differs.any():
        return {}
    sources, names = records["source"], records["label_name"]

    def sentence(place: int, other: int) -> str:
        return f"same bytes as {sources[other]}, which is labelled {names[other].as_py()!r} and not {names[place].as_py()!r}"

    if conflicts == "error":
        place = int(np.flatnonzero(differs)[0])
        raise UserError(
            f"{sources[int(groups[place])]}: {sentence(int(groups[place]), int(keepers[place]))}, one of "
            f"{int(differs.sum())}; mend the labels or set ingest.conflicts: drop"
        )
    sentences = {int(place): sentence(place, keeper) for place, keeper in _pairs(groups, keepers, differs)}
    if conflicts == "drop":
        origin = np.asarray(records["origin"])
        split = np.asarray(pc.fill_null(pc.index_in(records["split"], pc.unique(records["split"])), -1))
        peers = differs & (origin[groups] == origin[keepers]) & (split[groups] == split[keepers])
        for place, keeper in _pairs(groups, keepers, peers):
            sentences.setdefault(keeper, sentence(keeper, place))
    return sentences


def _pairs(groups: Ints, keepers: Ints, chosen: Any) -> Iterable[tuple[int, int]]:
    return zip(groups[chosen].tolist(), keepers[chosen].tolist(), strict=True)


def _tell(records: pa.Table, twins: int, conflict: dict[int, str]) -> None:
    count = records.num_rows
    if twins >= _MANY * count:
        log.warning("%d of %d records have the same bytes as another one", twins, count)
    if conflict:
        place = min(conflict)
        line = f"{records['source'][place]}: {conflict[place]}"
        log.warning("%d records have equal bytes and different labels: %s", len(conflict), line)


class Twins:
    """The fates of twins in one unit. Contents that were tried are remembered, be they sound or bad."""

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self._wanted = {row["sha256"] for row in rows if _decided(row) is not None}
        self._tried: dict[bytes, Outcome | None] = {}

    def known(self, row: dict[str, Any]) -> Outcome | None:
        """What becomes of a twin whose bytes were tried already."""
        decided = _decided(row)
        if decided is None or row["sha256"] not in self._tried:
            return None
        return self._tried[row["sha256"]] or decided

    def settled(self, row: dict[str, Any], image: Processed | Outcome) -> Processed | Outcome:
        """What becomes of a record after its bytes were tried: a twin of sound bytes is not kept."""
        bad = image if isinstance(image, Outcome) else None
        if row["sha256"] in self._wanted and (bad is None or bad.error_class != "transient"):
            self._tried[row["sha256"]] = bad
        return image if bad is not None else _decided(row) or image


def _decided(row: dict[str, Any]) -> Outcome | None:
    """What becomes of a record if its bytes are sound and it is not to be kept."""
    if row.get("conflict") is not None:
        return dropped("label_conflict", row["conflict"])
    return None if row["duplicate_of"] is None else dropped("duplicate", f"same bytes as {row['duplicate_of']}")
