"""The hostile corpus and the real `ingest`: every file is a row with a reason, twice the same, whoever runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.images import ImageParams, Processed, process
from pipelines.images.isolation import Decoders
from pipelines.images.words import words
from pipelines.shards.dataset import Dataset
from tests.contract.folders import assert_same, tree
from tests.faults.corpus import hostile

#: What must never be told: addresses, objects, times, this machine's folders.
OF_THIS_RUN = re.compile(
    r"\b0x[0-9a-f]{6,}| object at |/tmp|/home|/root|/work|BytesIO|site-packages|\d\d:\d\d:\d\d|\n|\x1b"
)
#: Larger files of the corpus only cost time here; `tests.bench.hostile` tries them all.
LARGE = 1 << 20


def small() -> dict[str, bytes]:
    return {
        name: raw
        for name, raw in hostile().items()
        if len(raw) < LARGE and "79 million" not in name and "64 million" not in name
    }


def test_the_corpus_is_large_and_its_files_are_small() -> None:
    assert len(hostile()) >= 200
    assert len(small()) >= 200
    assert max(map(len, hostile().values())) < 20 << 20


def test_every_hostile_file_has_a_reason_and_ends_no_decoder() -> None:
    with Decoders(ImageParams(), 1) as decoders:
        found = {name: decoders.process(raw) for name, raw in small().items()}
    reasons = {name: "kept" if isinstance(made, Processed) else made.reason for name, made in found.items()}
    assert not {name: reason for name, reason in reasons.items() if reason in ("decoder_died", "internal_error")}
    told = [made.detail for made in found.values() if not isinstance(made, Processed)]
    assert all(told)
    assert not [detail for detail in told if OF_THIS_RUN.search(detail) or len(detail) > 250 or not detail.isascii()]


def test_files_of_the_corpus_that_lie_are_refused_for_what_they_claim() -> None:
    expected = {
        "jpeg of 20 000 empty scans": "too_many_scans",
        "sequential jpeg that repeats its scan": "too_many_scans",
        "webp of 40 bytes, 16383 pixels wide, flags 2": "too_many_pixels",
        "webp of 40 bytes, 8900 pixels wide, flags 2": "too_much_memory",
        "png bomb": "too_many_pixels",
        "gif with a screen of 65 535": "too_many_pixels",
        "tiff with a tile of 60 000 <": "too_much_memory",
        "tiff of 4 000 tags that hold the file": "bad_header",
        "tiff with 60 000 samples >": "bad_header",
        "bmp that claims 79 million pixels, 0, 24": "truncated",
        "pnm 6 that claims 79 million pixels": "truncated",
    }
    for name, reason in expected.items():
        outcome = process(hostile()[name], ImageParams())
        assert not isinstance(outcome, Processed), name
        assert (name, outcome.reason) == (name, reason)
    # Markers inside a comment are no scans, nor are those of what follows the picture.
    for name in ("jpeg with scans in comments", "jpeg with a thousand thumbnails behind it"):
        assert isinstance(process(hostile()[name], ImageParams()), Processed)


def ingested(folder: Path, name: str, params: Path) -> Path:
    """Another process, with another seed of hashes and another time of day."""
    command = [sys.executable, "-m", "pipelines", "run", "ingest", "--runner", "serial"]
    command += ["--params", str(params), "--data", str(folder / name)]
    environment = {**os.environ, "PYTHONHASHSEED": "1" if name == "first" else "2", "TZ": "Asia/Tokyo"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / name / "ingest"


def test_two_runs_in_two_processes_leave_the_same_bytes(tmp_path: Path) -> None:
    source = tmp_path / "source" / "cat"
    source.mkdir(parents=True)
    for number, raw in enumerate([*small().values()][::2]):
        (source / f"{number:03d}.png").write_bytes(raw)
    section = {"sources": [{"type": "folder", "path": str(source.parent)}], "shard_samples": 80}
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump({"ingest": section, "run": {"breaker": {"max_failed": 1}}}))
    first, second = ingested(tmp_path, "first", params), ingested(tmp_path, "second", params)
    assert_same(tree(first), tree(second))
    rows = Dataset.open(first).rows(["outcome", "reason", "detail", "notes"], kept_only=False).to_pylist()
    assert len({row["reason"] for row in rows}) >= 8
    assert not [row for row in rows if row["detail"] and OF_THIS_RUN.search(row["detail"])]
    markers = [json.loads(path.read_text()) for path in sorted((first / "ledger").glob("*.json"))]
    assert not [marker for marker in markers if OF_THIS_RUN.search(json.dumps(marker))]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("cannot identify image file <_io.BytesIO object at 0x7fd5829598f0>", "cannot identify image file"),
        ("OpenCV(5.0.0) /io/opencv/modules/a.cpp:59: error: (-2:Unspecified error) no", "(-2:Unspecified error) no"),
        ("[Errno 2] No such file: '/home/me/x.png'", "[Errno 2] No such file"),
        ("<PIL.TiffImagePlugin.TiffImageFile image mode=L size=1x1 at 0x7F00AA>", "no reason given"),
        ("a\nb\x1b[31m\udc80", "a b?[31m\\udc80"),
    ],
)
def test_words_of_foreign_libraries_tell_nothing_of_this_run(said: str, expected: str) -> None:
    assert words(said) == expected
