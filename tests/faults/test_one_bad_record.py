"""One bad record is one row: it stops nothing, hides no other, has a key of its own, and the breaker counts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.errors import StageStopped
from pipelines.shards.keys import KEY_PATTERN
from pipelines.shards.lint import lint
from tests.faults.making import fates, png, run_ingest
from tests.sources.test_tar import write_tar


def mixed_tar(folder: Path) -> Path:
    return write_tar(
        folder / "a.tar",
        ("good.png", png(0)),
        ("good.cls", b"1"),
        ("nan.png", png(1)),
        ("nan.json", b'{"label": 0, "score": NaN}'),
        ("surrogate.png", png(2)),
        ("surrogate.json", b'{"caption": "\\ud800"}'),
        ("label.png", png(3)),
        ("label.cls", b""),
        ("caption.png", png(4)),
        ("caption.txt", b"caf\xe9"),
        ("true.png", png(5)),
        ("true.json", b'{"label": true}'),
        ("none.png", png(6)),
        ("none.cls", b"-1\n"),
        ("null.png", png(7)),
        ("null.json", b'{"label": null}'),
        ("one.png", png(8)),
        ("one.json", b'{"label": 1.0}'),
        ("huge.png", png(9)),
        ("huge.cls", b"3000000000"),
    )


def test_every_bad_record_of_a_tar_is_a_row_with_its_reason(tmp_path: Path) -> None:
    tar = mixed_tar(tmp_path)
    dataset = run_ingest(tmp_path / "data", {"type": "tar", "path": str(tar), "classes": ["cat", "dog"]})
    assert {name.removeprefix("a.tar::"): fate for name, fate in fates(dataset).items()} == {
        "good.png": "dog",
        "nan.png": "!bad_json",
        "surrogate.png": "!bad_json",
        "label.png": "!bad_label",
        "caption.png": "!bad_caption",
        "true.png": "!bad_label",
        "none.png": "",
        "null.png": "",
        "one.png": "dog",
        "huge.png": "!bad_label",
    }
    assert lint(str(dataset)).ok


def test_the_breaker_counts_records_that_a_source_could_not_describe(tmp_path: Path) -> None:
    tar = mixed_tar(tmp_path)
    with pytest.raises(StageStopped, match=r"60% of 10 samples failed .*bad_label 3"):
        run_ingest(tmp_path / "data", {"type": "tar", "path": str(tar), "classes": ["cat", "dog"]}, breaker=0.5)


def test_a_bad_label_costs_no_twin_its_place(tmp_path: Path) -> None:
    """The record that would have been kept of two equal ones cannot be used: the other one is."""
    tar = write_tar(tmp_path / "a.tar", ("0.png", png(0)), ("0.cls", b"9"), ("1.png", png(0)), ("1.cls", b"1"))
    dataset = run_ingest(tmp_path / "data", {"type": "tar", "path": str(tar), "classes": ["cat", "dog"]})
    assert fates(dataset) == {"a.tar::0.png": "!bad_label", "a.tar::1.png": "dog"}


def test_keys_of_records_without_bytes_are_keys(tmp_path: Path) -> None:
    from pipelines.stages.ingest.records import record_key

    made = {
        record_key({"origin": origin, "source": name, "offset": 0, "row": -1, "sha256": None})
        for origin in (0, 1)
        for name in ("a", "b", "a\nb", "é")
    }
    assert len(made) == 8
    assert all(KEY_PATTERN.fullmatch(key) for key in made)
