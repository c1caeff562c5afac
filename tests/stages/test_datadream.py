"""`datadream` at toy size: real adapters, real sampling, tiny models; what is made, what is stored, what a change or a kill costs."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from pipelines.artifacts.generators import GENERATOR_FILE, reference
from pipelines.commands.jobs import make_job, make_jobs
from pipelines.commands.runs import plan_all, run_stage
from pipelines.errors import UserError
from pipelines.runtime.execute import execute, prepare
from pipelines.runtime.serial import SerialRunner
from pipelines.shards.dataset import Dataset
from pipelines.shards.lint import lint
from pipelines.stages import get_stage
from pipelines.storage import pretty_json
from tests.contract.folders import tree
from tests.sealing import seal
from tests.stages.test_pipeline import write_source
from tests.stages.zygote import killed_again_and_again
from tests.synth.datadream.clips import tiny_clip
from tests.synth.datadream.vlms import save_blip
from tests.synth.making import flux, saved, sd, sd3, sdxl, tokenizer

ROOT = Path(__file__).parents[2]

PARAMS = """
run: {seed: 0, threads: 1, device: cpu}
ingest:
  sources:
    - {type: folder, path: SOURCE/train, split: train}
    - {type: folder, path: SOURCE/test, split: test}
  image: {format: png}
split: {validation: 0.25, few_shot: [2], few_shot_seeds: [0, 1]}
datadream:
  variants: [zero_shot, cls, dset, loft]
  shots: [2]
  seeds: [0]
  images: 4
  images_per_unit: 3
  batch_size: 2
  adapt: {rank: 2, steps: 3, batch_size: 2, warmup_steps: 1, learning_rate: 0.01}
  loft: {rank: 2, steps: 2, batch_size: 1, warmup_steps: 1, learning_rate: 0.01, train_text: false}
  generate: {steps: 2, guidance: 2.0, scheduler: ddim}
  filters: {max_twin_cosine: 0.99999}
