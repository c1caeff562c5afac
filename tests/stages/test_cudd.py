"""`cudd` at toy size: curricula that extend a set, what each begins at, and what a change, a kill or a wrong input costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from distill.accuracy import predicted_classes
from pipelines.artifacts.distilled import CondensedSets
from pipelines.artifacts.teacher import load_teacher
from pipelines.errors import UserError
from pipelines.loaders.arrays import load_arrays
from pipelines.report.blocks import Charts, Table
from pipelines.report.section import Options
from pipelines.runtime.execute import execute, prepare
from pipelines.shards.dataset import Dataset
from pipelines.stages import get_stage, outputs_under
from pipelines.stages.cudd.section import section
from tests.contract.folders import assert_same, tree
from tests.stages.condensing import Condensing
from tests.stages.zygote import Backwards, killed_before

CHANGES = (
    "cudd.ipc=3",
    "cudd.curricula=[1,2]",
    "cudd.class_chunk=1",
    "cudd.slots_per_unit=1",
    "cudd.recover={iterations: 3, log_every: 2, jitter: 1}",
    "cudd.student={network: convnet2_w4, training: {epochs: 2, batch_size: 2}}",
    "relabel.sources=[cudd]",
    "relabel.ipc=[1]",
    "relabel.epochs=2",
    "evaluate.distilled.sources=[cudd]",
    "evaluate.distilled.arms=[distilled_soft, start_soft, distilled_hard, random_hard]",
    "evaluate.distilled.seeds=1",
)


SMALL = Condensing(*CHANGES)
job_of, run = SMALL.job_of, SMALL.run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a teacher and a set of two curricula, and the parameters beside it."""
    return SMALL.write_base(tmp_path_factory.mktemp("cudd"), "cudd")


