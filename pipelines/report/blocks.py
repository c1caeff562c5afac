"""The blocks that a section of the report is made of: text, tables, charts and pictures. They hold what is shown and draw nothing.

The page's template has one macro for each; `limbeck results` prints sentences and grouped tables. A block holds texts that are
ready to be read, and all of them are escaped where they are shown.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pipelines.report.svg import Figure

Row = Sequence[str]


@dataclass(frozen=True)
class Picture:
    """An image to show: `width` x `height` are CSS pixels, a whole multiple of the stored ones when `crisp`."""

    uri: str
    alt: str
    width: int
    height: int
    crisp: bool


@dataclass(frozen=True)
class Sentences:
    """Sentences that a reader should see: a paragraph, or a list when `listed`. `quiet` ones explain and claim nothing."""

    texts: Sequence[str]
    title: str = ""
    listed: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Table:
    """A table of text. The first column names the row; `numbers` are the columns of figures, None for all others."""

    title: str
    head: Row
    rows: Sequence[Row]
    numbers: Sequence[int] | None = None
    note: str = ""


@dataclass(frozen=True)
class NamedRow:
    """One row of a `GroupedTable`. `ours` marks what the table is about, `difference` a row that compares those above it, `strong` the
    cells by their place that say what was proved."""

    name: str
    cells: Row
    ours: bool = False
    difference: bool = False
    strong: Collection[int] = ()


@dataclass(frozen=True)
class GroupedTable:
    """A table whose rows stand in groups under a heading each.

    `corner` is over the names of the rows, `head` over the cells. Columns of `words` are text, all others figures; a terminal of 80
    characters has no room for those of `left_out`.
    """

    title: str
    corner: str
    head: Row
    groups: Sequence[tuple[str, Sequence[NamedRow]]]
    note: str = ""
    words: Sequence[str] = ()
    left_out: Sequence[str] = ()


@dataclass(frozen=True)
class Charts:
    """Charts beside one another as far as there is room."""

    figures: Sequence[Figure]


@dataclass(frozen=True)
class Definitions:
    """Names and their values, one under another."""

    title: str
    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class ClassStrip:
    """One row of pictures, those of a cell together, in the order of the columns: a class by source, or a source by class."""

    name: str
    sources: Sequence[Sequence[Picture]]


@dataclass(frozen=True)
class ClassStrips:
    """Pictures of several sources side by side, a class a row. All rows after the first `open` are folded."""

    title: str
    columns: Row
    rows: Sequence[ClassStrip]
    note: str = ""
    open: int = 4


@dataclass(frozen=True)
class SourceStrips:
    """Pictures of many sources, a source a row, the same classes in the `columns` of each; as small as the pictures are."""

    title: str
    columns: Row
    rows: Sequence[ClassStrip]
    note: str = ""


Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Shown:
    """One picture of `width` x `height` stored pixels; `boxes` x, y, width, height in these; `drawn` name and values."""

    title: str
    picture: Picture
    width: int
    height: int
    boxes: Sequence[Box] = ()
    drawn: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class BoxGrid:
    """Rows of pictures with boxes drawn, under a title, the `code` they came of and a sentence. Rows after `open` are folded; `narrow`
    pictures have little said of them, and more stand in a row."""

    title: str
    code: str
    summary: str
    rows: Sequence[Sequence[Shown]]
    open: int = 4
    narrow: bool = False


@dataclass(frozen=True)
class Sheet:
    """One large picture: a contact sheet."""

    title: str
    picture: Picture
    note: str = ""


@dataclass(frozen=True)
class Bar:
    """One bar of stacked parts: name, width in percent of the longest bar, and count; `total` is said at its end."""

    name: str
    parts: Sequence[tuple[str, float, int]]
    total: str


@dataclass(frozen=True)
class Bars:
    """Bars of stacked parts, a row each."""

    title: str
    parts: Sequence[str]
    rows: Sequence[Bar]


@dataclass(frozen=True)
class Preformatted:
    """A text whose lines stay as they are."""

    title: str
    text: str


@dataclass(frozen=True)
class Beside:
    """Columns of blocks, beside one another where there is room, else one under another."""

    columns: Sequence[Sequence[Block]]


@dataclass(frozen=True)
class Folded:
    """Blocks that a reader opens by their title."""

    title: str
    blocks: Sequence[Block]


Block = (
    Sentences
    | Table
    | GroupedTable
    | Charts
    | Definitions
    | ClassStrips
    | SourceStrips
    | BoxGrid
    | Sheet
    | Bars
    | Preformatted
    | Beside
    | Folded
)
