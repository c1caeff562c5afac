"""One changed bit, anywhere in what a stage left, is noticed by lint and by the next reader, and made good by --verify."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import xxhash

from pipelines.artifacts.few_shot import load_few_shot
from pipelines.artifacts.teacher import load_teacher
from pipelines.commands.linting import lint_all
from pipelines.commands.samples import show_view
from pipelines.config import RunParams
from pipelines.errors import LimbeckError, UserError
from pipelines.loaders.arrays import load_arrays, load_images
from pipelines.loaders.reading import BadSampleError, SampleReader
from pipelines.runtime.execute import execute
from pipelines.runtime.finished import Finished
from pipelines.runtime.job import Job, Stage
from pipelines.runtime.serial import SerialRunner
from pipelines.shards.dataset import Dataset
from pipelines.stages.augment.params import AugmentParams
from pipelines.stages.augment.stage import Augment
from pipelines.stages.ingest.params import IngestParams
from pipelines.stages.ingest.stage import Ingest
from pipelines.stages.split.params import SplitParams
from pipelines.stages.split.stage import Split
from pipelines.stages.squeeze.params import SqueezeParams
from pipelines.stages.squeeze.stage import Squeeze
from pipelines.storage import Storage
from tests.contract.folders import assert_same, tree
from tests.faults.making import lay, png
from tests.sealing import seal

IMAGE = {"format": "png", "resize": "exact", "size": 12, "upscale": True}
RUN = RunParams(device="cpu", threads=1)
SETS = {"flipped": {"policy": ["horizontal_flip"], "views": 2, "samples": 6, "format": "png"}}


def jobs(root: Path, data: Path) -> list[tuple[Stage[Any], Job[Any]]]:
    """The four stages over 24 pictures of two classes."""
    section = {"sources": [{"type": "folder", "path": str(root / "photos")}], "image": IMAGE}
    ingest = IngestParams.model_validate(section | {"shard_samples": 12})
    split = SplitParams(strategy="random", validation=0.25, test=0.25, few_shot=(1, 2), imbalance=1.5)
    augment = AugmentParams.model_validate({"sets": SETS})
    squeeze = SqueezeParams.model_validate({"network": "convnet2_w4", "training": {"epochs": 1, "batch_size": 4}})
    made: list[tuple[Stage[Any], Any]] = [
        (Ingest(), ingest),
        (Split(), split),
        (Augment(), augment),
        (Squeeze(), squeeze),
    ]
    return [(stage, Job(stage.name, params, RUN, str(data))) for stage, params in made]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/ and data/ with the four stages finished."""
    root = tmp_path_factory.mktemp("chain")
    lay(root / "photos", {f"{'left' if n % 2 else 'right'}/{n:02d}.png": png(n) for n in range(24)})
    for stage, job in jobs(root, root / "data"):
        execute(stage, job, SerialRunner)
    return root


@pytest.fixture
def data(place: Path, tmp_path: Path) -> Path:
    """A copy of the finished folder that a test may damage."""
    return Path(shutil.copytree(place / "data", tmp_path / "data"))


def outputs(data: Path) -> list[Path]:
    return [path for path in sorted(data.rglob("*")) if path.is_file() and ".limbeck" not in path.parts]


def flip(path: Path, place: int, bit: int = 0) -> bytes:
    """Change one bit; returns what was there."""
    before = path.read_bytes()
    raw = bytearray(before)
    raw[place] ^= 1 << bit
    path.write_bytes(raw)
    return before


def test_what_the_stages_leave_has_no_findings(place: Path) -> None:
    assert lint_all(str(place / "data")).findings == ()


def test_lint_notices_one_changed_bit_in_any_file(data: Path) -> None:
    generator = np.random.default_rng(0)
    files = outputs(data)
    assert len(files) > 50
    for path in files:
        before = flip(path, int(generator.integers(path.stat().st_size)), int(generator.integers(8)))
        stage = path.relative_to(data).parts[0]
        assert not lint_all(str(data / stage)).ok, f"{path.relative_to(data)} was changed and nothing was said"
        path.write_bytes(before)
    assert lint_all(str(data)).ok


