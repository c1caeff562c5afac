"""The form of results.json: every row says what it is, what it takes and when; every source stands against every control."""

from __future__ import annotations

import json
import statistics
from typing import Any

import pytest

from tests.report.measuring import CONTROLS, NETWORKS, complete

ROW = {
    *("source", "images_from", "role", "labels", "label_kind", "label_format", "network", "norm"),
    *("last", "last_mean", "last_std", "best_mean", "at_epochs", "epochs", "steps", "seeds", "sets", "images"),
    *("image_bytes", "label_bytes", "teacher_bytes", "generator_bytes"),
}  # fmt: skip


@pytest.fixture(scope="module")
def form() -> Any:
    return json.loads(json.dumps(complete()))


def test_other_students_have_the_same_rows_as_the_main_one(form: Any) -> None:
    main, *others = NETWORKS
    assert list(form["other_students"]) == others
    for network, groups in ((main, form), *form["other_students"].items()):
        rows = [row for group in ("ipc_1", "ipc_10", "full") for row in groups[group].values()]
        assert {row["network"] for row in rows} == {network}
        assert {row["norm"] for row in rows} == {NETWORKS[network]}
        assert all(row.keys() == ROW for row in rows)
        assert set(groups["ipc_1"]) == set(form["ipc_10"])


def test_a_row_says_whether_it_is_measured_or_a_control(form: Any) -> None:
    roles = {name.removesuffix("_hard"): row["role"] for name, row in form["ipc_1"].items() if row["labels"] == "hard"}
    assert roles == {
        "d3hr": "source",
        "samples_plain": "source",
        "d3hr_start": "control",
        "coreset_medoids": "control",
        "random": "control",
    }
    assert form["full"]["real_hard"]["role"] == "full"


def test_the_spread_is_that_of_sets_and_of_every_random_draw(form: Any) -> None:
    ours, random = form["ipc_1"]["d3hr_hard"], form["ipc_1"]["random_hard"]
    assert (ours["seeds"], ours["sets"], len(ours["last"])) == (3, 2, 6)
    assert (random["seeds"], random["sets"], len(random["last"])) == (3, 6, 6)
    means = [statistics.fmean(ours["last"][:3]), statistics.fmean(ours["last"][3:])]
    assert ours["last_std"] == pytest.approx(statistics.stdev(means))
    assert ours["last_mean"] == pytest.approx(statistics.fmean(means))
    assert random["last_std"] == pytest.approx(statistics.stdev(random["last"]))


def test_bytes_are_those_of_what_has_to_be_shipped(form: Any) -> None:
    rows = form["ipc_1"]
    shipped = {
        name: tuple(rows[name][f"{what}_bytes"] for what in ("label", "teacher", "generator"))
        for name in (
            "d3hr_online",
            "d3hr_soft",
            "d3hr_hard",
            "coreset_medoids_hard",
            "random_online",
            "d3hr_start_hard",
        )
    }
    assert shipped == {
        "d3hr_online": (0, 131_072, 2_700_000_000),
        "d3hr_soft": (24_000, 0, 2_700_000_000),
        "d3hr_hard": (10, 0, 2_700_000_000),
        "coreset_medoids_hard": (10, 0, 0),
        "random_online": (0, 131_072, 0),
        "d3hr_start_hard": (10, 0, 0),
    }


def test_every_source_is_compared_with_every_control_and_each_question_is_settled_by_itself(form: Any) -> None:
    lists = {key: form[key] for key in ("comparisons", "against_start", "against_controls")}
    kinds = len(NETWORKS) * 2 * 3  # students, IPCs, labels
    assert {key: len(compared) for key, compared in lists.items()} == {
        "comparisons": 2 * kinds,
        "against_start": kinds,
        "against_controls": 2 * kinds,
    }
    # Five comparisons of a question, where none is told what the claim of one of two sets would have needed.
    assert {one["of"] for compared in lists.values() for one in compared} == {5, 2}
    assert {one["control"] for one in form["against_controls"]} == set(CONTROLS)
    for one in (one for compared in lists.values() for one in compared):
        rows = form if one["network"] == next(iter(NETWORKS)) else form["other_students"][one["network"]]
        ours, theirs = rows[f"ipc_{one['ipc']}"][one["arm"]], rows[f"ipc_{one['ipc']}"][one["against"]]
        assert ours["labels"] == theirs["labels"] == one["labels"]
        if one["paired"] and one["source"] == "d3hr":
            assert one["gap"] == pytest.approx(100 * (ours["last_mean"] - theirs["last_mean"]))


def test_students_of_several_sets_against_those_of_one_are_no_pairs(form: Any) -> None:
    counts = {
        one["source"]: [one[name] for name in ("paired", "seeds", "products", "control_seeds", "control_products")]
        for one in form["against_controls"]
    }
    assert counts == {"d3hr": [False, 6, 2, 3, 1], "samples@plain": [True, 3, 1, 3, 1]}


def test_the_best_control_is_the_one_with_the_highest_mean(form: Any) -> None:
    assert form["best_control"] == {
        network: {
            ipc: {labels: f"coreset_medoids_{labels}" for labels in ("soft", "online", "hard")}
            for ipc in ("ipc_1", "ipc_10")
        }
        for network in NETWORKS
    }
