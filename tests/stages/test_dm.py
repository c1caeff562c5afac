"""`dm` at toy size: what is stored, tiles that are decoded wherever a set is read, and what a change, a kill or a wrong input costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill.matching.tiles import decode_tiles
from pipelines.artifacts.distilled import CondensedSets, load_distilled
from pipelines.commands.runs import run_stage
from pipelines.errors import UserError
from pipelines.loaders.arrays import ImageArrays, load_arrays
from pipelines.loaders.tiles import decoded_tiles
from pipelines.runtime.execute import execute, prepare
from pipelines.runtime.job import Job
from pipelines.shards.dataset import Dataset
from pipelines.stages import get_stage
from tests.contract.folders import assert_same, tree
from tests.stages.condensing import Condensing
from tests.stages.zygote import Backwards, killed_before

MATCH = (
    "dm.match={network: convnet2_w4_in, iterations: 5, real_batch: 4, log_every: 2, "
    "pool: {networks: 1, snapshots: [1, 2], batch_size: 8}}"
)
CHANGES = (
    MATCH,
    "dm.class_chunk=1",
    "relabel.sources=[dm]",
    "relabel.ipc=[1]",
    "evaluate.distilled.sources=[dm]",
    "evaluate.distilled.arms=[distilled_soft, random_soft, distilled_hard, random_hard]",
    "evaluate.distilled.seeds=1",
)


SMALL = Condensing(*CHANGES)
job_of, run = SMALL.job_of, SMALL.run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a teacher and a condensed set, and the parameters beside it."""
    return SMALL.write_base(tmp_path_factory.mktemp("dm"), "dm")


def test_a_set_says_of_each_image_how_many_it_stores_and_where_it_began(base: Path) -> None:
    dataset = Dataset.open(base / "dm")
    rows = dataset.rows(["label", "params", "parents", "op"]).to_pylist()
    assert [row["label"] for row in rows] == [0, 1]
    train = set(Dataset.open(base / "split/train").rows(["key"])["key"].to_pylist())
    for row in rows:
        assert json.loads(row["params"]) == {"slot": 0, "tiles": 2}
        assert row["op"] == "dm"
        assert len(row["parents"]) == 4
        assert set(row["parents"]) <= train
    described = [json.loads(dict(sample.members)["json"]) for sample in dataset.samples()]
    assert [one["tiles"] for one in described] == [2, 2]
    lines = (base / "dm/losses.csv").read_text().splitlines()
    assert lines[0] == "unit,iteration,loss"
    assert [line.split(",")[1] for line in lines[1:]] == ["0", "2", "4"] * 2


def test_tiles_are_decoded_as_a_set_is_loaded(base: Path) -> None:
    job = job_of(base, "relabel@dm")
    stored, loaded = load_arrays(Dataset.open(base / "dm")), load_distilled(job, "dm", 1)
    assert CondensedSets(job, "dm").tiles == 2
    assert loaded.labels.tolist() == [0] * 4 + [1] * 4
    assert loaded.keys == [f"{key}-t{place}" for key in stored.keys for place in range(4)]
    expected = decode_tiles(torch.from_numpy(stored.images).float(), 2).round().clamp(0, 255).to(torch.uint8)
    assert (loaded.images == expected.numpy()).all()


def test_one_tile_is_the_image_itself() -> None:
    arrays = ImageArrays(np.zeros((2, 3, 4, 4), np.uint8), np.array([0, 1]), ["a", "b"])
    assert decoded_tiles(arrays, 1) is arrays


def test_students_see_the_decoded_images_and_bytes_are_those_that_are_stored(base: Path) -> None:
    for name in ("relabel@dm", "evaluate@distilled"):
        run(base, name)
    arms = json.loads((base / "evaluate/distilled/results.json").read_text())["ipc_1"]
    assert {name: arm["images"] for name, arm in arms.items()} == {
        "dm_soft": 8,
        "dm_hard": 8,
        "random_soft": 2,
        "random_hard": 2,
    }
    stored = sum(Dataset.open(base / "dm").rows(["bytes"])["bytes"].to_pylist())
    assert arms["dm_hard"]["image_bytes"] == stored


def test_more_images_leave_the_networks_and_another_seed_the_first_set(base: Path) -> None:
    def pending(*changes: str) -> set[str]:
        return {unit.name for unit, _ in prepare(get_stage("dm"), job_of(base, "dm", *changes)).pending}

    assert pending() == set()
    assert pending("dm.ipc=2") == {"dm-000000", "dm-000001"}
    assert pending("dm.seeds=2") == {"dm_s1-network-000", "dm_s1-000000", "dm_s1-000001"}


