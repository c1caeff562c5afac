"""A network that diverged, or that knows something else, stops its stage in one sentence and leaves no result behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.commands.jobs import make_job
from pipelines.commands.runs import run_stage
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
        (
            ["squeeze.training.learning_rate=1.0e+20"],
            r"training of convnet2_w8 \(teacher\): .*diverged.*lower learning_rate",
        ),
        (
            ["squeeze.training.learning_rate=1.0e+20", "squeeze.training.ema=0.99"],
            r"training of convnet2_w8 \(teacher\): .*diverged",
        ),
        (["squeeze.training.learning_rate=.nan"], "squeeze.training.*learning_rate.*finite number"),
        (["squeeze.training.weight_decay=.inf"], "squeeze.training.*weight_decay.*finite number"),
        (["squeeze.std=[0.2, 0, 0.2]"], "squeeze.std.1: input should be greater than"),
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
        ("hard", "cda_hard-ipc001-set0-seed0-convnet2_w8"),
        ("soft", "cda_soft-ipc001-set0-seed0-convnet2_w8"),
        ("full", "real_hard-full-set0-seed0-convnet2_w8"),
    ],
)
def test_a_student_that_diverges_is_named_with_its_section(
    distilled: Path, tmp_path: Path, section: str, student: str
) -> None:
    folder = copied(distilled, tmp_path)
    refused(folder, "evaluate", f"evaluate.distilled.{section} of the student convnet2_w8 .{student}.*lower learning_rate",
            f"evaluate.distilled.{section}.learning_rate=1.0e+25")  # fmt: skip


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


def spoilt_file(folder: Path, name: str, content: Any) -> str:
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    return f"squeeze.weights={path}"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.safetensors", b"", "is no file of weights"),
        ("a.safetensors", b"no tensors here" * 20, "is no file of weights"),
        ("a.pt", b"", "is no file of weights: EOFError"),
        ("a.th", b"root:x:0:0\n", "is no file of weights"),
        ("a.pt", torch.nn.Linear(2, 2), "is no file of weights"),
        ("a.pt", [torch.ones(2)], "holds no state dict"),
        ("a.pt", {"state_dict": [1]}, "holds no state dict"),
        ("a.pt", {0: torch.ones(2)}, "holds no state dict"),
    ],
)
def test_a_file_that_holds_no_weights_is_refused_before_work(
    split: Path, tmp_path: Path, name: str, content: Any, sentence: str
) -> None:
    folder = copied(split, tmp_path)
    refused(folder, "squeeze", f"squeeze.weights: .*{sentence}", spoilt_file(tmp_path, name, content))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["squeeze.network=vit_tiny_patch16_224"], "vit_tiny_patch16_224 does not take images of 16 px: Input height"),
        (
            ["squeeze.network=mobilenetv3_small_050", "squeeze.training.batch_size=1"],
            "does not take images of 16 px one at a time.*more than 1 value per channel.*raise batch_size",
        ),
        (["squeeze.std=[1.0e-300, 0.2, 0.2]"], "squeeze.std.0"),
        (["squeeze.mean=[1.0e+300, 0.2, 0.2]"], "squeeze.mean.0"),
        (["squeeze.training.weight_decay=1.0e+10"], "diverged: .*weight_decay .now 1e.10"),
    ],
)
def test_a_teacher_that_cannot_be_trained_is_refused_in_a_sentence(
    split: Path, tmp_path: Path, changes: list[str], sentence: str
) -> None:
    refused(copied(split, tmp_path), "squeeze", sentence, *changes)


def test_a_student_that_cannot_take_the_images_is_refused_before_work(distilled: Path, tmp_path: Path) -> None:
    folder = copied(distilled, tmp_path)
    refused(
        folder,
        "evaluate",
        "evaluate.distilled.networks: vit_tiny_patch16_224 does not take images of 16 px",
        "evaluate.distilled.networks=[convnet2_w8, vit_tiny_patch16_224]",
    )
    assert not (folder / "data/evaluate/distilled/curves").exists()


@pytest.mark.parametrize(("train", "test"), [((16, 24), (16, 24)), ((16, 16), (24, 24)), ((24, 24), (16, 16))])
def test_images_that_are_not_square_and_of_one_size_are_refused_before_a_teacher_is_trained(
    tmp_path: Path, train: tuple[int, int], test: tuple[int, int]
) -> None:
    rng = np.random.default_rng(5)
    for part, size in (("train", train), ("test", test)):
        for name in ("left", "right"):
            (tmp_path / "source" / part / name).mkdir(parents=True)
            for place in range(8):
                pixels = rng.integers(0, 255, (*size, 3)).astype(np.uint8)
                cv2.imwrite(str(tmp_path / "source" / part / name / f"{place}.png"), pixels)
    params_of(tmp_path / "source", tmp_path)
    for stage in ("ingest", "split"):
        run(tmp_path, stage)
    refused(tmp_path, "squeeze", "square images of one size, and .*24.*ingest.image.resize")


def test_a_teacher_at_chance_is_said_to_be_so(split: Path, tmp_path: Path) -> None:
    folder = copied(split, tmp_path)
    with pytest.warns(UserWarning, match=r"no better than naming the commonest class every time \(50.0 %\)"):
        run(folder, "squeeze", "squeeze.training.epochs=0")


@pytest.mark.parametrize("mode", ["improved", "reference"])
def test_a_step_that_leaves_only_black_and_white_is_refused(distilled: Path, tmp_path: Path, mode: str) -> None:
    """Clamped pixels are finite whatever happens to them, so no number shows it."""
    folder = copied(distilled, tmp_path)
    shutil.rmtree(folder / "data/cda")
    refused(folder, "cda", r"cda.recover \(cda-000000\): a step of learning_rate 4 .*black to white",
            "cda.recover.learning_rate=4.0", f"cda.recover.mode={mode}")  # fmt: skip


def test_more_kept_logits_than_classes_are_refused_before_work(distilled: Path, tmp_path: Path) -> None:
    folder = copied(distilled, tmp_path)
    shutil.rmtree(folder / "data/relabel")
    refused(folder, "relabel", "relabel.top_k keeps fewer than all 2 classes.*got 5", "relabel.format=top_k")
    assert not (folder / "data/relabel/labels").exists()
