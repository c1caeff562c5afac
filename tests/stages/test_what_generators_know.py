"""Small generators say which classes they were never shown, before they are asked for them and in what they leave."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

from pipelines.artifacts.families import FAMILY_FILE, described, embedded_family, knowledge_sentence, unknown_classes
from pipelines.commands.jobs import make_job
from pipelines.commands.runs import run_stage
from pipelines.runtime.execute import prepare
from pipelines.stages import get_stage
from tests.stages.test_generator import PARAMS, write_source
from tests.stages.tiny_family import family, write_family

pytest.importorskip("diffusers", reason="diffusers is not installed: limbeck[synth]")

DATADREAM = "datadream: {variants: [zero_shot], images: 1, generate: {steps: 2, guidance: 1.5, scheduler: ddim}}\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes left and right ingested and split, and a family that knows left and cat."""
    root = tmp_path_factory.mktemp("known")
    write_source(root / "source")
    write_family(root / "family", ("left", "cat"))
    text = PARAMS.replace("SOURCE", str(root / "source")).replace("FAMILY", str(root / "family"))
    (root / "params.yaml").write_text(text.replace("check_images: 6", "check_images: 0") + DATADREAM)
    for stage in ("ingest", "split"):
        run_stage(job_of(root, stage), "serial", debug=True)
    return root


def job_of(root: Path, stage: str, *overrides: str, data: str = "data") -> Any:
    return make_job(stage, root / "params.yaml", overrides, str(root / data))


@pytest.fixture(scope="module")
def data(place: Path) -> Path:
    """The same with that family unpacked."""
    with pytest.warns(UserWarning, match=r"know what they saw \(left, cat\) and not 1 of the 2 classes here \(right\)"):
        run_stage(job_of(place, "generator"), "serial", debug=True)
    return place / "data"


def test_names_and_the_words_for_them_are_known_in_any_case() -> None:
    known = family(("T-shirt/top", "Bag"))
    asked = {"t-shirt/TOP": "shirt", "handbag": "Bag", "golf ball": "golf ball"}
    assert unknown_classes(known, asked) == ["golf ball"]


def test_the_embedded_family_says_that_it_knows_clothing() -> None:
    known = described(embedded_family().read_bytes(FAMILY_FILE), "the package")
    said = knowledge_sentence(known, ["church", "tench"], 2)
    assert said.startswith(
        "The embedded generators know ten kinds of clothing (T-shirt/top, Trouser, Pullover, Dress, ...)"
    )
    assert "and none of the 2 classes here (church, tench)" in said
    assert "generator.source: model" in said


def test_metrics_and_facts_hold_what_is_not_known(data: Path) -> None:
    metrics = json.loads((data / "generator/metrics.json").read_text())
    assert (metrics["knows"], metrics["unknown_classes"]) == (["left", "cat"], ["right"])


def test_datadream_says_so_before_it_starts(place: Path, data: Path) -> None:
    datadream, job = get_stage("datadream"), job_of(place, "datadream@zero_shot")
    with pytest.warns(UserWarning, match=r"not 1 of the 2 classes here \(right\): images of these show something else"):
        datadream.check(job)
    assert prepare(datadream, job).plan.facts["unknown_classes"] == ["right"]
    assert not (data / "datadream").exists()


def test_a_name_that_the_generator_knows_is_no_cause_for_a_warning(place: Path, data: Path) -> None:
    job = job_of(place, "datadream@zero_shot", "datadream.names={right: cat}")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*classes here")
        get_stage("datadream").check(job)
    assert "unknown_classes" not in prepare(get_stage("datadream"), job).plan.facts


def test_a_family_that_knows_all_classes_says_nothing(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "data/split", tmp_path / "data/split")
    folder = write_family(tmp_path / "family")
    job = make_job("generator", place / "params.yaml", [f"generator.folder={folder}"], str(tmp_path / "data"))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*classes here")
        run_stage(job, "serial", debug=True)
    assert "knows" not in json.loads((tmp_path / "data/generator/metrics.json").read_text())
