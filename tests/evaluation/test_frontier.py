"""Accuracy against bytes and seconds: what is shipped, what is on the frontier, who is told apart from whom, by hand-made numbers."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from pipelines.commands.results import aside_view
from pipelines.errors import UserError
from pipelines.evaluation.distilled.frontier import Frontier, Point, Spent, frontier_of, undominated
from pipelines.evaluation.distilled.results import other_forms, read_results
from pipelines.evaluation.distilled.spent import spent_on
from pipelines.evaluation.distilled.trade import frontier_table, trade_figures, trade_sentences
from pipelines.report.scatter import Spot, scatter_chart
from pipelines.stages import outputs_under
from pipelines.storage import pretty_json
from tests.report.condensed import TITLES, condensed
from tests.report.folders import DataFolder


def row(last: list[float], images: int, labels: int = 10, **facts: Any) -> dict[str, Any]:
    """An arm with one set."""
    sizes = {"image_bytes": images, "label_bytes": labels, "sets": 1, "seeds": len(last)}
    return {"last_mean": sum(last) / len(last), "last_std": 0.01, "last": last, "images": 10, **sizes, **facts}


def of(form: dict[str, Any], **beside: Any) -> Frontier:
    return frontier_of(read_results({"protocol": {"network": "net"}, **form}, TITLES), **beside)


def names(points: list[Point]) -> list[str]:
    return [f"{point.arm.name}-{point.ipc}" for point in points]


def test_on_the_frontier_is_what_nothing_of_as_few_bytes_exceeds() -> None:
    """(10, .5) is; (10, .6) exceeds (10, .5) at the same cost; (20, .6) ties with it and stays; (30, .55) is exceeded."""
    costs = [(10, 0.5), (10, 0.6), (20, 0.6), (30, 0.55), (40, 0.7)]
    assert undominated(costs) == [False, True, True, False, True]


def test_what_is_shipped_follows_from_the_labels() -> None:
    """100 bytes of images: 10 of class numbers, 400 of labels of every view or the 300 of the teacher that gives them again, the
    teacher for online labels, 40 of fixed ones; with the generator 5 000 more."""
    rows = {
        "cda_hard": row([0.1], 100),
        "cda_soft": row([0.2], 100, 400, label_kind="stored epochs"),
        "cda_online": row([0.3], 100, 0, teacher_bytes=300),
        "cda_fixed": row([0.4], 100, 40),
        "dm_soft": row([0.2], 100, 200, label_kind="stored epochs", generator_bytes=5_000),
    }
    points = {point.arm.name: point for point in of({"ipc_1": rows}).points}
    assert {name: (point.bytes, point.ships) for name, point in points.items()} == {
        "cda_hard": (110, "class numbers"),
        "cda_soft": (400, "the teacher"),
        "cda_online": (400, "the teacher"),
        "cda_fixed": (140, "a label an image"),
        "dm_soft": (300, "stored labels"),
    }
    assert points["dm_soft"].bytes_with_generator == 5_300
    assert {point.arm.name: point.bytes for point in of({"ipc_1": rows | {"cda_online": {}}}).points}["cda_soft"] == 500
    known = of({"ipc_1": {"cda_soft": rows["cda_soft"]}}, teacher_bytes=50)
    assert known.points[0].bytes == 150


def test_stored_labels_in_other_forms_are_points_and_no_rows_of_the_table() -> None:
    rows = {
        "cda_soft": row([0.6], 100, 800, label_kind="stored epochs", network="net"),
        "cda_soft_int8": row([0.5], 100, 400, label_kind="stored epochs", label_format="int8, 4 epochs", network="net"),
    }
    form = {"protocol": {"network": "net", "teacher_bytes": 600}, "ipc_1": rows}
    results = read_results(form, TITLES)
    assert list(results.by_ipc[1]) == ["cda_soft"]
    points = frontier_of(results, forms=other_forms(form, TITLES)).points
    assert [(point.arm.name, point.arm.label_kind, point.bytes, point.ships) for point in points] == [
        ("cda_soft_int8", "stored epochs, int8, 4 epochs", 500, "stored labels"),
        ("cda_soft", "stored epochs", 700, "the teacher"),
    ]


def test_neighbours_are_compared_in_pairs_and_held_to_95_percent_together() -> None:
    """Three seeds: dm - medoids is 6, 6.2, 5.8 points (t = 6 / (.2 / sqrt 3) = 52); full - dm is 2, 12, 1 (t = 5 / 3.51 = 1.4)."""
    form = {
        "ipc_1": {
            "random_hard": row([0.40, 0.41, 0.39], 90, sets=3, seeds=1),
            "coreset_medoids_hard": row([0.60, 0.61, 0.62], 80, role="control"),
            "dm_hard": row([0.66, 0.672, 0.678], 150),
        },
        "full": {"real_hard": row([0.68, 0.792, 0.688], 9_000)},
    }
    frontier = of(form)
    assert names(frontier.best) == ["coreset_medoids_hard-1", "dm_hard-1", "real_hard-0"]
    assert names(frontier.random) == ["random_hard-1"]
    first, second, third = frontier.best
    assert first.against is None
    assert second.against is not None
    assert third.against is not None
    assert second.neighbour is not None
    assert second.neighbour.name == "coreset_medoids_hard"
    assert (second.against["outcome"], second.against["of"], second.against["paired"]) == ("win", 2, True)
    assert second.against["errors"] == pytest.approx(6 / (0.2 / math.sqrt(3)))
    assert (third.against["outcome"], third.against["gap"]) == ("level", pytest.approx(5.0))


def test_one_seed_and_rows_without_seeds_tell_nothing_apart() -> None:
    rows = {"random_hard": row([0.4], 90), "dm_hard": row([0.7], 150) | {"last": []}}
    (_, point) = of({"ipc_1": rows}).best
    assert point.against is not None
    assert point.against["outcome"] == "unproved"
    assert point.against["gap"] == pytest.approx(30.0)


def test_seconds_have_a_frontier_of_their_own_without_the_full_set() -> None:
    seconds = {"random_hard": Spent(0.0), "dm_hard": Spent(40.0), "cda_hard": Spent(60.0), "real_hard": Spent(0.0)}
    rows = {name: row([mean], 100) for name, mean in {"random_hard": 0.4, "dm_hard": 0.7, "cda_hard": 0.6}.items()}
    form = {"ipc_1": rows, "full": {"real_hard": row([0.9], 9_000)}}
    frontier = of(form, spent=lambda arm: seconds[arm.name])
    assert {point.arm.name for point in frontier.points if point.by_seconds} == {"random_hard", "dm_hard"}


def with_runs(tmp_path: Path) -> DataFolder:
    """split 83.4 s, squeeze 83.4 s, coreset@medoids 40 s of it and of split, relabel@coreset_medoids 12 s of both."""
    folder = DataFolder(tmp_path)
    folder.split()
    folder.squeeze()
    folder.coreset("medoids")
    folder.finish("relabel@coreset_medoids", 1, {})
    read = {"squeeze": ["split"], "coreset@medoids": ["split", "squeeze"]}
    read["relabel@coreset_medoids"] = ["coreset@medoids", "squeeze"]
    for name, inputs in read.items():
        folder.write(f".limbeck/{name}.inputs.json", pretty_json(dict.fromkeys(inputs, "0" * 64)))
    for name, seconds in {"coreset@medoids": 40.0, "relabel@coreset_medoids": 12.0}.items():
        folder.write(f".limbeck/{name}.json", pretty_json({"seconds": seconds, "ran": 2, "units": 2}))
    return folder


def test_seconds_are_those_of_all_that_was_read_each_once_and_a_share_of_several_sets(tmp_path: Path) -> None:
    folder = with_runs(tmp_path)
    spent = spent_on(outputs_under(str(tmp_path)), "distilled")
    rows = {f"coreset_medoids_{labels}": row([0.5], 100) for labels in ("hard", "soft", "online")}
    rows |= {"random_hard": row([0.5], 100), "cda_hard": row([0.5], 100), "random_soft": row([0.5], 100)}
    arms = read_results({"ipc_1": rows}, {}).by_ipc[1]
    assert spent(arms["coreset_medoids_hard"]) == Spent(40.0 + 83.4, ("coreset@medoids", "squeeze"))
    assert spent(arms["coreset_medoids_soft"]).seconds == pytest.approx(40.0 + 12.0 + 83.4)
    assert spent(arms["coreset_medoids_online"]).seconds == pytest.approx(40.0 + 83.4)
    assert spent(arms["random_hard"]) == Spent(0.0)
    assert spent(arms["random_soft"]) == Spent(83.4, ("squeeze",), part=True)  # its labels are timed by nobody
    assert spent(arms["cda_hard"]) == Spent(None)
    three = read_results({"ipc_1": {"coreset_medoids_hard": row([0.5] * 3, 100, sets=3, seeds=1)}}, {}).by_ipc[1]
    assert spent(three["coreset_medoids_hard"]).seconds == pytest.approx(40.0 / 3 + 83.4)
    folder.write(".limbeck/coreset@medoids.json", pretty_json({"seconds": 5.0, "ran": 1, "units": 2}))
    spent = spent_on(outputs_under(str(tmp_path)), "distilled")
    assert spent(arms["coreset_medoids_hard"]).part
    (tmp_path / ".limbeck/squeeze.json").unlink()
    spent = spent_on(outputs_under(str(tmp_path)), "distilled")
    assert spent(arms["coreset_medoids_hard"]) == Spent(None)


def test_the_table_numbers_the_frontier_and_the_chart_has_the_same_numbers() -> None:
    results = read_results(condensed((1, 10), ("hard", "online"), ("convnet3_w32_in",)), TITLES)
    frontier = frontier_of(results)
    table = frontier_table(results, frontier)
    assert table is not None
    best = dict(table.groups)["On the frontier"]
    assert [line.name.split()[0] for line in best] == [str(place) for place in range(1, len(best) + 1)]
    assert best[0].cells[-2] == "not recorded"
    (figure,) = trade_figures(results, frontier)  # no seconds, no chart of them
    written = [one for text in re.findall(r'class="h"[^>]*>([^<]*)<', figure.svg) for one in text.split(", ")]
    assert sorted(map(int, written)) == list(range(1, len(best) + 1))


def test_the_teacher_that_replaces_labels_is_said() -> None:
    rows = {"cda_soft": row([0.6], 100, 4096, label_kind="stored epochs"), "random_hard": row([0.4], 100)}
    results = read_results({"ipc_1": rows, "protocol": {"network": "net"}}, {})
    (sentence,) = trade_sentences(results, frontier_of(results, teacher_bytes=1024))
    assert sentence == (
        "The teacher has 1.0\u00a0KiB, fewer than the labels of 1 set (up to 4.0\u00a0KiB) that it gives again: it is shipped in "
        "their place."
    )
    assert trade_sentences(results, frontier_of(results)) == []


def test_bytes_are_on_a_logarithmic_axis() -> None:
    spots = [Spot(1024 * 10**power, 50, "circle", "other", "t") for power in range(3)]
    figure = scatter_chart("t", spots, "bytes", str)
    assert figure is not None
    first, second, third = (float(x) for x in re.findall(r'cx="([\d.]+)"', figure.svg))
    assert second - first == pytest.approx(third - second, abs=0.2)
    assert scatter_chart("t", [], "bytes", str) is None


def test_results_frontier_prints_every_point_and_says_the_numbers(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    with pytest.raises(UserError, match="limbeck run evaluate@distilled"):
        aside_view(str(tmp_path), "frontier")
    form = condensed((1,), ("hard",), ("convnet3_w32_in", "convnet3_w32"), ("cda",), ("coreset@medoids",))
    folder.evaluate(form)
    view = aside_view(str(tmp_path), "frontier")
    numbers = view.form["frontier"]["distilled"]
    assert list(numbers) == ["convnet3_w32_in", "convnet3_w32"]
    points = numbers["convnet3_w32_in"]["points"]
    assert [point["bytes"] for point in points] == sorted(point["bytes"] for point in points)
    assert {point["arm"] for point in points} == {
        "cda_hard",
        "cda_start_hard",
        "coreset_medoids_hard",
        "random_hard",
        "real_hard",
    }
    assert json.loads(json.dumps(numbers)) == numbers
    assert [point["seconds"] for point in points if point["arm"] == "random_hard"] == [0.0]
