"""params.yaml: every mistake is found before any work and names its key, its value and the nearest valid name."""

from __future__ import annotations

from functools import reduce
from operator import getitem
from pathlib import Path

import pytest
import yaml

from pipelines.commands.jobs import make_job, make_jobs, section_models
from pipelines.config import read_params
from pipelines.errors import UserError


@pytest.fixture
def params(repository: Path) -> Path:
    return repository / "params.yaml"


def test_the_default_parameters_are_valid_for_every_stage(params: Path) -> None:
    for stage in [name for name in section_models() if name != "run"]:
        assert {job.stage for job in make_jobs(stage, params)} == {stage}


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("cda.ipcs=2", "unknown key cda.ipcs; did you mean cda.ipc?"),
        ("ingest.image.qualty=3", "unknown key ingest.image.qualty; did you mean ingest.image.quality?"),
        ("cda.ipc=0", "cda.ipc: input should be greater than or equal to 1 (got 0)"),
        ("split.validation=1.5", "split.validation: input should be less than 1 (got 1.5)"),
        ("sqeeze.epochs=1", "unknown section sqeeze; did you mean squeeze?"),
        ("ingest.sources=[]", "ingest.sources: list should have at least 1 item"),
        ("run.device=tpu", "run.device: input should be 'auto', 'cpu' or 'cuda' (got 'tpu')"),
        ("cda.recover.iterations=-5", "cda.recover: iterations and log_every take 1 or more"),
        ("ingest.sources=[{type: folder, path: x, layot: flat}]", "did you mean ingest.sources.0.folder.layout?"),
        ("squeeze.training.views.padd=2", "did you mean squeeze.training.views.padding?"),
        ("squeeze.training.epoch=2", "unknown key squeeze.training.epoch; did you mean squeeze.training.epochs?"),
    ],
)
def test_a_wrong_value_is_one_sentence_with_its_path(params: Path, override: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        make_job("ingest", params, [override])
    assert sentence in str(caught.value)


def test_all_mistakes_are_told_at_once(params: Path) -> None:
    with pytest.raises(UserError) as caught:
        make_job("ingest", params, ["cda.ipc=0", "split.validation=2"])
    assert "cda.ipc" in str(caught.value)
    assert "split.validation" in str(caught.value)


def test_a_missing_file_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--params"):
        read_params(tmp_path / "none.yaml")


def test_an_override_without_a_value_is_refused(params: Path) -> None:
    with pytest.raises(UserError, match=r"section\.key=value"):
        read_params(params, ["cda.ipc"])


def test_an_unknown_stage_names_the_nearest(params: Path) -> None:
    with pytest.raises(UserError, match="did you mean squeeze"):
        make_job("sqeeze", params)


def test_every_recipe_is_valid(repository: Path) -> None:
    recipes = sorted((repository / "recipes").glob("*.yaml"))
    assert recipes
    for recipe in recipes:
        for stage in [name for name in section_models() if name != "run"]:
            make_jobs(stage, recipe)


def test_the_fuller_demo_is_the_demo_with_larger_budgets(repository: Path) -> None:
    quick, full = (
        yaml.safe_load((repository / name).read_text())
        for name in ("params.yaml", "recipes/fashion_mnist_demo_full.yaml")
    )
    assert quick.keys() == full.keys()
    for stage in ("run", "ingest", "split", "augment"):
        assert quick[stage] == full[stage]
    for path in (
        ("squeeze", "training", "epochs"),
        ("datadream", "adapt", "steps"),
        ("cda", "recover", "iterations"),
        ("relabel", "epochs"),
        ("evaluate", "distilled", "full", "epochs"),
    ):
        assert reduce(getitem, path, quick) < reduce(getitem, path, full), path
