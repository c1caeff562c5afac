"""Charts: where things are drawn, what is refused, what is said."""

from __future__ import annotations

import itertools
import re

import pytest

from pipelines.evaluation.distilled.charts import student_figures
from pipelines.evaluation.distilled.results import read_results
from pipelines.report.svg import Dot, Series, dot_chart, line_chart, nice_ticks, thinned
from pipelines.stages.cda.section import recover_figures
from pipelines.stages.squeeze.section import teacher_figures
from tests.report.folders import arm


def polyline(svg: str) -> list[tuple[float, float]]:
    found = re.search(r'<polyline[^>]* points="([^"]+)"', svg)
    assert found is not None
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in found[1].split())]


def test_a_line_spans_the_plot_and_a_mean_value_is_in_the_middle() -> None:
    figure = line_chart("t", [Series("a", [(0, 0), (5, 5), (10, 10)], "other")], "epoch", zero=True, log=False)
    assert figure is not None
    (x0, y0), (x1, y1), (x2, y2) = polyline(figure.svg)
    assert (x0, x2) == (38, 350)
    assert x1 == (x0 + x2) / 2
    assert y1 == pytest.approx((y0 + y2) / 2, abs=0.1)
    assert y0 > y2  # larger is higher up


def test_ticks_are_round_numbers_inside_the_range() -> None:
    assert nice_ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert nice_ticks(1, 3, 6, whole=True) == [1, 2, 3]
    assert nice_ticks(0.13, 0.32) == pytest.approx([0.15, 0.2, 0.25, 0.3])


def test_a_wide_range_gets_a_logarithmic_axis_and_says_so() -> None:
    figure = line_chart("loss", [Series("a", [(0, 1000), (1, 1)], "other")], "step")
    assert figure is not None
    assert "logarithmic axis" in figure.note
    ticks = [float(y) for y in re.findall(r'class="grid"[^>]* y1="([\d.]+)"', figure.svg)]
    gaps = [a - b for a, b in itertools.pairwise(ticks)]
    assert gaps == pytest.approx([gaps[0]] * 3, abs=0.2)  # 1, 10, 100, 1000 are equally far apart


def test_many_points_are_thinned_and_keep_both_ends() -> None:
    many = [(float(x), float(x)) for x in range(5000)]
    kept = thinned(many)
    assert len(kept) == 180
    assert (kept[0], kept[-1]) == (many[0], many[-1])


def test_no_numbers_make_no_chart() -> None:
    assert line_chart("t", [Series("a", [], "other")], "x") is None
    assert dot_chart("t", [Dot("only a heading")], "x") is None
    assert teacher_figures([]) == recover_figures([]) == student_figures([], read_results({})) == []


def test_a_constant_line_and_a_single_point_are_drawn() -> None:
    assert line_chart("t", [Series("a", [(0, 1), (1, 1)], "other")], "x") is not None
    single = line_chart("t", [Series("a", [(3, 7)], "other")], "x")
    assert single is not None
    assert "<circle" in single.svg
    assert dot_chart("t", [Dot("a", 50.0)], "x") is not None


def test_text_of_a_chart_is_escaped() -> None:
    figure = dot_chart("<b>", [Dot("<script>", 1.0, text="&")], "<i>")
    assert figure is not None
    assert "<script>" not in figure.svg
    assert 'aria-label="&lt;b&gt;"' in figure.svg


def test_students_are_averaged_and_their_range_is_shaded() -> None:
    rows = [
        {"arm": "distilled_soft", "ipc": "10", "seed": str(seed), "epoch": str(epoch), "test_top1": str(value)}
        for seed, values in enumerate([(0.1, 0.5), (0.3, 0.7)])
        for epoch, value in enumerate(values)
    ]
    (figure,) = student_figures(rows, read_results({"ipc_10": {"distilled_soft": arm(0.6)}}))
    assert figure.title == "Students, IPC 10, soft labels: test accuracy, %"
    (series,) = figure.legend
    assert list(itertools.chain(*series.points)) == pytest.approx([0, 20, 1, 60])
    assert list(itertools.chain(*series.band)) == pytest.approx([0, 10, 30, 1, 50, 70])
    assert series.value == "60.0"


def test_a_figure_is_drawn_per_ipc_and_labels_in_order_and_controls_are_dashed() -> None:
    places = [
        ("full", "real_hard"),
        ("10", "random_hard"),
        ("10", "cda_hard"),
        ("10", "cda_soft"),
        ("1", "random_soft"),
    ]
    rows = [
        {"arm": name, "ipc": ipc, "network": "main", "seed": "0", "epoch": "1", "test_top1": "0.5"}
        for ipc, name in places
    ]
    form = {f"ipc_{ipc}": {} for ipc in ("1", "10")} | {"protocol": {"networks": ["main", "other"]}}
    for ipc, name in places:
        form.setdefault("full" if ipc == "full" else f"ipc_{ipc}", {})[name] = arm(0.5)
    of_another = [row | {"network": "other", "ipc": "50"} for row in rows]
    figures = student_figures(rows + of_another, read_results(form))
    assert [figure.title for figure in figures] == [
        "Students, IPC 1, soft labels: test accuracy, %",
        "Students, IPC 10, hard labels: test accuracy, %",
        "Students, IPC 10, soft labels: test accuracy, %",
        "Students, full set: test accuracy, %",
    ]
    assert [(s.name, s.dashed) for s in figures[1].legend] == [("distilled", False), ("random real", True)]


def test_a_loss_that_is_not_finite_is_told() -> None:
    (figure,) = recover_figures([{"unit": "u", "step": "0", "loss": "3"}, {"unit": "u", "step": "1", "loss": "nan"}])
    assert "not finite numbers are not drawn: 1 of loss" in figure.note


@pytest.mark.parametrize(("label", "room"), [("D3HR", 104), ("k-means medoid tiles", 124)])
def test_a_dot_chart_has_room_for_its_longest_label(label: str, room: int) -> None:
    figure = dot_chart("t", [Dot("a heading that is far longer than any of the labels"), Dot(label, 50.0)], "x")
    assert figure is not None
    assert f'<text class="l" x="{room}"' in figure.svg
