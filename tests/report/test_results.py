"""The accuracy table: who won, by how much, and how sure that is, from hand-made numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pipelines.evaluation.distilled.claims import headline, remarks
from pipelines.evaluation.distilled.details import MARGIN_HEAD, STORED_HEAD, margins_table, stored_table
from pipelines.evaluation.distilled.results import read_results
from pipelines.evaluation.distilled.table import accuracy_table, with_norm
from pipelines.evaluation.distilled.training import protocol_table
from pipelines.report.blocks import GroupedTable
from pipelines.report.words import grouped, human_bytes, human_seconds, listed, number, percent, points, share, signed
from tests.report.folders import NOTE, arm, metrics
from tests.report.judging import judged


def said(form: dict[str, Any]) -> str:
    return " ".join(remarks(read_results(form))).replace("\u00a0", " ").replace("\u202f", " ")


def rows_of(form: dict[str, Any], group: str = "IPC 10") -> dict[str, tuple[str, ...]]:
    """The cells of the rows of a group by name."""
    return {row.name: tuple(row.cells) for row in dict(accuracy_table(read_results(form)).groups)[group]}


def cells_of(table: GroupedTable | None, group: str, row: str) -> dict[str, str]:
    """Cells by column."""
    assert table is not None
    (cells,) = [one.cells for one in dict(table.groups)[group] if one.name == row]
    return dict(zip(table.head, cells, strict=True))


def difference(form: dict[str, Any], labels: str = "soft") -> tuple[str, str]:
    """The difference to the best control with its interval, and the verdict."""
    cells = cells_of(margins_table(read_results(form)), "IPC 10", f"distilled, {labels}")
    return cells[MARGIN_HEAD[1]], cells["verdict"]


def stored(form: dict[str, Any], row: str, group: str = "IPC 10") -> dict[str, str]:
    table = stored_table(read_results(form))
    assert table.head == STORED_HEAD
    return cells_of(table, group, row)


def at_ten(distilled: dict[str, Any], control: dict[str, Any]) -> dict[str, Any]:
    return judged({"ipc_10": {"distilled_soft": distilled, "random_soft": control}})


def test_a_win_stands_with_both_figures_and_the_gap() -> None:
    """Welch: sqrt(2 * 0.3^2 / 3) = 0.245 points, of which Student's t of two degrees of freedom takes 4.303."""
    form = at_ten(arm(0.841, std=0.003), arm(0.830, std=0.003))
    rows = rows_of(form)
    assert rows["distilled"][:2] == ("84.1 ± 0.3", "+1.1 wins")
    assert rows["random real"][:2] == ("83.0 ± 0.3", "best control")
    assert difference(form) == ("+1.1 (0.0 to +2.2)", "wins")


def test_a_loss_is_told_as_plainly_as_a_win() -> None:
    form = at_ten(arm(0.80), arm(0.83))
    assert difference(form) == ("−3.0 (−3.4 to −2.6)", "loses")
    assert headline(read_results(form)) == (
        "Distilled images lose to as many random real images by 3.0 points at IPC 10 with soft labels (3 students each; 95 %)."
    )


def test_a_mixed_result_names_where_it_wins_and_where_it_loses() -> None:
    assert headline(read_results(metrics())) == (
        "Distilled images beat as many random real images by 1.1 points at IPC 10 with soft labels and lose to them by 5.3 to 6.2 points "
        "at IPC 10 with hard labels and IPC 1 with soft labels (convnet3_w64; 3 students each; 95 % each)."
    )


def test_a_gap_that_the_seeds_do_not_tell_is_no_win() -> None:
    form = at_ten(arm(0.835, std=0.01), arm(0.830, std=0.01))
    assert difference(form) == ("+0.5 (−3.0 to +4.0)", "not told apart")
    assert headline(read_results(form)).startswith("Distilled images are not told apart from as many random")


def test_a_difference_has_the_deviation_of_its_pairs() -> None:
    """5 points over 3 seeds: the error is 5 / sqrt(3), 3.5 of which are less than the 4.3 that two degrees of freedom need."""
    (margin,) = read_results(at_ten(arm(0.90, std=0.03), arm(0.80, std=0.04))).margins()
    comparison = margin.comparison
    assert comparison.judged["standard_error"] == pytest.approx(5.0 / math.sqrt(3))
    assert (comparison.outcome, comparison.gap) == ("level", 10.0)


def test_what_evaluate_did_not_judge_is_not_compared() -> None:
    form = {"ipc_10": {"distilled_soft": arm(0.9), "random_soft": arm(0.8)}}
    assert not read_results(form).comparisons


def test_accuracies_by_seed_are_compared_in_pairs() -> None:
    """Both arms rise and fall together by ten points; their difference does not."""
    ours, control = (arm(0.7, std=0.1) | {"last": values} for values in ([0.61, 0.71, 0.81], [0.60, 0.70, 0.80]))
    assert [margin.outcome for margin in read_results(at_ten(ours, control)).margins()] == ["win"]


