"""The one rule for every sentence that says who is better.

* Arms are compared in pairs: seed s has the same start and order in both, so the differences over seeds are what is tested.
* A mean of n differences is told apart from nothing by Student's t, two-sided, at 95 %. One difference proves nothing.
* Seeds that share a product (one distilled set, one choice of few-shot images) are averaged first: n counts products. Where there
  is one product only, n counts its students, and whoever tells it says so: chance in making that product is not in it.
* Arms with other numbers of products have nothing that pairs them (`compare_products`): each side has the spread of its own products,
  or of the students of its only one, and the two are put together as Welch (1947) does.
* Comparisons that answer one question are held to 95 % together (Holm 1979), so that twenty of them do not find one by luck. Which are
  one question is planned, whatever comes out: of classifiers all comparisons of the evaluation, of condensed sets those with one
  student, one kind of labels and one number of images per class (`settle_questions`). Each question may err by itself.
* Whether a product beats *all* its controls is one hypothesis: each difference must pass, so none has to be held to less for there being
  several (an intersection-union test, Berger 1982), and Holm's steps go over the products. More controls cost such a claim nothing.
* Accuracies come in steps of one test image. Differences that agree to the step are given the spread that rounding hides.

`tests/bench/verdicts.py` counts how often arms of equal worth are told apart.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

#: Largest share of questions in which any two arms of equal worth may be told apart.
LEVEL = 0.05
#: Percentage points that a figure is told to, the least step of an accuracy that is believed.
SHOWN = 0.1

#: Seeds of an arm that a number which is quoted has at the least.
SEEDS_TO_QUOTE = 3

Comparison = dict[str, Any]
#: A seed, or a product and a seed.
Pair = TypeVar("Pair", int, tuple[int, int])


def compare(
    ours: Mapping[Pair, float],
    control: Mapping[Pair, float],
    products: Mapping[Pair, Any] | None = None,
    test_images: int | None = None,
) -> Comparison:
    """Accuracies (fractions) by seed -> the paired difference in percentage points and what it says by itself; see `settle`.

    `products` names the product that each seed's students share; without it every seed has its own. `gap` and `standard_error` are
    in points, `errors` is the one over the other, `p` the chance of so large a gap between equals, `low` and `high` the ends of the
    gap's 95 % interval by itself, in points; all but `gap` are None for a single difference. `seeds` and `products` count what was
    compared, and `control_seeds` and `control_products` that of the control, which are others where arms are not `paired`.
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
    # What a step hides is uniform within it, on both sides of the difference.
    variance = _variance(each, 2 * _hidden(test_images))
    error = None if variance is None else math.sqrt(variance)
    counts = (len(seeds), len(of_product))
    return settle([_measured(statistics.fmean(each), error, len(each) - 1) | _counted(counts, counts, True)])[0]


def compare_products(
    ours: Mapping[int, Mapping[int, float]],
    control: Mapping[int, Mapping[int, float]],
    test_images: int | None = None,
) -> Comparison:
    """Accuracies (fractions) by product and seed -> what `compare` returns, students nested in the products that they were trained on.

    Products of the same numbers are pairs, and so are their students of the same seeds. Where one side has more products than the other
    nothing is: each side's mean has the spread of its product means, or of the students of its only product, and the degrees of
    freedom are those of Welch (1947), rounded down.
    """
    if set(ours) == set(control):
        pairs, others = (
            {(product, seed): accuracy for product, by_seed in side.items() for seed, accuracy in by_seed.items()}
            for side in (ours, control)
        )
        return compare(pairs, others, {pair: pair[0] for pair in pairs}, test_images)
    sides = [_independent(ours), _independent(control)]
    gap = statistics.fmean(sides[0]) - statistics.fmean(sides[1])
    variances = [_variance(values, _hidden(test_images)) for values in sides]
    error, freedom = None, 0
    first, second = variances
    if first is not None and second is not None:
        error = math.sqrt(first + second)
        shares = first**2 / (len(sides[0]) - 1) + second**2 / (len(sides[1]) - 1)
        freedom = max(1, math.floor((first + second) ** 2 / shares * (1 + 1e-9)))
    counts = [(sum(map(len, side.values())), len(side)) for side in (ours, control)]
    return settle([_measured(gap, error, freedom) | _counted(counts[0], counts[1], False)])[0]


def _independent(products: Mapping[int, Mapping[int, float]]) -> list[float]:
    """What chance made one by one, in percentage points: the mean of every product, or the students of the only one."""
    if len(products) == 1:
        return [100 * accuracy for accuracy in next(iter(products.values())).values()]
    return [100 * statistics.fmean(by_seed.values()) for by_seed in products.values()]


