"""What the units of `d3hr` are given: one dataclass a kind, in the order of their waves.

Names of units stand for the files that they wrote, and digests are there for what they decide: another one makes the unit another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pipelines.artifacts.class_model import Cell, Written
from pipelines.runtime.typed import Payload

#: What the generator is asked for to show a class: its number, or a prompt.
Prompt = int | str


@dataclass(frozen=True)
class Model:
    """The generator, by role and digest, and how it is held and fed."""

    role: str
    digest: str
    dtype: str
    batch_size: int


@dataclass(frozen=True)
class Invert(Payload):
    """Bring the real images of this unit's rows to `levels`; their moments stay, and with `keep` their latents.

    `settings` are those of inversion but for the level. `prompts` are by label; `images` is a digest of keys, labels and pixels.
    """

    kind: ClassVar[str] = "invert"

    model: Model
    settings: dict[str, Any]
    levels: tuple[int, ...]
    prompts: dict[int, Prompt]
    images: str
    keep: bool


@dataclass(frozen=True)
class RoundTrip(Payload):
    """Show real images (keys by label) as the autoencoder gives them back, and inverted to `level` and generated at `guidance`."""

    kind: ClassVar[str] = "round_trip"

    model: Model
    settings: dict[str, Any]
    level: int
    guidance: float | None
    keys: dict[int, tuple[str, ...]]
    prompts: dict[int, Prompt]
    images: str
    written: Written


@dataclass(frozen=True)
class Select(Payload):
    """Choose the group of every class for a set from what the units `parts` measured at `level`; `of` are their payloads' digests.

    `block` latents go into a file.
    """

    kind: ClassVar[str] = "select"

    set: int
    ipc: int
    classes: int
    level: int
    block: int
    config: dict[str, Any]
    parts: tuple[str, ...]
    of: tuple[str, ...]


@dataclass(frozen=True)
class Diagnose(Payload):
    """Say how Gaussian the classes are at each of `levels`; `scales`, `parts` and `of` (as in `Select`) by the tag of a guidance."""

    kind: ClassVar[str] = "diagnose"

    levels: tuple[int, ...]
    classes: int
    scales: dict[str, float]
    parts: dict[str, tuple[str, ...]]
    of: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Decode(Payload):
    """Generate the images at `cells`, (slot, label) each, of a set, from the latents in the file `latents`; `group` is the digest of
    the unit that chose them."""

    kind: ClassVar[str] = "decode"

    set: int
    cells: tuple[Cell, ...]
    latents: str
    group: str
    model: Model
    settings: dict[str, Any]
    level: int
    guidance: float | None
    prompts: dict[int, Prompt]
    names: dict[int, str]
    written: Written
    caption: str | None


#: By kind.
PAYLOADS: dict[str, type[Payload]] = {one.kind: one for one in (Invert, RoundTrip, Select, Diagnose, Decode)}


def blocks(items: Sequence[Any], size: int) -> list[list[Any]]:
    """Cut into lists of `size`, the last of what is left."""
    return [list(items[at : at + size]) for at in range(0, len(items), size)]