"""


def write_models(data: Path, pipeline: Any = None) -> None:
    """A finished `generator` stage whose models are tiny, with random weights; Stable Diffusion 1.5's shape if not told."""
    folder = data / "generator"
    saved(pipeline or sd(), folder / "text")
    tiny_clip().save_pretrained(folder / "clip")
    tokenizer().save_pretrained(folder / "clip")
    form: dict[str, Any] = {"classes": None}
    for role in ("text", "clip"):
        form[role] = {**reference(str(folder / role), role).to_json(), "kind": "folder", "model": role}  # type: ignore[arg-type]
    (folder / GENERATOR_FILE).write_bytes(pretty_json(form))
    seal(folder, "generator")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with params.yaml and data/ up to the generator."""
    folder = tmp_path_factory.mktemp("datadream")
    write_source(folder / "source")
    (folder / "params.yaml").write_text(PARAMS.replace("SOURCE", str(folder / "source")))
    for stage in ("ingest", "split"):
        run_stage(make_job(stage, folder / "params.yaml", data=str(folder / "data")), "serial", debug=True)
    write_models(folder / "data")
    return folder


def run(base: Path, name: str, data: Path | None = None, **overrides: Any) -> dict[str, Any]:
    """Run an item into `data` (links to the inputs of `base`); returns stage.json with what ran."""
    job = job_of(base, name, data, **overrides)
    return execute(get_stage("datadream"), job, lambda: SerialRunner(debug=True))


def job_of(base: Path, name: str, data: Path | None = None, **overrides: Any) -> Any:
    if data is not None and not data.exists():
        data.mkdir()
        for stage in ("ingest", "split", "generator"):
            (data / stage).symlink_to(base / "data" / stage)
    settings = [f"datadream.{key}={json.dumps(value)}" for key, value in overrides.items()]
    return make_job(f"datadream@{name}", base / "params.yaml", settings, str(data or base / "data"))


@pytest.fixture(scope="module")
def made(base: Path) -> Path:
    """All variants, by `limbeck run datadream`."""
    for job in make_jobs("datadream", base / "params.yaml", data=str(base / "data")):
        run_stage(job, "serial", debug=True)
    return base / "data/datadream"


def rows_of(folder: Path, kept_only: bool = True) -> list[dict[str, Any]]:
    rows = Dataset.open(str(folder)).rows(kept_only=kept_only).to_pylist()
    return [{**row, **json.loads(row["params"])} for row in rows]


def test_every_variant_makes_its_images_of_every_class(made: Path) -> None:
    for variant in ("zero_shot", "cls", "dset", "loft"):
        rows = rows_of(made / variant / "generated")
        assert [(row["label"], row["ordinal"]) for row in rows] == [(c, i) for c in (0, 1) for i in range(4)], variant
        assert {row["prompt"] for row in rows} == {"a photo of a left", "a photo of a right"}
        assert lint(str(made / variant / "generated"), None).ok
        assert lint(str(made / variant / "kept"), None).ok


def test_adapters_are_those_of_the_variant(made: Path) -> None:
    counts = {
        v: len(list((made / v).glob("adapters/shots02-seed0/*/*.safetensors")))
        for v in ("zero_shot", "cls", "dset", "loft")
    }
    assert counts == {"zero_shot": 0, "cls": 2, "dset": 1, "loft": 4}
    assert {len(row["adapter"] or ()) for row in rows_of(made / "loft/generated")} == {2}
    assert rows_of(made / "zero_shot/generated")[0]["adapter"] is None


def test_what_one_variant_cannot_do_is_said_before_any_of_them_runs(base: Path, tmp_path: Path) -> None:
    for stage in ("ingest", "split", "generator"):
        (tmp_path / stage).symlink_to(base / "data" / stage)
    asked = ["datadream.variants=[zero_shot, cls]", "datadream.shots=[64]"]  # zero_shot could do with any
    jobs = make_jobs("datadream", base / "params.yaml", asked, str(tmp_path))
    with pytest.raises(UserError, match=r"64 shots, the manifest has \d+; raise split\.few_shot"):
        plan_all(jobs)
    command = [sys.executable, "-m", "pipelines", "run", "datadream", "--params", str(base / "params.yaml")]
    ran = subprocess.run([*command, "--data", str(tmp_path), "--set", asked[0], "--set", asked[1]], capture_output=True)
    assert ran.returncode != 0
    assert b"raise split.few_shot" in ran.stderr + ran.stdout
    assert not (tmp_path / "datadream").exists()


def test_loft_can_be_made_for_fewer_shots_than_the_others(base: Path, tmp_path: Path) -> None:
    for variant, wanted in (("loft", {1}), ("cls", {1, 2})):
        job = job_of(base, variant, tmp_path / "data", shots=[1, 2], loft_shots=[1])
        units = prepare(get_stage("datadream"), job).plan.units
        assert {unit.payload["shots"] for unit in units if unit.kind == "generate"} == wanted


def test_an_image_names_the_real_images_its_adapter_saw(base: Path, made: Path) -> None:
    manifest = json.loads((base / "data/split/few_shot.json").read_text())["seeds"]["0"]
    for row in rows_of(made / "cls/generated"):
        assert row["parents"] == manifest[str(row["label"])]
    held_out = {
        k
        for part in ("val", "test")
        for k in Dataset.open(str(base / "data/split" / part)).rows(["key"])["key"].to_pylist()
    }
    assert not held_out & {key for row in rows_of(made / "cls/generated") for key in row["parents"]}


def test_image_i_starts_from_the_same_noise_in_every_variant(base: Path, made: Path, tmp_path: Path) -> None:
    """With adapters that learn nothing a variant is the base model."""
    run(base, "cls", tmp_path / "data", adapt={"rank": 2, "steps": 1, "warmup_steps": 1, "learning_rate": 1e-12})
    ours, theirs = rows_of(tmp_path / "data/datadream/cls/generated"), rows_of(made / "zero_shot/generated")
    assert [row["pixel_sha256"] for row in ours] == [row["pixel_sha256"] for row in theirs]


def test_a_changed_threshold_judges_again_and_makes_nothing_again(base: Path, made: Path) -> None:
    before = {path.name: path.read_bytes() for path in (made / "cls/generated/shards").iterdir()}
    ran = run(base, "cls", filters={"min_clip_margin": 2.0})["ran"]  # no cosine is that good
    assert ran == 3  # two classes and the figures
    rows = rows_of(made / "cls/kept", kept_only=False)
    assert {(row["outcome"], row["reason"]) for row in rows} == {("dropped", "off_prompt")}
    assert json.loads((made / "cls/metrics.json").read_text())["shots02-seed0"]["dropped"] == {"off_prompt": 8}
    assert {path.name: path.read_bytes() for path in (made / "cls/generated/shards").iterdir()} == before
    assert run(base, "cls")["ran"] == 3


def test_prompts_are_captions_where_that_is_asked_for(base: Path, made: Path, tmp_path: Path) -> None:
    run(base, "zero_shot", tmp_path / "data", captions=True)
    for part in ("generated", "kept"):
        ours = Dataset.open(str(tmp_path / "data/datadream/zero_shot" / part))
        for row in ours.rows().to_pylist():
            members = ours.read(row["shard"], row["key"], row["members"])
            assert members["txt"].decode() == json.loads(row["params"])["prompt"] == f"a photo of a {row['label_name']}"
    plain = Dataset.open(str(made / "zero_shot/generated"))
    assert {tuple(span["ext"] for span in row["members"]) for row in plain.rows().to_pylist()} == {
        ("png", "json", "cls", "npy")
    }
    assert [row["pixel_sha256"] for row in rows_of(tmp_path / "data/datadream/zero_shot/generated")] == [
        row["pixel_sha256"] for row in rows_of(made / "zero_shot/generated")
    ]


def test_more_images_leave_those_that_are_made(base: Path, made: Path) -> None:
    first = rows_of(made / "dset/generated")
    prepared = prepare(get_stage("datadream"), job_of(base, "dset", images=5))
    pending = sorted(unit.name for unit, _ in prepared.pending)
    assert pending == [
        *(f"generated/shots02-seed0-c{label:05d}-000003" for label in (0, 1)),
        *(f"kept/shots02-seed0-c{label:05d}" for label in (0, 1)),
        "quality/shots02-seed0",
    ]
    assert len(first) == 8


def test_scores_are_stored_and_features_lie_beside_the_image(made: Path) -> None:
    dataset = Dataset.open(str(made / "cls/generated"))
    row = rows_of(made / "cls/generated")[0]
    assert {"clip_cosine", "clip_margin", "spread", "saturated", "non_finite", "train_cosine", "train_rmse"} <= set(
        row["scores"]
    )
    sample = next(iter(dataset.samples()))
    features = np.load(io.BytesIO(sample.member("npy") or b""))
    assert features.dtype == np.float16
    assert abs(float(np.linalg.norm(features.astype(np.float32))) - 1) < 1e-2
    assert Dataset.open(str(made / "cls/kept")).rows(["members"])["members"][0].as_py()[-1]["ext"] == "cls"


def test_the_figures_are_of_all_images_and_of_those_admitted(made: Path) -> None:
    quality = json.loads((made / "cls/metrics.json").read_text())["shots02-seed0"]["quality"]
    assert quality["against"] == "val"
    assert quality["generated"]["overall"]["generated"] == 8
    assert set(quality["generated"]["per_class"]) == {"0", "1"}


def test_real_images_may_have_any_size(tmp_path: Path) -> None:
    write_source(tmp_path / "source")
    for place, path in enumerate(sorted((tmp_path / "source").rglob("*.png"))):
        if place % 3 == 0:
            cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (24, 18 + place % 5)))
    (tmp_path / "params.yaml").write_text(PARAMS.replace("SOURCE", str(tmp_path / "source")))
    for stage in ("ingest", "split"):
        run_stage(make_job(stage, tmp_path / "params.yaml", data=str(tmp_path / "data")), "serial", debug=True)
    write_models(tmp_path / "data")
    run(tmp_path, "cls", images=1)
    train = Dataset.open(str(tmp_path / "data/split/train"))
    sizes = {(row["width"], row["height"]) for row in train.rows(["width", "height"]).to_pylist()}
    assert len(sizes) > 2
    quality = json.loads((tmp_path / "data/datadream/cls/metrics.json").read_text())["shots02-seed0"]["quality"]
    assert quality["generated"]["overall"]["real"] == len(Dataset.open(str(tmp_path / "data/split/val")))


def test_a_vision_language_model_tells_the_contexts(base: Path, tmp_path: Path) -> None:
    model, data = save_blip(tmp_path / "blip"), tmp_path / "data"
    run(base, "cls", data, captioner=model, images=2)
    told = json.loads((data / "datadream/cls/contexts/shots02-seed0.json").read_text())
    manifest = json.loads((base / "data/split/few_shot.json").read_text())["seeds"]["0"]
    assert set(told) == {key for keys in manifest.values() for key in keys}
    phrases = {context["background"] for context in told.values()}
    for row in rows_of(data / "datadream/cls/generated"):
        assert row["prompt"].removeprefix(f"a photo of a {row['label_name']}, ") in phrases
    assert run(base, "cls", data, captioner=model, images=2)["ran"] == 0
    with pytest.raises(UserError, match="give context or captioner, not both"):
        job_of(base, "cls", captioner=model, context="bank.yaml")


def test_figures_by_inception_take_its_weights_from_a_file(base: Path, made: Path, tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.random.fork_rng(devices=[]):
        network = torchvision.models.inception_v3(weights=None, init_weights=False)
    torch.save(network.state_dict(), tmp_path / "inception.pth")
    assert run(base, "cls", inception=str(tmp_path / "inception.pth"))["ran"] == 1  # the figures alone
    quality = json.loads((made / "cls/metrics.json").read_text())["shots02-seed0"]["quality"]
    assert quality["features"] == "inception"
    assert quality["generated"]["overall"]["kid"] is not None
    with pytest.raises(UserError, match=r"datadream\.inception: no file nowhere.pth"):
        prepare(get_stage("datadream"), job_of(base, "cls", inception="nowhere.pth"))
    run(base, "cls")


def test_a_wrong_variant_names_those_there_are(base: Path) -> None:
    with pytest.raises(UserError, match="datadream has no 'clas'; there is datadream@zero_shot, datadream@cls"):
        job_of(base, "clas")


def test_names_of_no_class_are_refused_before_any_work(base: Path) -> None:
    with pytest.raises(UserError, match=r"datadream.names has 'lefty', which is no class; there is left, right"):
        prepare(get_stage("datadream"), job_of(base, "cls", names={"lefty": "x"}))


def test_two_classes_of_one_name_are_refused_before_any_work(base: Path) -> None:
    with pytest.raises(UserError, match="two classes are called 'right' in prompts"):
        prepare(get_stage("datadream"), job_of(base, "cls", names={"left": "right"}))


def test_what_is_looked_at_before_the_work_needs_none_of_the_packages_that_do_it(base: Path) -> None:
    """The driver of a run on Ray would import diffusers, for seconds, and leave it to its workers to use."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom pipelines.commands.jobs import make_job\nfrom pipelines.stages import get_stage\n"
        f"job = make_job('datadream@cls', Path({str(base / 'params.yaml')!r}), data={str(base / 'data')!r})\n"
        "get_stage('datadream').check(job)\nprint({'diffusers', 'peft'} & set(sys.modules), 'transformers' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout == "set() True\n", ran.stderr


