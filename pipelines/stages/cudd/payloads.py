"""What the units of `cudd` are given. Waves of a curriculum: choose, recover, train its student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from distill.config import TrainConfig
from pipelines.artifacts.distilled import set_name
from pipelines.runtime.typed import Payload


@dataclass(frozen=True)
class Choose(Payload):
    """Choose the real images that slots from `first` on of some classes begin at.

    `before` is the digest of the same choice of the curriculum before, `student` that of its student; both are empty in the first.
    `inputs` are digests of what is read.
    """

    kind: ClassVar[str] = "choose"

    number: int
    curriculum: int
    classes: tuple[int, ...]
    first: int
    count: int
    before: str
    student: str
    inputs: dict[str, str]


@dataclass(frozen=True)
class Recover(Payload):
    """Recover the images of some slots for a chunk of classes, from the images of `choice`; `student` as in `Choose`."""

    kind: ClassVar[str] = "recover"

    number: int
    curriculum: int
    slots: tuple[int, ...]
    classes: tuple[int, ...]
    choice: str
    student: str
    inputs: dict[str, str]


@dataclass(frozen=True)
class TrainStudent(Payload):
    """Train the student of a curriculum on the first `ipc` slots of a set, from the weights of the one before.

    `images` are digests of the units that recovered these, `before` that of the student before.
    """

    kind: ClassVar[str] = "student"

    number: int
    curriculum: int
    ipc: int
    network: str
    training: TrainConfig
    images: tuple[str, ...]
    before: str
    inputs: dict[str, str]


PAYLOADS: Mapping[str, type[Payload]] = {kind.kind: kind for kind in (Choose, Recover, TrainStudent)}


def choice_name(number: int, curriculum: int, first_class: int) -> str:
    """The unit that chooses for a chunk of classes; its file is `choice_name`.json."""
    return f"choices/{set_name('cudd', number)}-{curriculum:02d}-{first_class:06d}"


def student_name(number: int, curriculum: int) -> str:
    """The unit that trains a curriculum's student; its file is `student_name`.safetensors."""
    return f"students/{set_name('cudd', number)}-{curriculum:02d}"


def images_name(number: int, place: int) -> str:
    """The unit that recovers images, in the order of a set's units."""
    return f"{set_name('cudd', number)}-{place:06d}"
