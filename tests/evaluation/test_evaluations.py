"""What `evaluate` knows of its evaluations: their sections travel to workers, and an earlier layout is told what to do."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from torch import nn

from distill.networks import build
from pipelines.commands.jobs import make_job
from pipelines.errors import UserError
from pipelines.evaluation.students import norm_of
from pipelines.evaluation.verdicts import compare, note_of
from pipelines.runtime.execute import prepare
from pipelines.stages import get_stage
from pipelines.storage import Storage, pretty_json

INGEST = "ingest: {sources: [{type: folder, path: photos}]}\n"


def test_parameters_travel_to_workers_with_the_sections_that_are_given(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(
        INGEST + "evaluate: {note: n, distilled: {seeds: 2}, datadream: {shots: [1]}}"
    )
    job = make_job("evaluate@distilled", tmp_path / "params.yaml")
    assert job.params.asked == ("distilled",)  # another product's parameters are none of this one
    again = pickle.loads(pickle.dumps(job.params))
    assert again == job.params
    assert type(again) is type(job.params)


def test_what_an_earlier_release_left_in_the_way_of_items_is_named(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(INGEST + "evaluate: {distilled: {}}")
    Storage(tmp_path / "data/evaluate").write_bytes("plan/units.json", pretty_json({"stage": "evaluate", "units": []}))
    job = make_job("evaluate", tmp_path / "params.yaml", data=str(tmp_path / "data"))
    with pytest.raises(
        UserError, match=r"evaluate holds what an earlier release made there.*limbeck run evaluate@distilled"
    ):
        prepare(get_stage("evaluate"), job)


@pytest.mark.parametrize(
    ("network", "norm"),
    [("convnet2_w8", "batch"), ("convnet2_w8_in", "instance"), ("vit_tiny_patch16_224", "layer")],
)
def test_a_student_says_which_norm_it_has(network: str, norm: str) -> None:
    assert norm_of(build(network, 2, 224)) == norm
    assert norm_of(nn.Linear(2, 2)) == "none"


def test_an_interval_holds_the_difference_and_few_seeds_are_told_once() -> None:
    one = compare(
        {0: 0.80, 1: 0.70, 2: 0.90}, {0: 0.77, 1: 0.66, 2: 0.85}
    )  # 3, 4 and 5 points: 4.303 errors of 1 / sqrt(3)
    assert (round(one["low"], 2), round(one["high"], 2)) == (1.52, 6.48)
    single = compare({0: 0.9}, {0: 0.5})
    assert (single["low"], single["high"]) == (None, None)
    assert note_of("Mine.", 3) == "Mine."
    assert note_of("Mine.", 2) == "Mine. Only 2 seed(s) per arm: a demonstration, not a result to quote."
