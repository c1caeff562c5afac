"""Defects of the released DisCL code that concern files and plans, by their numbers in `docs/specs/discl.md`: none is here."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.artifacts.curriculum import load_curriculum
from pipelines.artifacts.profiles import load_profile
from pipelines.artifacts.spectra import Spectra
from pipelines.commands.jobs import make_job
from pipelines.errors import UserError
from pipelines.runtime import checkpoints
from pipelines.runtime.execute import prepare
from pipelines.runtime.folder import begin
from pipelines.runtime.ledger import all_markers
from pipelines.runtime.serial import run_unit
from pipelines.shards.dataset import Dataset
from pipelines.stages import get_stage
from synth.discl.mix import draw_epoch
from tests.contract.folders import tree
from tests.stages import test_discl
from tests.stages.test_datadream import write_models
from tests.stages.test_discl import finished, job_of, rows_of, run
from tests.synth.making import sd

#: The same toy as there.
base, made = test_discl.base, test_discl.made
CELLS = 12


def test_f02_a_run_again_finds_all_that_is_finished_and_makes_only_what_is_not(
    base: Path,
    made: Path,
    tmp_path: Path,
) -> None:
    """A misspelt suffix: nothing was ever skipped, and finished files were computed anew and then not written."""
    data = finished(base, made, tmp_path / "data")
    assert run(base, "", data)["ran"] == 0
    (data / "discl/ledger/generated/c00001-000000.json").unlink()
    assert run(base, "", data)["ran"] == 1  # the other block, the bounds and the admissions stay
    assert tree(data / "discl") == tree(made)


def test_f03_an_image_is_done_with_all_of_its_noises_and_never_with_some(
    base: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image counted as done once two of its eight seeds were there."""
    data = tmp_path / "data"
    monkeypatch.setattr(checkpoints, "INTERVAL", 0.0)
    stage, job = get_stage("discl"), job_of(base, data)
    prepared = prepare(stage, job)
    begin(stage, job, prepared)

    def interrupt(_done: float, _total: float, note: str = "") -> None:
        if note.startswith("try"):
            raise KeyboardInterrupt

    bounds, block = prepared.plan.units[:2]
    worker = stage.open(job)
    run_unit(stage, job, worker, bounds, prepared.identities[bounds.name])
    with pytest.raises(KeyboardInterrupt):
        run_unit(stage, job, worker, block, prepared.identities[block.name], interrupt)
    assert [marker.name for marker in all_markers(job.output)] == [bounds.name]
    run(base, "", data)
    rows = rows_of(data / "discl/generated")
    assert len(rows) == CELLS
    cells = Counter((row["parents"][0], row["level"]) for row in rows)
    assert set(cells.values()) == {2}
    assert tree(data / "discl") == tree(made)


def test_f04_every_image_has_its_scores_and_what_is_admitted_follows_from_them(
    base: Path, made: Path, tmp_path: Path
) -> None:
    """The filter indexed a score that did not exist, so that its result was never written."""
    rows = rows_of(made / "generated")
    scores = sorted(row["scores"]["text_cosine"] for row in rows)
    bound = (scores[5] + scores[6]) / 2
    data = finished(base, made, tmp_path / "data")
    run(base, "", data, filters={"min_text_cosine": bound})
    kept = {row["key"] for row in rows_of(data / "discl/kept")}
    assert kept == {row["key"] for row in rows if row["scores"]["text_cosine"] >= bound}
    assert len(kept) == CELLS // 2


def test_f05_what_training_needs_is_made_by_the_stage_and_every_parameter_is_one(base: Path, made: Path) -> None:
    """Training read arguments that its parser lacked, and a list of path, label, guidance and count that no script made."""
    job = job_of(base)
    tail, table, spectra = load_profile(job, "tail"), load_curriculum(job, "diverse_to_specific"), Spectra(job)
    assert set(table.hard) <= set(tail.keys)
    assert {(one.parent in table.hard, one.level in (0, 50), one.label) for one in spectra.images} == {(True, True, 1)}
    for key in ("imb_factor", "curriculum_strategy", "guidance", "merge_guid"):
        with pytest.raises(UserError, match=f"unknown key discl.{key}"):
            make_job("discl", base / "params.yaml", [f"discl.{key}=1"], str(base / "data"))


def test_f06_an_adaptive_curriculum_can_be_played_from_its_table(base: Path, made: Path) -> None:
    """The loader was called with an argument that it does not take, and the flag of the rule was defined nowhere."""
    job = job_of(base)
    table, spectra = load_curriculum(job, "adaptive"), Spectra(job)
    trained = [one for one in spectra.images if one.parent not in table.held_out]
    assert table.held_out
    for row in table.epochs:
        level = 50 if row.adaptive else 100
        drawn = draw_epoch(
            table.seed,
            row.epoch,
            table.mix,
            (level,),
            *_arrays(table, trained),
        )
        assert len(drawn.positions) == row.real + row.tail + row.synthetic


def _arrays(table: Any, images: Any) -> tuple[Any, Any]:
    """Which real images are in the tail, held out ones left out, and the levels of the synthetic ones."""
    hard = len(table.hard) - len(table.held_out)
    return np.array([True] * hard + [False] * len(table.others)), np.array([one.level for one in images])


@pytest.mark.parametrize("where", ["names", "bank", "missing"])
def test_f10_a_class_that_there_is_not_is_an_error_before_any_work(where: str, base: Path, tmp_path: Path) -> None:
    """A class that was no key of the name table made nothing, and nothing was said."""
    bank = tmp_path / "bank.yaml"
    bank.write_text(json.dumps({"Cheetah": ["a scene"]} if where == "bank" else {"left": ["a scene"]}))
    overrides: dict[str, Any] = (
        {"names": {"Cheetah": "cheetah"}} if where == "names" else {"prompts": {"bank": str(bank)}}
    )
    said = "for class 'right'" if where == "missing" else "'Cheetah', which is no class; there is left, right"
    data = tmp_path / "data"
    with pytest.raises(UserError, match=said):
        prepare(get_stage("discl"), job_of(base, data, **overrides))
    with pytest.raises(UserError, match=said):
        run(base, "", data, **overrides)
    assert not (data / "discl").exists()


def test_a_cell_whose_every_try_fails_is_a_row_with_its_reason(base: Path, tmp_path: Path) -> None:
    """A generator that only makes black images: nothing is lost without a word."""
    pipeline = sd()
    with torch.no_grad():
        pipeline.vae.decoder.conv_out.weight.zero_()
        pipeline.vae.decoder.conv_out.bias.fill_(-3.0)
    data = tmp_path / "data"
    data.mkdir()
    for stage in ("ingest", "split"):
        (data / stage).symlink_to(base / "data" / stage)
    write_models(data, pipeline)
    run(base, "", data, seeds=1)
    for part in ("generated", "kept"):
        rows = Dataset.open(str(data / "discl" / part)).rows(["outcome", "reason", "error_class"], kept_only=False)
        assert (
            rows.drop_columns("shard").to_pylist()
            == [{"outcome": "failed", "reason": "black", "error_class": "permanent"}] * 6
        )
    table = load_curriculum(job_of(base, data), "diverse_to_specific")
    assert {row.synthetic for row in table.epochs} == {0}  # hard images are repeated instead
