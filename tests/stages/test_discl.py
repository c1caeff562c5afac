"""`discl` at toy size: tiny models and real sampling; what is hard, what is made and tried again, what is admitted, what a kill costs."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.artifacts.curriculum import load_curriculum
from pipelines.artifacts.profiles import load_profile
from pipelines.artifacts.spectra import Spectra
from pipelines.commands.jobs import make_job
from pipelines.commands.runs import run_stage
from pipelines.errors import UserError
from pipelines.report.blocks import BoxGrid, Charts, Table
from pipelines.report.reading import Outputs
from pipelines.report.section import Options
from pipelines.runtime.execute import execute, prepare
from pipelines.runtime.job import Job
from pipelines.runtime.serial import SerialRunner
from pipelines.shards.dataset import Dataset
from pipelines.shards.lint import lint
from pipelines.stages import get_stage
from pipelines.stages.discl.hard import fold_of, worst
from pipelines.stages.discl.params import DisclParams, HardParams
from pipelines.stages.discl.section import section
from tests.contract.folders import tree
from tests.stages.test_datadream import write_models
from tests.stages.test_pipeline import write_source
from tests.stages.zygote import Backwards, killed_again_and_again

PARAMS = """
run: {seed: 0, threads: 1, device: cpu, breaker: {max_failed: 1.0, min_kept: 0}}
ingest:
  sources:
    - {type: folder, path: SOURCE/train, split: train}
    - {type: folder, path: SOURCE/test, split: test}
  image: {format: png}
split:
  validation: 0.25
  few_shot: [1]
  profiles:
    tail: {tail: {law: counts, counts: {right: 3}}, groups: {many: 8, few: 4}}
    low: {quality: {share: 0.5, kinds: [noise], severities: [5]}}
datadream:
  variants: [cls]
  shots: [1]
  images: 1
  batch_size: 1
  adapt: {rank: 2, steps: 3, batch_size: 1, warmup_steps: 1, learning_rate: 0.05}
  generate: {steps: 1, guidance: 1.0, scheduler: ddim}
  reference: null
