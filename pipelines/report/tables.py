"""A table of text, as the page's template shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Row = Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table of text. The first column names the row; `numbers` are the columns of figures, None for all others."""

    title: str
    head: Row
    rows: Sequence[Row]
    numbers: Sequence[int] | None = None
    note: str = ""