def test_lint_notices_any_file_that_is_gone(data: Path) -> None:
    for path in outputs(data):
        before = path.read_bytes()
        path.unlink()
        assert lint_all(str(data / path.relative_to(data).parts[0])).findings, path.relative_to(data)
        path.write_bytes(before)


@pytest.mark.parametrize("number", range(4), ids=["ingest", "split", "augment", "squeeze"])
def test_verify_makes_good_what_was_changed_in_any_file(place: Path, data: Path, number: int) -> None:
    generator = np.random.default_rng(number)
    stage, job = jobs(place, data)[number]
    clean = tree(data / stage.name)
    for path in outputs(data / stage.name):
        flip(path, int(generator.integers(path.stat().st_size)), int(generator.integers(8)))
        execute(stage, job, SerialRunner, verify=True)
        assert_same(tree(data / stage.name), clean)


def pixels_of(dataset: Dataset) -> dict[str, bytes]:
    """What every reader hands out, by key; damaged samples are left out."""
    reader = SampleReader(dataset, members=("json", "cls"))
    served: dict[str, bytes] = {}
    for number in range(len(reader)):
        try:
            sample = reader.read(number)
        except BadSampleError:
            continue
        served[sample["key"]] = repr(
            (sample["image"].tobytes(), sample["label"], sample["cls"], sample["json"])
        ).encode()
    return served


def test_no_reader_serves_other_pixels_or_labels_for_any_of_200_changed_bits(data: Path) -> None:
    generator = np.random.default_rng(7)
    folder = data / "split/train"
    (shard,) = (folder / "shards").glob("*.tar")
    sound, caught = pixels_of(Dataset.open(folder)), 0
    arrays = load_arrays(Dataset.open(folder))
    for _ in range(200):
        before = flip(shard, int(generator.integers(shard.stat().st_size)), int(generator.integers(8)))
        served = pixels_of(Dataset.open(folder))
        assert served.items() <= sound.items()
        try:
            found = load_arrays(Dataset.open(folder))
        except UserError:
            caught += 1
        else:
            assert np.array_equal(found.images, arrays.images)
        shard.write_bytes(before)
    assert caught > 20, "most of so small a shard is headers, but not all"


def damaged_shard(folder: Path) -> Path:
    """Change one bit of every image of a shard."""
    path = folder / Dataset.open(folder).shards[0].path
    for row in Dataset.open(folder).rows(["members"]).to_pylist():
        if row["shard"] == 0:
            flip(path, row["members"][0]["offset"] + 30)
    return path


SENTENCE = "sample .* is damaged: its (png|image) is not what was written there; restore it, or make it again: limbeck run STAGE --verify"


@pytest.mark.parametrize(
    "read",
    [
        load_arrays,
        load_images,
        lambda dataset: list(dataset.samples()),
        lambda dataset: SampleReader(dataset).read(0),
        lambda dataset: [
            dataset.read(r["shard"], r["key"], r["members"]) for r in dataset.rows(["key", "members"]).to_pylist()
        ],
    ],
)
def test_every_reader_says_which_sample_is_damaged_and_what_to_do(data: Path, read: Callable[[Dataset], Any]) -> None:
    damaged_shard(data / "split/train")
    with pytest.raises(UserError, match=SENTENCE):
        read(Dataset.open(data / "split/train"))


@pytest.mark.parametrize(
    ("stage", "number", "part"), [("split", 1, "ingest"), ("augment", 2, "split/train"), ("squeeze", 3, "split/train")]
)
def test_no_stage_makes_anything_of_a_damaged_input(
    place: Path, data: Path, stage: str, number: int, part: str
) -> None:
    damaged_shard(data / part)
    shutil.rmtree(data / stage)
    with pytest.raises(LimbeckError, match="is damaged"):
        execute(*jobs(place, data)[number], SerialRunner)
    assert not (data / stage / "stage.json").exists()


