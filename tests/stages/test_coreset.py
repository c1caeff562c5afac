"""`coreset` at toy size: which images each method stores, how, and what a change, a kill or a wrong input costs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from distill.coresets.herding import herd
from distill.features import head_inputs
from pipelines.artifacts.distilled import CondensedSets, keys_by_class
from pipelines.artifacts.generators import generator_digest
from pipelines.artifacts.scoring import load_clip
from pipelines.artifacts.teacher import load_teacher
from pipelines.commands.jobs import make_job
from pipelines.commands.runs import run_stage
from pipelines.errors import UserError
from pipelines.loaders.arrays import load_arrays
from pipelines.runtime.execute import execute, prepare
from pipelines.runtime.job import Job
from pipelines.runtime.ray_runner import RayRunner
from pipelines.shards.dataset import Dataset
from pipelines.shards.lint import lint
from pipelines.shards.sample import Sample
from pipelines.stages import get_stage
from synth.quality.features import ClipFeatures
from tests.contract.folders import assert_same, tree
from tests.stages.dreams import write_generator
from tests.stages.test_pipeline import params_of, write_source
from tests.stages.zygote import killed_before

METHODS = ("random", "herding", "medoids", "rded", "random_tiles", "medoids_tiles")
TILES = METHODS[4:]
#: Units small enough to have several: 24 candidates of two classes.
SMALL = (
    f"coreset.methods=[{', '.join(METHODS)}]",
    *("coreset.ipc=3", "coreset.rows_per_unit=7", "coreset.class_chunk=1", "coreset.rded={images: 12, crops: 3}"),
)


def job_of(data: Path, method: str, *changes: str) -> Job[Any]:
    return make_job(f"coreset@{method}", data.parent / "params.yaml", [*SMALL, *changes], str(data))


def run(data: Path, method: str, *changes: str) -> Path:
    run_stage(job_of(data, method, *changes), "serial", debug=True)
    return data / "coreset" / method


def samples(folder: Path) -> dict[str, Sample]:
    return {sample.key: sample for sample in Dataset.open(folder).samples()}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a teacher, and the parameters beside it."""
    root = tmp_path_factory.mktemp("coreset")
    write_source(root / "source")
    params = params_of(root / "source", root)
    for stage in ("ingest", "split", "squeeze"):
        run_stage(make_job(stage, params, data=str(root / "data")), "serial", debug=True)
    return root / "data"


@pytest.fixture(scope="module")
def chosen(base: Path) -> Path:
    """Two sets of every method, from seeds of their own."""
    for method in METHODS:
        run(base, method, "coreset.seeds=2", "coreset.caption=a photo of a {label_name}")
    return base / "coreset"


@pytest.fixture
def data(base: Path, tmp_path: Path) -> Path:
    """A folder of its own with the same inputs."""
    shutil.copy(base.parent / "params.yaml", tmp_path)
    for stage in ("ingest", "split", "squeeze"):
        shutil.copytree(base / stage, tmp_path / "data" / stage)
    return tmp_path / "data"


@pytest.mark.parametrize("method", METHODS)
def test_a_coreset_is_a_sound_condensed_set(base: Path, chosen: Path, method: str) -> None:
    report = lint(str(chosen / method))
    assert report.ok, report.findings
    assert not report.findings
    sets = CondensedSets(job_of(base, method), f"coreset@{method}")
    assert (sets.count, sets.ipc) == (1 if method == "herding" else 2, 3)
    assert sets.keys(2)[:2] == [f"coreset_{method}-c00000-s0000{slot}" for slot in (0, 1)]
    train = {row["key"]: row for row in Dataset.open(base / "split/train").rows(["key", "label"]).to_pylist()}
    for number in range(sets.count):
        parents = sets.parents(3, number)
        assert len(set(parents)) == 6
        assert [train[key]["label"] for key in parents] == [0, 0, 0, 1, 1, 1]
    assert sets.started_from_real == (method == "rded")  # whole images are no start of themselves
    if sets.count == 2:
        assert sets.parents(3, 0) != sets.parents(3, 1)
        assert sets.keys(1, 1) == [f"coreset_{method}_s1-c0000{label}-s00000" for label in (0, 1)]


