"""What a unit is called, what its marker says, and what of it can be seen before it is committed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.config import RunParams
from pipelines.outcomes import KEPT, dropped, failed
from pipelines.runtime.execute import prepare
from pipelines.runtime.job import Job
from pipelines.runtime.ledger import all_markers, read_marker
from pipelines.runtime.publication import shard_entries
from pipelines.runtime.units import Marker, Unit, UnitOutput, identity_of
from pipelines.shards.checksum import read_signed
from pipelines.shards.keys import key_of_bytes
from pipelines.shards.sample import Sample
from pipelines.storage import Storage
from tests.contract.folders import Workplace
from tests.contract.toy import Toy, ToyParams

UNIT = Unit("toy-000000", {"file": "a", "rows": [1, 2]})


def test_a_unit_id_is_pinned_for_ever() -> None:
    """Changing it would make every finished folder in the world undone."""
    assert UNIT.recipe("toy", 1, {"own": {"size": 3}, "seed": 0}) == "a33c86eec38eecf3dcd945a476905d9d"
    assert identity_of("a33c86eec38eecf3dcd945a476905d9d", "0" * 32) == "e177641addb12a7657b9e521a45545c9"


def test_a_unit_id_changes_with_what_decides_its_bytes() -> None:
    same = UNIT.recipe("toy", 1, {"size": 3})
    others = {
        UNIT.recipe("toy", 2, {"size": 3}),
        UNIT.recipe("toy", 1, {"size": 4}),
        UNIT.recipe("top", 1, {"size": 3}),
        replace(UNIT, payload={"file": "a", "rows": [2, 1]}).recipe("toy", 1, {"size": 3}),
        replace(UNIT, name="toy-000001").recipe("toy", 1, {"size": 3}),
        replace(UNIT, kind="other").recipe("toy", 1, {"size": 3}),
        UNIT.recipe("toy", 1, {"size": 3}, rows="0" * 64),
    }
    assert len(others | {same}) == 8
    assert len({identity_of(same, code) for code in ("a", "b")}) == 2


def test_a_unit_id_does_not_depend_on_the_order_of_keys() -> None:
    turned = replace(UNIT, payload=dict(reversed(UNIT.payload.items())))
    assert turned.recipe("toy", 1, {"a": 1, "b": 2}) == UNIT.recipe("toy", 1, {"b": 2, "a": 1})


def test_a_unit_id_does_not_change_with_place_speed_or_a_stage_that_does_not_compute(tmp_path: Path) -> None:
    place = Workplace(tmp_path / "here", units=1)
    elsewhere = place.copy_to(tmp_path / "there")
    run = RunParams(threads=7, device="cpu", breaker={"max_failed": 0.9})
    jobs: list[Job[ToyParams]] = [place.job(), elsewhere.job(), place.job(batch=9), replace(place.job(), run=run)]
    assert len({prepare(Toy(), job).identities["toy-000000"] for job in jobs}) == 1


def test_a_unit_id_changes_with_seed_and_with_the_threads_of_a_stage_that_computes(tmp_path: Path) -> None:
    class Computing(Toy):
        computes = True

    place = Workplace(tmp_path / "data", units=1)
    runs = [RunParams(), RunParams(seed=1), RunParams(threads=3)]
    found = [prepare(Computing(), replace(place.job(), run=run)).identities["toy-000000"] for run in runs]
    assert len(set(found)) == 3


def test_nothing_is_visible_before_the_commit(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    output = UnitOutput(storage, UNIT, "id")
    with output.shard() as shard:
        key = key_of_bytes(b"a")
        shard.keep(Sample(key, (("json", b"{}"),), {}))
        shard.reject(dropped("unwanted"), {"key": key_of_bytes(b"b")})
    output.write("notes.txt", b"more")
    assert storage.list() == []
    marker = output.commit()
    names = ["shards/toy-000000.tar", "meta/toy-000000.parquet", "notes.txt"]
    assert [entry.path for entry in marker.files] == names
    assert storage.list() == sorted([*names, "ledger/toy-000000.json"])
    assert read_marker(storage, "ledger/toy-000000.json") == marker


def test_what_is_abandoned_leaves_nothing(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    output = UnitOutput(storage, UNIT, "id")
    output.write("a.txt", b"a")
    with pytest.raises(RuntimeError), output.shard():
        raise RuntimeError
    output.abandon()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_marker_counts_outcomes_and_reasons(tmp_path: Path) -> None:
    output = UnitOutput(Storage(tmp_path), UNIT, "id")
    for outcome in (KEPT, KEPT, dropped("blurred"), failed("timeout", "transient"), failed("timeout", "transient")):
        output.count(outcome)
    marker = output.commit()
    assert marker.counts == {"kept": 2, "dropped": 1, "failed": 2}
    assert marker.reasons == {"dropped:blurred": 1, "failed:transient:timeout": 2}


def test_unreadable_markers_are_passed_over(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    marker = Marker("a", "id", ())
    storage.write_bytes(marker.path, marker.to_json())
    storage.write_bytes("ledger/b.json", b"{")
    assert all_markers(storage) == [marker]


def test_a_marker_has_neither_time_nor_place(tmp_path: Path) -> None:
    form = read_signed(UnitOutput(Storage(tmp_path), UNIT, "id", code="c").commit().to_json())
    assert form.pop("unit") == "toy-000000"
    assert form == {"kind": "", "id": "id", "code": "c", "files": [], "counts": {}, "reasons": {}, "summary": {}}


def test_the_shards_of_a_part_are_those_of_the_units_that_wrote_there(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    markers = []
    for part in ("train", "val"):
        output = UnitOutput(storage, Unit(f"{part}/split-000000", {}), part)
        with output.shard(part) as shard:
            shard.keep(Sample(key_of_bytes(part.encode()), (("json", b"{}"),), {}))
        markers.append(output.commit())
    (entry,) = shard_entries(markers, "val")
    assert (entry.name, entry.path, entry.sidecar) == (
        "split-000000.tar",
        "shards/split-000000.tar",
        "meta/split-000000.parquet",
    )
    assert entry.samples == 1
    assert storage.exists("val/shards/split-000000.tar")