def test_students_of_one_distilled_set_are_told_as_such() -> None:
    ours = arm(0.9, std=0.001) | {"last": [0.899, 0.9, 0.901], "sets": 1}
    form = at_ten(ours, arm(0.8, std=0.001) | {"last": [0.8, 0.801, 0.799], "sets": 3})
    assert headline(read_results(form)) == (
        "Distilled images beat as many random real images by 10.0 points at IPC 10 with soft labels "
        "(one distillation seed: the ± is of 3 students only; 95 %)."
    )
    assert "There is one distillation seed: the ± of distilled images is of students only" in said(form)
    assert [cells[2] for cells in list(rows_of(form).values())[:2]] == ["1 × 3", "3 × 1"]


def test_what_evaluate_judged_with_other_comparisons_is_not_judged_again() -> None:
    form = at_ten(arm(0.9), arm(0.8)) | {
        "comparisons": [
            {"ipc": 10, "arm": "distilled_soft", "outcome": "level", "gap": 10.0, "standard_error": 1.0, "errors": 10.0}
            | {"needed": 14.1, "seeds": 3, "products": 1, "of": 10}
        ]
    }
    assert difference(form) == ("+10.0", "not told apart")
    assert "beat" not in headline(read_results(form))


def test_one_seed_proves_nothing() -> None:
    form = at_ten(arm(0.832, std=0.0, seeds=1), arm(0.830, std=0.0, seeds=1))
    assert difference(form) == ("+0.2", "one seed")
    assert "one seed each, so chance is not ruled out" in said(form)
    assert headline(read_results(form)).startswith("One seed proves nothing")


def test_two_seeds_are_called_fewer_than_a_quoted_number_needs() -> None:
    few = at_ten(arm(0.9, seeds=2), arm(0.8, seeds=2))
    assert "means over 2 students, fewer than the three" in said(few)
    assert "too few to quote" in headline(read_results(few))
    assert "means over 3 students, fewer than five, so small differences stay open." in said(at_ten(arm(0.9), arm(0.8)))
    assert "means over 5 students." in said(at_ten(arm(0.9, seeds=5), arm(0.8, seeds=5)))


def test_without_a_control_nothing_is_claimed() -> None:
    form = {"ipc_10": {"distilled_soft": arm(0.9)}}
    assert "no control of distilled + soft labels at IPC 10" in said(form)
    assert headline(read_results(form)) == "There is no comparison with a control yet."


def test_hard_labels_full_set_teacher_and_the_toy_note_are_told() -> None:
    form = metrics()
    assert difference(form, "hard") == ("−6.2 (−6.6 to −5.8)", "loses")
    whole = rows_of(form, "Full set")
    assert whole["all real"][0] == "90.0 ± 0.1"
    assert stored(form, "all real, hard", "Full set")["images"] == "9\u202f000"
    assert whole["teacher"][0] == "91.2"
    assert said(form).endswith(NOTE)


def test_a_source_of_any_name_is_a_row_beside_the_control() -> None:
    form = judged({"ipc_10": {"cda_soft": arm(0.9), "d3hr_soft": arm(0.8), "random_soft": arm(0.85), "what": 3}})
    assert {name: cells[1] for name, cells in rows_of(form).items()} == {
        "cda": "+5.0 wins",
        "d3hr": "−5.0 loses",
        "random real": "best control",
        "label bytes": "",
    }
    assert headline(read_results(form)) == (
        "The images of cda beat as many random real images by 5.0 points at IPC 10 with soft labels; "
        "those of d3hr lose to it (3 students each; 95 %)."
    )


def test_what_a_set_started_from_is_a_control_of_its_own() -> None:
    arms = {"cda_soft": arm(0.9), "cda_start_soft": arm(0.7), "random_soft": arm(0.95)}
    form = judged({"ipc_10": arms})
    assert {name: cells[:2] for name, cells in rows_of(form).items()} == {
        "distilled": ("90.0 ± 0.1", "−5.0 loses"),
        "its start": ("70.0 ± 0.1", ""),
        "random real": ("95.0 ± 0.1", "best control"),
        "label bytes": ("0\u00a0B", ""),
    }
    assert headline(read_results(form)).startswith(
        "Distilled images lose to the best control (random real) by 5.0 points"
    )
    better = judged({"ipc_10": arms | {"cda_start_soft": arm(0.97)}})
    assert headline(read_results(better)).startswith(
        "Distilled images lose to the best control (its start) by 7.0 points"
    )


def test_students_stand_with_their_norm_and_labels_with_their_kind() -> None:
    assert with_norm("convnet3_w32") == "convnet3_w32 (batch)"
    assert with_norm("convnet3_w32_in") == "convnet3_w32_in (instance)"
    assert with_norm("resnet18") == "resnet18"
    assert with_norm("convnet3_w0") == "convnet3_w0"
    told = {"label_kind": "stored epochs", "network": "resnet18", "norm": "batch"}
    form = at_ten(arm(0.9) | told, arm(0.8) | told | {"label_kind": "soft"}) | {"protocol": {"network": "convnet3_w32"}}
    assert [stored(form, f"{row}, soft")["label kind"] for row in ("distilled", "random real")] == [
        "stored epochs",
        "soft",
    ]
    with_own_norm = form | {"protocol": {"network": "resnet18"}}
    assert accuracy_table(read_results(with_own_norm)).title == "Accuracy on the test set, students resnet18 (batch)"
    bare = at_ten(arm(0.9), arm(0.8)) | {"protocol": {"network": "convnet3_w32"}}
    assert accuracy_table(read_results(bare)).title == "Accuracy on the test set, students convnet3_w32 (batch)"


