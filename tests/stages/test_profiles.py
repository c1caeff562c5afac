"""Profiles of `split`: which images a long tail keeps, which are spoilt, and what readers of the decision table are given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from pipelines.artifacts.profiles import Profile, load_profile, profile_arrays, profile_images
from pipelines.commands.jobs import make_job
from pipelines.commands.runs import run_stage
from pipelines.errors import UserError
from pipelines.loaders.arrays import load_arrays
from pipelines.loaders.corruptions import KINDS, Corruption
from pipelines.report.reading import Outputs
from pipelines.runtime.job import Job
from pipelines.shards.dataset import Dataset
from pipelines.stages import get_stage
from pipelines.stages.split.params import ProfileParams, SplitParams, TailParams
from pipelines.stages.split.profiles import decide_profile, tail_counts
from pipelines.stages.split.section import profile_blocks
from tests.contract.folders import tree
from tests.stages.test_pipeline import write_source

CIFAR = {str(label): 5000 for label in range(10)}


def test_the_exponential_tail_is_that_of_cifar10_lt() -> None:
    assert tail_counts(CIFAR, TailParams(factor=100)) == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    hundred = tail_counts({str(label): 500 for label in range(100)}, TailParams(factor=100))
    assert (sum(hundred), hundred[0], hundred[-1]) == (10847, 500, 5)


def test_the_pareto_tail_has_the_size_and_the_extremes_of_imagenet_lt() -> None:
    """Published: 115846 images, 1280 to 5 a class, 385 classes above 100 and 136 below 20, of 1000; drawn, where these are quantiles."""
    counts = tail_counts({str(label): 1280 for label in range(1000)}, TailParams(law="pareto", factor=256))
    assert (counts[0], counts[-1]) == (1280, 5)
    assert abs(sum(counts) - 115846) < 0.06 * 115846
    assert abs(sum(count > 100 for count in counts) - 385) < 30
    assert abs(sum(count < 20 for count in counts) - 136) < 10


def test_a_shuffled_tail_gives_the_same_numbers_to_other_classes() -> None:
    straight = tail_counts(CIFAR, TailParams(factor=10))
    shuffled = tail_counts(CIFAR, TailParams(factor=10, order="shuffled"), seed=3)
    assert shuffled != straight
    assert sorted(shuffled) == sorted(straight)


def decisions(images: int = 60, classes: int = 4) -> pa.Table:
    """Training images of some classes, and one image each that is held out."""
    labels = [place % classes for place in range(images * classes)]
    keys = [f"{place:026d}" for place in range(len(labels) + classes)]
    parts = ["train"] * len(labels) + ["val"] * classes
    return pa.table({"key": keys, "label": pa.array([*labels, *range(classes)], pa.int32()), "decision": parts})


def table(params: dict[str, Any], images: int = 60, seed: int = 0) -> dict[str, dict[str, Any]]:
    names = ["a", "b", "c", "d"]
    profile = ProfileParams.model_validate(params)
    rows = decide_profile(decisions(images), names, "p", profile, seed).to_pylist()
    return {row["key"]: row for row in rows}


def kept(rows: dict[str, dict[str, Any]]) -> set[str]:
    return {key for key, row in rows.items() if row["decision"] == "kept"}


def test_a_stronger_tail_is_a_subset_of_a_weaker_one() -> None:
    sets = [kept(table({"tail": {"factor": factor}})) for factor in (2, 10, 50)]
    assert sets[2] < sets[1] < sets[0]
    pareto = [kept(table({"tail": {"law": "pareto", "factor": factor}})) for factor in (2, 30)]
    assert pareto[1] < pareto[0]


def test_the_same_images_are_spoilt_in_the_same_way_whatever_else_a_profile_keeps() -> None:
    quality = {"share": 0.5, "severities": [2, 5], "kinds": ["noise", "dark"]}
    whole = table({"quality": quality})
    tail = table({"quality": quality, "tail": {"factor": 6}})
    stronger = table({"quality": {**quality, "share": 0.8}})
    spoilt = {key for key, row in whole.items() if row["corruption"]}
    assert 0.35 * len(whole) < len(spoilt) < 0.65 * len(whole)
    assert {whole[key]["corruption"]["kind"] for key in spoilt} == {"noise", "dark"}
    assert {whole[key]["corruption"]["severity"] for key in spoilt} == {2, 5}
    assert all(tail[key]["corruption"] == whole[key]["corruption"] for key in kept(tail))
    assert all(stronger[key]["corruption"] == whole[key]["corruption"] for key in spoilt)
    assert not any(row["corruption"] for row in tail.values() if row["decision"] == "dropped")


def test_every_kind_of_corruption_grows_with_its_severity_and_repeats_itself() -> None:
    rows, columns = np.mgrid[:32, :32]
    image = np.stack([(rows * 7 + columns * 5) % 200 + 30, (rows * columns) % 256, np.full((32, 32), 90)])
    image = image.astype(np.uint8)
    for kind in KINDS:
        errors = []
        for severity in (1, 5):
            corruption = Corruption(kind, severity, seed=11)
            once = corruption(image)
            assert once.shape == image.shape
            assert once.dtype == np.uint8
            assert (once == corruption(image)).all()
            errors.append(np.abs(once.astype(float) - image).mean())
        assert 0 < errors[0] < errors[1], kind
    noise = Corruption("noise", 3, seed=11)
    assert (noise(image) != replace(noise, seed=12)(image)).any()


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"tail": {"law": "pareto", "counts": {"a": 1}}}, "counts would be ignored: the law is pareto"),
        ({"tail": {"law": "counts"}}, "needs counts"),
        ({"tail": {"power": 3}}, "power would be ignored: the law is exponential"),
        ({"groups": {"many": 5, "few": 9}}, "few \\(9\\) lies above many"),
        ({"quality": {"severities": [6]}}, "less than or equal to 5"),
    ],
)
def test_a_profile_that_would_not_be_what_it_says_is_refused(params: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ProfileParams.model_validate(params)


def test_a_profile_cannot_be_called_what_no_file_is() -> None:
    with pytest.raises(ValueError, match="'long tail'"):
        SplitParams.model_validate({"profiles": {"long tail": {}}})


PROFILES = {
    "tail": {"tail": {"law": "counts", "counts": {"right": 3}}, "groups": {"many": 8, "few": 4}},
    "low": {"quality": {"share": 0.5, "kinds": ["dark"], "severities": [5]}},
}


def job_of(root: Path, profiles: dict[str, Any]) -> Job[Any]:
    source = root / "source"
    if not source.exists():
        write_source(source)
    params = {
        "run": {"seed": 0, "threads": 1, "device": "cpu"},
        "ingest": {"sources": [{"type": "folder", "path": str(source / "train")}], "image": {"format": "png"}},
        "split": {"validation": 0.25, "few_shot": [1], "profiles": profiles},
    }
    path = root / "params.yaml"
    path.write_text(yaml.safe_dump(params))
    data = str(root / "data")
    if not (root / "data").exists():
        run_stage(make_job("ingest", path, data=data), "serial")
    return make_job("split", path, data=data)


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A split without profiles, and its files."""
    root = tmp_path_factory.mktemp("profiles")
    run_stage(job_of(root, {}), "serial")
    return root, tree(root / "data" / "split")


