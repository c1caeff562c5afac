"""The published search, factorised: the best of many draws for all classes at once, in memory that does not grow with their number.

Of a draw z (n, D) a class with deviation sigma asks sqrt(zbar^2 . sigma^2), sqrt((s - 1)^2 . sigma^2) and a skew that no class changes,
zbar and s being the draw's mean and deviation in each dimension: draws are measured once, and one product with the variances of
all classes scores them (`docs/specs/d3hr.md`, selection). What is kept is a short list of draws for each class; those are
drawn again and scored exactly. Which draw wins depends on neither tiles nor the other classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from augment.seeds import sample_seeds
from distill.d3hr.config import LOT, SelectConfig
from distill.d3hr.models import ClassModel
from distill.d3hr.noise import draw, permutation
from distill.d3hr.scores import factorised_totals, published_total, score
from distill.errors import DistillError

#: Draws that are measured and scored together.
TILE = 64
#: Draws of each class that are scored again at the end.
SHORT_LIST = 32
#: The published draws come from one generator's stream. Its state is remembered every so many draws; 16 normal numbers are one step of it.
STRIDE = 16


class Pool:
    """Draws by number, each from a seed of its own: any of them can be drawn at any time."""

    def __init__(self, members: int, dimensions: int, seed: int) -> None:
        self._shape, self._seed = (members, dimensions), seed

    def tile(self, start: int, count: int) -> torch.Tensor:
        """Return draws (count, n, D) float32 from number `start` on."""
        seeds = sample_seeds(self._seed, np.arange(start, start + count)) >> np.uint64(1)
        return torch.stack([draw(*self._shape, int(seed)) for seed in seeds])

    def again(self, number: int) -> torch.Tensor:
        """Return one draw (n, D) again."""
        return self.tile(number, 1)[0]

    def forget(self, but: set[int]) -> None:
        """Forget what is only needed to draw numbers other than `but` again: nothing."""


class PublishedPool(Pool):
    """Draws of lots of 10 000, lot i from the seed `seed` + 12345 i, rounded to float16; forwards, and again what has been drawn."""

    def __init__(self, members: int, dimensions: int, seed: int) -> None:
        super().__init__(members, dimensions, seed)
        self._generator = torch.Generator()
        self._states: dict[int, torch.Tensor] = {}

    def tile(self, start: int, count: int) -> torch.Tensor:
        """Return draws (count, n, D) float32 from number `start` on; calls follow one another."""
        steps = []
        for first in range(start, start + count, STRIDE):
            if first % LOT == 0:
                self._generator.manual_seed(self._seed + first // LOT * 12345)
            self._states[first] = self._generator.get_state()
            steps.append(torch.randn(STRIDE, *self._shape, generator=self._generator))
        return torch.cat(steps)[:count].half().float()

    def again(self, number: int) -> torch.Tensor:
        """Return one draw (n, D) again."""
        generator = torch.Generator()
        generator.set_state(self._states[number - number % STRIDE])
        return torch.randn(STRIDE, *self._shape, generator=generator)[number % STRIDE].half().float()

    def forget(self, but: set[int]) -> None:
        """Forget the states of all draws but those near the numbers `but`."""
        near = {number - number % STRIDE for number in but}
        self._states = {first: state for first, state in self._states.items() if first in near}


def search(
    models: Sequence[ClassModel], ipc: int, config: SelectConfig, seed: int, class_seeds: Sequence[int]
) -> list[tuple[torch.Tensor, int]]:
    """Find each class's best of `config.candidates` groups of `ipc`; return members (ipc, D) and the number of the draw.

    Scores are float64 at the end, of equals the first; in `mode: reference` they are the published float16. With `noise: per_class`
    each class takes the draws' dimensions in an order of its own (from `class_seeds`): as good as draws of its own, since the
    numbers are independent, and still one pool. A group of one is scored by its mean alone.
    """
    published = config.mode == "reference"
    _require_searchable(models, published)
    deviations = torch.stack([model.variances[0].sqrt() for model in models])
    dimensions = deviations.shape[1]
    orders = None
    if config.noise == "per_class":
        orders = torch.stack([permutation(dimensions, own) for own in class_seeds])
    pool = (PublishedPool if published else Pool)(ipc, dimensions, seed)
    shortest = _short_lists(pool, deviations, orders, config)
    wanted: dict[int, list[int]] = {}
    for place, numbers in enumerate(shortest):
        for number in numbers:
            wanted.setdefault(number, []).append(place)
    best: list[tuple[float, int, torch.Tensor]] = [(np.inf, -1, torch.empty(0))] * len(models)
    for number in sorted(wanted):
        noise = pool.again(number)
        for place in wanted[number]:
            own = noise if orders is None else noise[:, orders[place]]
            members, total = _scored(own, models[place], config)
            if total < best[place][0]:
                best[place] = (total, number, members)
    return [(members, number) for _, number, members in best]


def _short_lists(
    pool: Pool, deviations: torch.Tensor, orders: torch.Tensor | None, config: SelectConfig
) -> list[list[int]]:
    """Rank all draws coarsely for each class (c, D); return the numbers of those that may be its best."""
    variances = deviations.square()
    if orders is not None:
        # The draw's dimension orders[c, d] is the class's dimension d.
        variances = torch.empty_like(variances).scatter_(1, orders, variances)
    columns = variances.T.contiguous()
    classes = len(deviations)
    totals = torch.full((classes, SHORT_LIST), torch.inf)
    numbers = torch.full((classes, SHORT_LIST), -1, dtype=torch.int64)
    candidates = config.candidates or 0
    for start in range(0, candidates, TILE):
        noise = pool.tile(start, min(TILE, candidates - start))
        fresh = factorised_totals(noise, columns, config.weights)
        rows = (fresh.amin(0) < totals[:, -1]).nonzero()[:, 0]
        if not len(rows):
            continue
        labels = torch.arange(start, start + len(noise)).expand(len(rows), -1)
        both = torch.cat((totals[rows], fresh.T[rows]), 1).sort(dim=1, stable=True)
        places = both.indices[:, :SHORT_LIST]
        totals[rows] = both.values[:, :SHORT_LIST]
        numbers[rows] = torch.cat((numbers[rows], labels), 1).gather(1, places)
        pool.forget(but=set(numbers.unique().tolist()))
    near = totals <= totals[:, :1] * (1 + _tolerance(config))
    return [own[keep & (own >= 0)].tolist() for own, keep in zip(numbers, near, strict=True)]


def _tolerance(config: SelectConfig) -> float:
    """By how much of the best coarse score a draw may lie above it and still win by the exact one."""
    # float16 rounds the parts, their sum and what they are made of, by half of 2^-10 each; float32 products are exact to 1e-5.
    return 6 * 2.0**-11 if config.mode == "reference" else 1e-5


def _scored(noise: torch.Tensor, model: ClassModel, config: SelectConfig) -> tuple[torch.Tensor, float]:
    """Make members (n, D) of noise (n, D) and score them exactly, or as published."""
    if config.mode == "reference":
        mean, deviation = model.means[0].half(), model.variances[0].half().sqrt()
        members = noise.half() * deviation + mean
        return members.float(), float(published_total(members[None], mean, deviation, config.weights)[0])
    mean, deviation = model.means[0].double(), model.variances[0].double().sqrt()
    members = mean + deviation * noise.double()
    return members, score(members, mean, deviation).total(config.weights)


def _require_searchable(models: Sequence[ClassModel], published: bool) -> None:
    """Refuse models that are no diagonal Gaussian, and what the published score cannot judge."""
    if any(len(model.weights) > 1 or len(model.factors) for model in models):
        raise DistillError(
            "group best_of scores draws of a diagonal Gaussian, and a class model has components or factors"
        )
    if not published:
        return
    flat = [place for place, model in enumerate(models) if not bool((model.variances[0].half() > 0).all())]
    if flat:
        raise DistillError(
            f"mode reference divides by each dimension's deviation, and {len(flat)} classes have dimensions without variance, the "
            f"first is class {flat[0]}; set mode to improved"
        )
