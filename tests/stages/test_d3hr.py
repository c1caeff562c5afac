"""`d3hr` at toy size: a tiny random DiT inverted and asked again; what is made, what is stored, what a change or a kill costs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from distill.d3hr.moments import Moments
from pipelines.artifacts.distilled import CondensedSets
from pipelines.commands.runs import run_stage
from pipelines.errors import UserError
from pipelines.loaders.arrays import load_arrays
from pipelines.report.blocks import ClassStrips, Folded, Sentences, Table
from pipelines.report.section import Options
from pipelines.runtime.committed import Committed
from pipelines.runtime.execute import execute, prepare
from pipelines.shards.dataset import Dataset
from pipelines.shards.lint import lint
from pipelines.shards.sidecar import read_sidecar
from pipelines.stages import get_stage, outputs_under
from pipelines.stages.d3hr.figures import verdict
from pipelines.stages.d3hr.groups import read_block
from pipelines.stages.d3hr.measured import CLEAN, Latents, Measured
from pipelines.stages.d3hr.section import section
from pipelines.storage import Storage
from tests.contract.folders import assert_same, tree
from tests.stages.distilling import job_of, run, write_base, write_generator
from tests.stages.zygote import Backwards, killed_again_and_again
from tests.synth.making import sd, sd3

SECTION = """
d3hr:
  ipc: 3
  images_per_class: 9
  invert: {steps: 10, level: 500}
  guidance: 1.5
  batch_size: 4
  images_per_unit: 5
  round_trip: 1
  reference: {candidates: 10000, images_per_class: 4}
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with params.yaml and data/ up to the generator."""
    return write_base(tmp_path_factory.mktemp("d3hr"), SECTION)


@pytest.fixture(scope="module")
def made(base: Path) -> Path:
    """Both variants."""
    for variant in ("improved", "reference"):
        run(base, f"d3hr@{variant}")
    return base / "data/d3hr"


def rows_of(folder: Path, kept_only: bool = True) -> list[dict[str, Any]]:
    rows = Dataset.open(str(folder)).rows(kept_only=kept_only).to_pylist()
    return [{**row, **json.loads(row["params"])} for row in rows]


def pending_of(base: Path, name: str, **overrides: Any) -> Counter[str]:
    """The kinds of units that would run."""
    prepared = prepare(get_stage("d3hr"), job_of(base, name, **overrides))
    return Counter(unit.kind for unit, _ in prepared.pending)


@pytest.mark.parametrize("variant", ["improved", "reference"])
def test_every_class_has_its_slots_at_the_size_of_the_training_images(base: Path, made: Path, variant: str) -> None:
    rows = rows_of(made / variant)
    assert sorted((row["label"], row["slot"]) for row in rows) == [(c, s) for c in (0, 1) for s in range(3)]
    assert {(row["width"], row["height"], row["label_name"]) for row in rows} == {(16, 16, "left"), (16, 16, "right")}
    assert len({row["pixel_sha256"] for row in rows}) == 6
    assert lint(str(made / variant), None).ok
    sets = CondensedSets(job_of(base, f"d3hr@{variant}"), f"d3hr@{variant}")
    assert (sets.count, sets.ipc, sets.started_from_real) == (1, 3, False)


def test_an_image_says_its_slot_seed_and_share_of_the_class(made: Path) -> None:
    rows = rows_of(made / "improved")
    assert {row["weight"] for row in rows} == {0.333333}
    seeds = {label: {row["seed"] for row in rows if row["label"] == label} for label in (0, 1)}
    assert len(seeds[0]) == len(seeds[1]) == 1
    assert seeds[0] != seeds[1]
    assert {tuple(row["parents"]) for row in rows} == {()}


def test_what_was_inverted_is_a_fixed_choice_of_each_class_and_every_image_has_a_row(base: Path, made: Path) -> None:
    sidecars = sorted((made / "improved/inverted/meta").iterdir())
    rows = [row for path in sidecars for row in read_sidecar(Storage(path.parent), path.name).to_pylist()]
    assert Counter((row["label"], row["outcome"]) for row in rows) == {(0, "kept"): 9, (1, "kept"): 9}
    train = set(Dataset.open(str(base / "data/split/train")).rows(["key"])["key"].to_pylist())
    assert len({row["key"] for row in rows} & train) == 18
    metrics = json.loads((made / "improved/metrics.json").read_text())
    assert (metrics["real_images"], metrics["real_images_failed"]) == (18, 0)
    more = prepare(get_stage("d3hr"), job_of(base, "d3hr@improved", images_per_class=10)).plan.rows
    keys = {row["key"] for table in more.values() for row in table.to_pylist()}
    assert {row["key"] for row in rows} < keys


def test_only_moments_leave_the_inversion_unless_latents_are_asked_for(base: Path, made: Path, tmp_path: Path) -> None:
    assert not (made / "improved/latents").exists()
    run(base, "d3hr@improved", tmp_path, keep_latents=True)
    ours = tmp_path / "d3hr/improved"
    stored = [Latents.from_bytes(path.read_bytes()) for path in sorted((ours / "latents").iterdir())]
    assert sum(len(one) for one in stored) == 18
    assert {tuple(one.at) for one in stored} == {(CLEAN, 500)}
    assert pixels_of(ours) == pixels_of(made / "improved")
    whole = Moments.of(torch.cat([one.at[500] for one in stored]), torch.cat([one.labels for one in stored]))
    parts = [f"moments/g1-{place:06d}" for place in range(4)]
    merged = Measured(Committed(job_of(base, "d3hr@improved", tmp_path)), parts, 2).moments(500)
    assert merged.count.tolist() == [9, 9]
    torch.testing.assert_close(merged.mean, whole.mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(merged.variance(), whole.variance(), rtol=1e-6, atol=0)


def pixels_of(folder: Path) -> list[str]:
    return [row["pixel_sha256"] for row in rows_of(folder)]


def test_another_group_or_level_of_the_sweep_inverts_nothing_again(base: Path, made: Path, tmp_path: Path) -> None:
    assert pending_of(base, "d3hr@improved", ipc=4) == {"select": 1, "decode": 2}
    assert pending_of(base, "d3hr@improved", select={"group": "random"}) == {"select": 1, "decode": 2}
    assert pending_of(base, "d3hr@improved", image={"format": "webp"}) == {"decode": 2, "round_trip": 1}
    sweep = {"levels": [300], "guidances": [1.5]}
    job = job_of(base, "d3hr@improved", tmp_path, sweep=sweep)
    lines: list[str] = []
    run_stage(job, "serial", debug=True, say=lines.append)
    assert [line.split()[:2] for line in lines[-5:]] == [
        ["level", "guidance"],
        *([a, b] for b in ("1", "1.5") for a in ("300", "500")),
    ]
    metrics = json.loads((tmp_path / "d3hr/improved/metrics.json").read_text())
    assert (metrics["level"], metrics["guidance"]) == (500, 1.0)  # the item's own, not the first of the sweep
    other = job_of(
        base, "d3hr@improved", tmp_path, sweep={**sweep, "levels": [300, 500]}, invert={"steps": 10, "level": 300}
    )
    kinds = Counter(unit.kind for unit, _ in prepare(get_stage("d3hr"), other).pending)
    assert kinds == {"select": 1, "decode": 2, "round_trip": 1}


def test_figures_are_written_for_every_level_and_class(made: Path) -> None:
    (row,) = json.loads((made / "improved/diagnostics.json").read_text())
    assert (row["level"], row["guidance"], list(row["classes"])) == (500, 1.0, ["left", "right"])
    for name in ("cosine", "mean_rms", "variance", "kurtosis", "correlation"):
        assert np.isclose(row[name], np.mean([one[name] for one in row["classes"].values()]), rtol=1e-4)
    assert 0 < row["correlation_floor"] < 1
    facts = json.loads((made / "improved/stage.json").read_text())["facts"]
    weights = sum(path.stat().st_size for path in (made.parent / "generator/classes").rglob("*.safetensors"))
    assert facts["generator_bytes"] == weights
    assert facts["diagnostics"]["cosine"] == row["cosine"]
    assert set(facts["score"]) == {"mean", "deviation", "skew"}
    scores = (made / "improved/scores.csv").read_text().splitlines()
    assert [line.split(",")[:3] for line in scores[1:]] == [["0", "0", "left"], ["0", "1", "right"]]


@pytest.mark.parametrize("select", [{"class_model": "mixture"}, {"class_model": "low_rank"}, {"group": "medoids"}])
def test_models_that_read_latents_keep_them(base: Path, tmp_path: Path, select: dict[str, str]) -> None:
    run(base, "d3hr@improved", tmp_path, select=select)
    ours = tmp_path / "d3hr/improved"
    assert (ours / "latents").exists()
    rows = rows_of(ours)
    assert len(rows) == 6
    if select.get("group") != "medoids":
        assert {tuple(row["parents"]) for row in rows} == {()}
        return
    train = {row["key"]: row["label"] for row in dataset_of(base).rows(["key", "label"]).to_pylist()}
    parents = [row["parents"][0] for row in rows]
    assert len(set(parents)) == 6
    assert [train[key] for key in parents] == [row["label"] for row in rows]
    latents, members = read_block((ours / "groups/set0-000000.safetensors").read_bytes())
    stored = [Latents.from_bytes(path.read_bytes()) for path in (ours / "latents").iterdir()]
    of_key = {key: one.at[500][place] for one in stored for place, key in enumerate(one.keys)}
    for latent, member in zip(latents, members, strict=True):
        assert member.parent is not None
        torch.testing.assert_close(latent, of_key[member.parent].flatten(), rtol=0, atol=0)


def dataset_of(base: Path) -> Dataset:
    return Dataset.open(str(base / "data/split/train"))


def test_sets_of_several_seeds_differ_and_the_first_stays(base: Path, made: Path, tmp_path: Path) -> None:
    run(base, "d3hr@improved", tmp_path, seeds=2)
    rows = rows_of(tmp_path / "d3hr/improved")
    assert Counter(row.get("set", 0) for row in rows) == {0: 6, 1: 6}
    assert len({row["pixel_sha256"] for row in rows}) == 12
    assert [row["pixel_sha256"] for row in rows if "set" not in row] == pixels_of(made / "improved")


# what bytes do not depend on


def test_f18_the_order_of_units_and_the_number_of_workers_change_no_byte(
    base: Path, made: Path, tmp_path: Path
) -> None:
    for variant in ("improved", "reference"):
        execute(get_stage("d3hr"), job_of(base, f"d3hr@{variant}", tmp_path), Backwards)
        assert_same(tree(tmp_path / f"d3hr/{variant}"), tree(made / variant))


def test_f18_killed_at_any_moment_it_ends_in_the_same_bytes(base: Path, made: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    job_of(base, "d3hr@improved", data)
    killed_again_and_again(run, base, "d3hr@improved", data / "d3hr/improved", kills=8, longest=0.8)
    run(base, "d3hr@improved", data)
    assert_same(tree(data / "d3hr/improved"), tree(made / "improved"))


# other generators


@pytest.mark.parametrize("shape", [sd, sd3], ids=["sd", "sd3"])
def test_a_generator_of_prompts_is_asked_for_a_photo_of_the_class(
    base: Path, tmp_path: Path, shape: Callable[[], Any]
) -> None:
    write_generator(tmp_path, "text", shape())
    asked = {"model": "text", "names": {"left": "left side"}, "ipc": 2, "round_trip": 0}
    run(base, "d3hr@improved", tmp_path, **asked)
    assert len(rows_of(tmp_path / "d3hr/improved")) == 4
    units = prepare(get_stage("d3hr"), job_of(base, "d3hr@improved", tmp_path, **asked)).plan.units
    prompts = {prompt for unit in units if unit.kind == "decode" for prompt in unit.payload["prompts"].values()}
    assert prompts == {"a photo of a left side", "a photo of a right"}
    (row,) = json.loads((tmp_path / "d3hr/improved/diagnostics.json").read_text())
    assert row["predicted_variance"] > 0


def test_classes_are_numbers_of_the_generator_by_name(base: Path, tmp_path: Path) -> None:
    write_generator(tmp_path, names=["right", "left"])
    units = prepare(get_stage("d3hr"), job_of(base, "d3hr@improved", tmp_path)).plan.units
    assert next(unit.payload["prompts"] for unit in units if unit.kind == "decode") == {"0": 1, "1": 0}


# bad input


def test_a_class_that_the_generator_does_not_have_is_said_before_any_work(base: Path, tmp_path: Path) -> None:
    write_generator(tmp_path, names=["left", "up"])
    with pytest.raises(UserError, match=r"does not know 'right'.*write under d3hr.names what it calls 'right'"):
        prepare(get_stage("d3hr"), job_of(base, "d3hr@improved", tmp_path))


def test_an_image_whose_latents_are_no_numbers_is_a_row_with_its_reason_and_left_out(
    base: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers' autoencoder is made to overflow on the brightest of the inverted images."""
    rows = [r for path in (made / "improved/inverted/meta").iterdir() for r in read_rows_of(path)]
    images = load_arrays(dataset_of(base), [row["key"] for row in rows])
    means = images.images.astype(np.float64).mean((1, 2, 3)) / 127.5 - 1
    brightest, border = int(means.argmax()), float(np.sort(means)[-2:].mean())
    encode = AutoencoderKL.encode

    def overflowing(self: Any, pixels: torch.Tensor) -> Any:
        output = encode(self, pixels)
        output.latent_dist.mean[pixels.mean((1, 2, 3)) > border] = torch.nan
        return output

    monkeypatch.setattr(AutoencoderKL, "encode", overflowing)
    run(base, "d3hr@improved", tmp_path)
    ours = tmp_path / "d3hr/improved"
    failed = [r for path in (ours / "inverted/meta").iterdir() for r in read_rows_of(path) if r["outcome"] != "kept"]
    assert [(r["key"], r["outcome"], r["reason"]) for r in failed] == [(images.keys[brightest], "failed", "not_finite")]
    metrics = json.loads((ours / "metrics.json").read_text())
    assert (metrics["real_images"], metrics["real_images_failed"]) == (17, 1)
    assert len(rows_of(ours)) == 6