@pytest.mark.parametrize("method", ["random", "herding", "medoids"])
def test_whole_images_keep_their_bytes(base: Path, chosen: Path, method: str) -> None:
    real = samples(base / "split/train")
    for sample in samples(chosen / method).values():
        (parent,) = sample.row["parents"]
        assert sample.image == real[parent].image
        for name in ("label", "label_name", "width", "height", "bytes", "pixel_sha256", "phash", "licence"):
            assert sample.row[name] == real[parent].row[name]
        about = json.loads(sample.member("json") or b"")
        assert about["parent"] == parent
        assert sample.member("txt") == f"a photo of a {sample.row['label_name']}".encode()


def test_herding_chooses_by_the_features_of_the_teacher(base: Path, chosen: Path) -> None:
    job = job_of(base, "herding")
    teacher, train = load_teacher(job, torch.device("cpu")), Dataset.open(base / "split/train")
    expected = []
    for keys in keys_by_class(train):
        images = torch.from_numpy(load_arrays(train, keys).images)
        features = head_inputs(teacher.model, images, mean=teacher.mean, std=teacher.std)
        expected += [keys[place] for place in herd(features, 3).tolist()]
    assert CondensedSets(job, "coreset@herding").parents(3) == expected
    assert {sample.row["model_id"] for sample in samples(chosen / "herding").values()} == {"convnet2_w8"}


def test_herding_chooses_by_clip_without_a_teacher_where_it_is_told_so(base: Path, data: Path) -> None:
    shutil.rmtree(data / "squeeze")
    with pytest.raises(UserError, match=r"limbeck run generator"):
        run(data, "herding", "coreset.features=clip")
    write_generator(data)
    run(data, "herding", "coreset.features=clip")
    job, train = job_of(data, "herding"), Dataset.open(base / "split/train")
    clip, expected = ClipFeatures(load_clip(job)[0]), []
    for keys in keys_by_class(train):
        features = clip(torch.from_numpy(load_arrays(train, keys).images).float() / 255)
        expected += [keys[place] for place in herd(features, 3).tolist()]
    assert CondensedSets(job, "coreset@herding").parents(3) == expected
    models = {sample.row["model_id"] for sample in samples(data / "coreset/herding").values()}
    assert models == {generator_digest(job, "clip")}
    with pytest.raises(UserError, match=r"limbeck run squeeze"):  # crops are scored by a classifier
        run(data, "rded", "coreset.features=clip")


def test_rded_stores_the_crops_that_its_rows_name(base: Path, chosen: Path) -> None:
    real = Dataset.open(base / "split/train")
    for sample in samples(chosen / "rded").values():
        params = json.loads(sample.row["params"])
        ((top, left, height, width),) = params["crops"]
        image = torch.from_numpy(load_arrays(real, sample.row["parents"]).images)
        cut = image[:, :, top : top + height, left : left + width].float()
        expected = torch.nn.functional.interpolate(cut, (16, 16), mode="bilinear", antialias=True)
        stored = load_arrays(Dataset.open(chosen / "rded"), [sample.key]).images
        assert np.abs(stored - expected.numpy()).max() <= 0.51


def test_tiles_of_several_images_name_them_all(data: Path) -> None:
    folder = run(data, "rded", "coreset.ipc=2", "coreset.rded={images: 12, crops: 2, factor: 2}")
    for sample in samples(folder).values():
        assert len(set(sample.row["parents"])) == 4 == len(json.loads(sample.row["params"])["crops"])
        assert json.loads(sample.member("json") or b"")["parents"] == sample.row["parents"]
        assert (sample.row["width"], sample.row["height"]) == (16, 16)
    assert not CondensedSets(job_of(data, "rded"), "coreset@rded").started_from_real


@pytest.mark.parametrize("method", TILES)
def test_tiles_are_whole_images_shrunk_row_by_row_in_the_order_of_the_choice(
    base: Path, chosen: Path, method: str
) -> None:
    """Each pixel is the mean of a square of 2 x 2, rounded to the even level where it lies between two."""
    real = Dataset.open(base / "split/train")
    for sample in samples(chosen / method).values():
        assert json.loads(sample.row["params"])["tiles"] == json.loads(sample.member("json") or b"")["tiles"] == 2
        assert json.loads(sample.member("json") or b"")["parents"] == sample.row["parents"]
        images = load_arrays(real, sample.row["parents"]).images.astype(np.float64)
        small = [(one[:, ::2, ::2] + one[:, 1::2, ::2] + one[:, ::2, 1::2] + one[:, 1::2, 1::2]) / 4 for one in images]
        rows = [np.concatenate(small[first : first + 2], 2) for first in (0, 2)]
        stored = load_arrays(Dataset.open(chosen / method), [sample.key]).images[0]
        assert np.array_equal(stored, np.round(np.concatenate(rows, 1)))


