"""The whole pipeline at toy size: every stage through its job, what it leaves, and what a change or a kill costs."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

from pipelines.artifacts.distilled import CondensedSets, load_distilled, load_start
from pipelines.artifacts.few_shot import load_few_shot
from pipelines.commands.jobs import make_job
from pipelines.commands.runs import run_stage
from pipelines.errors import UserError
from pipelines.loaders.arrays import load_arrays
from pipelines.runtime import checkpoints
from pipelines.runtime.execute import execute, prepare
from pipelines.runtime.folder import begin
from pipelines.runtime.serial import SerialRunner, run_unit
from pipelines.shards.dataset import Dataset
from pipelines.shards.lint import lint
from pipelines.stages import STAGES, get_stage
from pipelines.stages.split.params import SplitParams
from pipelines.stages.split.stage import few_shot
from tests.contract.folders import tree

#: Stages that make images from nothing, and those that distil in rounds, have tests of their own.
PIPELINE = [
    name for name in STAGES if name not in ("generator", "datadream", "discl", "cudd", "coreset", "samples", "d3hr")
]

PARAMS = """
run: {seed: 0, threads: 1, device: cpu}
ingest:
  sources:
    - {type: folder, path: SOURCE/train, split: train}
    - {type: folder, path: SOURCE/test, split: test}
  image: {format: png}
split: {validation: 0.25, few_shot: [1, 2]}
augment:
  sets: {turned: {policy: [{rotate: {degrees: [-9, 9]}}], views: 2, samples: 6, format: png}}
squeeze:
  network: convnet2_w8
  training: {epochs: 6, batch_size: 8, learning_rate: 0.05, views: {crop: pad, padding: 1, flip: false}}
cda: {ipc: 2, slots_per_unit: 1, recover: {iterations: 6, jitter: 1, log_every: 3}}
relabel: {epochs: 3, batch_size: 2, epochs_per_unit: 2}
evaluate:
  distilled:
    networks: [convnet2_w8]
    seeds: 1
    soft: {epochs: 4, learning_rate: 0.01}
    hard: {epochs: 2, batch_size: 2, learning_rate: 0.01}
    full: {epochs: 2, batch_size: 8, learning_rate: 0.05}
report: {title: toy}
"""


def write_source(root: Path) -> None:
    """Two classes, bright on the left or on the right, 16 px; nothing equal to anything else."""
    rng = np.random.default_rng(1)
    for split, count in (("train", 16), ("test", 6)):
        for label, name in enumerate(["left", "right"]):
            folder = root / split / name
            folder.mkdir(parents=True)
            for place in range(count):
                pixels = rng.integers(0, 120, (16, 16, 3)).astype(np.uint8)
                pixels[:, 8 * label : 8 * label + 8] += 100
                cv2.imwrite(str(folder / f"{place:03d}.png"), pixels)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source")
    write_source(root)
    return root


def params_of(source: Path, folder: Path) -> Path:
    path = folder / "params.yaml"
    path.write_text(PARAMS.replace("SOURCE", str(source)))
    return path


def run_all(source: Path, folder: Path) -> Path:
    params = params_of(source, folder)
    for stage in PIPELINE:
        run_stage(make_job(stage, params, data=str(folder / "data")), "serial", debug=True)
    return folder / "data"


@pytest.fixture(scope="module")
def data(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with every stage finished."""
    return run_all(source, tmp_path_factory.mktemp("run"))


def metrics(data: Path, stage: str = "squeeze") -> Any:
    return json.loads((data / stage / "metrics.json").read_text())


def results(data: Path) -> Any:
    return json.loads((data / "evaluate/distilled/results.json").read_text())


def test_every_accuracy_stands_next_to_its_controls(data: Path) -> None:
    found = results(data)
    arms = {f"{images}_{labels}" for images in ("cda", "cda_start", "random") for labels in ("soft", "hard")}
    assert set(found["ipc_1"]) == set(found["ipc_2"]) == arms
    assert found["full"]["real_hard"]["images"] == 24
    assert found["ipc_2"]["cda_soft"]["images"] == found["ipc_2"]["random_soft"]["images"] == 4
    assert found["protocol"]["seeds"] == 1
    assert "Only 1 seed" in found["protocol"]["note"]


def test_the_teacher_is_checked_by_the_students_loader(data: Path) -> None:
    assert results(data)["teacher"]["test_top1"] == metrics(data, "squeeze")["test_top1"] >= 0.75


def test_soft_labels_of_both_arms_are_counted_alike(data: Path) -> None:
    soft = results(data)["ipc_2"]
    stored = metrics(data, "relabel/cda")["ipc_2"]
    files = sum(path.stat().st_size for path in (data / "relabel/cda/labels/ipc_002").iterdir())
    assert soft["cda_soft"]["label_bytes"] == stored["bytes"] == files
    assert soft["random_soft"]["label_bytes"] == pytest.approx(files, rel=0.5)
    assert stored["epochs"] == 3


