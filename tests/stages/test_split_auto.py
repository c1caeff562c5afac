"""`split.strategy: auto`: what the source states stays, and what it lacks is drawn from its training images."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from pipelines.stages.split.params import SplitParams
from pipelines.stages.split.stage import decide


def rows(*splits: str | None) -> pa.Table:
    """Twenty images of each of two classes in every one of these splits."""
    names = [split for split in splits for _ in range(40)]
    keys = [f"{place:026d}" for place in range(len(names))]
    return pa.table(
        {"key": keys, "split": pa.array(names, pa.string()), "label": [place % 2 for place in range(len(names))]}
    )


def drawn(table: pa.Table, strategy: str) -> np.ndarray:
    return decide(table, SplitParams(strategy=strategy, validation=0.1, test=0.2), 0)


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ((None,), {"train": 28, "val": 4, "test": 8}),
        (("train",), {"train": 28, "val": 4, "test": 8}),
        (("train", "test"), {"train": 36, "val": 4, "test": 40}),
        (("train", "val"), {"train": 32, "val": 40, "test": 8}),
        (("train", "val", "test"), {"train": 40, "val": 40, "test": 40}),
    ],
)
def test_only_what_the_source_lacks_is_drawn(splits: tuple[str | None, ...], expected: dict[str, int]) -> None:
    table = rows(*splits)
    decisions = drawn(table, "auto")
    assert Counter(decisions.tolist()) == expected
    stated = np.array([split or "train" for split in table["split"].to_pylist()])
    assert ((decisions == stated) | (stated == "train")).all()  # nothing that is held out comes back


def test_without_any_split_auto_draws_what_random_draws() -> None:
    assert (drawn(rows(None), "auto") == drawn(rows(None), "random")).all()
