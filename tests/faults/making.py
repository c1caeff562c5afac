"""What the tests of faults share: small distinct pictures, one run of `ingest`, and what it left, row by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipelines.config import RunParams
from pipelines.runtime.execute import execute
from pipelines.runtime.job import Job
from pipelines.runtime.serial import SerialRunner
from pipelines.shards.dataset import Dataset
from pipelines.stages.ingest.params import IngestParams
from pipelines.stages.ingest.stage import Ingest


def png(number: int, height: int = 10, width: int = 12) -> bytes:
    """A PNG that only this number has."""
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


def lay(root: Path, files: dict[str, bytes]) -> Path:
    """Write files below a folder, by relative path."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def run_ingest(data: Path, *sources: dict[str, Any], breaker: float = 1, **params: Any) -> Path:
    """Ingest with PNGs out; the breaker is off unless a share is given. Returns the dataset's folder."""
    section = {"sources": list(sources), "image": {"format": "png"}, **params}
    run = RunParams.model_validate({"device": "cpu", "breaker": {"max_failed": breaker}})
    execute(Ingest(), Job("ingest", IngestParams.model_validate(section), run, str(data)), SerialRunner)
    return data / "ingest"


def rows(dataset: Path, *columns: str) -> list[tuple[Any, ...]]:
    """Those columns of every row, sorted by source (and given without it unless it is named)."""
    wanted = ["source", *columns] if "source" not in columns else list(columns)
    found = Dataset.open(dataset).rows(wanted, kept_only=False).to_pylist()
    return [tuple(row[name] for name in columns) for row in sorted(found, key=lambda row: row["source"])]


def fates(dataset: Path) -> dict[str, str]:
    """By source: the class name of what was kept (empty without one), else the reason."""
    found = Dataset.open(dataset).rows(["source", "outcome", "reason", "label", "label_name"], False).to_pylist()
    classes = json.loads((dataset / "classes.json").read_text())
    for row in found:
        if row["outcome"] == "kept" and row["label"] is not None:
            assert classes[row["label"]] == row["label_name"], row
    return {
        row["source"]: (row["label_name"] or "") if row["outcome"] == "kept" else f"!{row['reason']}" for row in found
    }