@pytest.mark.parametrize(
    "names", [{"left": "Right side", "right": "right  SIDE"}, {"left": "left" * 30 + "a", "right": "left" * 30 + "b"}]
)
def test_classes_of_one_text_to_the_model_are_refused_before_any_work(
    base: Path, tmp_path: Path, names: dict[str, str]
) -> None:
    with pytest.raises(
        UserError, match=r"datadream@cls: classes 'left' and 'right' are the same text to the model.*datadream.names"
    ):
        run(base, "cls", tmp_path / "data", names=names)
    assert not (tmp_path / "data/datadream").exists()


def test_contexts_are_told_in_both_stages(base: Path, tmp_path: Path) -> None:
    manifest = json.loads((base / "data/split/few_shot.json").read_text())["seeds"]["0"]
    keys = [key for keys in manifest.values() for key in keys]
    bank = tmp_path / "bank.yaml"
    bank.write_text("".join(f"{key}: {{pose: pose {place}}}\n" for place, key in enumerate(keys)))
    run(base, "cls", tmp_path / "data", context=str(bank), images=3)
    prompts = {row["prompt"] for row in rows_of(tmp_path / "data/datadream/cls/generated")}
    assert all(", pose " in prompt for prompt in prompts)
    with pytest.raises(UserError, match=r"datadream\.context: no file"):
        prepare(get_stage("datadream"), job_of(base, "cls", context="nowhere.yaml"))
    bank.write_text(f"{keys[0]}: {{pose: p}}\n")
    with pytest.raises(UserError, match="the context bank has no entry for image"):
        run(base, "cls", tmp_path / "data", context=str(bank), images=3)


