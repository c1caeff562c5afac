"""The arms of `evaluate@distilled` at toy size: labels of three kinds, several students and sets, a coreset as control, bytes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.artifacts.distilled import load_distilled, random_real
from pipelines.artifacts.labels import RelabelParams, label_epochs, labels_of, store_again
from pipelines.artifacts.teacher import TEACHER_WEIGHTS, load_teacher
from pipelines.commands.jobs import make_job
from pipelines.commands.runs import run_stage
from pipelines.errors import UserError
from pipelines.evaluation.distilled.arms import Arm, TrainStudent
from pipelines.evaluation.distilled.label_forms import LabelForm
from pipelines.loaders.soft_labels import read_soft_labels
from pipelines.runtime.device import torch_device
from pipelines.runtime.execute import prepare
from pipelines.runtime.job import Job
from pipelines.runtime.ledger import STAGE_FILE
from pipelines.shards.checksum import read_signed, signed_bytes
from pipelines.shards.dataset import Dataset
from pipelines.stages import get_stage
from pipelines.storage import Storage
from tests.stages.condensing import run_stages, write_job

NETWORKS = ["convnet2_w8_in", "convnet2_w8"]
TRAINING = {"batch_size": 4, "learning_rate": 0.01}
PARAMS: dict[str, Any] = {
    "run": {"seed": 0, "threads": 1, "device": "cpu"},
    "ingest": {
        "sources": [{"type": "folder", "path": f"source/{split}", "split": split} for split in ("train", "test")],
        "image": {"format": "png"},
    },
    "squeeze": {"network": "convnet2_w8", "training": {"epochs": 4, "batch_size": 8, "learning_rate": 0.05}},
    "cda": {"ipc": 2, "seeds": 2, "recover": {"iterations": 3, "jitter": 1}},
    "coreset": {"methods": ["medoids", "random_tiles"], "ipc": 1},
    "relabel": {"ipc": [1], "epochs": 2, "batch_size": 2},
    "evaluate": {
        "distilled": {
            "controls": ["coreset@medoids"],
            "networks": NETWORKS,
            "seeds": 1,
            "arms": [
                "distilled_soft",
                "distilled_online",
                "random_online",
                "distilled_hard",
                "start_hard",
                "random_hard",
            ],
            "at_epochs": [2, 1, 9],
            "soft": {"epochs": 2, "learning_rate": 0.01},
            "online": {"epochs": 3, "evaluate_every": 100, **TRAINING},
            "hard": {"epochs": 2, **TRAINING},
        }
    },
}
GENERATOR = 12_345_678


def job_of(root: Path, stage: str, *changes: str) -> Job[Any]:
    return make_job(stage, root / "params.yaml", changes, str(root / "data"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with parameters, and the data folder of a job of them; `cda` says that it was made by a generator."""
    root = tmp_path_factory.mktemp("arms")
    write_job(root, PARAMS)
    run_stages(root, ("ingest", "split", "squeeze", "cda"))
    storage = Storage(root / "data/cda")
    form = read_signed(storage.read_bytes(STAGE_FILE))
    form["facts"]["generator_bytes"] = GENERATOR
    storage.write_bytes(STAGE_FILE, signed_bytes(form))
    run_stages(root, ("coreset", "relabel", "evaluate"))
    return root


#: One control stores four images in one; all students of an IPC and of labels of a kind take as many steps.
EQUAL = (
    "evaluate.distilled.controls=[coreset@random_tiles]",
    "evaluate.distilled.networks=[convnet2_w8_in]",
    "evaluate.distilled.budget=steps",
    "evaluate.distilled.ipc=[1]",
    "evaluate.distilled.arms=[distilled_soft, distilled_fixed, random_fixed, distilled_hard, random_hard, real_hard]",
    "evaluate.distilled.fixed={epochs: 1, batch_size: 4, learning_rate: 0.01, temperature: 2.0}",
    "evaluate.distilled.label_formats=[int8, {format: top_k, top_k: 1}, {epochs: 1}]",
    "evaluate.distilled.hard={epochs: 3, batch_size: 4, learning_rate: 0.01, warmup_epochs: 1, evaluate_every: 3}",
    "evaluate.distilled.full={epochs: 2, batch_size: 8, learning_rate: 0.01}",
)


