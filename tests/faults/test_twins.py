"""Records of equal bytes: bad ones are bad and no duplicates, and two labels for one picture have a reason of their own."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import RunParams
from pipelines.errors import StageStopped, UserError
from pipelines.runtime.execute import execute
from pipelines.runtime.job import Job
from pipelines.runtime.serial import SerialRunner
from pipelines.shards.dataset import Dataset
from pipelines.shards.lint import lint
from pipelines.shards.sidecar import read_sidecar
from pipelines.sources import Source
from pipelines.stages.ingest.params import IngestParams
from pipelines.stages.ingest.stage import Ingest
from pipelines.storage import Storage
from tests.contract.folders import assert_same, tree
from tests.faults.making import fates, lay, png, rows, run_ingest
from tests.sources.test_tar import write_tar

PAGE = b"<html><body>404 Not Found</body></html>"
CUT = png(0)[:-40]
ZEROED = png(0)[:-60] + bytes(60)


def folder(path: Path, **params: Any) -> dict[str, Any]:
    return {"type": "folder", "path": str(path), **params}


@pytest.mark.parametrize("bad", [b"", PAGE, CUT, ZEROED], ids=["empty", "page", "cut", "zeroed"])
@pytest.mark.parametrize("classes", [1, 2])
def test_six_hundred_copies_of_a_bad_file_are_six_hundred_failures(tmp_path: Path, bad: bytes, classes: int) -> None:
    """Whichever shard they are in; also where they stand under two labels."""
    names = [f"{'ab'[number % classes]}/{number:03d}.png" for number in range(600)]
    lay(tmp_path / "in", dict.fromkeys(names, bad) | {f"a/good{number}.png": png(1 + number) for number in range(5)})
    source = folder(tmp_path / "in")
    with pytest.raises(StageStopped, match=r"samples failed"):
        run_ingest(tmp_path / "data", source, breaker=0.5, shard_samples=100)
    dataset = run_ingest(tmp_path / "data", source, shard_samples=100)
    assert Counter(rows(dataset, "outcome")) == {("failed",): 600, ("kept",): 5}
    assert len({reason for outcome, reason in rows(dataset, "outcome", "reason") if outcome == "failed"}) == 1
    assert lint(str(dataset)).ok


def test_copies_of_what_a_rule_drops_share_that_fate(tmp_path: Path) -> None:
    lay(tmp_path / "in", {f"a/{number}.png": png(0) for number in range(3)} | {"a/other.png": png(1, 40, 40)})
    image = {"format": "png", "limits": {"min_side": 32}}
    dataset = run_ingest(tmp_path / "data", folder(tmp_path / "in"), image=image)
    assert list(fates(dataset).values()).count("!too_small") == 3


def test_a_content_is_tried_once_for_each_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set of copies costs no decoding for each of them: they are not even read."""
    lay(tmp_path / "in", {f"a/{number:03d}.png": png(0) for number in range(300)})
    opened: list[Source] = Ingest().open(
        job := Job(
            "ingest",
            IngestParams.model_validate({"sources": [folder(tmp_path / "in")], "threads": 1}),
            RunParams(device="cpu"),
            str(tmp_path / "data"),
        )
    )
    reads: list[str] = []

    class Counting:
        def read(self, record: Any) -> bytes:
            reads.append(record.source)
            return opened[0].read(record)

    class Watched(Ingest):
        def open(self, job: Job[IngestParams]) -> list[Any]:
            return [Counting()]

    execute(Watched(), job, SerialRunner)
    assert len(reads) <= 2


def test_a_few_copies_lie_in_the_unit_of_what_is_kept(tmp_path: Path) -> None:
    lay(tmp_path / "in", {f"a/{number:03d}.png": png(number % 60) for number in range(120)})
    dataset = run_ingest(tmp_path / "data", folder(tmp_path / "in"), shard_samples=20)
    for shard in Dataset.open(dataset).shards:
        keys = Counter(read_sidecar(Storage(dataset), shard.sidecar, ["key"])["key"].to_pylist())
        assert set(keys.values()) == {2}


def test_the_folder_is_the_same_whatever_unit_comes_first(tmp_path: Path) -> None:
    files = {f"{'ab'[number % 2]}/{number:03d}.png": (png(number % 7) if number % 3 else PAGE) for number in range(120)}
    lay(tmp_path / "in", files)
    for name, threads in (("one", 1), ("five", 5)):
        run_ingest(tmp_path / name, folder(tmp_path / "in"), shard_samples=20, threads=threads)
    found, expected = (tree(tmp_path / name / "ingest") for name in ("one", "five"))
    for files_of in (found, expected):
        del files_of["config.resolved.json"]
        del files_of["stage.json"]
    assert_same(found, expected)


