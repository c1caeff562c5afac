"""The dataset folder: published last by its index, equal for equal inputs, readable by offset and by others' tools."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from pipelines.errors import UserError
from pipelines.shards.dataset import Dataset, publish, unpublish
from pipelines.shards.publish import dataset_stats
from pipelines.shards.reader import iterate_tar
from pipelines.storage import Storage
from tests.shards.builders import CLASSES, edit_json, samples, write_dataset, write_shard


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset.open(write_dataset(tmp_path / "data"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_equal_inputs_give_an_equal_folder(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a")
    write_dataset(tmp_path / "b")
    first = contents(tmp_path / "a")
    assert first == contents(tmp_path / "b")
    assert len(first) == 2 * 3 + 5
    assert not any(str(tmp_path).encode() in data for data in first.values())


def test_the_index_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    write = Storage.write_bytes
    monkeypatch.setattr(Storage, "write_bytes", lambda self, path, data: (order.append(path), write(self, path, data)))
    write_dataset(tmp_path / "a")
    assert order == ["shards/sizes.json", "classes.json", "stats.json", "dataset.json", "index.json"]


def test_a_folder_is_unfinished_while_it_is_published_again(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: Storage, path: str, data: bytes) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Storage, "write_bytes", stop)
    with pytest.raises(OSError, match="disk full"):
        publish(dataset.storage, dataset.shards, CLASSES, {})
    with pytest.raises(UserError, match="unfinished"):
        Dataset.open(dataset.storage)


def test_a_folder_without_an_index_is_unfinished_and_the_next_command_is_named(dataset: Dataset) -> None:
    unpublish(dataset.storage)
    unpublish(dataset.storage)
    with pytest.raises(UserError, match=r"unfinished.*limbeck status.*limbeck run") as caught:
        Dataset.open(dataset.storage.url)
    assert dataset.storage.url in str(caught.value)
    with pytest.raises(UserError, match="not there"):
        Dataset.open(dataset.storage.root / "nowhere")


def test_opening_reads_the_index_only(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    load = Storage.read_bytes
    monkeypatch.setattr(Storage, "read_bytes", lambda self, path: read.append(path) or load(self, path))
    opened = Dataset.open(dataset.storage)
    assert read == ["index.json"]
    assert len(opened) == 24
    assert opened.classes == CLASSES
    assert opened.index["shards"][1]["path"] == "shards/ingest-000001.tar"
    assert opened.index["extra"] == {"stage": "ingest", "name": "pictures", "license": "CC0-1.0"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda index: index.update(schema_version=99),
        lambda index: index.pop("shards"),
        lambda index: index["shards"][0].pop("sha256"),
        lambda index: index["shards"][0].update(samples="8"),
        lambda index: index["shards"][0].update(path="../../etc/passwd"),
        lambda index: index["shards"][0].update(sidecar="/etc/passwd"),
        lambda index: index.update(samples=7),
    ],
)
def test_a_damaged_index_is_a_sentence(dataset: Dataset, damage: object) -> None:
    edit_json(dataset.storage.root / "index.json", damage)
    with pytest.raises(UserError, match=r"index\.json"):
        Dataset.open(dataset.storage)


def test_open_clip_finds_the_sizes_beside_the_tars(dataset: Dataset) -> None:
    # open_clip sums sizes[basename] over its shard list, from the folder of the first shard.
    shards = sorted((dataset.storage.root / "shards").glob("*.tar"))
    sizes = json.loads((shards[0].parent / "sizes.json").read_text())
    assert sum(int(sizes[path.name]) for path in shards) == 24
    assert [sizes[path.name] for path in shards] == [sum(1 for _ in iterate_tar(path)) for path in shards]


def test_rows_hold_the_kept_samples_and_their_shard(dataset: Dataset) -> None:
    rows = dataset.rows(["key", "label"])
    assert rows.column_names == ["key", "label", "shard"]
    assert rows["key"].to_pylist() == [sample.key for sample in samples(24)]
    assert rows["shard"].to_pylist() == [0] * 8 + [1] * 8 + [2] * 8
    attempted = dataset.rows(["outcome"], kept_only=False)
    assert attempted["outcome"].to_pylist() == ([*["kept"] * 8, "failed"]) * 3
    assert len(dataset.rows()) == 24


def test_samples_come_back_whole(dataset: Dataset) -> None:
    found = list(dataset.samples())
    assert [(sample.key, sample.members) for sample in found] == [(s.key, s.members) for s in samples(24)]
    assert found[3].row["label_name"] == CLASSES[0]
    everything = list(dataset.samples(kept_only=False))
    assert len(everything) == 27
    assert everything[8].members == ()
    assert everything[8].row["reason"] == "truncated"


def test_reading_by_row_equals_reading_in_sequence(dataset: Dataset) -> None:
    for row in dataset.rows(["key", "members"]).to_pylist():
        sample = dict(iterate_tar(dataset.storage.root / dataset.shards[row["shard"]].path))[row["key"]]
        assert dataset.read(row["shard"], row["key"], row["members"]) == sample
        assert dataset.read(row["shard"], row["key"], row["members"], exts=["cls"]) == {"cls": sample["cls"]}
        image = next(data for ext, data in sample.items() if ext in ("jpg", "png"))
        assert dataset.read_image_bytes(row["shard"], row["key"], row["members"]) == image


def test_few_shards_stay_open(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.shards.dataset._OPEN_SHARDS", 2)
    first = dataset.reader(0)
    assert dataset.reader(0) is first
    dataset.reader(1)
    dataset.reader(2)
    assert len(dataset._readers) == 2
    assert len(first.pread(0, 512)) == 512  # whoever still holds it may go on
    assert dataset.reader(0) is not first


def test_a_dataset_survives_pickling_and_lies_anywhere(dataset: Dataset) -> None:
    copy: Dataset = pickle.loads(pickle.dumps(dataset))
    assert copy.index == dataset.index
    memory = fsspec.filesystem("memory")
    for name, data in contents(dataset.storage.root).items():
        memory.pipe_file(f"/dataset-test/{name}", data)
    remote = Dataset.open("memory://dataset-test")
    assert [sample.members for sample in remote.samples()] == [sample.members for sample in dataset.samples()]


def test_statistics_count_outcomes_classes_and_sizes(dataset: Dataset) -> None:
    stats = json.loads(dataset.storage.read_bytes("stats.json"))
    assert stats["attempted"] == 27
    assert stats["outcomes"] == {"kept": 24, "dropped": 0, "failed": 3}
    assert stats["reasons"] == [{"outcome": "failed", "reason": "truncated", "error_class": "permanent", "count": 3}]
    assert stats["classes"] == [{"label": label, "name": name, "kept": 8} for label, name in enumerate(CLASSES)]
    assert stats["splits"] == {"train": 24}
    assert stats["formats"] == {"jpeg": 18, "png": 6}
    assert stats["image_bytes"] == sum(len(sample.members[0][1]) for sample in samples(24))
    width = stats["histograms"]["width"]
    assert dict(zip(width["edges"], width["counts"], strict=True))[16] == 24 == sum(width["counts"])
    assert sum(stats["histograms"]["bytes"]["counts"]) == 24


def test_a_value_on_the_edge_of_a_bin_counts_above_it(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    content = samples(3)
    for sample, width in zip(content, (31, 32, 9000), strict=True):
        sample.row["width"] = width
    publish(storage, [write_shard(storage, "x-000000", content)], CLASSES, {})
    width = json.loads(storage.read_bytes("stats.json"))["histograms"]["width"]
    counts = dict(zip(width["edges"], width["counts"], strict=True))
    assert {edge: count for edge, count in counts.items() if count} == {16: 1, 32: 1, 8192: 1}


def test_statistics_read_only_what_they_count(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str] = set()
    from pipelines.shards import publish as module

    read = module.read_sidecar
    monkeypatch.setattr(
        module,
        "read_sidecar",
        lambda storage, path, columns, *known: asked.update(columns) or read(storage, path, columns, *known),
    )
    dataset_stats(dataset.storage, dataset.shards)
    assert asked.isdisjoint({"key", "members", "source", "raw_sha256", "pixel_sha256", "params", "detail"})


def test_an_unlabelled_dataset_and_an_empty_one_can_be_published(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "a")
    content = samples(2)
    for sample in content:
        del sample.row["label"], sample.row["label_name"]
    publish(storage, [write_shard(storage, "x-000000", content)], [], {})
    stats = json.loads(storage.read_bytes("stats.json"))
    assert (stats["unlabelled"], stats["classes"]) == (2, [])
    empty = Storage(tmp_path / "b")
    publish(empty, [], CLASSES, {})
    assert len(Dataset.open(empty)) == len(Dataset.open(empty).rows()) == 0


def test_publishing_what_cannot_be_true_is_a_bug(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    entry = write_shard(storage, "x-000000", samples(3))
    with pytest.raises(AssertionError, match="classes"):
        publish(storage, [entry], CLASSES[:2], {})
    with pytest.raises(AssertionError, match="one name"):
        publish(storage, [entry, entry], CLASSES, {})
    wrong = replace(entry, samples=2)
    with pytest.raises(AssertionError, match="3 kept rows, 2 samples"):
        publish(storage, [wrong], CLASSES, {})


def test_the_description_is_croissant(dataset: Dataset) -> None:
    document = json.loads(dataset.storage.read_bytes("dataset.json"))
    assert document["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert (document["@type"], document["name"], document["license"]) == ("sc:Dataset", "pictures", "CC0-1.0")
    files = {entry["@id"]: entry for entry in document["distribution"]}
    for shard in dataset.shards:
        described = files[shard.name]
        assert (described["contentUrl"], described["sha256"]) == (shard.path, shard.sha256)
        assert described["contentSize"] == f"{shard.bytes} B"
    images = files["images"]
    assert {part["@id"] for part in images["containedIn"]} == {shard.name for shard in dataset.shards}
    records = {entry["@id"]: entry for entry in document["recordSet"]}
    assert [row["classes/name"] for row in records["classes"]["data"]] == CLASSES
    # Every reference points at something that is there.
    for field in records["samples"]["field"]:
        assert field["source"]["fileSet"]["@id"] in files