def swap_names(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes())[::-1], indent=2) + "\n")


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_swapped_class_names_stop_whoever_reads_them(data: Path, part: str) -> None:
    swap_names(data / "split" / part / "classes.json")
    with pytest.raises(UserError, match=r"classes.json is not the file that its index.json names"):
        _ = Dataset.open(data / "split" / part).classes


def test_a_shard_taken_out_of_the_index_is_missed(data: Path) -> None:
    index = json.loads((data / "ingest/index.json").read_text())
    entry = index["shards"].pop()
    index["samples"] -= entry["samples"]
    index["bytes"] -= entry["bytes"]
    (data / "ingest/index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"index.json is damaged: its checksum is another one"):
        Dataset.open(data / "ingest")
    codes = {finding.code for finding in lint_all(str(data / "ingest")).findings}
    assert {"index_damaged", "unnamed_shard", "account_rows"} <= codes


def test_an_index_of_another_making_is_not_the_one_that_the_stage_left(place: Path, data: Path) -> None:
    """Sound in itself, as a copy from another run would be."""
    other = place / "other"
    if not other.exists():
        lay(other / "photos", {f"left/{n:02d}.png": png(100 + n) for n in range(4)})
        stage, job = jobs(other, other / "data")[0]
        execute(stage, job, SerialRunner)
    for name in ("index.json", "shards", "meta", "classes.json"):
        target = data / "ingest" / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        source = other / "data/ingest" / name
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    shutil.rmtree(data / "split")
    with pytest.raises(UserError, match=r"ingest/index.json is not the file that ingest left"):
        execute(*jobs(place, data)[1], SerialRunner)


READS: dict[str, Callable[[Job[Any]], Any]] = {
    "split/few_shot.json": lambda job: load_few_shot(job, 1, 0),
    "squeeze/teacher.json": lambda job: load_teacher(job, "cpu"),  # type: ignore[arg-type]
    "squeeze/teacher.safetensors": lambda job: load_teacher(job, "cpu"),  # type: ignore[arg-type]
    "squeeze/stage.json": lambda job: load_teacher(job, "cpu"),  # type: ignore[arg-type]
    "squeeze/ledger/teacher.json": lambda job: load_teacher(job, "cpu"),  # type: ignore[arg-type]
    "squeeze/metrics.json": lambda job: Finished(job.input("squeeze"), "squeeze").json("metrics.json"),
    "squeeze/config.resolved.json": lambda job: Finished(job.input("squeeze"), "squeeze").config(),
}


@pytest.mark.parametrize("path", READS)
def test_what_a_stage_takes_from_another_is_checked(place: Path, data: Path, path: str) -> None:
    job = jobs(place, data)[3][1]
    READS[path](job)
    flip(data / path, (data / path).stat().st_size // 2)
    with pytest.raises(UserError, match=r"limbeck run (split|squeeze) --verify"):
        READS[path](job)


def test_an_index_of_the_first_schema_names_the_command(data: Path) -> None:
    index = json.loads((data / "ingest/index.json").read_text())
    (data / "ingest/index.json").write_text(json.dumps(index | {"schema_version": 1}))
    with pytest.raises(
        UserError, match=r"schema version 1, this release reads 2; make the dataset anew .*: limbeck run STAGE"
    ):
        Dataset.open(data / "ingest")


def accounts(data: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for part in ("ingest", "split/train", "split/val", "split/test", "augment/flipped"):
        yield part, Dataset.open(data / part).account.to_json()


def test_every_dataset_accounts_for_what_was_seen(place: Path) -> None:
    found = dict(accounts(place / "data"))
    assert found["ingest"] == {"seen": 24, "rows": 24, "passed_over": {}}
    rows = {part: found[f"split/{part}"]["rows"] for part in ("train", "val", "test")}
    assert rows == {"train": 10, "val": 6, "test": 6}
    for part in rows:
        others = {f"in_{name}": count for name, count in rows.items() if name != part}
        assert found[f"split/{part}"] == {"seen": 24, "rows": rows[part], "passed_over": others | {"long_tail": 2}}
    assert found["augment/flipped"] == {"seen": 20, "rows": 12, "passed_over": {"not_drawn": 8}}


def test_lint_compares_the_parts_of_a_split(data: Path) -> None:
    """Nothing was damaged here: this is how a fault of ours would look."""
    manifest = json.loads((data / "split/few_shot.json").read_text())
    stranger = Dataset.open(data / "split/val").rows(["key"])["key"][0].as_py()
    manifest["seeds"]["0"]["0"][0] = stranger
    (data / "split/few_shot.json").write_text(json.dumps(manifest))
    shutil.rmtree(data / "split/test")
    shutil.copytree(data / "split/val", data / "split/test")
    for path in (data / "split/ledger/test").iterdir():
        path.unlink()
    seal(Storage(data / "split"), "split")
    found = {(finding.code, finding.where) for finding in lint_all(str(data / "split")).findings}
    assert ("few_shot_lies", f"few_shot.json:{stranger}") in found
    assert {code for code, _ in found} == {"few_shot_lies", "key_in_two_parts", "account_parts"}


def test_readers_of_a_remote_dataset_check_it_too(data: Path) -> None:
    remote = Storage("memory://faults-chain/train")
    for path in Storage(data / "split/train").list():
        remote.write_bytes(path, (data / "split/train" / path).read_bytes())
    sound = pixels_of(Dataset.open(remote))
    assert sound == pixels_of(Dataset.open(data / "split/train"))
    remote.write_bytes("shards/split-000000.tar", damaged_shard(data / "split/train").read_bytes())
    assert pixels_of(Dataset.open(remote)) == {}


def test_the_lines_of_the_documentation_check_a_member_and_an_index(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[2] / "docs/format.md").read_text()
    checks = text.partition("## Everything is hashed")[2]
    snippets = [block.partition("```")[0] for block in checks.split("```python\n")[1:]]
    assert len(snippets) == 2
    monkeypatch.chdir(data / "split/train")
    names = {"pq": pq, "xxhash": xxhash, "json": json, "hashlib": hashlib}
    for snippet in snippets:
        exec(snippet.replace("NAME", "split-000000"), dict(names))
    damaged_shard(data / "split/train")
    with pytest.raises(AssertionError):
        exec(snippets[0].replace("NAME", "split-000000"), dict(names))


def test_limbeck_show_hands_out_no_damaged_member(data: Path, tmp_path: Path) -> None:
    damaged_shard(data / "split/val")
    key = Dataset.open(data / "split/val").rows(["key"])["key"][0].as_py()
    with pytest.raises(UserError, match="is not what was written there"):
        show_view(key, str(data / "split/val"), tmp_path / "out")


def test_a_finished_stage_looks_at_its_small_files_without_being_asked(place: Path, data: Path) -> None:
    stage, job = jobs(place, data)[1]
    clean = tree(data / "split")
    swap_names(data / "split/train/classes.json")
    execute(stage, job, SerialRunner)
    assert_same(tree(data / "split"), clean)


def test_lint_names_what_lies_in_a_stage_and_belongs_to_nothing(data: Path) -> None:
    shutil.copytree(data / "split/test", data / "split/old")
    (data / "split/old/index.json").unlink()
    (data / "squeeze/meta").mkdir()
    (data / "squeeze/meta/note.txt").write_text("mine")
    found = {(finding.severity, finding.code, finding.where) for finding in lint_all(str(data)).findings}
    assert ("error", "unnamed_shard", "split/old/shards/split-000000.tar") in found
    assert ("error", "unnamed_shard", "split/old/meta/split-000000.parquet") in found
    assert ("warning", "leftover_file", "squeeze/meta/note.txt") in found
    assert ("warning", "leftover_file", "split/old/classes.json") in found
