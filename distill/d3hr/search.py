"""The published search, factorised: the best of many draws for all classes at once, in memory that does not grow with their number.

Of a draw z (n, D) a class with deviation sigma asks sqrt(zbar^2 . sigma^2), sqrt((s - 1)^2 . sigma^2) and a skew that no class changes,
zbar and s being the draw's mean and deviation in each dimension: draws are measured once, and one product with the variances of
all classes scores them (`docs/specs/d3hr.md`, selection). What is kept is a short list of draws for each class; those are
drawn again and scored exactly. Which draw wins depends on neither tiles nor the other classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from augment.seeds import sample_seeds
from distill.d3hr.config import LOT, SelectConfig
from distill.d3hr.models import ClassModel
from distill.d3hr.noise import draw, permutation
from distill.d3hr.scores import Measured, measure, published_total, score, totals
from distill.errors import DistillError

#: Draws that are scored by one product.
TILE = 256
#: Draws that are made and measured together, while they are in the processor's cache; the state of the published stream, of which 16
#: numbers are one step, is remembered as often.
STRIDE = 16
#: Draws of each class that may be scored again at the end.
SHORT_LIST = {"improved": 4, "reference": 32}
#: So many remembered states are looked through for those that are still wanted.
STATES = 4096


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

    def forget(self, but: torch.Tensor) -> None:
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

    def forget(self, but: torch.Tensor) -> None:
        """Forget the states of all draws but those near the numbers `but`, once there are many."""
        if len(self._states) < STATES:
            return
        near = set((but - but % STRIDE).unique().tolist())
        self._states = {first: state for first, state in self._states.items() if first in near}


def search(
    models: Sequence[ClassModel], ipc: int, config: SelectConfig, seed: int, class_seeds: Sequence[int]
) -> list[tuple[torch.Tensor, int]]:
    """Find each class's best of `config.candidates` groups of `ipc`; return members (ipc, D) float32 and the number of the draw.

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
    best = [(np.inf, own[0]) for own in shortest]

    def made(number: int, places: Sequence[int]) -> Iterator[tuple[int, torch.Tensor]]:
        noise = pool.again(number)
        for place in places:
            own = noise if orders is None else noise[:, orders[place]]
            yield place, _members(own, models[place], published)

    for number, places in _by_number([own if len(own) > 1 else [] for own in shortest]):
        for place, members in made(number, places):
            best[place] = min(best[place], (_exact(members, models[place], config), number))
    groups = [(torch.empty(0), -1)] * len(models)
    for number, places in _by_number([[number] for _, number in best]):
        for place, members in made(number, places):
            groups[place] = (members.float(), number)
    return groups


def _by_number(lists: Sequence[Sequence[int]]) -> list[tuple[int, list[int]]]:
    """Turn each class's list of draws into each draw's list of classes, in the order of the draws."""
    places: dict[int, list[int]] = {}
    for place, numbers in enumerate(lists):
        for number in numbers:
            places.setdefault(number, []).append(place)
    return sorted(places.items())


def _short_lists(
    pool: Pool, deviations: torch.Tensor, orders: torch.Tensor | None, config: SelectConfig
) -> list[list[int]]:
    """Rank all draws coarsely for each class (c, D); return the numbers of those that may be its best."""
    variances = deviations.square()
    if orders is not None:
        # The draw's dimension orders[c, d] is the class's dimension d.
        variances = torch.empty_like(variances).scatter_(1, orders, variances)
    columns = variances.T.contiguous()
    length = SHORT_LIST[config.mode]
    lowest = torch.full((len(deviations), length), torch.inf)
    numbers = torch.full((len(deviations), length), -1, dtype=torch.int64)
    candidates = config.candidates or 0
    for start in range(0, candidates, TILE):
        fresh = totals(_measured(pool, start, min(TILE, candidates - start)), columns, config.weights)
        rows = (fresh.amin(0) < lowest[:, -1]).nonzero()[:, 0]
        best = fresh.T[rows].topk(min(length, len(fresh)), 1, largest=False)
        both = torch.cat((lowest[rows], best.values), 1).sort(dim=1, stable=True)
        places = both.indices[:, :length]
        lowest[rows] = both.values[:, :length]
        numbers[rows] = torch.cat((numbers[rows], best.indices + start), 1).gather(1, places)
        pool.forget(numbers)
    near = lowest <= lowest[:, :1] * (1 + _tolerance(config))
    return [own[keep & (own >= 0)].tolist() for own, keep in zip(numbers, near, strict=True)]


def _measured(pool: Pool, start: int, count: int) -> Measured:
    """Draw and measure candidates from number `start` on."""
    stop = start + count
    parts = [measure(pool.tile(first, min(STRIDE, stop - first))) for first in range(start, stop, STRIDE)]
    return Measured(*(torch.cat([getattr(part, name) for part in parts]) for name in ("means", "off", "skew")))


def _tolerance(config: SelectConfig) -> float:
    """By how much of the best coarse score a draw may lie above it and still win by the exact one."""
    # float16 rounds the parts, their sum and what they are made of, by half of 2^-10 each; float32 products are exact to 1e-5.
    return 6 * 2.0**-11 if config.mode == "reference" else 1e-5


def _members(noise: torch.Tensor, model: ClassModel, published: bool) -> torch.Tensor:
    """Make members (n, D) of noise (n, D): float64, or in float16 as published."""
    if published:
        return noise.half() * model.variances[0].half().sqrt() + model.means[0].half()
    return model.means[0].double() + model.variances[0].double().sqrt() * noise.double()


def _exact(members: torch.Tensor, model: ClassModel, config: SelectConfig) -> float:
    """Score members (n, D) in float64, or in float16 as published."""
    if config.mode == "reference":
        mean, deviation = model.means[0].half(), model.variances[0].half().sqrt()
        return float(published_total(members[None], mean, deviation, config.weights)[0])
    return score(members, model.means[0], model.variances[0].double().sqrt()).total(config.weights)


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
