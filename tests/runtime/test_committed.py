"""What a later wave, or the end of a stage, takes from units that committed before is what they committed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.config import RunParams
from pipelines.errors import UserError
from pipelines.runtime.committed import Committed
from pipelines.runtime.job import Job
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.shards.keys import key_of_bytes
from pipelines.shards.sample import Sample
from tests.contract.toy import ToyParams

KEY = key_of_bytes(b"one")


@pytest.fixture
def job(tmp_path: Path) -> Job[ToyParams]:
    return Job("toy", ToyParams(), RunParams(), str(tmp_path))


def commit(job: Job[ToyParams], text: bytes = b"weights") -> Marker:
    output = UnitOutput(job.output, Unit("made/one", {}), "0" * 32)
    output.write("parts/a.bin", text)
    with output.shard("made") as shard:
        shard.keep(Sample(KEY, (("json", b"{}"), ("txt", text)), {}))
    return output.commit()


def everything(made: Committed) -> tuple[bytes, dict[str, bytes]]:
    """The file, and the members of the one sample."""
    data, shard = made.read("parts/a.bin"), made.shard("made/one", "made")
    (row,) = shard.rows(["key", "members"]).to_pylist()
    return data, shard.read(0, row["key"], row["members"])


def test_files_and_shards_of_earlier_units_are_read(job: Job[ToyParams]) -> None:
    commit(job)
    assert everything(Committed(job)) == (b"weights", {"json": b"{}", "txt": b"weights"})
    assert Committed(job).paths("parts") == ["parts/a.bin"]


def test_a_unit_that_ran_again_since_is_read_anew(job: Job[ToyParams]) -> None:
    commit(job)
    made = Committed(job)
    made.read("parts/a.bin")
    commit(job, b"others")
    assert made.read("parts/a.bin") == b"others"


@pytest.mark.parametrize(
    "path", ["parts/a.bin", "made/meta/one.parquet", "made/shards/one.tar", "ledger/made/one.json"]
)
def test_what_is_not_what_was_committed_is_refused(job: Job[ToyParams], path: str) -> None:
    commit(job)
    file = job.output.root / path
    raw = file.read_bytes()
    where = raw.rindex(b"weights") if path.endswith(".tar") else len(raw) // 2
    file.write_bytes(raw[:where] + bytes([raw[where] ^ 1]) + raw[where + 1 :])
    with pytest.raises(UserError, match="limbeck run toy --verify"):
        everything(Committed(job))
