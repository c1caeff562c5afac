"""Tables whose every cell is plain text: no name that came from outside moves the cursor or is read as markup."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from pipelines.terminal import cell


def new_table(title: str, **options: Any) -> Table:
    """An empty table under a title."""
    return Table(title=cell(title), **options)


def add_row(table: Table, *cells: object) -> None:
    """Add a row; texts that were styled are taken as they are."""
    table.add_row(*(one if isinstance(one, Text) else cell(one) for one in cells))


def styled(text: object, style: str) -> Text:
    """A cell in a colour."""
    return cell(text, style)
