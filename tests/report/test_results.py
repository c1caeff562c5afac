"""The accuracy table: who won, by how much, and how sure that is, from hand-made numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pipelines.evaluation.distilled.results import headline, read_results, remarks
from pipelines.evaluation.distilled.table import HEAD, accuracy_table, protocol_table, with_norm
from pipelines.report.words import grouped, human_bytes, human_seconds, listed, number, percent, points, share, signed
from tests.report.folders import NOTE, arm, metrics
from tests.report.judging import judged


def said(form: dict[str, Any]) -> str:
    return " ".join(remarks(read_results(form))).replace("\u00a0", " ").replace("\u202f", " ")


def rows_of(form: dict[str, Any], group: str = "IPC 10") -> list[tuple[str, dict[str, str]]]:
    """Name and cells by column of the rows of a group."""
    rows = dict(accuracy_table(read_results(form)).groups)[group]
    return [(row.name, dict(zip(HEAD, row.cells, strict=True))) for row in rows]


def difference(form: dict[str, Any], labels: str = "soft") -> tuple[str, str]:
    """The difference with its interval, and the verdict."""
    (cells,) = [cells for name, cells in rows_of(form) if name.startswith("difference") and cells["labels"] == labels]
    return cells["last epoch, %"], cells["verdict"]


def at_ten(distilled: dict[str, Any], control: dict[str, Any]) -> dict[str, Any]:
    return judged({"ipc_10": {"distilled_soft": distilled, "random_soft": control}})


def test_a_win_stands_with_both_figures_and_the_gap() -> None:
    """Welch: sqrt(2 * 0.3^2 / 3) = 0.245 points, of which Student's t of two degrees of freedom takes 4.303."""
    form = at_ten(arm(0.841, std=0.003), arm(0.830, std=0.003))
    rows = rows_of(form)
    assert [(name, cells["last epoch, %"]) for name, cells in rows[:2]] == [
        ("distilled", "84.1 ± 0.3"),
        ("random real", "83.0 ± 0.3"),
    ]
    assert difference(form) == ("+1.1 (0.0 to +2.2)", "wins")


def test_a_loss_is_told_as_plainly_as_a_win() -> None:
    form = at_ten(arm(0.80), arm(0.83))
    assert difference(form) == ("−3.0 (−3.4 to −2.6)", "loses")
    assert headline(read_results(form)) == ("Distilled images lose to the same number of random real images at IPC 10.")


def test_a_mixed_result_names_where_it_wins_and_where_it_loses() -> None:
    assert headline(read_results(metrics())) == (
        "Distilled images beat the same number of random real images at IPC 10 and lose to them at IPC 1."
    )


def test_a_gap_that_the_seeds_do_not_tell_is_no_win() -> None:
    form = at_ten(arm(0.835, std=0.01), arm(0.830, std=0.01))
    assert difference(form) == ("+0.5 (−3.0 to +4.0)", "not told apart")
    assert headline(read_results(form)).startswith("Distilled images are not told apart from the same number")


def test_a_difference_has_the_deviation_of_its_pairs() -> None:
    """5 points over 3 seeds: the error is 5 / sqrt(3), 3.5 of which are less than the 4.3 that two degrees of freedom need."""
    comparison = read_results(at_ten(arm(0.90, std=0.03), arm(0.80, std=0.04))).comparisons[
        10, "distilled_soft", "random"
    ]
    assert comparison.judged["standard_error"] == pytest.approx(5.0 / math.sqrt(3))
    assert (comparison.outcome, comparison.gap) == ("level", 10.0)


def test_what_evaluate_did_not_judge_is_not_compared() -> None:
    form = {"ipc_10": {"distilled_soft": arm(0.9), "random_soft": arm(0.8)}}
    assert not read_results(form).comparisons


def test_accuracies_by_seed_are_compared_in_pairs() -> None:
    """Both arms rise and fall together by ten points; their difference does not."""
    ours, control = (arm(0.7, std=0.1) | {"last": values} for values in ([0.61, 0.71, 0.81], [0.60, 0.70, 0.80]))
    assert read_results(at_ten(ours, control)).comparisons[10, "distilled_soft", "random"].outcome == "win"


def test_students_of_one_distilled_set_are_told_as_such() -> None:
    ours = arm(0.9, std=0.001) | {"last": [0.899, 0.9, 0.901], "sets": 1}
    form = at_ten(ours, arm(0.8, std=0.001) | {"last": [0.8, 0.801, 0.799], "sets": 3})
    assert headline(read_results(form)) == (
        "These distilled images beat the same number of random real images at IPC 10 "
        "(one distillation seed: the ± is of students only)."
    )
    assert "There is one distillation seed: the ± of distilled images is of students only" in said(form)
    assert [cells["seeds"] for _, cells in rows_of(form)] == ["3 on 1 set", "3 on 3 sets", "3 pairs"]


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
    assert "means over 2 seeds, fewer than the three" in said(at_ten(arm(0.9, seeds=2), arm(0.8, seeds=2)))
    assert "means over 3 seeds." in said(at_ten(arm(0.9), arm(0.8)))


