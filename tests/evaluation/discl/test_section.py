"""DisCL's worth on the page and on the console: arms by where their images are from, gains with intervals, and honest gaps."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.evaluation.discl.section import (
    HEAD,
    against_controls,
    arms_table,
    charts,
    classes_table,
    controls_table,
    headline,
    protocol,
    sentences,
)
from pipelines.evaluation.discl.student import Candidate, Student
from pipelines.evaluation.discl.table import comparisons, numbers, table
from synth.discl.groups import Group

GROUPS: tuple[Group, ...] = ("many", "medium", "few")
OUTSIDE = dict.fromkeys(
    ("ce_discl", "bs_discl"), "the embedded generators, whose weights have seen more images than the long tail"
)


def students(**few: list[int]) -> list[Student]:
    """Students of each arm by seed: right answers of 100 test images of the class with few images; 80 and 60 of the others."""
    return [
        Student(
            arm,  # type: ignore[arg-type]
            seed,
            Candidate(tau=1.0) if arm == "logit_adjustment" else Candidate(),
            (Candidate(tau=0.5), Candidate(tau=1.0)) if arm == "logit_adjustment" else (Candidate(),),
            (0.5,),
            (80, 60 + seed, right),
            (100, 100, 100),
            400,
            1000,
            {"0": 20, "50": 10} if arm in OUTSIDE else {},
            12 if arm in OUTSIDE else 0,
        )
        for arm, rights in few.items()
        for seed, right in enumerate(rights)
    ]


def form(**few: list[int]) -> dict[str, Any]:
    every = students(**few)
    return {
        **table(every, GROUPS, OUTSIDE),
        "comparisons": comparisons(every, GROUPS),
        "classes": ["bag", "coat", "shirt"],
        "counts": [900, 50, 9],
        "groups": list(GROUPS),
        "protocol": {"seeds": 5, "note": "A demonstration.", "candidates": {"tau": [0.5, 1.0]}, "own_generator": None},
    }


CLEAR = {
    "ce": [10, 12, 11, 9, 10],
    "bs": [30, 31, 29, 30, 32],
    "ce_discl": [40, 43, 41, 38, 41],
    "bs_discl": [31, 30, 30, 29, 33],
    "crt": [20, 22, 19, 21, 20],
    "logit_adjustment": [41, 42, 40, 39, 42],
    "full_real": [88, 87, 89, 88, 90],
}


def rows(form: dict[str, Any]) -> dict[str, dict[str, str]]:
    groups = dict(arms_table(form).groups)
    return {row.name: dict(zip(HEAD, row.cells, strict=True)) for own in groups.values() for row in own}


def test_each_arm_stands_with_its_groups_and_what_it_gains_over_its_own_baseline() -> None:
    shown = form(**CLEAR)
    groups = {group: [row.name for row in own] for group, own in arms_table(shown).groups}
    assert list(groups) == ["Real images only", "With synthetic images (outside data)", "For reference"]
    assert groups["With synthetic images (outside data)"] == ["CE + DisCL", "BS + DisCL"]
    ours = rows(shown)["CE + DisCL"]
    assert ours["few, %"] == "40.6 ± 1.8"
    assert ours["many, %"] == "80.0 ± 0.0"
    assert ours["medium, %"] == "62.0 ± 1.6"
    assert ours["all, %"] == "60.9 ± 0.7"
    assert (ours["few: gain"][:5], ours["verdict"]) == ("+30.2", "wins")
    assert ours["synthetic shown"] == "30"
    assert rows(shown)["BS + DisCL"]["few: gain"].startswith("+0.2 (")
    assert rows(shown)["BS + DisCL"]["verdict"] == "not told apart"
    assert rows(shown)["logit adjustment"]["chosen"] == "tau 1.0 (5)"
    assert rows(shown)["cross-entropy"]["few: gain"] == rows(shown)["all of train"]["verdict"] == ""


def test_one_sentence_says_what_discl_gains_and_whether_it_is_told_apart() -> None:
    text = headline(form(**CLEAR))
    assert text.startswith("On classes with few images DisCL gains +30.2 (")
    assert "points over cross-entropy and +0.2 (" in text
    assert text.endswith("points over balanced softmax, not told apart.")
    assert headline(form(ce=[1], ce_discl=[4])).endswith("with one seed: chance is not ruled out.")
    assert "+1.0 (" in (balanced := headline(form(**CLEAR, tail_repeated=[40, 40, 41, 38, 39])))
    assert balanced.endswith("over the tail repeated as often without synthetic images, not told apart.")
    assert headline({}) == "DisCL is not compared with its baselines."


def test_controls_are_named_by_their_outcome_and_images_by_what_made_them() -> None:
    shown = form(**CLEAR)
    assert against_controls(shown, "ce_discl") == (
        "On classes with few images CE + DisCL beats cRT and is not told apart from logit adjustment."
    )
    told = sentences(shown)
    assert any("outside data have images of the embedded generators" in one for one in told)
    assert any("one long tail and one set of synthetic images" in one for one in told)
    assert told[-1] == "A demonstration."
    table = controls_table(shown)
    assert table is not None
    assert [row[:2] for row in table.rows] == [
        ["CE + DisCL", "cRT"],
        ["CE + DisCL", "logit adjustment"],
        ["BS + DisCL", "cRT"],
        ["BS + DisCL", "logit adjustment"],
    ]


def test_a_question_is_held_to_its_level_by_itself_and_counts_the_images_of_its_classes() -> None:
    compared = form(**CLEAR)["comparisons"]
    of = {one["question"]: one["of"] for one in compared}
    assert of == {"few": 5, "all": 5, "controls": 4}
    assert all(one["products"] == 1 and one["seeds"] == 5 for one in compared)
    # Equal differences have the spread that a step of 100 images hides, not of the 300 of all classes.
    level = {one["question"]: one for one in form(ce=[10] * 3, crt=[12] * 3)["comparisons"]}
    assert level["few"]["standard_error"] == pytest.approx((2 / 12 / 3) ** 0.5)
    assert level["all"]["standard_error"] == pytest.approx((2 / 12 / 9 / 3) ** 0.5)


def test_numbers_are_accuracies_by_arm_and_group_and_gains() -> None:
    few = numbers(form(**CLEAR))
    assert few["accuracy"]["ce"]["few"] == pytest.approx(0.104)
    assert few["gain"]["ce_discl"] == pytest.approx({"few": 30.2, "all": 30.2 / 3})


def test_accuracies_per_class_and_the_protocol_are_there_for_who_opens_them() -> None:
    shown = form(**CLEAR)
    classes = classes_table(shown)
    assert classes is not None
    assert classes.rows[2][:4] == ["shirt", "few", "9", "10.4"]
    assert ("candidates", '{"tau": [0.5, 1.0]}') in protocol(shown)
    assert [figure is not None for figure in charts(shown)] == [True, True]


@pytest.mark.parametrize(
    "damage", [None, [], "x", {"ce": 3}, {"ce": {"mean": "x", "chosen": [1], "shown": [], "right": [1]}}]
)
def test_damaged_results_are_dashes_and_raise_nothing(damage: Any) -> None:
    for name in ("arms", "comparisons", "classes", "protocol"):
        broken = form(**CLEAR) | {name: damage}
        for show in (arms_table, headline, sentences, charts, controls_table, classes_table, protocol):
            show(broken)
