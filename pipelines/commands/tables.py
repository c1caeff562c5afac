"""What a reading verb shows: tables for people whose every cell is plain text, and one JSON document for programs.

No name that came from outside moves the cursor or is read as markup.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pipelines.redaction import redacted_values
from pipelines.terminal import cell


@dataclass(frozen=True)
class View:
    """One answer in two forms: `form` is JSON with keys that stay, `parts` is the same for a terminal."""

    form: dict[str, Any]
    parts: Sequence[RenderableType]


def json_text(form: Any) -> str:
    """A JSON document in ASCII, without what URLs keep secret: as safe on a terminal as in a pipe."""
    return json.dumps(redacted_values(form), indent=2, default=str)


def new_table(title: str, **options: Any) -> Table:
    """An empty table under a title."""
    return Table(title=cell(title), **options)


def add_row(table: Table, *cells: object) -> None:
    """Add a row; texts that were styled are taken as they are."""
    table.add_row(*(one if isinstance(one, Text) else cell(one) for one in cells))


def styled(text: object, style: str) -> Text:
    """A cell in a colour."""
    return cell(text, style)