@pytest.fixture(scope="module")
def equal(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of an evaluation of equal steps, of the same sets."""
    data = tmp_path_factory.mktemp("equal") / "data"
    data.mkdir()
    for stage in ("ingest", "split", "squeeze", "cda", "coreset", "relabel"):
        (data / stage).symlink_to(root / "data" / stage)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run_stage(make_job("evaluate", root / "params.yaml", EQUAL, str(data)), "serial", debug=True)
    return data


@pytest.fixture(scope="module")
def form(root: Path) -> Any:
    return json.loads((root / "data/evaluate/distilled/results.json").read_text())


def test_sets_and_controls_are_trained_with_labels_of_every_kind_by_every_student(form: Any) -> None:
    assert form["protocol"]["networks"] == NETWORKS
    for rows in (form["ipc_1"], form["other_students"]["convnet2_w8"]["ipc_1"]):
        kinds = {name: (row["role"], row["label_kind"], len(row["last"]), row["sets"]) for name, row in rows.items()}
        assert kinds == {
            "cda_soft": ("source", "stored epochs", 2, 2),
            "cda_online": ("source", "online", 2, 2),
            "cda_hard": ("source", "hard", 2, 2),
            "cda_start_hard": ("control", "hard", 2, 2),
            "coreset_medoids_soft": ("control", "stored epochs", 1, 1),
            "coreset_medoids_online": ("control", "online", 1, 1),
            "coreset_medoids_hard": ("control", "hard", 1, 1),
            "random_online": ("control", "online", 2, 2),
            "random_hard": ("control", "hard", 2, 2),
        }
    assert {row["norm"] for row in form["ipc_1"].values()} == {"instance"}


def test_every_set_stands_against_every_control_that_has_its_labels_and_its_student(form: Any) -> None:
    against = {
        key: sorted({(one["arm"], one["against"], one["paired"]) for one in form[key]})
        for key in ("comparisons", "against_start", "against_controls")
    }
    assert against == {
        "comparisons": [("cda_hard", "random_hard", True), ("cda_online", "random_online", True)],
        "against_start": [("cda_hard", "cda_start_hard", True)],
        "against_controls": [
            (f"cda_{labels}", f"coreset_medoids_{labels}", False) for labels in ("hard", "online", "soft")
        ],
    }
    judged = [one for key in against for one in form[key]]
    assert {one["network"] for one in judged} == set(NETWORKS)
    # The only student of a coreset tells of no chance: hard labels have two comparisons, online ones one, soft ones none.
    assert {one["labels"]: one["of"] for one in judged} == {"hard": 2, "online": 1, "soft": 0}
    assert {one["outcome"] for one in form["against_controls"]} == {"unproved"}
    assert set(form["best_control"]) == set(NETWORKS)
    rows = form["ipc_1"]
    hard = ("random_hard", "cda_start_hard", "coreset_medoids_hard")
    best = form["best_control"][NETWORKS[0]]["ipc_1"]["hard"]
    assert rows[best]["last_mean"] == max(rows[name]["last_mean"] for name in hard)


def test_accuracy_is_told_at_the_epochs_asked_for_that_a_training_has(root: Path, form: Any) -> None:
    for labels, epochs in (("soft", ["1", "2"]), ("online", ["1", "2"]), ("hard", ["1", "2"])):
        assert list(form["ipc_1"][f"cda_{labels}"]["at_epochs"]) == epochs
    row = form["ipc_1"]["cda_hard"]
    assert row["at_epochs"]["2"] == pytest.approx(row["last_mean"])
    curves = list(csv.DictReader((root / "data/evaluate/distilled/students.csv").read_text().splitlines()))
    looked = {row["epoch"] for row in curves if row["arm"] == "cda_online"}
    assert looked == {"0", "1", "2"}  # counted from 0: those asked for and the last, though evaluate_every is 100
    of_set = [row for row in curves if (row["arm"], row["network"], row["epoch"]) == ("cda_hard", "convnet2_w8", "1")]
    assert sorted((row["set"], row["seed"]) for row in of_set) == [("0", "0"), ("1", "0")]
    assert sorted(float(row["test_top1"]) for row in of_set) == sorted(
        form["other_students"]["convnet2_w8"]["ipc_1"]["cda_hard"]["last"]
    )


def test_rows_count_the_teacher_that_labels_online_and_the_generator_that_made_the_images(
    root: Path, form: Any
) -> None:
    teacher = (root / "data/squeeze" / TEACHER_WEIGHTS).stat().st_size
    sizes = {
        name: tuple(row[f"{what}_bytes"] for what in ("label", "teacher", "generator"))
        for name, row in form["ipc_1"].items()
        if not name.endswith("_soft")
    }
    assert sizes == {
        "cda_online": (0, teacher, GENERATOR),
        "cda_hard": (2, 0, GENERATOR),
        "cda_start_hard": (2, 0, 0),
        "coreset_medoids_online": (0, teacher, 0),
        "coreset_medoids_hard": (2, 0, 0),
        "random_online": (0, teacher, 0),
        "random_hard": (2, 0, 0),
    }
    soft = form["ipc_1"]["cda_soft"]
    assert soft["label_bytes"] > 0
    assert (soft["teacher_bytes"], soft["generator_bytes"]) == (0, GENERATOR)


def test_labels_that_are_made_on_the_spot_are_those_that_relabel_stores(root: Path, tmp_path: Path) -> None:
    """A control's are; here for a set whose labels are stored."""
    job = job_of(root, "evaluate")
    images = load_distilled(job, "cda", 1)
    params = RelabelParams.model_validate(PARAMS["relabel"])
    label_epochs(tmp_path / "labels.arrow", range(2), images, 1, load_teacher(job, torch_device(job)), params, job)
    folder = Storage(root / "data/relabel/cda")
    stored = read_soft_labels(
        folder, [path for path in folder.list() if path.startswith(f"labels/{labels_of(1, 0)}/")], images.keys
    )
    for epoch, (views, logits) in read_soft_labels(Storage(tmp_path), ["labels.arrow"], images.keys).items():
        assert views.same_as(stored[epoch][0])
        assert (logits == stored[epoch][1]).all()


def test_every_student_of_every_set_has_random_images_of_its_own(root: Path) -> None:
    train = Dataset.open(root / "data/split/train")
    students = [
        TrainStudent(Arm("random", "hard"), 4, seed, number, "", {}, {}, {}) for number in (0, 1) for seed in (0, 1)
    ]
    drawn = [tuple(random_real(train, 4, 0, student.chance).keys) for student in students]
    assert len(set(drawn)) == 4
    assert drawn[1] == tuple(random_real(train, 4, 0, 1).keys)  # those of the first set are those of the seeds alone


def test_students_of_smaller_sets_take_as_many_steps_as_those_of_the_largest(equal: Path) -> None:
    """Of two classes: 2 images are a batch of 4 at most, 8 tiles are two, so that 3 epochs of tiles are 6 steps."""
    form = json.loads((equal / "evaluate/distilled/results.json").read_text())
    assert form["protocol"]["budget"] == "steps"
    counts = {name: (row["images"], row["epochs"], row["steps"]) for name, row in form["ipc_1"].items()}
    assert counts == {
        "cda_hard": (2, 6, 6),
        "coreset_random_tiles_hard": (8, 3, 6),
        "random_hard": (2, 6, 6),
        "cda_fixed": (2, 2, 2),
        "coreset_random_tiles_fixed": (8, 1, 2),
        "random_fixed": (2, 2, 2),
        **dict.fromkeys(("cda_soft", "cda_soft_int8", "cda_soft_top1", "cda_soft_epochs1"), (2, 8, 8)),
        "coreset_random_tiles_soft": (8, 2, 8),
    }
    assert form["full"]["real_hard"]["epochs"] == 2  # all images have a budget of their own
    for row in (
        row for row in form["ipc_1"].values() if row["labels"] == "hard"
    ):  # an epoch that is asked for is as many steps for all
        assert list(row["at_epochs"]) == ["1", "2"]
    looks: dict[str, list[int]] = {}
    for row in csv.DictReader((equal / "evaluate/distilled/students.csv").read_text().splitlines()):
        if (row["set"], row["ipc"]) == ("0", "1") and row["arm"].endswith("_hard"):
            looks.setdefault(row["arm"], []).append(int(row["epoch"]) + 1)
    assert looks == {
        "cda_hard": [2, 4, 6],
        "coreset_random_tiles_hard": [1, 2, 3],
        "random_hard": [2, 4, 6],
    }


def test_one_fixed_label_an_image_takes_two_bytes_a_class(equal: Path) -> None:
    rows = json.loads((equal / "evaluate/distilled/results.json").read_text())["ipc_1"]
    labels = {name: (row["label_kind"], row["label_format"], row["label_bytes"]) for name, row in rows.items()}
    assert labels["cda_fixed"] == labels["random_fixed"] == ("fixed soft", "fp16", 2 * 2 * 2)
    assert labels["coreset_random_tiles_fixed"] == ("fixed soft", "fp16", 8 * 2 * 2)  # each tile has its own


def test_forms_of_stored_labels_take_what_relabel_would_write(
    root: Path, equal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    rows = json.loads((equal / "evaluate/distilled/results.json").read_text())["ipc_1"]
    changes = {
        "cda_soft": ("fp16, 2 epochs", []),
        "cda_soft_int8": ("int8, 2 epochs", ["relabel.format=int8"]),
        "cda_soft_top1": ("top 1, 2 epochs", ["relabel.format=top_k", "relabel.top_k=1"]),
        "cda_soft_epochs1": ("fp16, 1 epoch", ["relabel.epochs=1"]),
    }
    for name, (words, overrides) in changes.items():
        data = tmp_path / name
        data.mkdir()
        for stage in ("split", "squeeze", "cda"):
            (data / stage).symlink_to(root / "data" / stage)
        run_stage(make_job("relabel@cda", root / "params.yaml", overrides, str(data)), "serial", debug=True)
        metrics = json.loads((data / "relabel/cda/metrics.json").read_text())
        assert (rows[name]["label_format"], rows[name]["label_bytes"]) == (words, metrics["ipc_1"]["bytes"])
        assert (rows[name]["labels"], rows[name]["role"], rows[name]["teacher_bytes"]) == ("soft", "source", 0)
    assert rows["coreset_random_tiles_soft"]["label_format"] == "fp16, 2 epochs"


def test_labels_in_another_form_are_those_of_the_same_views_within_its_error(root: Path, tmp_path: Path) -> None:
    images = load_distilled(job_of(root, "evaluate"), "cda", 1)
    folder = Storage(root / "data/relabel/cda")
    paths = [path for path in folder.list() if path.startswith(f"labels/{labels_of(1, 0)}/")]
    stored, params = read_soft_labels(folder, paths, images.keys), RelabelParams.model_validate(PARAMS["relabel"])
    for spec, epochs in (("int8", 2), ({"format": "top_k", "top_k": 1}, 2), ({"epochs": 1}, 1)):
        form = LabelForm.model_validate(spec)
        scratch = Storage(tmp_path / form.name)
        size, labels = store_again(scratch, stored, images.keys, form.of(params))
        assert size == sum(map(scratch.size, scratch.list()))
        assert list(labels) == list(range(epochs))
        for epoch, (views, logits) in labels.items():
            theirs, exact = stored[epoch]
            assert views.same_as(theirs)
            if form.name == "int8":  # half a step of 255 levels
                assert ((logits - exact).abs() <= (exact.amax(1) - exact.amin(1))[:, None] / 254 / 2 + 1e-6).all()
            elif form.name == "top1":  # of two classes the other has the mass that is left
                assert torch.allclose(logits.softmax(1), exact.softmax(1), atol=2e-3)
            else:
                assert torch.equal(logits, exact)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            ["relabel.epochs=2", "evaluate.distilled.label_formats=[{epochs: 2}]"],
            "2 epochs are not fewer than the 2 that",
        ),
        (["evaluate.distilled.label_formats=[top_k]"], "top_k keeps fewer than all 2 classes, got 5; lower it"),
    ],
)
def test_a_form_that_keeps_all_is_refused_before_work(
    root: Path, monkeypatch: pytest.MonkeyPatch, changes: list[str], sentence: str
) -> None:
    monkeypatch.chdir(root)
    with pytest.raises(UserError, match=sentence):
        prepare(get_stage("evaluate"), job_of(root, "evaluate", *changes))


