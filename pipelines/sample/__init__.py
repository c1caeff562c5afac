"""The data sets that are part of this package, so that the main job runs without a network.

`sample:NAME` in a source's `path` leads here. How a sample is made from its originals is `make.py`.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def names() -> list[str]:
    """Names of the embedded samples."""
    return sorted(path.parent.name for path in _HERE.glob("*/SHA256SUMS"))


def folder(name: str = "fashion_mnist") -> Path:
    """The folder of an embedded sample."""
    return _HERE / name