def test_the_protocol_is_that_of_each_kind_of_arm() -> None:
    training = {
        "epochs": 7,
        "batch_size": 1,
        "optimizer": "sgd",
        "temperature": 4,
        "views": {"crop": "pad", "padding": 2},
    }
    params = {"soft": training, "hard": training | {"epochs": 9}, "full": training | {"epochs": 15}}
    views = {"crop": "resized", "flip": True, "mix": "cutmix"}
    table = protocol_table(params, {"batch_size": 20, "views": views}, read_results(metrics()))
    assert table is not None
    rows = {row[0]: row[1:] for row in table.rows}
    assert table.head == ("", "hard labels", "soft labels", "full set")
    assert rows["epochs"] == ["9", "7", "15"]
    assert rows["batch size"] == ["1", "20", "1"]
    assert rows["views"] == ["crop pad by 2", "crop resized, flip, cutmix", "crop pad by 2"]
    assert rows["temperature"] == ["–", "4", "–"]
    assert protocol_table({"soft": {}}, {}, read_results({})) is None


def test_the_gap_is_the_difference_of_the_figures_a_reader_sees() -> None:
    assert points(0.84149, 0.82951) == 1.1  # 84.1 and 83.0 are shown; the exact gap would round to 1.2


def test_what_is_no_better_than_naming_one_class_is_told_as_such() -> None:
    """With 1000 images of two classes, 50 % +- 3.2 points are what guessing reaches."""
    form = at_ten(arm(0.53), arm(0.90)) | {
        "teacher": {"network": "x", "test_top1": 0.5},
        "full": {"real_hard": arm(0.95)},
    }
    protocol = {"test_images": 1000, "chance": 0.5}
    assert (
        "The teacher and distilled + soft labels at IPC 10 are no better than naming the commonest class every time (50.0 %), "
        "which takes no learning."
    ) in said(form | {"protocol": protocol})
    assert "no better" not in said(form | {"protocol": protocol | {"test_images": 100_000, "chance": 0.4}})
    assert "no better" not in said(form | {"protocol": protocol | {"chance": 1.0}})  # one class
    assert "no better" not in said(form)


def test_values_that_are_no_numbers_become_unknown_and_not_zero() -> None:
    results = read_results(at_ten(arm(float("nan")), arm(0.8)) | {"ipc_x": 3, "teacher": None})
    assert results.by_ipc[10]["distilled_soft"].mean is None
    assert not results.comparisons
    assert list(results.by_ipc) == [10]
    assert not read_results({})


def test_seeds_may_be_a_count_or_a_list() -> None:
    results = read_results(at_ten(arm(0.9) | {"seeds": [0, 1, 2, 3]}, arm(0.8)))
    assert [one.seeds for one in results.by_ipc[10].values()] == [4, 3]


def test_ipcs_are_in_rising_order_as_numbers() -> None:
    arms = {"distilled_soft": arm(0.5)}
    assert list(read_results({"ipc_50": arms, "ipc_10": arms, "ipc_1": arms}).by_ipc) == [1, 10, 50]


def test_the_table_adds_images_and_labels_and_compares_them_with_the_full_set() -> None:
    cells = stored(metrics(), "distilled, soft")
    # 60 000 + 1 048 576 = 1 108 576 bytes of 4 194 304 + 0
    assert cells["image bytes"] == "58.6\u00a0KiB"
    assert cells["label bytes"] == "1.0\u00a0MiB"
    assert cells["together"] == "1.1\u00a0MiB"
    assert cells["of full set"] == "26\u00a0%"
    assert cells["best epoch, %"] == "85.1"
    assert stored(metrics(), "all real, hard", "Full set")["of full set"] == "100\u00a0%"
    assert rows_of(metrics())["label bytes"][2] == "1.0\u00a0MiB"


def test_numbers_read_well() -> None:
    assert percent(0.8412) == "84.1\u00a0%"
    assert percent(None) == "–"
    assert signed(-1.25) == "−1.2"
    assert signed(0.0) == "0.0"
    assert grouped(60_000) == "60\u202f000"
    assert human_bytes(1536) == "1.5\u00a0KiB"
    assert human_bytes(0) == "0\u00a0B"
    assert human_seconds(83.4) == "1\u00a0min 23\u00a0s"
    assert human_seconds(3600 * 20 + 59) == "20\u00a0h 0\u00a0min"
    assert share(1, 300) == "0.33\u00a0%"
    assert share(1, 0) == "–"
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert number("1e-3") == 0.001
    assert number(True) is None