@pytest.mark.parametrize("shape", [lambda: sd("v_prediction"), sdxl, sd3, flux], ids=["sd21", "sdxl", "sd3", "flux"])
def test_a_pipeline_of_any_family_is_adapted_and_asked(base: Path, tmp_path: Path, shape: Callable[[], Any]) -> None:
    (tmp_path / "data").mkdir()
    for stage in ("ingest", "split"):
        (tmp_path / "data" / stage).symlink_to(base / "data" / stage)
    write_models(tmp_path / "data", shape())
    generate = {"steps": 1, "guidance": 2.0}
    run(base, "dset", tmp_path / "data", images=1, generate=generate, adapt={"rank": 2, "steps": 1, "batch_size": 2})
    rows = rows_of(tmp_path / "data/datadream/dset/generated")
    assert [row["label"] for row in rows] == [0, 1]
    assert len(list(tmp_path.glob("data/datadream/dset/adapters/*/*/*.safetensors"))) == 1


def test_killed_at_any_moment_it_ends_in_the_same_bytes(base: Path, made: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    job_of(base, "cls", data)
    killed_again_and_again(run, base, "cls", data / "datadream/cls", kills=12, longest=1.2)
    run(base, "cls", data)
    assert tree(data / "datadream/cls") == tree(made / "cls")
