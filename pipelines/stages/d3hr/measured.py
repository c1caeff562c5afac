"""What units of `d3hr` measured, as files of theirs: moments of classes by level, and latents; written by one wave, merged by the next.

Merging is in the order of the plan, so that it rounds the same on any number of workers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import safetensors.torch
import torch

from distill.d3hr.moments import Moments
from pipelines.runtime.committed import Committed
from pipelines.stages.d3hr.params import LATENTS, MOMENTS
from pipelines.storage import canonical_json

#: Levels are timesteps; that of clean latents is this.
CLEAN = 0
#: Dimensions, of those that a latent has, in which correlations are measured.
PROBED = 128
_POWERS = tuple(field.name for field in fields(Moments))
_LABELS, _KEYS, _MIXING = "labels", "keys", "mixing"
Tensors = dict[str, torch.Tensor]


def moments_file(unit: str) -> str:
    """Where a unit's moments lie."""
    return f"{unit}.safetensors"


def probes_file(unit: str) -> str:
    """Where the few dimensions of its latents lie in which correlations are measured."""
    return f"probes/{unit.removeprefix(f'{MOMENTS}/')}.safetensors"


def latents_file(unit: str) -> str:
    """Where its latents lie, if they stay."""
    return f"{LATENTS}/{unit.removeprefix(f'{MOMENTS}/')}.safetensors"


@dataclass(frozen=True, eq=False)
class Latents:
    """Latents of some images: `keys` and `labels` (n,) of them, and by level the latents (n, ...) float32."""

    keys: Sequence[str]
    labels: torch.Tensor
    at: Mapping[int, torch.Tensor]

    def __len__(self) -> int:
        return len(self.keys)

    def to_bytes(self) -> bytes:
        """The file of latents."""
        tensors = {_LABELS: self.labels} | {str(level): one.contiguous() for level, one in self.at.items()}
        return safetensors.torch.save(tensors, {_KEYS: canonical_json(list(self.keys)).decode()})

    @classmethod
    def from_bytes(cls, data: bytes) -> Latents:
        """Read what `to_bytes` wrote."""
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        labels = tensors.pop(_LABELS)
        keys = json.loads(header["__metadata__"][_KEYS])
        return cls(keys, labels, {level: tensors[str(level)] for level in sorted(map(int, tensors))})

    def of(self, label: int) -> Latents:
        """Those of one class."""
        places = (self.labels == label).nonzero()[:, 0]
        keys = [self.keys[place] for place in places.tolist()]
        return Latents(keys, self.labels[places], {level: one[places] for level, one in self.at.items()})

    @classmethod
    def join(cls, parts: Sequence[Latents]) -> Latents:
        """Several as one, in their order; without any level where none has an image."""
        parts = [part for part in parts if len(part)]
        if not parts:
            return cls([], torch.zeros(0, dtype=torch.int64), {})
        at = {level: torch.cat([part.at[level] for part in parts]) for level in parts[0].at}
        return cls([key for part in parts for key in part.keys], torch.cat([part.labels for part in parts]), at)