def read_rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_sidecar(Storage(path.parent), path.name).to_pylist()
    return rows


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            {"images_per_class": 1},
            "class left has 1 different training image, and 2 are needed to know how much they vary; raise",
        ),
        (
            {"ipc": 10, "select": {"group": "medoids"}},
            "class left has 9 .* and 10 are needed to choose 10 of; raise d3hr.images",
        ),
        (
            {"ipc": 9, "select": {"class_model": "mixture"}},
            "10 are needed for a mixture of 9 components; raise d3hr.images_per",
        ),
        (
            {"select": {"class_model": "mixture", "components": 4}},
            "each of 4 components takes an image, and there are 3",
        ),
        ({"sweep": [550]}, "d3hr@improved: level takes a multiple of 100 from 100 to 900"),
        (
            {"image": {"format": "png", "resize": "exact", "size": 64}},
            "d3hr.image.size is 64 and the generator makes images of 16 px",
        ),
    ],
)
def test_what_there_is_too_little_of_is_said_before_any_work(
    base: Path, overrides: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        prepare(get_stage("d3hr"), job_of(base, "d3hr@improved", **overrides))


def test_the_published_score_takes_two_images_per_class(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"d3hr@reference .* 1 image per class.*raise d3hr.ipc to 2"):
        prepare(get_stage("d3hr"), job_of(base, "d3hr@reference", ipc=1))
    run(base, "d3hr@improved", tmp_path, ipc=1)
    assert len(rows_of(tmp_path / "d3hr/improved")) == 2
    run(base, "d3hr@reference", tmp_path, ipc=2)
    assert len(rows_of(tmp_path / "d3hr/reference")) == 4
    run(base, "d3hr@improved", tmp_path, ipc=2)
    assert len(rows_of(tmp_path / "d3hr/improved")) == 4


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            {"invert": {"mode": "reference"}},
            "invert.mode would be ignored: it is the variant's; leave it out, and run d3hr@reference",
        ),
        ({"select": {"mode": "reference"}}, "select.mode would be ignored: it is"),
        (
            {"variants": ["reference"], "guidance": 2.0, "invert": {}},
            "invert would be ignored: the variant reference inverts",
        ),
        (
            {"reference": {"candidates": 64}},
            "d3hr.reference.candidates: input should be a multiple of 10000",
        ),
    ],
)
def test_parameters_that_a_variant_cannot_take_are_refused(
    base: Path, overrides: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        job_of(base, "d3hr", **overrides)


# what the report shows


def test_the_report_shows_real_images_inverted_and_made_again_and_the_figures_by_level(base: Path, made: Path) -> None:
    shown = section(outputs_under(str(base / "data")), Options(None, ""))
    assert shown is not None
    sentences, strips, folded = shown.blocks
    assert isinstance(sentences, Sentences)
    assert sentences.texts[0].startswith("D3HR: 18 real images were inverted. At level 500 and guidance 1")
    assert "comes back" in sentences.texts[1]
    assert isinstance(strips, ClassStrips)
    assert list(strips.columns) == ["real", "autoencoder", "D3HR, again", "as published, again"]
    assert [[len(source) for source in row.sources] for row in strips.rows] == [[1, 1, 1, 1]] * 2
    assert isinstance(folded, Folded)
    (table,) = folded.blocks  # one level each: no line to draw
    assert isinstance(table, Table)
    assert [row[:3] for row in table.rows] == [["D3HR", "500", "1"], ["as published", "600", "4"]]


def test_a_verdict_names_what_is_not_gaussian() -> None:
    near = {"level": 600, "guidance": 1, "cosine": 0.97, "variance": 0.98, "predicted_variance": 0.97, "kurtosis": 0.05}
    near |= {"correlation": 0.05, "correlation_floor": 0.046}
    assert verdict(near).endswith("are near to diagonal Gaussians by all that is measured.")
    far = near | {"cosine": 0.1, "correlation": 0.2}
    assert "turned away from the clean ones (cosine 0.1)" in verdict(far)
    assert "correlate 4.35 times as much as chance gives" in verdict(far)
    assert verdict({}) == ""
