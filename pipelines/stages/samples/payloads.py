"""What the units of `samples` are given: one dataclass a kind, in the order of their waves.

Names of units stand for the files that they wrote, and digests are there for what they decide: another one makes the unit another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pipelines.artifacts.class_model import Written
from pipelines.runtime.typed import Payload


@dataclass(frozen=True)
class Model:
    """The generator by its digest, and how it is held and fed."""

    digest: str
    dtype: str
    batch_size: int


@dataclass(frozen=True)
class Encode(Payload):
    """Encode the real images of this unit's rows; `images` is a digest of keys, labels and pixels."""

    kind: ClassVar[str] = "encode"

    model: Model
    images: str


@dataclass(frozen=True)
class Cluster(Payload):
    """Look for `ipc` modes of each class for a set. `parts` are by label the units that encoded its images, `of` the digests of all of
    these."""

    kind: ClassVar[str] = "cluster"

    set: int
    ipc: int
    names: dict[int, str]
    parts: dict[int, tuple[str, ...]]
    of: tuple[str, ...]


@dataclass(frozen=True)
class Generate(Payload):
    """Make the images at `cells`, (slot, label) each, of a set. `prompts` and `names` are by label.

    `modes` are by label the unit that found the class's modes, `guidance` how images are pulled to them, `of` the digests of these
    units; nothing is pulled without them.
    """

    kind: ClassVar[str] = "generate"

    set: int
    cells: tuple[tuple[int, int], ...]
    model: Model
    settings: dict[str, Any]
    prompts: dict[int, int]
    names: dict[int, str]
    written: Written
    caption: str | None
    modes: dict[int, str]
    guidance: dict[str, Any] | None
    of: tuple[str, ...]


#: By kind.
PAYLOADS: dict[str, type[Payload]] = {one.kind: one for one in (Encode, Cluster, Generate)}
