"""What the units of `coreset` are given: one dataclass a kind, in the order of their waves. `inputs` are digests of what is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pipelines.runtime.typed import Payload

#: Methods that store images whole.
Whole = Literal["random", "herding", "medoids"]
#: Methods that store several images in one.
Tiled = Literal["random_tiles", "medoids_tiles"]


@dataclass(frozen=True)
class Embed(Payload):
    """Compute the features of the images `first` to `first + count` of all that may be chosen, class by class."""

    kind: ClassVar[str] = "embed"

    first: int
    count: int
    inputs: dict[str, str]


@dataclass(frozen=True)
class Block:
    """The features that the unit `name` computed, whose payload has the digest `of`."""

    name: str
    first: int
    count: int
    of: str


@dataclass(frozen=True)
class Chunk:
    """The classes `first` to `first + count` of the set `number`, `ipc` images each."""

    number: int
    first: int
    count: int
    ipc: int

    @property
    def labels(self) -> range:
        """The classes."""
        return range(self.first, self.first + self.count)


@dataclass(frozen=True)
class Choose(Payload):
    """Choose images of some classes and copy them. `levels` are of medoids; random choice has no `features`."""

    kind: ClassVar[str] = "choose"

    method: Whole
    chunk: Chunk
    levels: tuple[int, ...]
    features: tuple[Block, ...]
    caption: str | None
    inputs: dict[str, str]


@dataclass(frozen=True)
class Tile(Payload):
    """Choose images of some classes and store `factor` x `factor` of them in one. `levels` are of medoids, in images."""

    kind: ClassVar[str] = "tile"

    method: Tiled
    chunk: Chunk
    factor: int
    levels: tuple[int, ...]
    features: tuple[Block, ...]
    image: dict[str, Any]
    caption: str | None
    inputs: dict[str, str]


@dataclass(frozen=True)
class Cut(Payload):
    """Cut and tile the crops of some classes of which the teacher is surest (RDED)."""

    kind: ClassVar[str] = "cut"

    chunk: Chunk
    config: dict[str, Any]
    image: dict[str, Any]
    caption: str | None
    inputs: dict[str, str]


#: By kind.
PAYLOADS: dict[str, type[Payload]] = {one.kind: one for one in (Embed, Choose, Tile, Cut)}
