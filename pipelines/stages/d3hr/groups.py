"""The groups of a set as files: latents in blocks, as they are generated, and what is known of each class's group."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import safetensors.torch
import torch

from distill.d3hr.config import SelectConfig
from distill.d3hr.selection import Group
from pipelines.artifacts.class_model import cells_of
from pipelines.stages.d3hr.params import group_file
from pipelines.stages.d3hr.payloads import blocks
from pipelines.storage import canonical_json, csv_bytes

COLUMNS = ("set", "label", "class", "mean", "deviation", "skew", "total", "seed", "candidate")
_MEMBERS = "members"


@dataclass(frozen=True)
class Member:
    """What is known of one latent of a group: the seed of its class's noise, its share of the class, the component of the class's
    model that it is of, and the key of the real image that it is of, if it is."""

    seed: int
    weight: float
    component: int
    parent: str | None


@dataclass(frozen=True)
class ChosenSet:
    """The groups of all classes of set `number`; `seeds` by class, `parents` by class and slot where members are of real images."""

    number: int
    groups: Sequence[Group]
    seeds: Sequence[int]
    parents: Sequence[Sequence[str]]

    def files(self, size: int) -> Iterator[tuple[str, bytes]]:
        """Latents by path, `size` to a file."""
        cells = cells_of(len(self.groups[0].latents), len(self.groups))
        for place, block in enumerate(blocks(cells, size)):
            latents = torch.stack([self.groups[label].latents[slot] for slot, label in block])
            members = [self._member(slot, label) for slot, label in block]
            told = {_MEMBERS: canonical_json(members).decode()}
            yield group_file(self.number, place), safetensors.torch.save({_MEMBERS: latents.contiguous()}, told)

    def _member(self, slot: int, label: int) -> list[Any]:
        group, parents = self.groups[label], self.parents[label]
        weight = round(float(group.weights[slot]), 6)
        return [self.seeds[label], weight, int(group.components[slot]), parents[slot] if parents else None]

    @property
    def mean_scores(self) -> dict[str, float]:
        """The parts of a score in the mean over classes; those that groups of one do not have are left out."""
        scores = [asdict(group.scores) for group in self.groups]
        parts = [name for name in scores[0] if all(one[name] is not None for one in scores)]
        return {name: float(f"{sum(one[name] for one in scores) / len(scores):.6g}") for name in parts}

    def scores(self, classes: Sequence[str], config: SelectConfig) -> bytes:
        """The table of the parts of each class's score, in units of the latents."""
        rows = []
        for label, group in enumerate(self.groups):
            parts = (group.scores.mean, group.scores.deviation, group.scores.skew, group.scores.total(config.weights))
            values = ["" if part is None else f"{part:.6g}" for part in parts]
            candidate = "" if group.candidate is None else group.candidate
            row = (self.number, label, classes[label], *values, self.seeds[label], candidate)
            rows.append(dict(zip(COLUMNS, row, strict=True)))
        return csv_bytes(rows, COLUMNS)


def read_block(data: bytes) -> tuple[torch.Tensor, list[Member]]:
    """The latents (n, D) of a file of `ChosenSet.files`, and what is known of each."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    members = json.loads(header["__metadata__"][_MEMBERS])
    return safetensors.torch.load(data)[_MEMBERS], [Member(*one) for one in members]
