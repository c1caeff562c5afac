"""A training that chooses its own levels: epochs on real images in turn with epochs on the level at which it has lately learned most.

The rule is `synth.discl.progress`'s. Progress is measured on hard images that are held out of the training, with what was made of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from distill.accuracy import normalise
from distill.sampling import Places
from distill.training import Trainer
from pipelines.evaluation.discl.pool import Course, Pool, guidance_of
from synth.discl.mix import Mix, draw_epoch
from synth.discl.progress import AdaptiveRule
from synth.discl.schedules import REAL

#: Probabilities (n,) of the true class of the images at places (n,), by the network as it is.
Probabilities = Callable[[Places], np.ndarray[Any, Any]]


class AdaptiveLists:
    """The places of each epoch, chosen as it begins; `held_out` hard images are the guidance validation set.

    Until `ask` is set, which tells probabilities, an epoch's length is all that is answered. `levels` are those of the epochs so far.
    """

    def __init__(self, pool: Pool, course: Course, held_out: int, seed: int) -> None:
        self._pool, self._course, self._seed = pool, course, seed
        out, self._places, levels = guidance_of(pool, held_out, seed)
        self._real = np.setdiff1d(np.arange(len(pool.labels)), out)
        self._synthetic = np.flatnonzero(~np.isin(pool.parents, out))
        whole = pool.mix(course.downsample)
        self._mix = Mix(whole.real, whole.tail - len(out), whole.synthetic + len(out))
        self.rule = AdaptiveRule(levels)
        self.levels: list[int] = []
        self.ask: Probabilities | None = None

    def __call__(self, epoch: int) -> Places:
        if self.ask is None:
            return np.zeros(len(self._mix), np.int64)
        level = REAL
        if epoch < self._course.curriculum:
            if epoch % 2 == 0:
                self.rule.begin_uniform(self.ask(self._places))
            else:
                level = self.rule.end_uniform(self.ask(self._places))
        self.levels = [*self.levels[:epoch], level]
        return self._of(epoch, level)

    def _of(self, epoch: int, level: int) -> Places:
        tail, levels = self._pool.tail[self._real], self._pool.levels[self._synthetic]
        positions = draw_epoch(self._seed, epoch, self._mix, [level], tail, levels).positions
        places: Places = np.concatenate([self._real, self._synthetic + len(self._pool.labels)])[positions]
        return places

    @property
    def epochs(self) -> list[Places]:
        """What was shown in the epochs so far."""
        return [self._of(epoch, level) for epoch, level in enumerate(self.levels)]

    def state(self) -> dict[str, Any]:
        """What the next choice depends on, plain values."""
        return {"rule": self.rule.state(), "levels": list(self.levels)}

    def load_state(self, state: dict[str, Any]) -> None:
        self.rule.load_state(state["rule"])
        self.levels = [int(level) for level in state["levels"]]


class AdaptiveTrainer(Trainer):
    """A trainer whose `lists` ask its network; their state is part of its own."""

    def __init__(self, lists: AdaptiveLists, *arguments: Any, **how: Any) -> None:
        super().__init__(*arguments, positions=lists, **how)
        self._lists = lists
        lists.ask = self._probabilities

    def _probabilities(self, places: Places) -> np.ndarray[Any, Any]:
        rows = torch.from_numpy(places).to(self._images.device)
        self.model.eval()
        with torch.no_grad():
            logits = self.model(normalise(self._images[rows].float() / 255, self._mean, self._std)).float()
        shares: torch.Tensor = logits.softmax(1).gather(1, self._labels[rows, None])[:, 0]
        return np.asarray(shares.cpu().numpy())

    def state(self) -> dict[str, Any]:
        return super().state() | {"lists": self._lists.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self._lists.load_state(state["lists"])