@pytest.fixture
def data(base: Path, tmp_path: Path) -> Path:
    """Another data folder with the same inputs, and nothing condensed."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("split", "squeeze"):
        (folder / name).symlink_to(base / name)
    (tmp_path / "params.yaml").write_text((base.parent / "params.yaml").read_text())
    return folder


def test_each_image_begins_at_a_real_one_of_its_own(base: Path) -> None:
    dataset = Dataset.open(base / "cudd")
    rows = dataset.rows(["label", "params", "parents", "op"]).to_pylist()
    assert sorted((row["label"], json.loads(row["params"])["slot"]) for row in rows) == [
        (label, slot) for label in range(2) for slot in range(3)
    ]
    assert {row["op"] for row in rows} == {"cudd"}
    assert len({row["parents"][0] for row in rows}) == 6
    lines = (base / "cudd/losses.csv").read_text().splitlines()
    assert lines[0] == "unit,step,loss"
    assert len(lines) == 1 + 6 * 2


def test_a_later_curriculum_begins_at_what_its_student_gets_wrong(base: Path) -> None:
    """Asked again, the networks say of the chosen images what the table says of why they were chosen."""
    import safetensors.torch

    from pipelines.artifacts.teacher import build_network

    job = job_of(base, "cudd")
    teacher = load_teacher(job, torch.device("cpu"))
    student = build_network("convnet2_w4", 2, teacher.image_size, 0, "x").eval()
    weights = (base / "cudd/students/cudd-00.safetensors").read_bytes()
    student.load_state_dict(safetensors.torch.load(weights))
    counts = {"recognised": 0, "hard": 0, "any": 0}
    for label in range(2):
        chosen = json.loads((base / f"cudd/choices/cudd-01-{label:06d}.json").read_text())[str(label)]
        images = torch.from_numpy(load_arrays(Dataset.open(base / "split/train"), chosen).images)
        about = {"mean": teacher.mean, "std": teacher.std}
        of_teacher, of_student = (predicted_classes(one, images, **about) for one in (teacher.model, student))
        for right, wrong in zip(of_teacher == label, of_student != label, strict=True):
            reason = ("recognised" if right else "hard") if wrong else "any"
            counts[reason] += 1
    rows = (base / "cudd/choices.csv").read_text().splitlines()
    assert rows[0] == "set,curriculum,images,recognised,hard,any"
    assert rows[1].startswith("0,0,2,")
    assert rows[2] == f"0,1,4,{counts['recognised']},{counts['hard']},{counts['any']}"


def test_another_curriculum_leaves_those_before_it_as_they_are(base: Path) -> None:
    def pending(*changes: str) -> set[str]:
        return {unit.name for unit, _ in prepare(get_stage("cudd"), job_of(base, "cudd", *changes)).pending}

    assert pending() == set()
    more = pending("cudd.ipc=4", "cudd.curricula=[1,2,1]")
    assert more == {
        "students/cudd-01",
        *(f"choices/cudd-02-{label:06d}" for label in range(2)),
        *(f"cudd-{place:06d}" for place in (6, 7)),
    }
    other_student = pending("cudd.student={network: convnet2_w4, training: {epochs: 3, batch_size: 2}}")
    assert other_student == {
        "students/cudd-00",
        *(f"choices/cudd-01-{label:06d}" for label in range(2)),
        *(f"cudd-{place:06d}" for place in range(2, 6)),
    }


def test_it_is_a_source_like_any_other(base: Path) -> None:
    for name in ("relabel@cudd", "evaluate@distilled"):
        run(base, name)
    assert CondensedSets(job_of(base, "relabel@cudd"), "cudd").started_from_real
    arms = json.loads((base / "evaluate/distilled/results.json").read_text())["ipc_1"]
    assert set(arms) == {"cudd_soft", "cudd_start_soft", "cudd_hard", "random_hard"}


def test_the_report_shows_the_loss_and_where_curricula_began(base: Path) -> None:
    shown = section(outputs_under(str(base)), Options())
    assert shown is not None
    charts, table = shown.blocks
    assert isinstance(charts, Charts)
    assert isinstance(table, Table)
    assert [row[:2] for row in table.rows] == [["1", "2"], ["2", "4"]]


def test_the_order_of_units_changes_no_byte(base: Path, data: Path) -> None:
    job = job_of(data, "cudd")
    execute(get_stage("cudd"), job, Backwards)
    assert_same(tree(data / "cudd"), tree(base / "cudd"))


@pytest.mark.parametrize(("change", "students"), [(25, 0), (60, 1)])
def test_killed_it_ends_with_the_same_bytes(base: Path, data: Path, change: int, students: int) -> None:
    """Killed among the images of the first curriculum, and among those of the second."""
    killed_before(change, "cudd", data, CHANGES)
    assert len(list((data / "cudd/ledger/students").glob("*.json"))) == students
    assert list((data / "cudd/ledger").glob("cudd-*.json"))
    assert not (data / "cudd/stage.json").exists()
    run(data, "cudd")
    assert_same(tree(data / "cudd"), tree(base / "cudd"))


def test_reference_has_the_defects_of_the_published_code(data: Path) -> None:
    """The second run goes over the files of the first: what it reads of its own is not what that one left."""
    reference = "cudd.recover={mode: reference, iterations: 2, log_every: 2, jitter: 1}"
    run(data, "cudd", reference)
    defects = (data / "cudd/losses.csv").read_text()
    run(data, "cudd", reference, "cudd.curriculum.defects=[]")
    assert (data / "cudd/losses.csv").read_text() != defects


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (("cudd.ipc=4",), r"curricula add 1 \+ 2 = 3 images per class, and ipc is 4; make them equal"),
        (("cudd.curriculum.defects=[label_0]",), "are those of the published code"),
        (("cudd.student.training.epochs=0",), "takes a whole number from 1"),
        (("cudd.student.training.label_smoothing=0.1",), "not smoothed"),
        (("cudd.ipc=15", "cudd.curricula=[15]"), "has 12 different training images, fewer than the 15"),
        (("cudd.student.network=convnet6_w4",), "cudd.student.network"),
    ],
)
def test_what_cannot_be_condensed_is_refused_before_any_work(
    base: Path, changes: tuple[str, ...], sentence: str
) -> None:
    def begin() -> None:
        job = job_of(base, "cudd", *changes)
        get_stage("cudd").plan(job)
        get_stage("cudd").check(job)

    with pytest.raises(UserError, match=sentence):
        begin()