def _hidden(test_images: int | None) -> float:
    """The variance that rounding to a step hides, in squared points: a value is uniform within its step."""
    step = max(SHOWN, 100 / test_images if test_images else 0.0)
    return step**2 / 12


def _variance(values: Sequence[float], hidden: float) -> float | None:
    """The variance of the mean of independent values, at least what rounding hides; None for a single one."""
    return max(statistics.variance(values), hidden) / len(values) if len(values) > 1 else None


def _counted(ours: tuple[int, int], control: tuple[int, int], paired: bool) -> Comparison:
    """`ours` and `control` are students and products."""
    counts: Comparison = {"seeds": ours[0], "products": ours[1]}
    return counts | {"control_seeds": control[0], "control_products": control[1], "paired": paired}


def _measured(gap: float, error: float | None, freedom: int) -> Comparison:
    measured: Comparison = {"gap": gap, "standard_error": error, "errors": None, "p": None, "freedom": freedom}
    measured |= {"low": None, "high": None}
    if error is not None:
        measured["errors"] = abs(gap) / error
        measured["p"] = chance(measured["errors"], freedom)
        reach = errors_needed(LEVEL, freedom) * error
        measured |= {"low": gap - reach, "high": gap + reach}
    return measured


def settle(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """All comparisons of one question, judged together: `outcome` is `win`, `loss`, `level`, or `unproved` with a single difference.

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


def settle_questions(comparisons: Sequence[Comparison], question: Sequence[str], product: str) -> list[Comparison]:
    """Comparisons of one evaluation, those that agree in the fields `question` judged together as `settle` does, in the order given.

    Besides, a product (the field `product`) that beats each control of a question by itself at the level that Holm's steps leave for its
    weakest difference, over the products of the question, wins all of them. Of those left open the weakest difference then is told what
    would have been needed there, where that is less: `of` counts products.
    """
    settled = list(comparisons)
    for places in _grouped(comparisons, question, range(len(comparisons))).values():
        for place, one in zip(places, settle([comparisons[place] for place in places]), strict=True):
            settled[place] = one
        by_product = _grouped(comparisons, (product,), places)
        for place, one in _against_all(settled, list(by_product.values())).items():
            settled[place] = one
    return settled


def _grouped(comparisons: Sequence[Comparison], fields: Sequence[str], places: Iterable[int]) -> dict[Any, list[int]]:
    groups: dict[Any, list[int]] = {}
    for place in places:
        groups.setdefault(tuple(comparisons[place][name] for name in fields), []).append(place)
    return groups


def _against_all(settled: Sequence[Comparison], products: Sequence[Sequence[int]]) -> dict[int, Comparison]:
    """What becomes of comparisons, by place, by the claims that products are ahead of all their controls."""
    weakest = []
    for places in products:
        if all(settled[place]["p"] is not None for place in places):
            ahead = all(settled[place]["gap"] > 0 for place in places)
            weakest.append((max(settled[place]["p"] for place in places) if ahead else 1.0, places))
    weakest.sort(key=lambda one: one[0])
    changed: dict[int, Comparison] = {}
    for rank, (p, places) in enumerate(weakest):
        left = len(weakest) - rank
        if p > LEVEL / left:
            changed |= _held_back(settled, [own for _, own in weakest[rank:]], LEVEL / left, len(weakest))
            break
        changed |= {place: settled[place] | {"outcome": "win"} for place in places}
    return changed


def _held_back(
    settled: Sequence[Comparison], products: Sequence[Sequence[int]], level: float, count: int
) -> dict[int, Comparison]:
    """The differences that alone keep a product from being ahead of all its controls, with what they would have needed."""
    changed: dict[int, Comparison] = {}
    for places in products:
        last = max(places, key=lambda place: settled[place]["p"])
        one, others = settled[last], [settled[place] for place in places if place != last]
        if one["outcome"] == "level" and all(other["gap"] > 0 and other["p"] <= level for other in others):
            needed = errors_needed(level, one["freedom"])
            if needed < one["needed"]:
                changed[last] = one | {"needed": needed, "of": count}
    return changed


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


@cache
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
    if not judged.get("paired", True):
        pairs = f"{_students(judged, '')} against {_students(judged, 'control_')}"
    elif 1 < judged["products"] < judged["seeds"]:
        pairs += f" on {judged['products']} products"
    errors = f"{judged['errors']:.1f} standard errors over {pairs}"
    if judged["outcome"] != "level":
        return errors
    among = f" among {judged['of']} comparisons" if judged["of"] > 1 else ""
    return f"only {errors} where {judged['needed']:.1f} would tell{among}: not told apart"


def _students(judged: Mapping[str, Any], side: str) -> str:
    students, products = judged[f"{side}seeds"], judged[f"{side}products"]
    return f"{students} student{'s' * (students > 1)} on {products} product{'s' * (products > 1)}"
