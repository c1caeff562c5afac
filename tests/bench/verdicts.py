"""How often are arms of equal worth told apart? Questions are simulated at 1, 2, 3, 5 and 10 seeds, and read by the rule for verdicts.

    python -m tests.bench.verdicts [--reports 4000]

A question counts when any of its comparisons says `win` or `loss`; a page of six questions, each of which may err, stands beside them.
Accuracies are those of all seeds on one test set: normal, and in whole test images, of which few are the harder case, since differences
then agree by luck.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from pipelines.evaluation.datadream.classifier import Arm, Classifier, Training
from pipelines.evaluation.datadream.table import comparisons as dreamt
from pipelines.evaluation.distilled.accuracies import table
from pipelines.evaluation.distilled.arms import Arm as SetArm
from pipelines.evaluation.distilled.worker import Student
from pipelines.evaluation.verdicts import compare, compare_products, settle, settle_questions

SEEDS = (1, 2, 3, 5, 10)
Draw = Callable[[int], np.ndarray]


def accuracies(rng: np.random.Generator, test_images: int | None, spread: float = 0.02) -> Draw:
    """Accuracies of `count` students about 60 %, in steps of a test image."""

    def draw(count: int) -> np.ndarray:
        found = 0.6 + spread * rng.standard_normal(count)
        return found if test_images is None else np.round(found * test_images) / test_images

    return draw


def one_pair(draw: Draw, seeds: int, test_images: int | None) -> list[dict[str, Any]]:
    ours, control = (dict(enumerate(draw(seeds).tolist())) for _ in range(2))
    return [compare(ours, control, test_images=test_images)]


def one_set(draw: Draw, seeds: int, test_images: int | None) -> list[dict[str, Any]]:
    """Students of one distilled set against random sets."""
    ours, control = (dict(enumerate(draw(seeds).tolist())) for _ in range(2))
    return [compare(ours, control, dict.fromkeys(ours, 0), test_images)]


def shared_products(draw: Draw, seeds: int, test_images: int | None) -> list[dict[str, Any]]:
    """Three products; their students share what chance made of a product, which is as large as chance in training."""
    products = {seed: seed % 3 for seed in range(seeds)}
    luck = [draw(3) - 0.6 for _ in range(2)]
    ours, control = (
        {seed: float(value + own[products[seed]]) for seed, value in enumerate(draw(seeds))} for own in luck
    )
    return [compare(ours, control, products, test_images)]


def several_sets(draw: Draw, seeds: int, test_images: int | None) -> list[dict[str, Any]]:
    """As many sets with luck of their own as each has students, against the students of one set of as much worth as they have."""
    luck = draw(seeds) - 0.6
    ours = {number: dict(enumerate((draw(seeds) + luck[number]).tolist())) for number in range(seeds)}
    return [compare_products(ours, {0: dict(enumerate(draw(seeds).tolist()))}, test_images)]


def question(draw: Draw, seeds: int, test_images: int | None, worse: float = 0.0) -> list[dict[str, Any]]:
    """Three sets against three controls, which all of them share; two of the controls are `worse`, and only the other counts."""
    sets, controls = (
        [dict(enumerate((draw(seeds) - less).tolist())) for less in drop]
        for drop in ((0.0, 0.0, 0.0), (0.0, worse, worse))
    )
    compared = [
        compare(ours, control, test_images=test_images) | {"question": 0, "arm": arm, "control": place}
        for arm, ours in enumerate(sets)
        for place, control in enumerate(controls)
    ]
    judged = settle_questions(compared, ("question",), "arm")
    return [one for one in judged if not worse or one["control"] == 0]


def best_of_a_question(draw: Draw, seeds: int, test_images: int | None) -> list[dict[str, Any]]:
    """The same where two of the controls are plainly worse."""
    return question(draw, seeds, test_images, 0.3)


def distilled_page(draw: Draw, seeds: int, test_images: int | None) -> list[dict[str, Any]]:
    """A set at three IPCs with soft and hard labels, as `evaluate@distilled` judges them: six questions."""
    arms = [
        SetArm(images, labels, source)
        for images, source in (("source", "cda"), ("random", ""))
        for labels in ("soft", "hard")
    ]
    students = [
        Student(arm, ipc, 0, seed, "network", "batch", value, value, 1, 1, 1)
        for ipc in (1, 10, 50)
        for arm in arms
        for seed, value in enumerate(draw(seeds).tolist())
    ]
    return table(students, test_images)["comparisons"]


def control_table(draw: Draw, seeds: int, test_images: int | None) -> list[dict[str, Any]]:
    """20 comparisons of DataDream, many of them against the same arm."""
    students = [
        Classifier(Arm(arm, variant), kind, shots, seed, seed, Training(1, 1, 1, value, value, ()))
        for kind in ("clip", "student")
        for shots in (4, 16)
        for arm, variant in (("real", ""), *(("pooled", name) for name in ("zero_shot", "cls", "dset")))
        for seed, value in enumerate(draw(seeds).tolist())
    ]
    return settle(dreamt(students, (4, 16), test_images))


KINDS = {
    "one comparison": one_pair,
    "one distilled set": one_set,
    "students that share products": shared_products,
    "several sets against one": several_sets,
    "a question of three condensed sets": question,
    "the same, two controls worse": best_of_a_question,
    "a page of six questions": distilled_page,
    "20 comparisons of DataDream": control_table,
}


def false_positives(kind: str, seeds: int, reports: int, test_images: int | None) -> float:
    """The share of simulated reports in which something is told apart that is equal."""
    draw = accuracies(np.random.default_rng(seeds), test_images)
    told = 0
    for _ in range(reports):
        told += any(one["outcome"] in ("win", "loss") for one in KINDS[kind](draw, seeds, test_images))
    return told / reports


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reports", type=int, default=4000, help="simulated reports of each cell")
    reports = parser.parse_args().reports
    print(
        f"{'share of evaluations that tell equals apart, %':<46}"
        + "".join(f"{seeds:>8}" for seeds in SEEDS)
        + "  seeds"
    )
    for kind in KINDS:
        for test_images in (None, 1000, 60):
            cells = [
                false_positives(kind, seeds, reports // (10 if "20" in kind else 1), test_images) for seeds in SEEDS
            ]
            where = "" if test_images is None else f", {test_images} test images"
            print(f"{kind + where:<46}" + "".join(f"{100 * cell:8.1f}" for cell in cells))


if __name__ == "__main__":
    main()