@pytest.mark.parametrize("method", TILES)
def test_tiles_hold_as_many_images_of_a_class_none_twice_and_are_read_as_them(
    base: Path, chosen: Path, data: Path, method: str
) -> None:
    rows = [row for row in samples(chosen / method).values() if "_s1-" not in row.key]
    for label in (0, 1):
        assert len({parent for one in rows for parent in one.row["parents"] if one.row["label"] == label}) == 12
    sets = CondensedSets(job_of(base, method), f"coreset@{method}")
    assert len(sets.load(3)) == 24
    run(data, method, "coreset.ipc=1")
    for key, sample in samples(data / "coreset" / method).items():  # whole parents, and not the first of each only
        assert sample.row["parents"] == samples(chosen / method)[key].row["parents"]
        assert sample.image == samples(chosen / method)[key].image


def test_tiles_of_medoids_are_the_medoids_of_as_many_clusters_as_there_are_tiles(base: Path, data: Path) -> None:
    run(data, "medoids_tiles", "coreset.ipc=2")
    run(data, "medoids", "coreset.ipc=8", "coreset.medoids={levels: [4]}")
    tiles = CondensedSets(job_of(data, "medoids_tiles"), "coreset@medoids_tiles")
    parents = [
        parent for key in tiles.keys(2) for parent in samples(data / "coreset/medoids_tiles")[key].row["parents"]
    ]
    assert parents == CondensedSets(job_of(data, "medoids"), "coreset@medoids").parents(8)


@pytest.mark.parametrize("method", METHODS)
def test_fewer_images_are_the_head_of_more(base: Path, chosen: Path, data: Path, method: str) -> None:
    """Of medoids where the smaller count is one of the levels."""
    run(data, method, "coreset.ipc=1")
    one, three = (CondensedSets(job_of(folder, method), f"coreset@{method}") for folder in (data, base))
    assert one.parents(1) == three.parents(1)
    assert samples(data / "coreset" / method).keys() <= samples(chosen / method).keys()


def test_a_larger_set_computes_no_feature_again(data: Path) -> None:
    run(data, "medoids", "coreset.ipc=1")
    pending = prepare(get_stage("coreset"), job_of(data, "medoids")).pending
    assert [unit.name for unit, _ in pending] == ["coreset_medoids-000000", "coreset_medoids-000001"]
    kinds = [unit.kind for unit in prepare(get_stage("coreset"), job_of(data, "medoids")).plan.units]
    assert kinds == ["embed"] * 4 + ["choose"] * 2


def test_how_images_are_parted_into_units_changes_no_choice(chosen: Path, data: Path) -> None:
    for method in ("herding", "medoids"):
        whole = run(data, method, "coreset.rows_per_unit=1000", "coreset.class_chunk=100")
        parents = {key: sample.row["parents"] for key, sample in samples(chosen / method).items() if "_s1-" not in key}
        assert {key: sample.row["parents"] for key, sample in samples(whole).items()} == parents


def test_random_needs_no_teacher_and_others_say_what_makes_it(data: Path) -> None:
    shutil.rmtree(data / "squeeze")
    run(data, "random")
    run(data, "random_tiles")
    for method in ("herding", "medoids", "rded", "medoids_tiles"):
        with pytest.raises(UserError, match="limbeck run squeeze"):
            run(data, method)


@pytest.mark.parametrize("method", METHODS[:4])
def test_a_class_with_too_few_different_images_is_one_sentence(data: Path, method: str) -> None:
    changes = ["coreset.ipc=13", "coreset.rded.images=13"]
    sentence = (
        rf"class left has 12 different training images, fewer than the 13 that coreset\.ipc 13 takes; lower coreset\.ipc, "
        rf"then: limbeck run coreset@{method}"
    )
    with pytest.raises(UserError, match=sentence):
        run(data, method, *changes)
    assert not (data / "coreset").exists()


