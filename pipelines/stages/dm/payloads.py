"""What the units of `dm` are given: one dataclass a kind, in the order of their waves. `inputs` are digests of what is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipelines.runtime.typed import Payload


@dataclass(frozen=True)
class TrainNetwork(Payload):
    """Train network `place` of the pool of a set."""

    kind: ClassVar[str] = "network"

    number: int
    place: int
    inputs: dict[str, str]


@dataclass(frozen=True)
class TrainExpert(Payload):
    """Train expert `place`, which all sets share."""

    kind: ClassVar[str] = "expert"

    place: int
    inputs: dict[str, str]


@dataclass(frozen=True)
class Condense(Payload):
    """Condense some classes of a set to `ipc` images each. `pool` are digests of the networks or experts that are trained for it."""

    kind: ClassVar[str] = "condense"

    number: int
    classes: tuple[int, ...]
    ipc: int
    inputs: dict[str, str]
    pool: tuple[str, ...]