# Labels of twins -------------------------------------------------------------------


def test_one_photo_under_two_classes_has_a_reason_of_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lay(tmp_path / "in", {"cat/x.png": png(0), "cat/y.png": png(0), "dog/x.png": png(0), "dog/z.png": png(1)})
    with caplog.at_level(logging.WARNING):
        first = run_ingest(tmp_path / "first", folder(tmp_path / "in"))
    assert fates(first) == {
        "cat/x.png": "cat",
        "cat/y.png": "!duplicate",
        "dog/x.png": "!label_conflict",
        "dog/z.png": "dog",
    }
    detail = "same bytes as cat/x.png, which is labelled 'cat' and not 'dog'"
    assert rows(first, "detail")[2] == (detail,)
    assert f"1 records have equal bytes and different labels: dog/x.png: {detail}" in caplog.text
    none = run_ingest(tmp_path / "none", folder(tmp_path / "in"), conflicts="drop")
    assert Counter(fates(none).values()) == {"!label_conflict": 2, "!duplicate": 1, "dog": 1}
    with pytest.raises(UserError, match=r"dog/x\.png: same bytes as cat/x\.png.*set ingest\.conflicts"):
        run_ingest(tmp_path / "stop", folder(tmp_path / "in"), conflicts="error")


@pytest.mark.parametrize("conflicts", ["first", "drop"])
def test_the_evaluation_set_keeps_its_photo_and_its_label(tmp_path: Path, conflicts: str) -> None:
    lay(tmp_path / "train", {"cat/x.png": png(0), "dog/z.png": png(1)})
    lay(tmp_path / "test", {"dog/x.png": png(0), "cat/z.png": png(2)})
    sources = folder(tmp_path / "train", split="train"), folder(tmp_path / "test", split="test")
    for order in (sources, sources[::-1]):
        dataset = run_ingest(tmp_path / f"data{order[0]['split']}", *order, conflicts=conflicts)
        kept = {
            (split, name)
            for outcome, split, name in rows(dataset, "outcome", "split", "label_name")
            if outcome == "kept"
        }
        assert kept == {("train", "dog"), ("test", "dog"), ("test", "cat")}
        assert [reason for reason in fates(dataset).values() if reason.startswith("!")] in (["!label_conflict"], [])


def test_a_source_named_first_has_the_say(tmp_path: Path) -> None:
    lay(tmp_path / "a", {"cat/x.png": png(0)})
    lay(tmp_path / "b", {"dog/y.png": png(0), "dog/z.png": png(1)})
    for names, label in (("ab", "cat"), ("ba", "dog")):
        dataset = run_ingest(tmp_path / names, *(folder(tmp_path / name) for name in names), conflicts="drop")
        assert sorted(fates(dataset).values()) == sorted(["!label_conflict", label, "dog"])


def test_a_labelled_twin_is_kept_before_one_without_a_label(tmp_path: Path) -> None:
    lay(tmp_path / "pool", {"1.png": png(0)})
    lay(tmp_path / "named", {"cat/2.png": png(0)})
    dataset = run_ingest(tmp_path / "data", folder(tmp_path / "pool", layout="flat"), folder(tmp_path / "named"))
    assert fates(dataset) == {"1.png": "!duplicate", "cat/2.png": "cat"}


def test_a_twin_with_annotations_that_are_none_gives_way_to_a_sound_one(tmp_path: Path) -> None:
    files = {"a.png": png(0), "a.json": b'{"annotations": [{"bbox": [1, 2]}]}', "b.png": png(0)}
    lay(tmp_path / "in", files | {"b.json": b'{"annotations": [{"bbox": [1, 2, 3, 4]}]}'})
    dataset = run_ingest(tmp_path / "data", folder(tmp_path / "in", layout="flat"))
    assert fates(dataset) == {"a.png": "!bad_annotations", "b.png": ""}


def test_duplicates_are_refused_where_none_are_wanted(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", ("0.png", png(0)), ("1.png", png(0)), ("2.png", png(1)))
    with pytest.raises(UserError, match=r"1\.png has the same bytes as a\.tar::0\.png, one of 1 duplicates"):
        run_ingest(tmp_path / "data", {"type": "tar", "path": str(tar)}, duplicates="error")


def test_many_duplicates_deserve_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lay(tmp_path / "in", {f"a/{number}.png": png(0) for number in range(50)})
    with caplog.at_level(logging.WARNING):
        run_ingest(tmp_path / "data", folder(tmp_path / "in"))
    assert "49 of 50 records have the same bytes as another one" in caplog.text