def test_warm_up_and_looks_are_lengthened_with_the_epochs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)

    def configs(*changes: str) -> dict[str, Any]:
        units = prepare(get_stage("evaluate"), job_of(root, "evaluate", *EQUAL, *changes)).plan.units
        students = [unit.payload for unit in units if unit.kind == "student"]
        return {one["arm"]["source"]: one["config"] for one in students if one["arm"]["labels"] == "hard"}

    of = configs()
    assert [of[source]["epochs"] for source in ("cda", "coreset@random_tiles")] == [6, 3]
    assert [of[source]["warmup_epochs"] for source in ("cda", "coreset@random_tiles")] == [2, 1]
    assert [of[source]["evaluate_every"] for source in ("cda", "coreset@random_tiles")] == [6, 3]
    in_epochs = configs("evaluate.distilled.budget=epochs")
    assert in_epochs["cda"] == in_epochs["coreset@random_tiles"] == of["coreset@random_tiles"]


def test_a_student_a_set_or_a_seed_more_leaves_the_others_as_they_are(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)

    def identities(*changes: str) -> dict[str, str]:
        changes = ("evaluate.distilled.seeds=2", *changes)
        return prepare(get_stage("evaluate"), job_of(root, "evaluate", *changes)).identities

    whole = identities()
    for change in (
        "evaluate.distilled.networks=[convnet2_w8]",
        "evaluate.distilled.seeds=1",
        "evaluate.distilled.controls=[]",
        "evaluate.distilled.arms=[distilled_soft, distilled_online]",
        "evaluate.distilled.at_epochs=[1, 2, 30]",
    ):
        fewer = identities(change)
        assert fewer.items() <= whole.items(), change
        assert len(fewer) < len(whole) or "at_epochs" in change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("evaluate.distilled.network=convnet2_w8", "network is networks now, .*: networks: .convnet2_w8."),
        ("evaluate.distilled.networks=[convnet2_w8, convnet2_w8]", "networks names a student twice"),
        ("evaluate.distilled.controls=[cda]", "controls names cda, which sources names too"),
        ("evaluate.distilled.controls=[coreset@herding]", "coreset has no 'herding'"),
        ("evaluate.distilled.online={label_smoothing: 0.1}", "online.label_smoothing would be ignored"),
        ("evaluate.distilled.fixed={label_smoothing: 0.1}", "fixed.label_smoothing would be ignored"),
        ("evaluate.distilled.fixed={views: {mix: cutmix}}", "fixed.views.mix cutmix mixes images, .*; set it to none"),
        ("evaluate.distilled.label_formats=[int8, int8]", "label_formats names int8 twice"),
        ("evaluate.distilled.label_formats=[{format: int8, top_k: 3}]", "top_k would be ignored: format is not top_k"),
        ("evaluate.distilled.label_formats=[{}]", "a form of labels has a format, or epochs"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(root: Path, change: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        job_of(root, "evaluate", change)


def test_a_control_that_is_too_small_or_of_other_classes_is_refused_before_work(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    hard = ("evaluate.distilled.arms=[distilled_hard]", "evaluate.distilled.ipc=[2]")
    with pytest.raises(UserError, match=r"asks for 2 images per class, .* has 1; raise coreset.ipc"):
        prepare(get_stage("evaluate"), job_of(root, "evaluate", *hard))
    job = job_of(root, "evaluate")
    monkeypatch.setattr(Dataset, "classes", ["right", "left"])
    with pytest.raises(UserError, match=r"the classes of .* are not the teacher's"):
        get_stage("evaluate").check(job)
