"""Many condensed sets side by side: who beats the best of the controls, what it costs in bytes, and what carries over to other students."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines.commands.results import printed_sections
from pipelines.evaluation.distilled.claims import claims, headline, remarks
from pipelines.evaluation.distilled.details import controls_table, epochs_table, margins_table, stored_table
from pipelines.evaluation.distilled.formats import formats_table
from pipelines.evaluation.distilled.results import read_results
from pipelines.evaluation.distilled.rows import Results
from pipelines.evaluation.distilled.table import accuracy_table, students_table
from pipelines.report.blocks import GroupedTable
from pipelines.report.section import Section
from tests.report.condensed import TITLES, condensed
from tests.report.folders import DataFolder
from tests.report.test_page import page, tags

HERE = ("convnet3_w32_in",)
TWO = ("coreset@medoids", "samples@plain")


def results_of(**parts: Any) -> Results:
    """One student and IPC, hard labels, `d3hr_improved` and its rivals, unless said otherwise."""
    few: dict[str, Any] = {"ipcs": (1,), "labels": ("hard",), "students": HERE, "controls": TWO}
    return read_results(condensed(**{**few, **parts}), TITLES)


def row_of(table: GroupedTable | None, name: str, group: str = "IPC 1") -> list[str]:
    assert table is not None
    (cells,) = [row.cells for row in dict(table.groups)[group] if row.name == name]
    return list(cells)


def test_the_headline_is_about_the_best_control_and_says_how_sure_it_is() -> None:
    results = results_of(measured=("d3hr@improved",))
    (margin,) = results.margins()
    assert (margin.control.title, margin.outcome) == ("k-means medoids", "win")
    assert headline(results) == (
        f"The images of D3HR beat the best control (k-means medoids) by {margin.comparison.gap} points at IPC 1 with hard labels "
        "(convnet3_w32_in; 15 students on 5 sets each; 95 %)."
    )
    assert claims(results) == []


def test_of_several_sets_the_headline_names_winners_and_the_list_every_one() -> None:
    results = results_of()
    assert headline(results).startswith("The images of D3HR beat the best control (k-means medoids) by")
    assert "those of CDA lose to it" in headline(results)
    assert headline(results).endswith(
        "(convnet3_w32_in; 15 students on 5 sets each; 95 %)."
    )  # of D3HR, which it is about
    assert "those of D3HR as published are not told apart from it" in headline(results)
    assert [claim.partition(" points")[0][:40] for claim in claims(results)] == [
        "The images of CDA lose to the best contr",
        "The images of D3HR beat the best control",
        "The images of D3HR as published are not ",
    ]


def test_a_win_over_random_images_is_none_over_a_better_control() -> None:
    alone = results_of(measured=("d3hr@reference",), controls=())
    assert headline(alone).startswith("Distilled images beat as many random real images by")
    assert headline(results_of(measured=("d3hr@reference",))).startswith(
        "The images of D3HR as published are not told apart from the best control (k-means medoids), +0.2 points at IPC 1"
    )


def test_a_set_of_tiles_is_not_said_to_beat_as_many_random_images() -> None:
    form = condensed((1,), ("hard",), HERE, ("d3hr@reference",), ())
    form["ipc_1"]["d3hr_reference_hard"]["images"] *= 4
    assert headline(read_results(form, TITLES)).startswith(
        "Distilled images beat random real images of the same IPC by"
    )


def test_tiles_are_controls_like_others_and_several_questions_are_held_to_95_percent_each() -> None:
    form = condensed((1,), ("hard", "online"), HERE, ("d3hr@improved",), ("coreset@medoids",))
    said = headline(read_results(form, TITLES | {"coreset_medoids": "medoid tiles"}))
    assert "beat the best control (medoid tiles) by" in said
    assert "at IPC 1 with hard and online labels" in said
    assert said.endswith("95 % each).")


def test_nothing_told_apart_is_the_headline_where_nothing_is() -> None:
    results = results_of(sets=1, seeds=2, measured=("d3hr@improved", "d3hr@reference"))
    assert headline(results) == (
        "Nothing is told apart: none of 2 sets beats the best control (k-means medoids) or loses to it, at IPC 1 with hard labels "
        "(convnet3_w32_in; one distillation seed: the ± is of 2 students only, too few to quote; 95 %)."
    )
    assert headline(results_of(sets=1, seeds=1)) == (
        "One seed proves nothing: whether any of 3 sets beat the best control is not known."
    )


def test_one_set_of_several_is_named_as_such() -> None:
    (sentence,) = [one for one in remarks(results_of()) if "distillation seed" in one]
    assert sentence.startswith("There is one distillation seed: the ± of CDA is of students only")


def test_label_kinds_are_columns_and_margins_are_over_the_best_control_of_the_same_labels() -> None:
    results = results_of(labels=("hard", "online", "soft"))
    table = accuracy_table(results)
    assert table.head == [
        *("hard, %", "margin", "online, %", "margin", "soft, %", "margin"),
        *("sets × students", "image bytes", "with generator"),
    ]
    ours, medoids = row_of(table, "D3HR"), row_of(table, "k-means medoids")
    assert medoids[1::2][:3] == ["best control"] * 3
    for place in (0, 2, 4):
        gap = float(ours[place].split()[0]) - float(medoids[place].split()[0])
        assert ours[place + 1].split()[0] == f"{gap:+.1f}"
    assert (ours[6], row_of(table, "random real")[6], row_of(table, "CDA")[6]) == ("5 × 3", "15 × 1", "1 × 3")
    assert [row.name for row in table.groups[0][1] if row.ours] == ["CDA", "D3HR", "D3HR as published"]
    (strong,) = [row.strong for row in table.groups[0][1] if row.name == "D3HR"]
    assert 1 in strong


def test_bytes_stand_with_and_without_the_generator_and_online_labels_take_the_teacher() -> None:
    results = results_of(labels=("hard", "online"))
    table = accuracy_table(results)
    assert row_of(table, "D3HR")[-2:] == ["5.9\u00a0KiB", "35.1\u00a0MiB"]
    assert row_of(table, "k-means medoids")[-2:] == ["5.9\u00a0KiB", ""]
    assert row_of(table, "label bytes")[:4] == ["10\u00a0B", "", "44.9\u00a0KiB", ""]
    (sentence,) = [one for one in remarks(results) if "generator" in one]
    assert sentence.startswith(
        "The images of D3HR, D3HR as published and plain samples were made by a generator of 35.1\u00a0MiB, which is not among the bytes"
    )
    online = dict(zip(stored_table(results).head, row_of(stored_table(results), "D3HR, online"), strict=True))
    assert (online["teacher"], online["together"], online["with generator"]) == (
        *("44.9\u00a0KiB", "50.8\u00a0KiB"),
        "35.1\u00a0MiB",
    )
    assert not [one for one in remarks(results_of(measured=("cda",), controls=())) if "generator" in one]


def test_other_students_have_their_own_margins_and_a_warning_where_batches_decide() -> None:
    results = results_of(students=("convnet3_w32_in", "convnet4_w48_in", "convnet3_w32"))
    table = students_table(results)
    assert table is not None
    assert table.head == ["convnet3_w32_in", "convnet4_w48_in", "convnet3_w32"]
    for cell, student in zip(row_of(table, "D3HR, hard"), table.head, strict=True):
        (margin,) = results.margins(student, "d3hr_improved")
        assert cell.startswith(f"{100 * (margin.arm.mean or 0):.1f} ± ")
        assert f"{margin.comparison.gap:+.1f}" in cell
    (said,) = [
        claim for claim in claims(results) if claim.startswith("With convnet4_w48_in (instance norm) as the student")
    ]
    assert "the images of D3HR beat the best control" in said
    (warning,) = [one for one in remarks(results) if "batch norm" in one]
    assert warning.startswith("convnet3_w32 has batch norm: with fewer than 100 images, as at IPC 1, ")
    assert students_table(results_of()) is None


def test_accuracies_after_some_epochs_stand_by_labels() -> None:
    table = epochs_table(results_of(labels=("hard", "online")))
    assert table is not None
    assert table.head == ["hard, 10", "hard, 30", "hard, 100", "online, 10", "online, 30", "online, 100"]
    values = list(map(float, row_of(table, "D3HR")))
    assert values[:3] == sorted(values[:3])
    assert epochs_table(read_results({"ipc_1": {"cda_hard": {"last_mean": 0.5, "seeds": 1}}})) is None


def test_every_control_is_compared_behind_the_table() -> None:
    results = results_of()
    table = controls_table(results)
    assert table is not None
    assert table.head == ["its start", "random real", "k-means medoids", "plain samples"]
    cells = row_of(table, "D3HR", "IPC 1, hard labels")
    assert cells[0] == ""
    assert [cell.split()[1] for cell in cells[1:]] == ["wins", "wins", "wins"]
    assert row_of(margins_table(results), "D3HR, hard")[0] == "k-means medoids"
    assert row_of(margins_table(results), "D3HR, hard")[3] == "15 pairs on 5 sets"


def test_arms_without_pairs_are_counted_on_both_sides() -> None:
    form = condensed((1,), ("hard",), HERE, ("d3hr@improved",), TWO)
    for one in (*form["comparisons"], *form["against_controls"]):
        one |= {"paired": False, "control_seeds": 3, "control_products": 1}
    assert row_of(margins_table(read_results(form, TITLES)), "D3HR, hard")[3] == "15 on 5 against 3 on 1"


@pytest.mark.parametrize("width", [80, 100])
def test_the_console_cuts_no_number(width: int) -> None:
    results = results_of(
        labels=("hard", "online", "soft"), students=("convnet3_w32_in", "convnet4_w48_in", "convnet3_w32")
    )
    tables = [accuracy_table(results), students_table(results)]
    console = Console(width=width, record=True, file=io.StringIO())
    shown = Section("x", "x", 10, headline(results), (), [table for table in tables if table is not None])
    for part in printed_sections([shown]):
        console.print(part)
    text = console.export_text()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    (row,) = [line for line in text.splitlines() if line.startswith(" k-means medoids")] if width == 100 else [""]
    assert row.count("best control") == (3 if width == 100 else 0)


def test_a_form_from_before_controls_had_roles_still_reads(tmp_path: Path) -> None:
    form = condensed((1,), ("hard",), HERE, ("cda",), ())
    for row in form["ipc_1"].values():
        for name in ("role", "at_epochs", "teacher_bytes", "generator_bytes"):
            del row[name]
    for one in (*form["comparisons"], *form["against_start"]):
        del one["network"], one["against"]
    del form["other_students"], form["against_controls"], form["protocol"]["networks"]
    results = read_results(form)
    assert [(margin.control.name, margin.ipc) for margin in results.margins()] == [("cda_start_hard", 1)]
    assert "best control (its start)" in headline(results)


def test_the_page_says_who_wins_then_how_then_shows_images_and_folds_the_rest(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    folder.split()
    folder.cda()
    for method in ("medoids", "herding", "rded"):
        folder.coreset(method)
    folder.evaluate(
        condensed(
            (1,), ("hard",), (*HERE, "convnet3_w32"), ("cda", "coreset@rded"), ("coreset@medoids", "coreset@herding")
        )
    )
    html = page(folder)
    tags(html)
    shown = html[html.index('<section id="distilled">') : html.index('<section id="data">')]
    assert "<h2>Condensed sets</h2>" in shown
    order = [
        *(
            "Accuracy on the test set, students convnet3_w32_in (instance)",
            "<li>The images of CDA lose",
            "IPC 1, last epoch",
        ),
        *("Measured sets with every student", '<th scope="row">k-means medoids</th><td><div class="pictures">'),
        *("<summary>Every comparison", "<summary>Accuracy over the epochs", "<summary>Best epochs and bytes"),
    ]
    places = [shown.index(text) for text in order]
    assert places == sorted(places)
    assert re.search(r"<td><b>−\d\.\d loses</b></td>", shown)
    (headline,) = re.findall(r"<h1>(.*)</h1>", html)
    assert "the images of CDA lose to it" in headline


def test_it_is_said_of_stored_tiles_how_many_more_images_and_steps_their_students_have() -> None:
    form = condensed(ipcs=(1,), labels=("hard",), students=HERE, controls=TWO)
    form["ipc_1"]["d3hr_improved_hard"]["images"] *= 4
    (sentence,) = [one for one in remarks(read_results(form, TITLES)) if "stored image" in one]
    assert sentence.startswith("Each stored image of D3HR is 4 smaller ones: students see as many more images")
    assert "students see as many more images, and take as many more steps in as many epochs" in sentence
    form["ipc_1"]["cda_hard"]["images"] *= 4
    (sentence,) = [one for one in remarks(read_results(form, TITLES)) if "stored image" in one]
    assert sentence.startswith("Each stored image of CDA and D3HR is 4 smaller ones:")
    form["protocol"]["budget"] = "steps"
    (sentence,) = [one for one in remarks(read_results(form, TITLES)) if "stored image" in one]
    assert sentence.endswith("in as many optimiser steps as those of every other set of its IPC.")
    assert not [one for one in remarks(results_of()) if "stored image" in one]


def test_forms_of_stored_labels_stand_beside_all_of_them_and_the_teacher_that_gives_them() -> None:
    form = condensed(ipcs=(1,), labels=("soft", "online"), students=HERE, controls=TWO, measured=("cda",))
    rows = form["ipc_1"]
    whole = rows["cda_soft"] | {"label_format": "fp16, 300 epochs", "last_mean": 0.55, "label_bytes": 100_000}
    smaller = whole | {"label_format": "int8, 300 epochs", "last_mean": 0.545, "label_bytes": 60_000}
    form["ipc_1"] = rows | {"cda_soft": whole, "cda_soft_int8": smaller}
    form["protocol"]["teacher_bytes"] = 46_000
    results = read_results(form, TITLES)
    assert "cda_soft_int8" not in results.by_ipc[1]  # the tables of sets have one row a set
    table = formats_table(form, results)
    assert table is not None
    assert table.groups[0][0] == "IPC 1, CDA"
    assert [(row.name, list(row.cells)) for row in table.groups[0][1]][:2] == [
        ("fp16, 300 epochs", ["97.7\u00a0KiB", "55.0", "0.0"]),
        ("int8, 300 epochs", ["58.6\u00a0KiB", "54.5", "−0.5"]),
    ]
    teacher = table.groups[0][1][2]
    assert (teacher.name, teacher.cells[0]) == ("the teacher, asked as students train", "44.9\u00a0KiB")
    assert table.note.endswith("fewer than the stored labels of CDA with 97.7\u00a0KiB: ship it in their place.")
    form["protocol"]["teacher_bytes"] = 200_000
    small = formats_table(form, read_results(form, TITLES))
    assert small is not None
    assert "ship it" not in small.note
    assert formats_table(condensed(ipcs=(1,), students=HERE), results_of()) is None
