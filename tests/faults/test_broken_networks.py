"""A network that diverged, or that knows something else, stops its stage in one sentence and leaves no result behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.doors.jobs import make_job
from pipelines.doors.runs import run_stage
from pipelines.errors import UserError
from tests.contract.folders import tree
from tests.sealing import remark
from tests.stages.test_pipeline import params_of, write_source


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with params.yaml and a data folder where `ingest` and `split` are finished."""
    folder = tmp_path_factory.mktemp("split")
    write_source(folder / "source")
    params_of(folder / "source", folder)
    for stage in ("ingest", "split"):
        run(folder, stage)
    return folder


@pytest.fixture(scope="module")
def distilled(split: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a teacher, distilled images and labels."""
    folder = tmp_path_factory.mktemp("distilled") / "job"
    shutil.copytree(split, folder)
    for stage in ("squeeze", "cda", "relabel"):
        run(folder, stage)
    return folder


def run(folder: Path, stage: str, *changes: str) -> None:
    run_stage(make_job(stage, folder / "params.yaml", list(changes), str(folder / "data")), "serial")


def copied(folder: Path, place: Path) -> Path:
    shutil.copytree(folder, place / "job")
    return place / "job"


def refused(folder: Path, stage: str, sentence: str, *changes: str) -> None:
    with pytest.raises(UserError, match=sentence) as raised:
        run(folder, stage, *changes)
    told = str(raised.value)
    assert "\n" not in told
    assert "again to retry" not in told  # it would end the same way
    assert not (folder / "data" / stage / "stage.json").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["squeeze.training.learning_rate=1.0e+20"], "teacher convnet2_w8: .*diverged.*lower learning_rate"),
        (["squeeze.training.learning_rate=1.0e+20", "squeeze.training.ema=0.99"], "teacher convnet2_w8: .*diverged"),
        (["squeeze.training.learning_rate=.nan"], "squeeze.training.*learning_rate.*finite number"),
        (["squeeze.training.weight_decay=.inf"], "squeeze.training.*weight_decay.*finite number"),
        (["squeeze.std=[0.2, 0, 0.2]"], "squeeze.std.1: input should be greater than 0"),
        (["squeeze.std=[0.2, .nan, 0.2]"], "squeeze.std.1: "),
        (["squeeze.mean=[0.2, .inf, 0.2]"], "squeeze.mean.1: .*finite number"),
    ],
)
def test_a_teacher_that_diverges_is_no_teacher(split: Path, tmp_path: Path, changes: list[str], sentence: str) -> None:
    folder = copied(split, tmp_path)
    refused(folder, "squeeze", sentence, *changes)
    assert not (folder / "data/squeeze/teacher.safetensors").exists()


@pytest.mark.parametrize(
    ("section", "student"),
    [
        ("hard", "distilled_hard-ipc001-seed0"),
        ("soft", "distilled_soft-ipc001-seed0"),
        ("full", "real_hard-full-seed0"),
    ],
)
def test_a_student_that_diverges_is_named_with_its_section(
    distilled: Path, tmp_path: Path, section: str, student: str
) -> None:
    folder = copied(distilled, tmp_path)
    refused(folder, "evaluate", f"evaluate.{section} of the student convnet2_w8 .{student}.*lower learning_rate",
            f"evaluate.{section}.learning_rate=1.0e+25")  # fmt: skip


def broken_teacher(folder: Path, spoil: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = folder / "data/squeeze/teacher.safetensors"
    state = load_file(path)
    spoil(state)
    save_file(state, path)
    remark(folder / "data/squeeze", "teacher.safetensors")


def nan_weight(state: dict[str, torch.Tensor]) -> None:
    state["features.4.weight"][0] = float("nan")


def infinite_variance(state: dict[str, torch.Tensor]) -> None:
    state["features.1.running_var"][3] = float("inf")


def negative_variance(state: dict[str, torch.Tensor]) -> None:
    state["features.5.running_var"][3] = -0.5


@pytest.mark.parametrize("spoil", [nan_weight, infinite_variance, negative_variance])
@pytest.mark.parametrize("stage", ["cda", "relabel", "evaluate"])
def test_a_broken_teacher_is_blamed_by_whoever_reads_it(
    distilled: Path, tmp_path: Path, stage: str, spoil: Callable[[dict[str, torch.Tensor]], Any]
) -> None:
    folder = copied(distilled, tmp_path)
    broken_teacher(folder, spoil)
    shutil.rmtree(folder / "data" / stage, ignore_errors=True)
    refused(folder, stage, "teacher in .*squeeze is broken: its features.*limbeck run squeeze")


def test_a_teacher_without_batch_norm_is_refused_before_anything_is_recovered(split: Path, tmp_path: Path) -> None:
    folder = copied(split, tmp_path)
    run(folder, "squeeze", "squeeze.network=convnet2_w8_in")
    before = tree(folder / "data")
    refused(folder, "cda", "batch norm, and the teacher convnet2_w8_in has none; set squeeze.network")
    after = tree(folder / "data")
    assert {name: kept for name, kept in after.items() if not name.startswith(".limbeck/")} == {
        name: kept for name, kept in before.items() if not name.startswith(".limbeck/")
    }


def test_weights_of_another_class_order_are_refused_with_that_word(distilled: Path, tmp_path: Path) -> None:
    folder = copied(distilled, tmp_path)
    state = load_file(folder / "data/squeeze/teacher.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = state[name].flip(0).contiguous()
    save_file(state, tmp_path / "foreign.safetensors")
    shutil.rmtree(folder / "data/squeeze")
    foreign = f"squeeze.weights={tmp_path / 'foreign.safetensors'}"
    refused(
        folder, "squeeze", "its class order is not that of the data.*left, right", foreign, "squeeze.training.epochs=0"
    )
    run(folder, "squeeze", foreign, "squeeze.training.epochs=8")  # to start from, they will do


def test_weights_that_are_no_numbers_are_refused_before_work(split: Path, distilled: Path, tmp_path: Path) -> None:
    state = load_file(distilled / "data/squeeze/teacher.safetensors")
    nan_weight(state)
    save_file(state, tmp_path / "foreign.safetensors")
    folder = copied(split, tmp_path)
    refused(
        folder, "squeeze", "no sound network: its features.4.weight", f"squeeze.weights={tmp_path}/foreign.safetensors"
    )
