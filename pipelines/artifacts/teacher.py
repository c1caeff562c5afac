"""The teacher that `squeeze` left, read back, and networks by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from augment.values import require_spread
from pipelines.artifacts.datasets import finished
from pipelines.errors import UserError
from pipelines.runtime.job import Job

if TYPE_CHECKING:
    import torch
    from torch import nn

TEACHER_FILE = "teacher.json"
TEACHER_WEIGHTS = "teacher.safetensors"


def build_network(name: str, classes: int, image_size: int, seed: int, key: str) -> nn.Module:
    """A network by name; a wrong name is an error of the parameter `key`."""
    from distill.networks import build

    try:
        return build(name, classes, image_size, seed)
    except ValueError as error:
        raise UserError(f"{key}: {error}") from None


@dataclass(frozen=True)
class Teacher:
    """The network that `squeeze` left, in eval mode and frozen, and what it expects of its input."""

    model: nn.Module
    network: str
    classes: list[str]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_teacher(job: Job[Any], device: torch.device) -> Teacher:
    """Read the teacher of the `squeeze` stage; `UserError` for one whose numbers cannot be a network's."""
    import safetensors.torch

    from distill.soundness import fault_of

    squeeze = finished(job, "squeeze")
    facts = squeeze.json(TEACHER_FILE)
    model = build_network(facts["network"], len(facts["classes"]), facts["image_size"], 0, "squeeze.network")
    model.load_state_dict(safetensors.torch.load(squeeze.read(TEACHER_WEIGHTS)))
    if (fault := fault_of(model)) is not None:
        raise UserError(
            f"the teacher in {squeeze.storage.url} is broken: {fault}; lower squeeze.training.learning_rate, then: limbeck run squeeze"
        )
    model.to(device).eval().requires_grad_(False)
    mean, std = tuple(facts["mean"]), tuple(facts["std"])
    try:
        require_spread(mean, std)
    except ValueError as error:
        raise UserError(
            f"the teacher in {squeeze.storage.url} is broken: {error}; run again: limbeck run squeeze"
        ) from None
    return Teacher(model, facts["network"], facts["classes"], facts["image_size"], mean, std)


def require_classes(classes: Sequence[str], teacher: Sequence[str], where: str) -> None:
    """A wrong class order is the commonest reason for a result that cannot be reproduced."""
    if list(classes) != list(teacher):
        raise UserError(
            f"the classes of {where} are not the teacher's, or not in its order: {list(classes)[:5]}... against "
            f"{list(teacher)[:5]}...; run squeeze again on this data"
        )