class Measuring:
    """Moments by level of the classes `labels`, of latents that come in batches; with `keep` the latents stay too."""

    def __init__(self, labels: Sequence[int], keep: bool) -> None:
        self._labels, self._keep = torch.tensor(sorted(labels)), keep
        self._moments: dict[int, Moments] = {}
        self._latents: list[Latents] = []
        self._probes: list[Latents] = []

    def add(self, batch: Latents) -> None:
        """Take in a batch of one image at least; its latents may be on any device."""
        groups = torch.searchsorted(self._labels, batch.labels)
        for level, latents in batch.at.items():
            own = Moments.of(latents, groups.to(latents.device), len(self._labels), higher=True)
            self._moments[level] = self._moments[level].merge(own) if level in self._moments else own
        probed = {level: one.flatten(1)[:, _dimensions(one)].cpu() for level, one in batch.at.items()}
        self._probes.append(Latents(batch.keys, batch.labels, probed))
        if self._keep:
            self._latents.append(
                Latents(batch.keys, batch.labels, {level: one.cpu() for level, one in batch.at.items()})
            )

    def files(self, unit: str, mixing: Mapping[int, tuple[float, float]]) -> dict[str, bytes]:
        """The unit's files by path. `mixing` says by level how much signal and noise noising forward to it would mix."""
        tensors = {_LABELS: self._labels if self._moments else self._labels[:0]}
        for level, moments in self._moments.items():
            powers = {name: getattr(moments, name) for name in _POWERS}
            tensors |= {f"{level}.{name}": value.cpu() for name, value in powers.items() if value is not None}
        tensors |= {f"{level}.{_MIXING}": torch.tensor(pair, dtype=torch.float64) for level, pair in mixing.items()}
        files = {moments_file(unit): safetensors.torch.save(tensors), probes_file(unit): _joined(self._probes)}
        return files | ({latents_file(unit): _joined(self._latents)} if self._keep else {})


def _joined(parts: Sequence[Latents]) -> bytes:
    return Latents.join(parts).to_bytes()


def _dimensions(latents: torch.Tensor) -> torch.Tensor:
    """Which dimensions of latents (n, ...) are probed: a draw that is the same for all."""
    count = latents[0].numel()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order[:PROBED].sort().values.to(latents.device)


class Measured:
    """What the units `parts` measured, of `classes` classes, one file at a time."""

    def __init__(self, committed: Committed, parts: Sequence[str], classes: int) -> None:
        self._committed, self._parts, self._classes = committed, parts, classes

    def moments(self, level: int) -> Moments:
        """The moments of all classes at a level; group i is class i."""
        whole: Tensors = {}
        for part in self._parts:
            tensors = safetensors.torch.load(self._committed.read(moments_file(part)))
            labels = tensors[_LABELS]
            own = {name: tensors[f"{level}.{name}"] for name in _POWERS if f"{level}.{name}" in tensors}
            if not len(labels):
                continue  # none of its images could be inverted
            whole = whole or {name: one.new_zeros(self._classes, *one.shape[1:]) for name, one in own.items()}
            so_far = Moments(**{name: one[labels] for name, one in whole.items()})
            merged = so_far.merge(Moments(**own))
            for name, one in whole.items():
                one[labels] = getattr(merged, name)
        if not whole:
            nothing = torch.zeros(self._classes, 1, dtype=torch.float64)
            return Moments(torch.zeros(self._classes, dtype=torch.int64), nothing, nothing)
        return Moments(**whole)

    def mixing(self, level: int) -> tuple[float, float]:
        """Signal and noise that noising forward to a level mixes."""
        signal, noise = self._first[f"{level}.{_MIXING}"].tolist()
        return signal, noise

    @cached_property
    def _first(self) -> Tensors:
        return safetensors.torch.load(self._committed.read(moments_file(self._parts[0])))

    def latents(self) -> Iterator[Latents]:
        """The latents of each class in turn, where they stay: one class is held, and the file in which it ends."""
        return self._by_class(latents_file)

    def probes(self) -> Iterator[Latents]:
        """The probed dimensions (n, p) of the latents of each class in turn."""
        return self._by_class(probes_file)

    def _by_class(self, file_of: Callable[[str], str]) -> Iterator[Latents]:
        """Class by class; units have their images in the order of classes, so a class ends where a file goes on to a later one."""
        files, held = iter(self._parts), list[Latents]()
        for label in range(self._classes):
            while not held or int(held[-1].labels[-1]) <= label:
                part = next(files, None)
                if part is None:
                    break
                latents = Latents.from_bytes(self._committed.read(file_of(part)))
                held += [latents] if len(latents) else []
            yield Latents.join([part.of(label) for part in held])
            held = [part for part in held if int(part.labels[-1]) > label]