def test_without_a_control_nothing_is_claimed() -> None:
    form = {"ipc_10": {"distilled_soft": arm(0.9)}}
    assert "no random real control of distilled + soft labels at IPC 10" in said(form)
    assert headline(read_results(form)) == "There is no comparison with random real images yet."


def test_hard_labels_full_set_teacher_and_the_toy_note_are_told() -> None:
    form = metrics()
    assert difference(form, "hard") == ("−6.2 (−6.6 to −5.8)", "loses")
    whole = dict(rows_of(form, "Full set"))
    assert (whole["all real"]["last epoch, %"], whole["all real"]["images"]) == ("90.0 ± 0.1", "9\u202f000")
    assert whole["teacher"]["last epoch, %"] == "91.2"
    assert said(form).endswith(NOTE)


def test_a_source_of_any_name_is_a_row_beside_the_control() -> None:
    form = judged({"ipc_10": {"cda_soft": arm(0.9), "d3hr_soft": arm(0.8), "random_soft": arm(0.85), "what": 3}})
    assert [name for name, _ in rows_of(form)] == [
        *("cda", "d3hr", "random real"),
        *("cda: difference, 95 % interval", "d3hr: difference, 95 % interval"),
    ]
    assert headline(read_results(form)) == (
        "The images of cda beat the same number of random real images at IPC 10. "
        "The images of d3hr lose to the same number of random real images at IPC 10."
    )


def test_what_a_set_started_from_is_a_control_of_its_own() -> None:
    arms = {"cda_soft": arm(0.9), "cda_start_soft": arm(0.7), "random_soft": arm(0.95)}
    form = judged({"ipc_10": arms})
    assert [(name, cells["last epoch, %"][:4]) for name, cells in rows_of(form)] == [
        *(("distilled", "90.0"), ("its start", "70.0"), ("random real", "95.0")),
        *(("difference, 95 % interval", "−5.0"), ("difference to its start", "+20."[:4])),
    ]
    # It is no source of its own, and the headline is about random real images.
    assert headline(read_results(form)).startswith("Distilled images lose to the same number of random real images")
    level = {"ipc": 10, "arm": "cda_soft", "outcome": "level", "gap": 20.0, "errors": 1.0, "needed": 9.0, "seeds": 3}
    form |= {"against_start": [level | {"products": 1, "of": 2, "low": -3.0, "high": 43.0}]}
    assert rows_of(form)[4][1]["last epoch, %"] == "+20.0 (−3.0 to +43.0)"


def test_students_stand_with_their_norm_and_labels_with_their_kind() -> None:
    assert with_norm("convnet3_w32") == "convnet3_w32 (batch)"
    assert with_norm("convnet3_w32_in") == "convnet3_w32_in (instance)"
    assert with_norm("resnet18") == "resnet18"
    assert with_norm("convnet3_w0") == "convnet3_w0"
    told = {"label_kind": "stored epochs", "network": "resnet18", "norm": "batch"}
    form = at_ten(arm(0.9) | told, arm(0.8) | told | {"label_kind": "soft"}) | {"protocol": {"network": "convnet3_w32"}}
    kinds = [(cells["labels"], cells["label kind"]) for _, cells in rows_of(form)]
    assert kinds == [("soft", "stored epochs"), ("soft", "soft"), ("soft", "")]
    assert rows_of(form)[0][1]["student (norm)"] == "resnet18 (batch)"
    bare = at_ten(arm(0.9), arm(0.8)) | {"protocol": {"network": "convnet3_w32"}}
    assert rows_of(bare)[0][1]["student (norm)"] == "convnet3_w32 (batch)"


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
    assert rows["epochs"] == ["7", "9", "15"]
    assert rows["batch size"] == ["20", "1", "1"]
    assert rows["views"] == ["crop resized, flip, cutmix", "crop pad by 2", "crop pad by 2"]
    assert rows["temperature"] == ["4", "–", "–"]
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
    cells = rows_of(metrics())[0][1]
    # 60 000 + 1 048 576 = 1 108 576 bytes of 4 194 304 + 0
    assert cells["image bytes"] == "58.6\u00a0KiB"
    assert cells["label bytes"] == "1.0\u00a0MiB"
    assert cells["together"] == "1.1\u00a0MiB"
    assert cells["of full set"] == "26\u00a0%"
    assert cells["last epoch, %"] == "84.1 ± 0.1"
    assert dict(rows_of(metrics(), "Full set"))["all real"]["of full set"] == "100\u00a0%"


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