@pytest.mark.parametrize("method", TILES)
def test_too_few_images_for_all_tiles_are_one_sentence(data: Path, method: str) -> None:
    with pytest.raises(UserError, match=r"fewer than the 16 that coreset\.ipc 4 and coreset\.tiles 2 takes; lower"):
        run(data, method, "coreset.ipc=4")
    assert not (data / "coreset").exists()


def test_the_same_picture_under_another_key_is_no_second_candidate(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base.parent / "source", tmp_path / "source")
    folder = tmp_path / "source/train/left"
    pixels = cv2.imread(str(folder / "000.png"))
    assert pixels is not None
    for place in range(4):
        cv2.imwrite(str(folder / f"again{place}.png"), pixels, [cv2.IMWRITE_PNG_COMPRESSION, place])
    params = params_of(tmp_path / "source", tmp_path)
    for stage in ("ingest", "split"):
        run_stage(make_job(stage, params, ["split.validation=0"], str(tmp_path / "data")), "serial", debug=True)
    with pytest.raises(UserError, match="class left has 16 different training images, fewer than the 17"):
        run(tmp_path / "data", "random", "coreset.ipc=17", "coreset.methods=[random]")


def test_a_teacher_of_other_classes_or_of_another_size_is_refused(base: Path, data: Path, tmp_path: Path) -> None:
    for name, changes, sentence in (
        ("classes", (), "are not the teacher's"),
        (
            "sizes",
            ("ingest.image={format: png, resize: exact, size: 12}",),
            "have 12 px, and the teacher of .* takes 16",
        ),
    ):
        root = tmp_path / name
        shutil.copytree(base.parent / "source", root / "source")
        if name == "classes":
            for split in ("train", "test"):
                (root / "source" / split / "left").rename(root / "source" / split / "up")
        params = params_of(root / "source", root)
        for stage in ("ingest", "split"):
            run_stage(make_job(stage, params, list(changes), str(root / "data")), "serial", debug=True)
        shutil.copytree(data / "squeeze", root / "data/squeeze")
        with pytest.raises(UserError, match=sentence):
            run(root / "data", "herding")
        assert not (root / "data/coreset/herding/plan").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("coreset.methods=[random, random]", "methods names something twice"),
        (
            "coreset.rded={images: 5, factor: 2}",
            r"rded\.images 5 are fewer than the 12 crops .* ipc 3 and rded\.factor 2",
        ),
        ("coreset.image.format=keep", "these have no bytes to keep"),
        ("coreset.rded.scale=[0.5, 0.1]", "scale takes 0 < low <= high <= 1"),
        ("coreset.medoids.levels=[0]", "levels take images per class from 1 on"),
    ],
)
def test_wrong_parameters_are_one_sentence(base: Path, change: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        job_of(base, "rded", change)


def test_a_factor_that_does_not_divide_the_image_is_refused_before_any_work(data: Path) -> None:
    with pytest.raises(UserError, match=r"coreset\.rded\.factor 3 does not divide the 16 px"):
        run(data, "rded", "coreset.ipc=1", "coreset.rded={images: 12, factor: 3}")


@pytest.mark.parametrize("method", TILES)
def test_tiles_that_do_not_divide_the_image_are_refused_before_any_work(data: Path, method: str) -> None:
    with pytest.raises(UserError, match=r"coreset\.tiles 3 does not divide the 16 px of the images of .*; choose"):
        run(data, method, "coreset.ipc=1", "coreset.tiles=3")


@pytest.mark.parametrize("change", [16, 30])
def test_killed_it_ends_with_the_same_bytes(base: Path, chosen: Path, data: Path, change: int) -> None:
    """Killed among the features and among the choices."""
    own = [*SMALL, "coreset.seeds=2", "coreset.caption=a photo of a {label_name}"]
    killed_before(change, "coreset@medoids", data, own)
    done = len(list((data / "coreset/medoids/ledger").rglob("*.json")))
    assert 0 < done < 8
    assert (done > 4) == (change == 30)
    run(data, "medoids", *own[len(SMALL) :])
    assert_same(tree(data / "coreset/medoids"), tree(chosen / "medoids"))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_any_number_of_workers_leaves_the_same_bytes(chosen: Path, data: Path) -> None:
    job = job_of(data, "medoids", "coreset.seeds=2", "coreset.caption=a photo of a {label_name}")
    execute(get_stage("coreset"), job, lambda: RayRunner(2))
    assert_same(tree(data / "coreset/medoids"), tree(chosen / "medoids"))