@pytest.fixture
def data(base: Path, tmp_path: Path) -> Path:
    """A data folder with the inputs of `base` and nothing condensed yet."""
    (tmp_path / "data").mkdir()
    for name in ("split", "squeeze"):
        (tmp_path / "data" / name).symlink_to(base / name)
    (tmp_path / "params.yaml").write_text((base.parent / "params.yaml").read_text())
    return tmp_path / "data"


def test_the_order_of_units_and_the_worker_change_no_byte(base: Path, data: Path) -> None:
    execute(get_stage("dm"), job_of(data, "dm"), Backwards)
    assert_same(tree(data / "dm"), tree(base / "dm"))


def test_another_budget_before_leaves_nothing_behind(base: Path, data: Path) -> None:
    run(data, "dm", MATCH.replace("iterations: 5", "iterations: 2"))
    run(data, "dm")
    assert_same(tree(data / "dm"), tree(base / "dm"))


@pytest.mark.parametrize(("change", "done"), [(11, 1), (17, 2), (30, 3)])
def test_killed_it_ends_with_the_same_bytes(base: Path, data: Path, change: int, done: int) -> None:
    """Killed after the network of the pool, after the first class, and before the seal."""
    killed_before(change, "dm", data, CHANGES)
    assert len(list((data / "dm/ledger").rglob("*.json"))) == done
    assert not (data / "dm/stage.json").exists()
    run(data, "dm")
    assert_same(tree(data / "dm"), tree(base / "dm"))


GRADIENTS = MATCH.replace("{network:", "{objective: gradients, gradients: {network_steps: 2, batch_size: 4}, network:")
TRAJECTORIES = MATCH.replace(
    "{network:",
    "{objective: trajectories, trajectories: {experts: 2, epochs: 2, expert_batch: 8, student_steps: 2, batch_size: 4, "
    "expert_epochs: 1, start_epochs: [0, 1]}, network:",
)


@pytest.mark.parametrize(
    ("match", "units", "change"), [(GRADIENTS, ["dm-000000", "dm-000001"], 5), (TRAJECTORIES, ["dm-000000"], 14)]
)
def test_other_objectives_end_with_the_same_bytes_after_a_kill(
    base: Path, data: Path, tmp_path: Path, match: str, units: list[str], change: int
) -> None:
    """Gradients go class by class; trajectories take all classes together, from two experts that are units of their own."""
    experts = ["dm-expert-000", "dm-expert-001"] if match == TRAJECTORIES else []
    planned = [unit.name for unit, _ in prepare(get_stage("dm"), job_of(data, "dm", match)).pending]
    assert planned == [*experts, *units]
    killed_before(change, "dm", data, [*CHANGES, match])
    assert not (data / "dm/stage.json").exists()
    run(data, "dm", match)
    whole = tmp_path / "whole"
    whole.mkdir()
    run_stage(make_other(job_of(data, "dm", match), whole), "serial", debug=True)
    assert_same(tree(data / "dm"), tree(whole / "dm"))
    images, matched = (load_arrays(Dataset.open(folder / "dm")).images for folder in (data, base))
    assert not (images == matched).all()
    assert json.loads(Dataset.open(data / "dm").rows(["params"])["params"][0].as_py()) == {"slot": 0, "tiles": 2}


@pytest.mark.parametrize("start", ["random", "medoids"])
def test_whole_images_start_from_one_real_image_each(base: Path, tmp_path: Path, start: str) -> None:
    job = job_of(base, "dm", MATCH.replace("{network:", "{tiles: 1, network:"), f"dm.start={start}", "dm.ipc=3")
    run_stage(make_other(job, tmp_path), "serial", debug=True)
    rows = Dataset.open(tmp_path / "dm").rows(["parents", "params"]).to_pylist()
    assert len({row["parents"][0] for row in rows}) == 6
    assert "tiles" not in json.loads(rows[0]["params"])


def make_other(job: Job[Any], data: Path) -> Job[Any]:
    """The same job in another data folder, with the inputs of its own."""
    from dataclasses import replace

    inputs = {name: f"{job.data}/{name}" for name in ("split", "squeeze")}
    return replace(job, data=str(data), inputs=inputs)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ((MATCH.replace("{network:", "{tiles: 3, network:"),), "cannot be cut into 3 x 3 equal tiles"),
        (("dm.start=medoids", "dm.ipc=9"), "fewer than the 36 medoids that dm.ipc and dm.match.tiles ask for"),
    ],
)
def test_what_cannot_be_condensed_is_refused_before_any_work(
    base: Path, changes: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        get_stage("dm").check(job_of(base, "dm", *changes))