def test_distilled_images_are_a_sound_dataset_with_parents(data: Path) -> None:
    report = lint(str(data / "cda"))
    assert report.ok
    assert not report.findings
    rows = Dataset.open(str(data / "cda")).rows(["key", "label", "parents"]).to_pylist()
    assert sorted(row["key"] for row in rows) == [f"cda-c0000{c}-s0000{s}" for c in (0, 1) for s in (0, 1)]
    train = set(Dataset.open(str(data / "split/train")).rows(["key"])["key"].to_pylist())
    assert all(len(row["parents"]) == 1 and row["parents"][0] in train for row in rows)


def test_no_test_image_is_in_any_training_set(data: Path) -> None:
    parts = {part: Dataset.open(str(data / "split" / part)).rows(["raw_sha256"]) for part in ("train", "val", "test")}
    hashes = {part: set(rows["raw_sha256"].to_pylist()) for part, rows in parts.items()}
    assert {part: len(found) for part, found in hashes.items()} == {"train": 24, "val": 8, "test": 12}
    assert len(set.union(*hashes.values())) == 44


def test_few_shot_manifests_are_nested_and_from_train(data: Path) -> None:
    manifest = json.loads((data / "split/few_shot.json").read_text())
    assert (manifest["order"], manifest["shots"], list(manifest["seeds"])) == ("hash", [1, 2], ["0"])
    job = make_job("evaluate", data.parent / "params.yaml", data=str(data))
    train = set(Dataset.open(str(data / "split/train")).rows(["key"])["key"].to_pylist())
    two, one = load_few_shot(job, 2, 0), load_few_shot(job, 1, 0)
    assert {label: keys[:1] for label, keys in two.items()} == one
    assert set().union(*two.values()) <= train
    with pytest.raises(UserError, match=r"3 shots, the manifest has 2; raise split.few_shot"):
        load_few_shot(job, 3, 0)
    with pytest.raises(UserError, match=r"few-shot seed 5, there is 0; add it to split.few_shot_seeds"):
        load_few_shot(job, 1, 5)


def decisions(*rows: tuple[str, int, str, str]) -> pa.Table:
    """(key, label, decision, pixels) as `split` has them; the source is the key with a number after it."""
    return pa.table(
        {
            "key": [row[0] for row in rows],
            "label": [row[1] for row in rows],
            "source": [f"{row[0]}_{10 - place}" for place, row in enumerate(rows)],
            "pixel_sha256": pa.array([row[3].encode() for row in rows], pa.binary()),
            "decision": [row[2] for row in rows],
        }
    )


def test_a_picture_that_test_holds_under_another_key_is_no_few_shot_image() -> None:
    table = decisions(("a", 0, "train", "p"), ("b", 0, "train", "q"), ("c", 0, "test", "p"), ("d", 0, "val", "r"))
    assert few_shot(table, SplitParams(few_shot=(2,)), 0)["seeds"] == {"0": {"0": ["b"]}}


