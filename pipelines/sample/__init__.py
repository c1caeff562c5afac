"""The data sets and the generators that are part of this package, so that the main job runs without a network.

`sample:NAME` in a source's `path` leads here. How a sample is made from its originals is `make.py`; `generator` is a folder of
weights as stage `generator` with `source: train` makes it.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def names() -> list[str]:
    """Names of the embedded samples: the folders that name classes."""
    return sorted(path.parent.name for path in _HERE.glob("*/classes.json"))


def folder(name: str = "fashion_mnist") -> Path:
    """The folder of an embedded sample, or of the generators."""
    return _HERE / name