discl:
  levels: [50, 0]
  seeds: 2
  tries: 2
  images_per_unit: 2
  batch_size: 4
  generate: {steps: 4, guidance: 2.0, scheduler: ddim}
  filters: {}
  curricula: {strategies: [diverse_to_specific, adaptive], epochs: 5, curriculum_epochs: 4, downsample: 0.5, held_out: 1}
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with params.yaml and data/ up to the generator; one for all modules that have this fixture."""
    folder = tmp_path_factory.getbasetemp() / "discl"
    if folder.exists():
        return folder
    folder.mkdir()
    write_source(folder / "source")
    (folder / "params.yaml").write_text(PARAMS.replace("SOURCE", str(folder / "source")))
    for stage in ("ingest", "split"):
        run_stage(make_job(stage, folder / "params.yaml", data=str(folder / "data")), "serial", debug=True)
    write_models(folder / "data")
    return folder


def job_of(base: Path, data: Path | None = None, **overrides: Any) -> Job[Any]:
    """The job, into a data folder that has links to the inputs of `base`."""
    if data is not None and not data.exists():
        data.mkdir()
        for stage in ("ingest", "split", "generator"):
            (data / stage).symlink_to(base / "data" / stage)
    settings = [f"discl.{key}={json.dumps(value)}" for key, value in overrides.items()]
    return make_job("discl", base / "params.yaml", settings, str(data or base / "data"))


def run(base: Path, name: str, data: Path, runner: Any = SerialRunner, **overrides: Any) -> dict[str, Any]:
    """Run the stage; returns stage.json with what ran."""
    return execute(get_stage("discl"), job_of(base, data, **overrides), runner)


@pytest.fixture(scope="module")
def made(base: Path) -> Path:
    run(base, "", base / "data")
    return base / "data/discl"


def finished(base: Path, made: Path, data: Path) -> Path:
    """A data folder in which the stage has run as it did in `base`."""
    job_of(base, data)
    shutil.copytree(made, data / "discl")
    return data


def rows_of(folder: Path, kept_only: bool = True) -> list[dict[str, Any]]:
    rows = Dataset.open(str(folder)).rows(kept_only=kept_only).to_pylist()
    return [{**row, **json.loads(row["params"])} for row in rows]


def test_every_hard_image_is_made_at_every_level_from_every_noise(base: Path, made: Path) -> None:
    tail = load_profile(job_of(base), "tail")
    hard = [key for key, label in zip(tail.keys, tail.labels, strict=True) if label == 1]
    rows = rows_of(made / "generated")
    cells = [(row["parents"][0], row["ordinal"], row["level"]) for row in rows]
    assert cells == [(key, ordinal, level) for key in hard for ordinal in range(2) for level in (0, 50)]
    assert {row["strength"] + row["level"] for row in rows} == {100}
    assert {row["prompt"] for row in rows} == {"a photo of a right"}
    assert {(row["width"], row["height"], row["label_name"]) for row in rows} == {
        (16, 16, "right")
    }  # as the real image
    assert all(-1 <= row["scores"][name] <= 1 for row in rows for name in ("text_cosine", "source_cosine"))
    assert rows[1]["key"] == f"{hard[0]}-l050-s000"
    assert lint(str(made / "generated"), None).ok
    assert lint(str(made / "kept"), None).ok
    form = json.loads((made / "hard.json").read_text())
    assert form["images"] == [{"key": key, "label": 1, "reason": "few_images", "value": 3.0} for key in hard]


def test_images_nearer_to_the_real_one_look_more_like_it(base: Path, made: Path) -> None:
    real = Dataset.open(str(base / "data/split/train"))
    from pipelines.loaders.arrays import load_arrays

    rows = rows_of(made / "generated")
    images = load_arrays(Dataset.open(str(made / "generated")), [row["key"] for row in rows]).images.astype(float)
    sources = load_arrays(real, [row["parents"][0] for row in rows]).images.astype(float)
    distance = np.abs(images - sources).mean((1, 2, 3))
    levels = np.array([row["level"] for row in rows])
    assert distance[levels == 50].mean() < distance[levels == 0].mean()


def test_what_reads_spectra_is_given_them_by_level_class_and_real_image(base: Path, made: Path) -> None:
    spectra = Spectra(job_of(base))
    assert spectra.levels == (0, 50)
    assert len(spectra.images) == 12
    parent = spectra.hard[1]
    assert [one.level for one in spectra.select(parent=parent)] == [0, 50, 0, 50]
    assert {one.parent for one in spectra.select(level=0, label=1)} == set(spectra.hard)
    assert spectra.select(label=0) == []
    some = spectra.select(level=50)
    assert spectra.load(some).images.shape == (6, 3, 16, 16)
    whole, half = spectra.load(some).images.astype(float), spectra.load(some, (8, 8)).images
    assert np.abs(half - whole.reshape(6, 3, 8, 2, 8, 2).mean((3, 5))).max() <= 0.5  # by area
    assert spectra.digest(some) != spectra.digest(some[1:])


def test_curricula_are_tables_over_the_images_that_there_are(base: Path, made: Path) -> None:
    job = job_of(base)
    tail = load_profile(job, "tail")
    table = load_curriculum(job, "diverse_to_specific")
    assert [row.levels for row in table.epochs] == [(0,), (0,), (50,), (100,), (100,)]
    assert sorted((*table.hard, *(table.others or ()))) == sorted(tail.keys)
    assert len(table.held_out) == 1
    # one of two classes is hard: as many hard places as others, of which half is seen
    assert [(row.real, row.tail, row.synthetic) for row in table.epochs[2:4]] == [(6, 2, 4), (6, 6, 0)]
    assert all(row.adaptive for row in load_curriculum(job, "adaptive").epochs[:4])


def test_the_report_shows_spectra_with_their_scores_yields_and_curricula(base: Path, made: Path) -> None:
    shown = section(
        Outputs.under(str(base / "data"), [get_stage("split"), get_stage("discl")]), Options(samples_per_class=2)
    )
    assert shown is not None
    grid, levels, charts, _ = shown.blocks
    assert isinstance(grid, BoxGrid)
    assert [[one.title for one in row] for row in grid.rows] == [
        ["right, real image", "level 0 · kept", "level 50 · kept"]
    ] * 2
    first = rows_of(made / "generated")
    key = sorted(row["parents"][0] for row in first)[0]
    text = next(row["scores"]["text_cosine"] for row in first if row["parents"] == [key] and row["level"] == 50)
    assert grid.rows[0][2].drawn[0] == ("text", f"{text:.3f}".replace("-", "−"))
    assert isinstance(levels, Table)
    assert [(row[0], row[1], row[4]) for row in levels.rows] == [("level 0", "6", "6"), ("level 50", "6", "6")]
    assert isinstance(charts, Charts)
    adaptive, upwards = charts.figures
    assert str(upwards.svg).count("--distilled") == 2 * 3  # three epochs with a level that was made: fill and stroke
    assert "6 other real images, 2 hard ones and 4 synthetic; the last, 6 hard and 0" in upwards.note
    assert "hollow" in adaptive.note
    assert "hollow" not in upwards.note


def test_what_is_below_its_bound_is_tried_again_and_the_best_try_is_stored(base: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    run(base, "", data, bound=1.0, seeds=1, tries=3)
    rows = rows_of(data / "discl/generated")
    assert {row["tries"] for row in rows} == {3}
    assert len({row["attempt"] for row in rows}) > 1
    first = {row["parents"][0]: row["scores"]["text_cosine"] for row in rows if row["level"] == 0}
    once = tmp_path / "once"
    run(base, "", once, bound=1.0, seeds=1, tries=1)
    for row in rows_of(once / "discl/generated"):
        if row["level"] == 0:
            assert row["scores"]["text_cosine"] <= first[row["parents"][0]]
    metrics = json.loads((data / "discl/metrics.json").read_text())
    assert metrics["levels"]["50"]["tries"] == 9
    assert metrics["classes"]["right"]["images"] == 6


def test_another_filter_or_curriculum_makes_no_image_again(base: Path, made: Path, tmp_path: Path) -> None:
    data = finished(base, made, tmp_path / "data")
    ran = run(base, "", data, filters={"min_text_cosine": 0.99}, curricula={"strategies": ["all_levels"]})
    assert ran["ran"] == 2  # the admissions
    rows = rows_of(data / "discl/kept", kept_only=False)
    assert {row["reason"] for row in rows if row["outcome"] == "dropped"} == {"off_prompt"}
    assert sorted(path.name for path in (data / "discl/curriculum").iterdir()) == ["all_levels.json"]


def test_the_adapter_of_the_hard_class_makes_its_images(base: Path, made: Path, tmp_path: Path) -> None:
    data, adapter = tmp_path / "data", {"variant": "cls", "shots": 1}
    with pytest.raises(UserError, match=r"limbeck run datadream@cls"):
        prepare(get_stage("discl"), job_of(base, data, adapter=adapter))
    run_stage(make_job("datadream@cls", base / "params.yaml", data=str(data)), "serial", debug=True)
    with pytest.raises(
        UserError, match=r"no adapter 'right' of 2 shots of few-shot seed 0; it has shots01-seed0\. Set discl\.adapter"
    ):
        prepare(get_stage("discl"), job_of(base, data, adapter={**adapter, "shots": 2}))
    asked = {"levels": [0], "seeds": 1, "tries": 1}
    job = job_of(base, data, **asked, adapter=adapter)
    assert get_stage("discl").inputs(job) == ("split", "generator", "datadream@cls")
    units = prepare(get_stage("discl"), job).plan.units
    plain = prepare(get_stage("discl"), job_of(base, data, **asked)).plan.units
    assert [one.name for one in units] == [one.name for one in plain]
    assert all("adapter" not in one.payload for one in plain)
    shown = json.loads((data / "split/few_shot.json").read_text())["seeds"]["0"]["1"]
    outside = shown[0] not in load_profile(job, "tail").keys
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run(base, "", data, **asked, adapter=adapter)
    assert any("1 of the 1 images that the adapters were trained on" in str(one.message) for one in said) is outside
    rows = rows_of(data / "discl/generated")
    weights = next((data / "datadream/cls/adapters/shots01-seed0/right").glob("*.safetensors"))
    assert {row["adapter"] for row in rows} == {hashlib.sha256(weights.read_bytes()).hexdigest()}
    from pipelines.loaders.arrays import load_arrays

    keys = [row["key"] for row in rows]
    ours, base_model = (
        load_arrays(Dataset.open(str(folder / "generated")), keys).images.astype(float)
        for folder in (data / "discl", made)
    )
    assert np.abs(ours - base_model).mean() > 1  # more than the last bits of a batch of another size


def test_networks_that_have_not_seen_an_image_say_how_hard_it_is(base: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    training = {"epochs": 3, "batch_size": 8, "learning_rate": 0.05}
    hard = {"rule": "quality", "share": 0.25, "folds": 2, "network": "convnet2_w4", "training": training}
    run(base, "", data, profile="low", hard=hard, seeds=1, tries=1, levels=[50])
    forms = [json.loads(path.read_text()) for path in sorted((data / "discl/judged").glob("*.json"))]
    low = load_profile(job_of(base, data), "low")
    assert sorted(key for form in forms for key in form) == sorted(low.keys)  # each image once
    images = json.loads((data / "discl/hard.json").read_text())["images"]
    confidence = {key: scores["confidence"] for form in forms for key, scores in form.items()}
    assert [one["key"] for one in images] == sorted(confidence, key=lambda key: (confidence[key], key))[:6]
    assert {one["reason"] for one in images} == {"low_confidence"}
    assert [row["parents"][0] for row in rows_of(data / "discl/generated")] == [one["key"] for one in images]


def test_folds_are_dealt_out_class_by_class(base: Path) -> None:
    tail = load_profile(job_of(base), "tail")
    fold = fold_of(tail, 3, seed=1)
    assert [np.bincount(fold[tail.labels == label], minlength=3).tolist() for label in (0, 1)] == [[4, 4, 4], [1, 1, 1]]
    chosen = worst(tail, {key: float(place % 3) for place, key in enumerate(tail.keys)}, "loss", 2)
    assert [one.value for one in chosen] == [2.0, 2.0]


def test_a_given_list_says_what_is_hard(base: Path, tmp_path: Path) -> None:
    tail = load_profile(job_of(base), "tail")
    path = tmp_path / "keys.txt"
    path.write_text(f"{tail.keys[0]}\n{tail.keys[-1]}\n")
    hard = {"rule": "list", "file": str(path)}
    planned = prepare(get_stage("discl"), job_of(base, hard=hard)).plan
    assert sorted(one["key"] for one in planned.facts["hard"]) == sorted({tail.keys[0], tail.keys[-1]})
    path.write_text("nowhere\n")
    with pytest.raises(UserError, match=r"names nowhere, which is no image of the profile 'tail'"):
        prepare(get_stage("discl"), job_of(base, hard=hard))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"hard": {"below": 1}}, "no class of the profile 'tail' has fewer than 1 images"),
        ({"hard": {"below": 100}}, "every class of the profile 'tail' is hard"),
        ({"profile": "other"}, "asks for the profile 'other', split made low, tail"),
        ({"curricula": {"held_out": 3}}, "3 of 3 hard images"),
        ({"curricula": {"epochs": 3, "curriculum_epochs": 1}}, "fewer than the 3 levels"),
        ({"prompts": {"bank": "nowhere.yaml"}}, "nowhere.yaml cannot be read"),
    ],
)
def test_what_cannot_be_made_stops_before_work(base: Path, overrides: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        prepare(get_stage("discl"), job_of(base, **overrides))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            {"levels": [0, 50, 52]},
            r"discl\.levels and discl\.generate\.steps: guidance levels 50 and 52 begin at the same one of 4 steps",
        ),
        ({"names": {"left": "Right side", "right": "right  SIDE"}}, r"same text to the model.*in discl\.names"),
        (
            {"prompts": {"bank": "BANK", "prefix": "seen: "}, "hard": {"rule": "list", "file": "KEYS"}},
            r"same text to the model.*discl\.prompts\.bank",
        ),
    ],
)
def test_what_the_models_cannot_tell_apart_stops_before_work(
    base: Path, tmp_path: Path, overrides: dict[str, Any], said: str
) -> None:
    tail, bank, keys = load_profile(job_of(base), "tail"), tmp_path / "bank.yaml", tmp_path / "keys.txt"
    bank.write_text("left: [a lamp, a chair]\nright: [A  Chair, A Lamp]\n")
    of_each = {label: key for key, label in zip(tail.keys, tail.labels.tolist(), strict=True)}
    keys.write_text("\n".join(of_each.values()))
    form = json.loads(json.dumps(overrides).replace("BANK", str(bank)).replace("KEYS", str(keys)))
    with pytest.raises(UserError, match=said):
        get_stage("discl").check(job_of(base, **form))


def test_parameters_that_would_be_ignored_are_refused() -> None:
    for params in ({"rule": "tail", "folds": 3}, {"rule": "quality", "share": 0.1, "below": 3}, {"rule": "list"}):
        with pytest.raises(ValueError, match=r"would be ignored|needs file"):
            HardParams.model_validate(params)
    with pytest.raises(ValueError, match=r"needs curricula\.held_out"):
        DisclParams.model_validate({"curricula": {"strategies": ["adaptive"]}})
    with pytest.raises(ValueError, match=r"set adapter\.variant to dset"):
        DisclParams.model_validate({"adapter": {}, "hard": {"rule": "quality", "share": 0.1}})
    assert DisclParams(mode="reference").made_levels == (0, 10, 30, 50)
    assert DisclParams().made_levels == (0, 13, 30, 50)


def test_published_levels_begin_at_their_share_of_the_steps(base: Path) -> None:
    def spectra(**overrides: Any) -> list[Any]:
        units = get_stage("discl").plan(job_of(base, bound=0.3, filters=None, **overrides)).units
        return [unit.payload["making"] for unit in units if unit.kind == "spread"]

    published, improved = spectra(mode="reference"), spectra()
    assert {making["starts"] for making in published} == {"strength"}
    assert {making["starts"] for making in improved} == {"sigma"}


def test_killed_at_any_moment_or_run_in_any_order_it_ends_in_the_same_bytes(
    base: Path, made: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    job_of(base, data)
    killed_again_and_again(run, base, "", data / "discl", kills=3, longest=0.8, data=data)
    run(base, "", data)
    assert tree(data / "discl") == tree(made)
    other = tmp_path / "other"
    run(base, "", other, runner=Backwards)
    assert tree(other / "discl") == tree(made)
