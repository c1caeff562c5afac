"""Plays a curriculum over real images and synthetic ones: exact epochs, the same for any number of ranks and workers, resumable.

Imports torch; `import pipelines` does not reach it. The table comes from `artifacts.curriculum`, the draws are `synth.discl.mix`'s, and the
rest is done as for any epochs (`epochs`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch.utils import data

from pipelines.errors import UserError
from pipelines.images.params import ImageLimits
from pipelines.loaders.dataset import Location, Transform, opened
from pipelines.loaders.epochs import EpochDataset, OnError
from pipelines.loaders.order import Numbers, Tail
from pipelines.loaders.reading import SampleReader
from pipelines.loaders.stream import content_digest
from pipelines.shards.dataset import Dataset
from pipelines.storage import canonical_json
from synth.discl.schedules import REAL
from synth.discl.table import Curriculum
from synth.errors import SynthError


class CurriculumDataset(EpochDataset):
    """Batches of one rank's share of a curriculum's epochs, of the datasets `real` and `synthetic`.

    As `StreamDataset` in everything but what an epoch consists of, and for `StreamLoader` as well: samples have `level` besides, 100
    for a real image. Real images that the curriculum does not name are left out, and so are synthetic ones of a held-out image.
    `seed` is the curriculum's unless given. After the last epoch `UserError` says that there are no more.

        dataset = CurriculumDataset(read_curriculum("curriculum/diverse_to_specific.json"), real, kept, batch_size=128)

    Of an adaptive curriculum an epoch's level is said with `choose` before the epoch begins; states hold what was chosen.
    """

    def __init__(
        self,
        table: Curriculum,
        real: Location,
        synthetic: Location,
        batch_size: int,
        *,
        seed: int | None = None,
        tail: Tail = "exact",
        rank: int | None = None,
        world: int | None = None,
        transform: Transform | None = None,
        collate: Callable[[list[Any]], Any] = data.default_collate,
        members: Sequence[str] = (),
        on_error: OnError = "raise",
        limits: ImageLimits | None = None,
        decode: bool = True,
        threads: int = 2,
    ) -> None:
        table = table if seed is None else replace(table, seed=seed)
        readers = [SampleReader(opened(place), members, limits, decode=decode) for place in (real, synthetic)]
        self._played = _Played(table, *readers)
        super().__init__(
            self._played,
            batch_size,
            seed=table.seed,
            tail=tail,
            rank=rank,
            world=world,
            transform=transform,
            collate=collate,
            on_error=on_error,
            threads=threads,
        )

    @property
    def epochs(self) -> int:
        """Epochs of the curriculum."""
        return len(self._played.table.epochs)

    def choose(self, epoch: int, level: int) -> None:
        """Say which level an adaptive epoch has, 100 being real images only; on every rank the same, before the epoch begins."""
        self._played.choose(epoch, level)

    def consumed_state(self, position: int | None = None) -> dict[str, Any]:
        """As `EpochDataset`'s, with the levels chosen so far."""
        return super().consumed_state(position) | {"chosen": self._played.chosen.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken, with the levels that were chosen until then."""
        super().load_state_dict(state)
        self._played.chosen.copy_(torch.tensor(state["chosen"]))


class _Played:
    """The source of a curriculum's epochs. Samples are numbered through the real dataset, then through the synthetic one."""

    def __init__(self, table: Curriculum, real: SampleReader, synthetic: SampleReader) -> None:
        if real.dataset.classes != synthetic.dataset.classes:
            raise UserError(
                f"{real.dataset.storage.url} and {synthetic.dataset.storage.url} have other classes; give the real part that "
                "the synthetic images were made of"
            )
        self.table, self._real, self._synthetic = table, real, synthetic
        keys = real.dataset.rows(["key"])["key"].to_pylist()
        self._tail, trained = _trained_on(table, keys, real.dataset)
        if (others := int((~self._tail).sum())) < table.mix.real:
            raise UserError(
                f"the curriculum has {table.mix.real} images an epoch that are not hard, {real.dataset.storage.url} holds {others}; give "
                "the real part that it was made of"
            )
        levels, parents = _levels(synthetic.dataset)
        # What was made of a held-out image would give it away.
        usable = np.flatnonzero(~np.isin(parents, np.array(table.held_out, dtype=object)))
        self._levels = levels[usable]
        self._numbers = np.concatenate([trained, usable + len(keys)]).astype(np.int64)
        self._level_of = np.concatenate([np.full(len(keys), REAL), levels])
        # Persistent workers see here what was chosen after they began.
        self.chosen = torch.full((len(table.epochs),), -1, dtype=torch.int64).share_memory_()
        row = table.epochs[0]
        self._length = row.real + row.tail + row.synthetic

    @property
    def classes(self) -> list[str]:
        return self._real.dataset.classes

    @property
    def identity(self) -> dict[str, Any]:
        table = hashlib.sha256(canonical_json(asdict(self.table))).hexdigest()
        parts = {
            name: content_digest(reader.dataset)
            for name, reader in (("real", self._real), ("synthetic", self._synthetic))
        }
        return parts | {"curriculum": table}

    @property
    def repeats(self) -> bool:
        return False

    def __len__(self) -> int:
        return self._length

    def choose(self, epoch: int, level: int) -> None:
        if not 0 <= epoch < len(self.chosen) or not self.table.epochs[epoch].adaptive:
            raise UserError(f"epoch {epoch} is no adaptive epoch of the curriculum {self.table.strategy}")
        candidates = (*self.table.epochs[epoch].levels, REAL)
        if level not in candidates:
            raise UserError(f"epoch {epoch} has the levels {sorted(set(candidates))} to choose from, got {level}")
        self.chosen[epoch] = level

    def order(self, epoch: int) -> _Order:
        level = int(self.chosen[epoch]) if 0 <= epoch < len(self.chosen) else -1
        try:
            draw = self.table.draw(epoch, self._tail, self._levels, None if level < 0 else level)
        except SynthError as error:
            raise UserError(str(error)) from None
        return _Order(self._numbers[draw.positions])

    def read(self, number: int) -> dict[str, Any]:
        first = len(self._real)
        sample = self._real.read(number) if number < first else self._synthetic.read(number - first)
        return sample | {"level": int(self._level_of[number])}


class _Order:
    """The sample numbers of one epoch, by position."""

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers

    def take(self, positions: Sequence[int] | Numbers) -> Numbers:
        return self._numbers[np.asarray(positions, np.int64) % len(self._numbers)]


def _trained_on(table: Curriculum, keys: Sequence[str], real: Dataset) -> tuple[Any, Numbers]:
    """Which of the real images to train on are hard (n,) bool, and the numbers (n,) of all of them, in index order."""
    there = set(keys)
    missing = [key for key in (*table.hard, *(table.others or ())) if key not in there]
    if missing:
        raise UserError(
            f"{real.storage.url} does not hold {len(missing)} images of the curriculum, {missing[0]} first; give the real part that it "
            "was made of"
        )
    hard, held_out = set(table.hard), set(table.held_out)
    others = there - hard if table.others is None else set(table.others)
    chosen = [number for number, key in enumerate(keys) if key in others or (key in hard and key not in held_out)]
    return np.array([keys[number] in hard for number in chosen]), np.array(chosen, np.int64)


def _levels(synthetic: Dataset) -> tuple[Numbers, Any]:
    """The level of each synthetic image (n,) int64, and the key of the real image that it was made of, in index order."""
    rows = synthetic.rows(["key", "params", "parents"])
    levels = []
    for key, params in zip(rows["key"].to_pylist(), rows["params"].to_pylist(), strict=True):
        level = json.loads(params or "{}").get("level")
        if type(level) is not int or not 0 <= level < REAL:
            raise UserError(
                f"sample {key} in {synthetic.storage.url} has no guidance level; give the images that discl made"
            )
        levels.append(level)
    parents = [(names or [""])[0] for names in rows["parents"].to_pylist()]
    return np.array(levels, np.int64), np.array(parents, dtype=object)
