"""The source that docs/add_a_source.md writes is one that `ingest` takes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import create_model

from pipelines import sources
from pipelines.config import RunParams
from pipelines.errors import UserError
from pipelines.runtime.execute import execute
from pipelines.runtime.job import Job
from pipelines.runtime.serial import SerialRunner
from pipelines.shards.dataset import Dataset
from pipelines.stages.ingest.params import IngestParams
from pipelines.stages.ingest.stage import Ingest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "add_a_source.md"


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the page's code defines, with its source among those that can be opened."""
    names: dict[str, Any] = {"__name__": "npz_source"}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(code, str(PAGE), "exec", dont_inherit=True), names)
    monkeypatch.setitem(sources.OPENERS, names["NpzParams"], names["NpzSource"])
    return names


def test_ingest_takes_the_source_of_the_page(page: dict[str, Any], tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([0, 1, -1, 1, 7]))
    (tmp_path / "classes.json").write_text(json.dumps(["cat", "dog"]))
    asked = {"path": str(tmp_path / "a.npz"), "split": "train"}
    kind: Any = page["NpzParams"]
    joined: Any = create_model("Joined", __base__=IngestParams, sources=(list[kind], ...))
    params = joined.model_validate({"sources": [asked]})
    execute(Ingest(), Job("ingest", params, RunParams(threads=1), str(tmp_path / "data")), SerialRunner)
    dataset = Dataset.open(tmp_path / "data/ingest")
    rows = {
        row["source"]: row for row in dataset.rows(["key", "source", "label_name", "outcome", "reason"]).to_pylist()
    }
    assert dataset.classes == ["cat", "dog"]
    assert {name: row["label_name"] for name, row in rows.items()} == {
        "a.npz#0": "cat",
        "a.npz#1": "dog",
        "a.npz#2": None,
        "a.npz#3": "dog",
    }, "and the label 7 of two classes is a failed row"


def test_what_is_no_such_file_is_one_sentence(page: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"a\.npz is no \.npz with images and labels"):
        list(page["NpzSource"](page["NpzParams"](path=str(tmp_path / "a.npz"))).scan())
