"""What the units of `discl` are given: one dataclass a kind, in the order of their waves. Digests are there for what they decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pipelines.artifacts.adapters import StoredAdapter
from pipelines.runtime.typed import Payload
from synth.discl.levels import StartRule


@dataclass(frozen=True)
class Judge(Payload):
    """Train a network on all images of the profile but those of fold `number`, and judge these."""

    kind: ClassVar[str] = "judge"

    number: int
    folds: int
    profile: str
    network: str
    training: dict[str, Any]


@dataclass(frozen=True)
class Rank(Payload):
    """Order all images by what the units `judged` measured, and choose the `count` worst."""

    kind: ClassVar[str] = "rank"

    profile: str
    measure: str
    count: int
    judged: tuple[str, ...]
    of: tuple[str, ...]


@dataclass(frozen=True)
class Calibrate(Payload):
    """Score the real images of the classes `labels` against the `texts` of all classes, and take from them the bound of each."""

    kind: ClassVar[str] = "calibrate"

    labels: tuple[int, ...]
    texts: tuple[str, ...]
    share: float
    profile: str
    clip: str


@dataclass(frozen=True)
class Making:
    """Everything but the hard images that decides images and scores; models by digest."""

    text: str
    clip: str
    texts: tuple[str, ...]
    teacher: str | None
    refiner: str | None
    levels: tuple[int, ...]
    starts: StartRule
    seeds: int
    tries: int
    bound: float | None
    settings: dict[str, Any]
    batch_size: int
    dtype: str
    image: dict[str, Any]


@dataclass(frozen=True)
class Spread(Payload):
    """Make the spectra of some hard images: those of `keys`, or, with none, `count` from `first` on of what the unit `of` chose.

    `pixels` is a digest of the real images and what is done to them, `prompts` has all prompts of their classes. `calibration` is the
    digest of the unit that tells the bounds, `adapter` what the generator runs with.
    """

    kind: ClassVar[str] = "spread"

    keys: tuple[str, ...]
    first: int
    count: int
    of: str | None
    pixels: str
    prompts: dict[int, tuple[str, ...]]
    calibration: str | None
    making: Making
    adapter: StoredAdapter | None = None

    def to_json(self) -> dict[str, Any]:
        form = super().to_json()
        if self.adapter is None:  # units of a generator as it is are those of before there were adapters
            del form["adapter"]
        return form


@dataclass(frozen=True)
class Admit(Payload):
    """Judge what the unit `spread` made by its stored scores; `of` is the digest of its payload."""

    kind: ClassVar[str] = "admit"

    filters: dict[str, Any] | None
    bound: float | None
    spread: str
    of: str


#: By kind.
PAYLOADS: dict[str, type[Payload]] = {one.kind: one for one in (Judge, Calibrate, Rank, Spread, Admit)}
