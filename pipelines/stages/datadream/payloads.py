"""What the units of `datadream` are given: one dataclass a kind, in the order of their waves.

Keys are those of training images, `tag` is what a few-shot set is called in file names, and names of units stand for the shards
that they wrote. Digests are there for what they decide: another one makes the unit another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pipelines.runtime.typed import Payload


@dataclass(frozen=True)
class Caption(Payload):
    """Have a model tell the context of each few-shot image. `pixels` is a digest of the images, `captioner` names the model."""

    kind: ClassVar[str] = "caption"

    tag: str
    keys: tuple[str, ...]
    pixels: str
    captioner: str


@dataclass(frozen=True)
class Adapt(Payload):
    """Train adapters of `variant` on `images`: keys by label, whose prompts say `names`. `text` is the digest of the generator."""

    kind: ClassVar[str] = "adapt"

    tag: str
    variant: Literal["cls", "dset", "loft"]
    config: dict[str, Any]
    images: dict[int, tuple[str, ...]]
    names: dict[int, str]
    pixels: str
    text: str
    dtype: str
    domain: str
    contexts: str | None


@dataclass(frozen=True)
class Making:
    """Everything but the adapter that decides an image and its scores; models and the teacher by digest."""

    text: str
    clip: str
    teacher: str | None
    settings: dict[str, Any]
    batch_size: int
    dtype: str
    domain: str
    image: dict[str, Any]
    captions: bool


@dataclass(frozen=True)
class Generate(Payload):
    """Make the images `first` to `first + count` of a class. `adapter` is the digest of the unit that trained its adapter."""

    kind: ClassVar[str] = "generate"

    tag: str
    label: int
    class_name: str
    prompt_name: str
    shots: int
    few_shot_seed: int
    first: int
    count: int
    few_shot: tuple[str, ...]
    contexts: str | None
    adapter: str | None
    making: Making


@dataclass(frozen=True)
class Admit(Payload):
    """Judge what the units `generated` made of a class; `of` are the digests of their payloads."""

    kind: ClassVar[str] = "admit"

    tag: str
    label: int
    thresholds: dict[str, Any]
    generated: tuple[str, ...]
    of: tuple[str, ...]


@dataclass(frozen=True)
class Quality(Payload):
    """Compare what was made and what was admitted with the images of `reference`, a part of the split, whose digest is `images`."""

    kind: ClassVar[str] = "quality"

    tag: str
    reference: str
    images: str
    inception: str | None
    clip: str
    generated: tuple[str, ...]
    kept: tuple[str, ...]
    of: tuple[str, ...]


#: By kind.
PAYLOADS: dict[str, type[Payload]] = {one.kind: one for one in (Caption, Adapt, Generate, Admit, Quality)}