def test_the_order_of_few_shot_images_is_selectable() -> None:
    table = decisions(*((f"{place:02d}", place // 100, "train", str(place)) for place in range(300)))
    disef = few_shot(table, SplitParams(few_shot=(4,), few_shot_seeds=(1,), few_shot_order="disef"), 0)
    assert disef["seeds"]["1"] == {  # docs/specs/datadream.md, number 13
        "0": ["17", "72", "97", "08"],
        "1": ["132", "115", "163", "197"],
        "2": ["257", "260", "283", "248"],
    }
    names = decisions(*((name, 0, "train", name) for name in ("img", "img-2", "a")))
    natural = few_shot(names, SplitParams(few_shot=(2,), few_shot_order="natural"), 0)  # a_8, img_10, img-2_9
    assert natural["seeds"]["0"]["0"] == ["a", "img-2"]


def test_another_few_shot_seed_is_another_choice() -> None:
    table = decisions(*((f"{place:03d}", 0, "train", str(place)) for place in range(100)))
    seeds = few_shot(table, SplitParams(few_shot=(8,), few_shot_seeds=(0, 1)), 0)["seeds"]
    assert len(set(seeds["0"]["0"]) | set(seeds["1"]["0"])) > 8


def test_a_second_run_does_nothing(data: Path) -> None:
    params = data.parent / "params.yaml"
    for stage in PIPELINE:
        assert "up to date" in run_stage(make_job(stage, params, data=str(data)), "serial")


def test_the_same_job_elsewhere_gives_the_same_bytes(source: Path, data: Path, tmp_path: Path) -> None:
    again = run_all(source, tmp_path)
    for stage in [name for name in PIPELINE if name != "report"]:  # the report tells times
        assert tree(again / stage) == tree(data / stage), stage


def test_more_images_per_class_keep_those_that_are_done(data: Path) -> None:
    job = make_job("cda", data.parent / "params.yaml", ["cda.ipc=3"], str(data))
    prepared = prepare(get_stage("cda"), job)
    assert [unit.payload["slots"] for unit, _ in prepared.pending] == [[2]]


def test_another_student_recipe_leaves_the_other_arms_alone(data: Path) -> None:
    job = make_job("evaluate", data.parent / "params.yaml", ["evaluate.distilled.hard.epochs=3"], str(data))
    pending = {unit.name.partition("-")[0] for unit, _ in prepare(get_stage("evaluate"), job).pending}
    assert pending == {"cda_hard", "cda_start_hard", "random_hard"}


def test_products_are_measured_apart(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("diffusers", reason="diffusers is not installed: limbeck[synth]")
    from tests.stages.dreams import write_dreams, write_generator

    config = json.loads((data / "evaluate/distilled/config.resolved.json").read_text())["evaluate"]
    assert set(config) == {"note", "distilled"}  # another product's parameters are none of its own
    shutil.copytree(data, tmp_path / "data")
    for stage in ("squeeze", "cda", "relabel"):  # whoever measures DataDream alone makes no teacher and distils nothing
        shutil.rmtree(tmp_path / "data" / stage)
    write_generator(tmp_path / "data")
    write_dreams(tmp_path / "data", "cls", {(2, 0): 2})
    section = "{variants: [cls], shots: [2], seeds: 1, classifier: {epochs: 1, warmup_epochs: 0}}"
    overrides = [f"evaluate.datadream={section}"]
    job = make_job("evaluate@datadream", data.parent / "params.yaml", overrides, str(tmp_path / "data"))
    pending = [unit.name for unit, _ in prepare(get_stage("evaluate"), job).pending]
    assert sorted(pending) == [
        f"{name}-seed0-clip"
        for name in ("pooled-cls-shots02", "real-shots02", "synthetic-cls-shots02", "zero_shot_clip")
    ]
    run_stage(job, "serial", debug=True)
    dreams = json.loads((tmp_path / "data/evaluate/datadream/results.json").read_text())
    assert dreams["shots_2"]["clip"]["pooled_cls"]["images"] == {"real": 4, "synthetic": 4}
    assert tree(tmp_path / "data/evaluate/distilled") == tree(data / "evaluate/distilled")


def test_what_a_set_started_from_is_trained_on_as_it_was(data: Path) -> None:
    job = make_job("evaluate", data.parent / "params.yaml", data=str(data))
    sets = CondensedSets(job, "cda")
    start = load_start(job, "cda", 2)
    assert start.keys == sets.keys(2)
    real = load_arrays(Dataset.open(str(data / "split/train")), sets.parents(2))
    assert (start.images == real.images).all()
    assert (start.images != load_distilled(job, "cda", 2).images).any()
    arms = results(data)["ipc_2"]
    assert arms["cda_start_soft"]["label_bytes"] == pytest.approx(arms["cda_soft"]["label_bytes"], rel=0.5)
    row = arms["cda_start_hard"]
    assert [row[name] for name in ("source", "images_from", "label_kind", "network", "norm", "images")] == [
        *("cda", "start", "hard", "convnet2_w8", "batch", 4)
    ]


def test_a_set_that_says_no_start_has_no_such_arm_and_hard_labels_need_no_relabel(
    source: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data, tmp_path / "data")
    for stage in ("relabel", "evaluate"):
        shutil.rmtree(tmp_path / "data" / stage)
    params = params_of(source, tmp_path)
    changes = ["cda.init=noise", "evaluate.distilled.arms=[distilled_hard, start_hard, random_hard]"]
    for stage in ("cda", "evaluate"):
        run_stage(make_job(stage, params, changes, str(tmp_path / "data")), "serial", debug=True)
    found = results(tmp_path / "data")
    assert set(found["ipc_2"]) == {"cda_hard", "random_hard"}
    assert found["protocol"]["without_start"] == ["cda"]
    # The control of before, made again byte for byte: its images know nothing of the set.
    name = "evaluate/distilled/curves/random_hard-ipc002-set0-seed0-convnet2_w8.csv"
    assert (tmp_path / "data" / name).read_bytes() == (data / name).read_bytes()


def test_metrics_are_few_numbers_and_a_line_is_drawn_for_each_arm(data: Path) -> None:
    few, whole = metrics(data, "evaluate/distilled"), results(data)
    assert few["accuracy"]["ipc_2"] == {name: arm["last_mean"] for name, arm in whole["ipc_2"].items()}
    judged = [*whole["comparisons"], *whole["against_start"]]
    gaps = {f"{one['arm']}-{one['against']}": one["gap"] for one in judged if one["ipc"] == 1}
    assert few["difference"]["ipc_1"] == gaps
    assert set(gaps) == {f"cda_{kind}-{one}_{kind}" for one in ("random", "cda_start") for kind in ("soft", "hard")}
    assert "note" not in json.dumps(few)
    curves = list(csv.DictReader((data / "evaluate/distilled/curves.csv").read_text().splitlines()))
    assert {row["line"] for row in curves} == {
        "real_hard, full set",
        *(
            f"{arm}_{labels}, IPC {ipc}"
            for arm in ("cda", "cda_start", "random")
            for labels in ("soft", "hard")
            for ipc in (1, 2)
        ),
    }
    assert [row["epoch"] for row in curves if row["line"] == "real_hard, full set"] == ["0", "1"]


def test_an_evaluation_without_a_section_is_told_which_there_are(data: Path, tmp_path: Path) -> None:
    job = make_job("evaluate", data.parent / "params.yaml", ["evaluate.distilled=null"], str(tmp_path))
    with pytest.raises(UserError, match=r"measures what has a section, and there is none: add evaluate\.datadream or"):
        run_stage(job, "serial", debug=True)


def test_training_that_was_interrupted_ends_with_the_same_bytes(
    data: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "INTERVAL", 0.0)  # a checkpoint after every epoch
    params = params_of(source, tmp_path)
    for stage in ("ingest", "split"):
        run_stage(make_job(stage, params, data=str(tmp_path)), "serial")
    job, squeeze = make_job("squeeze", params, data=str(tmp_path)), get_stage("squeeze")
    begin(squeeze, job, prepared := prepare(squeeze, job))
    (unit, identity) = prepared.pending[0]

    def interrupt(done: float, _total: float, _note: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_unit(squeeze, job, None, unit, identity, interrupt)
    assert list((tmp_path / "squeeze/.partial").rglob("*.pt"))
    epochs: list[float] = []
    run_unit(squeeze, job, None, unit, identity, lambda done, _total, _note: epochs.append(done))
    assert epochs == [3.0, 4.0, 5.0, 6.0]  # two were kept, the interrupted third ran again
    execute(squeeze, job, SerialRunner)
    assert tree(tmp_path / "squeeze") == tree(data / "squeeze")


@pytest.mark.parametrize(
    ("stage", "override", "sentence"),
    [
        ("relabel", "relabel.ipc=[5]", "relabel.ipc asks for 5 images per class"),
        ("evaluate", "evaluate.distilled.ipc=[7]", r"no labels for \[7\] images per class of cda, only for \[1, 2\]"),
        ("squeeze", "squeeze.network=resnt18", "squeeze.network: no network is called so; near it: resnet18"),
        ("squeeze", "squeeze.weights=/nowhere.pt", "squeeze.weights: no file"),
        ("evaluate", "run.device=cuda", "torch sees no CUDA device"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(data: Path, stage: str, override: str, sentence: str) -> None:
    if "cuda" in override and __import__("torch").cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    before = tree(data / stage)
    change = ["evaluate.distilled.hard.epochs=5"] if stage == "evaluate" else []
    with pytest.raises(UserError, match=sentence):
        run_stage(make_job(stage, data.parent / "params.yaml", [override, *change], str(data)), "serial", debug=True)
    assert tree(data / stage) == before  # a bad configuration stops before work starts


def test_weights_of_another_network_are_refused(data: Path, source: Path, tmp_path: Path) -> None:
    params = params_of(source, tmp_path)
    for stage in ("ingest", "split"):
        run_stage(make_job(stage, params, data=str(tmp_path)), "serial")
    weights = data / "squeeze/teacher.safetensors"
    same = make_job("squeeze", params, [f"squeeze.weights={weights}", "squeeze.training.epochs=0"], str(tmp_path))
    run_stage(same, "serial", debug=True)
    assert metrics(tmp_path, "squeeze")["test_top1"] == metrics(data, "squeeze")["test_top1"]
    other = make_job("squeeze", params, [f"squeeze.weights={weights}", "squeeze.network=convnet2_w4"], str(tmp_path))
    with pytest.raises(UserError, match="does not fit convnet2_w4"):
        run_stage(other, "serial", debug=True)


def test_an_input_that_is_missing_names_the_command(tmp_path: Path, source: Path) -> None:
    with pytest.raises(UserError, match="run first: limbeck run split"):
        run_stage(make_job("squeeze", params_of(source, tmp_path), data=str(tmp_path)), "serial")
