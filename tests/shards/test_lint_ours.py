"""`lint` on a dataset of ours: the contract is held to the byte, and every file that describes it must be true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.shards.checksum import read_signed, signed_bytes
from pipelines.shards.dataset import publish
from pipelines.shards.lint import lint
from pipelines.shards.sample import Sample
from pipelines.storage import Storage
from tests.shards.builders import CLASSES, edit_json, image_bytes, samples, write_dataset, write_shard
from tests.shards.test_lint_foreign import decode, found, write_tar

Error = set[tuple[str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data")
    return tmp_path / "data"


def test_a_sound_dataset_has_no_findings(folder: Path) -> None:
    report = lint(str(folder), decode)
    assert report.findings == ()
    assert report.samples == 24
    assert report.bytes == sum(path.stat().st_size for path in (folder / "shards").glob("*.tar"))


def first_shard(folder: Path) -> Path:
    return folder / "shards" / "ingest-000000.tar"


def change_index(**values: Any) -> Callable[[Path], None]:
    """Change the entry of the first shard, and the totals with it."""

    def change(folder: Path) -> None:
        def edit(index: dict[str, Any]) -> None:
            index["shards"][0].update(values)
            for total in ("samples", "bytes"):
                index[total] = sum(shard[total] for shard in index["shards"])

        edit_index(folder, edit)

    return change


def edit_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """An index that lies and is signed all the same, as a fault of ours would leave it."""
    index = read_signed((folder / "index.json").read_bytes())
    change(index)
    (folder / "index.json").write_bytes(signed_bytes(index))


def swap_classes(folder: Path) -> None:
    (folder / "classes.json").write_text('["dog", "cat", "eel"]')


def take_out_a_shard(index: dict[str, Any]) -> None:
    """As an editor would: entry and totals."""
    entry = index["shards"].pop()
    index["samples"] -= entry["samples"]
    index["bytes"] -= entry["bytes"]


def edit(name: str, change: Callable[[Any], object]) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / name, change)


def swap_bytes(folder: Path) -> None:
    """Change one pixel byte: the tar stays sound, its hash does not."""
    raw = bytearray(first_shard(folder).read_bytes())
    raw[512 + 600] ^= 1
    first_shard(folder).write_bytes(raw)


def swap_sidecars(folder: Path) -> None:
    one, two = (folder / "meta" / f"ingest-00000{place}.parquet" for place in (0, 1))
    kept = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(kept)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (swap_bytes, {"index_sha256", "member_changed"}),
        (change_index(samples=7), {"index_count", "sizes_lie", "stats_lie"}),
        (change_index(bytes=1), {"index_bytes"}),
        (change_index(sha256="00" * 32), {"index_sha256"}),
        (change_index(path="../x.tar"), {"index_damaged"}),
        (edit("index.json", lambda index: index.update(samples=1)), {"index_damaged"}),
        (edit("index.json", lambda index: index["extra"].update(name="other")), {"index_damaged"}),
        (
            edit("index.json", take_out_a_shard),
            {"index_damaged", "sizes_lie", "stats_lie", "account_rows", "unnamed_shard"},
        ),
        (lambda folder: edit_index(folder, lambda index: index["account"].update(seen=28)), {"account_sum"}),
        (
            lambda folder: edit_index(folder, lambda index: index["account"].update(seen=28, rows=28)),
            {"account_rows", "stats_lie"},
        ),
        (change_index(sidecar_sha256="00" * 32), {"sidecar_changed"}),
        (lambda folder: (folder / "index.json").write_text("{"), {"index_damaged"}),
        (
            edit("shards/sizes.json", lambda sizes: sizes.update({"ingest-000001.tar": 9})),
            {"sizes_lie", "file_changed"},
        ),
        (lambda folder: (folder / "shards/sizes.json").unlink(), {"sizes_damaged"}),
        (edit("stats.json", lambda stats: stats["outcomes"].update(kept=1)), {"stats_lie", "file_changed"}),
        (lambda folder: (folder / "stats.json").unlink(), {"stats_damaged"}),
        (lambda folder: (folder / "classes.json").write_text("{}"), {"classes_damaged", "file_changed"}),
        (lambda folder: (folder / "classes.json").write_text('["cat", "dog"]'), {"label_out_of_range", "file_changed"}),
        (swap_classes, {"file_changed"}),
        (edit("dataset.json", lambda croissant: croissant.update(license="none")), {"file_changed"}),
        (lambda folder: first_shard(folder).unlink(), {"missing_shard", "account_rows"}),
        (lambda folder: (folder / "meta/ingest-000000.parquet").unlink(), {"missing_sidecar", "account_rows"}),
        (
            lambda folder: (folder / "meta/ingest-000000.parquet").write_bytes(b"x"),
            {"sidecar_changed", "sidecar_damaged", "account_rows"},
        ),
        (swap_sidecars, {"sidecar_keys", "sidecar_changed"}),
    ],
)
def test_each_lie_has_its_finding(folder: Path, damage: Callable[[Path], object], expected: set[str]) -> None:
    damage(folder)
    report = lint(str(folder))
    assert not report.ok
    assert {code for severity, code in found(report) if severity == "error"} == expected


def test_a_truncated_shard_is_damaged_and_its_entry_false(folder: Path) -> None:
    path = first_shard(folder)
    path.write_bytes(path.read_bytes()[:-512])
    codes = {code for _, code in found(lint(str(folder)))}
    assert codes == {"tar_damaged", "index_bytes", "index_sha256", "index_count"}


def test_shards_that_the_index_does_not_name_are_an_error_and_other_files_a_warning(folder: Path) -> None:
    write_tar(folder / "shards" / "old.tar", [])
    (folder / "meta" / "old.parquet").write_bytes(b"")
    assert [(f.code, f.where) for f in lint(str(folder)).findings] == [
        ("unnamed_shard", "meta/old.parquet"),
        ("unnamed_shard", "shards/old.tar"),
    ]
    (folder / "shards" / "old.tar").rename(folder / "shards" / "old.txt")
    (folder / "meta" / "old.parquet").unlink()
    (folder / "dataset.json").unlink()
    report = lint(str(folder))
    assert report.ok
    assert sorted((f.code, f.where) for f in report.findings) == [
        ("leftover_file", "shards/old.txt"),
        ("no_description", "dataset.json"),
    ]


def test_an_unfinished_dataset_is_an_error(folder: Path) -> None:
    (folder / "index.json").unlink()
    assert found(lint(str(folder))) == {("error", "unfinished")}


def rebuild(folder: Path, change: Callable[[list[Sample]], list[Sample]], failures: int = 1) -> None:
    """Publish a dataset of one shard whose sidecar says something else than its tar."""
    storage = Storage(folder)
    honest = write_shard(storage, "x-000000", samples(4))
    tar = (folder / honest.path).read_bytes()
    lying = write_shard(storage, "x-000000", change(samples(4)), failures)
    (folder / honest.path).write_bytes(tar)
    entry = replace(lying, bytes=honest.bytes, sha256=honest.sha256)
    publish(storage, [entry], CLASSES, {})


def relabelled(content: list[Sample]) -> list[Sample]:
    return [Sample(s.key, s.members, s.row | {"label": 0}) for s in content]


def shortened(content: list[Sample]) -> list[Sample]:
    return [Sample(s.key, (s.members[0], s.members[1], ("cls", b"00")), s.row) for s in content]


def repainted(content: list[Sample]) -> list[Sample]:
    """Other bytes of the same length."""
    return [
        Sample(s.key, (s.members[0], ("json", b" " * len(s.members[1][1])), *s.members[2:]), s.row) for s in content
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (relabelled, {"label_mismatch"}),
        (shortened, {"sidecar_offsets"}),
        (repainted, {"member_changed"}),
        (lambda content: content[::-1], {"sidecar_keys"}),
        (lambda content: content[:3], {"sidecar_count", "index_count"}),
    ],
)
def test_a_sidecar_that_lies_has_its_finding(
    tmp_path: Path, change: Callable[[list[Sample]], list[Sample]], expected: set[str]
) -> None:
    rebuild(tmp_path, change)
    assert {code for _, code in found(lint(str(tmp_path)))} == expected


def test_a_label_that_only_the_sidecar_has_is_held_against_the_classes(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    content = [Sample(s.key, s.members[:2], s.row) for s in samples(3)]
    publish(storage, [write_shard(storage, "x-000000", content)], CLASSES, {})
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    assert [(f.code, f.where) for f in lint(str(tmp_path)).findings] == [
        ("file_changed", "classes.json"),
        ("label_out_of_range", f"meta/x-000000.parquet:{content[2].key}"),
    ]


def test_a_row_that_was_not_kept_must_not_claim_members(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    content = samples(3)
    dropped = Sample(content[2].key, content[2].members, content[2].row | {"outcome": "dropped"})
    entry = write_shard(storage, "x-000000", [*content[:2], dropped])
    publish(storage, [replace(entry, samples=2)], CLASSES, {})
    codes = {code for _, code in found(lint(str(tmp_path)))}
    assert codes == {"members_of_rejected", "sidecar_count", "index_count"}


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([("Bad Key.jpg", image_bytes(0))], "key_form"),
        ([("a.json", b"{}"), ("a.jpg", image_bytes(0))], "member_order"),
        ([("a.gif", b"GIF89a")], "member_order"),
        ([("a.jpg", image_bytes(0, "PNG"))], "misnamed_image"),
        ([("a.jpg", image_bytes(0)), ("a.cls", b"x")], "bad_label"),
        ([("README", b""), ("a.jpg", image_bytes(0))], "skipped_member"),
    ],
)
def test_what_others_may_do_is_an_error_in_ours(folder: Path, members: list[tuple[str, bytes]], expected: str) -> None:
    write_tar(first_shard(folder), members)
    assert ("error", expected) in found(lint(str(folder)))


def test_datasets_in_one_folder_are_all_checked_and_told_apart(tmp_path: Path) -> None:
    for part in ("train", "val"):
        write_dataset(tmp_path / part)
    report = lint(str(tmp_path))
    assert (report.findings, report.samples) == ((), 48)  # the same keys in two datasets are not duplicates
    swap_bytes(tmp_path / "val")
    assert [finding.where for finding in lint(str(tmp_path)).findings][:1] == ["val/shards/ingest-000000.tar"]


def test_a_key_in_two_shards_of_a_dataset_is_an_error(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    entries = [write_shard(storage, f"x-{place:06d}", samples(4, place * 3), 0) for place in range(2)]
    publish(storage, entries, CLASSES, {})
    report = lint(str(tmp_path))
    key = samples(1, 3)[0].key
    assert [(f.code, f.where) for f in report.findings] == [("duplicate_key", f"shards/x-000001.tar:{key}")]
