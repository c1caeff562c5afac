"""The one rule for every sentence that says who is better.

* Arms are compared in pairs: seed s has the same start and order in both, so the differences over seeds are what is tested.
* A mean of n differences is told apart from nothing by Student's t, two-sided, at 95 %. One difference proves nothing.
* Seeds that share a product (one distilled set, one choice of few-shot images) are averaged first: n counts products. Where there
  is one product only, n counts its students, and whoever tells it says so: chance in making that product is not in it.
* All comparisons of one evaluation (an item of `evaluate`) are held to 95 % together (Holm 1979), so that twenty of them do not find
  one by luck. A report that shows two evaluations may err in each.
* Accuracies come in steps of one test image. Differences that agree to the step are given the spread that rounding hides.

`tests/bench/verdicts.py` counts how often arms of equal worth are told apart.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

#: Largest share of evaluations in which any two arms of equal worth may be told apart.
LEVEL = 0.05
#: Percentage points that a figure is told to, the least step of an accuracy that is believed.
SHOWN = 0.1

#: Seeds of an arm that a number which is quoted has at the least.
SEEDS_TO_QUOTE = 3

Comparison = dict[str, Any]


def compare(
    ours: Mapping[int, float],
    control: Mapping[int, float],
    products: Mapping[int, Any] | None = None,
    test_images: int | None = None,
) -> Comparison:
    """Accuracies (fractions) by seed -> the paired difference in percentage points and what it says by itself; see `settle`.

    `products` names the product that each seed's students share; without it every seed has its own. `gap` and `standard_error` are
    in points, `errors` is the one over the other, `p` the chance of so large a gap between equals, `low` and `high` the ends of the
    gap's 95 % interval by itself, in points; all but `gap` are None for a single difference. `products` counts them.
    """
    seeds = sorted(set(ours) & set(control))
    of_product: dict[Any, list[float]] = {}
    for seed in seeds:
        of_product.setdefault(seed if products is None else products[seed], []).append(
            100 * (ours[seed] - control[seed])
        )
    each = [statistics.fmean(values) for values in of_product.values()]
    if len(each) == 1:
        each = next(iter(of_product.values()))
    step = max(SHOWN, 100 / test_images if test_images else 0.0)
    gap, error = statistics.fmean(each), None
    if len(each) > 1:
        # What a step hides is uniform within it, on both sides of the difference.
        error = max(statistics.stdev(each), step * math.sqrt(2 / 12)) / math.sqrt(len(each))
    return settle([_measured(gap, error, len(each), len(seeds), len(of_product))])[0]


def _measured(gap: float, error: float | None, count: int, seeds: int, products: int) -> Comparison:
    measured: Comparison = {"gap": gap, "standard_error": error, "errors": None, "p": None, "freedom": count - 1}
    measured |= {"low": None, "high": None}
    if error is not None:
        measured["errors"] = abs(gap) / error
        measured["p"] = chance(measured["errors"], count - 1)
        reach = errors_needed(LEVEL, count - 1) * error
        measured |= {"low": gap - reach, "high": gap + reach}
    return measured | {"seeds": seeds, "products": products}


def settle(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """All comparisons of one evaluation, judged together: `outcome` is `win`, `loss`, `level`, or `unproved` with a single difference.

    Holm's steps: the smallest of m chances is held to 5 % / m, the next to 5 % / (m - 1), and the first that is not below ends it.
    `needed` standard errors would have told a comparison apart; `of` is m.
    """
    tried = sorted((one["p"], place) for place, one in enumerate(comparisons) if one["p"] is not None)
    apart: set[int] = set()
    for rank, (p, place) in enumerate(tried):
        if p > LEVEL / (len(tried) - rank):
            break
        apart.add(place)
    left = max(1, len(tried) - len(apart))
    settled = []
    for place, one in enumerate(comparisons):
        outcome = "unproved" if one["p"] is None else "level"
        if place in apart:
            outcome = "win" if one["gap"] > 0 else "loss"
        needed = None if one["p"] is None else errors_needed(LEVEL / left, one["freedom"])
        settled.append(one | {"needed": needed, "of": len(tried), "outcome": outcome})
    return settled


def chance(errors: float, freedom: int) -> float:
    """The chance of a Student's t of `freedom` degrees beyond +-`errors`: the finite sums for whole degrees of freedom."""
    angle = math.atan2(errors, math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2 == 1
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for number in range(2 if odd else 1, freedom - 1, 2):
        term *= number / (number + 1) * cosine**2
        total += term
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return min(1.0, max(0.0, 1.0 - inside))


def errors_needed(level: float, freedom: int) -> float:
    """The standard errors beyond which a Student's t of `freedom` degrees has the chance `level`: 12.7, 4.3, 3.2, ... at 5 %."""
    low, high = 0.0, 1.0
    while chance(high, freedom) > level and high < 1e9:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if chance(middle, freedom) > level else (low, middle)
    return high


def beats_chance(accuracy: float, chance: float, images: int) -> bool:
    """Whether an accuracy on so many images is above `chance` by two standard deviations of guessing."""
    return accuracy > chance + 2 * math.sqrt(chance * (1 - chance) / images)


def note_of(note: str, seeds: int) -> str:
    """What a reader must know about an evaluation's numbers: the user's own words, and whether its seeds are too few to quote."""
    few = f"Only {seeds} seed(s) per arm: a demonstration, not a result to quote." if seeds < SEEDS_TO_QUOTE else ""
    return f"{note} {few}".strip()


def how_sure(judged: Mapping[str, Any]) -> str:
    """The second half of a sentence about a comparison: what the gap was measured with, and what would have told."""
    if judged["outcome"] == "unproved":
        return "with one seed: chance is not ruled out"
    pairs = f"{judged['seeds']} paired seeds"
    if 1 < judged["products"] < judged["seeds"]:
        pairs += f" on {judged['products']} products"
    errors = f"{judged['errors']:.1f} standard errors over {pairs}"
    if judged["outcome"] != "level":
        return errors
    among = f" among {judged['of']} comparisons" if judged["of"] > 1 else ""
    return f"only {errors} where {judged['needed']:.1f} would tell{among}: not told apart"