def test_profiles_are_read_back_and_change_no_byte_of_the_datasets(without: tuple[Path, dict[str, str]]) -> None:
    root, before = without
    job = job_of(root, PROFILES)
    run_stage(job, "serial")
    after = tree(root / "data" / "split")
    told = {path for path in after if path.startswith(("plan/", "stage.json", "config.resolved.json"))}
    assert {path: after[path] for path in before if path not in told} == {
        path: before[path] for path in before if path not in told
    }
    assert set(after) - set(before) == {"profiles/", "profiles/tail.parquet", "profiles/low.parquet"}

    tail = load_profile(job, "tail")
    assert tail.counts.tolist() == [12, 3]
    assert tail.group == ("many", "few")
    assert sorted(np.bincount(tail.labels)) == [3, 12]
    low = load_profile(job, "low")
    assert 0 < len(low.corruptions) < len(low.keys) == 24
    spoilt, plain = profile_arrays(job, low), load_arrays(Dataset.open(job.output.child("train")), low.keys)
    for key, bad, good in zip(low.keys, spoilt.images, plain.images, strict=True):
        assert (bad == good).all() == (key not in low.corruptions)
    key = next(iter(low.corruptions))
    assert (profile_images(job, low, [key])[0] == spoilt.images[low.keys.index(key)]).all()
    assert tail.digest != low.digest

    with pytest.raises(UserError, match="asks for the profile 'strong', split made low, tail"):
        load_profile(job, "strong")

    outputs = Outputs.under(str(root / "data"), [get_stage("split")])
    rows = profile_blocks(outputs.stages["split"].form["facts"]["profiles"])[0].rows[::-1]  # type: ignore[union-attr]
    assert list(rows[0]) == ["tail", "15", "12 to 3", "1 / 0 / 1", "0"]
    assert rows[1][0] == "low"
    assert rows[1][4] == str(len(low.corruptions))


@pytest.mark.parametrize(
    ("counts", "said"),
    [({"middle": 2}, "'middle', which is no class; there is left, right"), ({"left": 13}, "13 images of class left")],
)
def test_a_profile_of_what_there_is_not_stops_before_work(
    counts: dict[str, int], said: str, without: tuple[Path, dict[str, str]]
) -> None:
    root, _ = without
    before = tree(root / "data" / "split")
    with pytest.raises(UserError, match=said):
        run_stage(job_of(root, {"wrong": {"tail": {"law": "counts", "counts": counts}}}), "serial")
    assert tree(root / "data" / "split") == before


def test_groups_follow_the_rule_of_the_field() -> None:
    counts = (101, 100, 20, 19)
    labels = np.repeat(np.arange(4), counts)
    profile = Profile("p", "abcd", ["key"] * len(labels), labels, (100, 20), {}, "")
    assert profile.group == ("many", "medium", "medium", "few")
