"""How a user names a source in `params.yaml`: a `type`, a `path`, and what that type needs.

What a label says is one rule for all (`pipelines.sources.labels`): a number is an index into the names that its own file or
folder states, text is a name, -1 and null say nothing. Sources are merged by name. Numbers without any names are called "0",
"1", ...; beside a source with names they are refused until `classes` names them.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipelines.config import Section

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


Layout = Literal["auto", "class", "split_class", "flat"]


class PathParams(Section):
    """What every source that reads one place says of it."""

    path: str = Field(min_length=1, description="fsspec URL or local path; sample:NAME for an embedded sample")
    split: str | None = Field(default=None, description="split of every record (train, val, test)")
    classes: list[str] | None = Field(
        default=None, description="class names by label; else what the source itself says"
    )

    @model_validator(mode="after")
    def _class_names_are_distinct(self) -> Self:
        if self.classes is not None and len(set(self.classes)) != len(self.classes):
            raise ValueError("the class names are not distinct")
        return self


class FolderParams(PathParams):
    """A folder of image files.

    `layout`: `class` is CLASS/.../FILE, `split_class` is SPLIT/CLASS/.../FILE (`split` then picks one of the splits;
    training is read as train, validation, valid, dev, eval and evaluation as val, testing as test), `flat` is any depth without
    labels. `auto` is `class`, and where all folders are called like splits and hold class folders `split_class`, which is
    said; folders called like splits beside others are refused, unless it is one that holds none of the others' names.
    Classes are the folders' names, always text, sorted, unless `classes` gives their order; a folder without a single
    image is no class.

    An image is any file but those whose ending says text, table, archive or code: what cannot be decoded is a row.
    Beside `a.jpg`, `a.txt` is its caption (unless it holds the numbers of boxes) and `a.json` is kept when it has COCO
    `annotations`. `metadata.jsonl` and `metadata.csv` say more of files by `file_column`, relative to the table: a
    label in `label_column` (it counts before the folder's name), a caption in `caption_column`, boxes in `objects`;
    `table` names another one. A label there is an index where it is a number (in a CSV: where all are), else a name.

    Hidden files, what systems leave (Thumbs.db, @eaDir, __MACOSX) and links that lead out of the folder or to folders
    are passed over and counted; `follow_links` follows those too.
    """

    type: Literal["folder"] = "folder"
    layout: Layout = "auto"
    follow_links: bool = Field(False, description="follow links that lead out of the folder, and links to folders")
    table: str | None = Field(
        None, description="a .jsonl, .csv or .tsv in the folder; else metadata.jsonl, metadata.csv"
    )
    file_column: str = Field("file_name", description="column of the table with the file, relative to the table")
    label_column: str = "label"
    caption_column: str = "text"


class TarParams(PathParams):
    """One tar or a folder of tars, WebDataset style: members that share a name up to the first dot are a sample.

    The label is a `.cls` member (digits are an index, other text a name) or `label_key` of `.json` (a number is an index,
    text a name, digits or not); the caption `.txt` or `caption_key`. What `.json` says is kept when it has COCO `annotations`.
    Class names come from `classes`, else from the nearest `classes.json` in the folder of the tar or above it, for a folder
    `shards` also beside it; without one a `label_name` in `.json` names the index, and text labels are names.

    Members of a sample may lie apart, joined archives are read one after the other, and links lead to what they name
    inside the archive. Of several images of one sample (`a.left.jpg` and `a.right.jpg`, `a.jpg` and `a.png`, `photo.1.jpg`
    and `photo.2.jpg`) the first is kept and the others are rows dropped as `further_image`; `images: all` keeps every one,
    with the same label and caption. Tars that are cut off or damaged are all named and refused; `damaged: head` takes what
    comes before the damage and gives a failed row for the rest, of which nobody knows how much it was. Members are read
    by their offset, so compressed tars have to be unpacked first.
    """

    type: Literal["tar"] = "tar"
    label_key: str = "label"
    caption_key: str = "caption"
    images: Literal["first", "all"] = Field("first", description="which images of a sample are kept")
    damaged: Literal["refuse", "head"] = Field("refuse", description="what becomes of tars that break off")


class ParquetParams(PathParams):
    """One parquet file, a folder of them or a pattern, with image bytes in a column or paths to image files.

    `image_column` holds bytes (or lists of them, or base64), or Hugging Face's struct of `bytes` and `path`; `path_column`
    paths relative to the parquet file, which may not lead out of this source's folder. Exactly one is given. `caption_column`
    has captions. Labels in a `label_column` of numbers are indices, those in one of text are names, digits or not; each file's
    indices count in its own ClassLabel names (Hugging Face's metadata), and a folder `COLUMN=VALUE` gives its files that label.
    Files that are no sound parquet are all named and refused; rows that a damaged row group does not give fail one by one.
    """

    type: Literal["parquet"] = "parquet"
    image_column: str | None = None
    path_column: str | None = None
    label_column: str | None = None
    caption_column: str | None = None

    @model_validator(mode="after")
    def _one_image_column(self) -> Self:
        if (self.image_column is None) == (self.path_column is None):
            raise ValueError("give exactly one of image_column and path_column")
        return self


class IdxParams(PathParams):
    """The MNIST family: `images` and `labels` are IDX files in the folder `path`, plain or gzipped.

    A label is an index. Class names come from `classes`, else from a `classes.json` in the folder. `sha256` (hex, by file name) is checked
    before anything is read from a file.
    """

    type: Literal["idx"] = "idx"
    images: str
    labels: str | None = None
    sha256: dict[str, Sha256] = Field(default={})


Base = Annotated[FolderParams | TarParams | ParquetParams | IdxParams, Field(discriminator="type")]


class ComposedParams(Section):
    """Scenes made from the images of another source, of one thing each on a plain ground (Fashion-MNIST, say).

    Scene i is a function of (`seed`, `domain`, i) and the base's images: `scenes` of them are made, from `first` on. A
    `base` scene has `items` things at the least and the most (fewer where there is no room), tinted, turned, on a plain
    or textured ground, no two boxes overlapping by more than `overlap` (IoU), none hidden. A `target` scene is what no
    base scene shows: one grey thing, lit from one side on a woven ground, its caption naming the class only. A record has a
    label where every scene has one thing. `nouns` says what a class is called in captions, else its name does.
    """

    type: Literal["composed"] = "composed"
    base: Base = Field(description="a labelled source of one split")
    scenes: int = Field(ge=1, le=10_000_000)
    first: int = Field(0, ge=0)
    seed: int = Field(0, ge=0)
    size: int = Field(64, ge=32, le=1024, description="side of a scene, pixels")
    domain: Literal["base", "target"] = "base"
    items: tuple[int, int] = Field((1, 4), description="things in a base scene, at the least and the most")
    overlap: float = Field(0.1, ge=0, lt=1, description="largest IoU of two boxes")
    nouns: dict[str, str] = Field({}, description="class name -> noun")
    split: str | None = Field(None, description="split of every scene; else that of the base")

    @model_validator(mode="after")
    def _items_are_a_range(self) -> Self:
        if not 1 <= self.items[0] <= self.items[1] <= 8:
            raise ValueError("items is [least, most] with 1 <= least <= most <= 8")
        return self

    @property
    def path(self) -> str:
        """Where the images come from, for messages."""
        return self.base.path


SourceParams = Annotated[
    FolderParams | TarParams | ParquetParams | IdxParams | ComposedParams, Field(discriminator="type")
]
