"""`generator`: a family unpacked, trained or named; folders that load; looked at by a teacher; no test image in training."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import huggingface_hub.constants
import numpy as np
import pytest

from pipelines import sample
from pipelines.artifacts.generators import folder_digest, generator_digest, generator_model, generator_of, reference
from pipelines.commands.jobs import make_job
from pipelines.commands.runs import run_stage
from pipelines.errors import UserError
from pipelines.runtime import checkpoints
from pipelines.runtime.execute import execute, prepare
from pipelines.runtime.folder import begin
from pipelines.runtime.serial import SerialRunner, run_unit
from pipelines.shards.dataset import Dataset
from pipelines.stages import get_stage
from pipelines.stages.generator import worker as generator_check
from tests.contract.folders import assert_same, tree
from tests.sealing import seal
from tests.stages.tiny_family import write_family

QUICK = "{steps: 2, guidance: 1.5, scheduler: ddim}"
PARAMS = f"""
run: {{seed: 0, threads: 1, device: cpu}}
ingest:
  sources:
    - {{type: folder, path: SOURCE/train, split: train}}
    - {{type: folder, path: SOURCE/test, split: test}}
  image: {{format: png}}
split: {{validation: 0.25, few_shot: [1, 2]}}
squeeze:
  network: convnet2_w8
  training: {{epochs: 2, batch_size: 8, learning_rate: 0.05}}
generator: {{folder: FAMILY, sheet_images: 2, check_images: 6, text: {QUICK}, classes: {QUICK}}}
"""
TINY_TRAINING = f"""
source: train
sheet_images: 1
check_images: 0
text: {QUICK}
classes: {QUICK}
train:
  scenes: SCENES
  shape: {{size: 32, latents: 4, vae: [8, 8, 8], unet: [16, 16], text: [32, 1], image: [32, 1], joint: 16, tokens: 16, dit: [32, 1]}}
  vae: {{steps: 5, batch: 4, rate: 0.001, encoder_steps: 2}}
  clip: {{steps: 4, batch: 4, rate: 0.001, text_steps: 3}}
  unet: {{steps: 4, batch: 4, rate: 0.001}}
  dit: {{steps: 4, batch: 4, rate: 0.001}}
"""


def write_source(root: Path) -> None:
    """Two classes, a bright square or a bright bar on black, 32 px; nothing equal to anything else."""
    rng = np.random.default_rng(5)
    for split, count in (("train", 12), ("test", 4)):
        for label, name in enumerate(["left", "right"]):
            folder = root / split / name
            folder.mkdir(parents=True)
            for place in range(count):
                pixels = np.zeros((32, 32, 3), np.uint8)
                high = 22 if label else 12
                pixels[5 : 5 + high, 8:22] = rng.integers(120, 255, (high, 14, 1))
                cv2.imwrite(str(folder / f"{place:03d}.png"), pixels)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, parameters, a tiny family, and data up to the teacher."""
    root = tmp_path_factory.mktemp("generator")
    write_source(root / "source")
    family = write_family(root / "family")
    text = PARAMS.replace("SOURCE", str(root / "source")).replace("FAMILY", str(family))
    (root / "params.yaml").write_text(text)
    for stage in ("ingest", "split", "squeeze"):
        run_stage(job_of(root, stage), "serial", debug=True)
    return root


def job_of(root: Path, stage: str = "generator", *overrides: str, data: Path | None = None) -> Any:
    return make_job(stage, root / "params.yaml", overrides, str(data or root / "data"))


def run_in(root: Path, data: Path, *overrides: str) -> Any:
    """Run the stage in a data folder of its own beside the inputs of `root`."""
    for stage in ("split", "squeeze"):
        if not (data / stage).exists():
            shutil.copytree(root / "data" / stage, data / stage)
    job = job_of(root, "generator", *overrides, data=data)
    run_stage(job, "serial", debug=True)
    return job


@pytest.fixture(scope="module")
def data(place: Path) -> Path:
    """The data folder with the tiny family unpacked and looked at."""
    run_stage(job_of(place), "serial", debug=True)
    return place / "data"


def later(place: Path, data: Path | None = None) -> Any:
    """A job of some later stage."""
    return job_of(place, "evaluate", data=data)


@pytest.mark.parametrize(("role", "prompt", "family"), [("text", "a photo of a left", "sd"), ("classes", 1, "dit")])
def test_the_folders_load_and_make_images(place: Path, data: Path, role: Any, prompt: Any, family: str) -> None:
    from synth.backends import load_backend
    from synth.requests import Request
    from synth.sampling import Sampler, Settings

    backend = load_backend(generator_model(later(place), role))
    entry = generator_of(later(place), role)
    assert (backend.capabilities.family, backend.capabilities.native_size) == (entry.family, entry.native_size)
    assert (entry.family, entry.native_size) == (family, (32, 32))
    made = next(Sampler(backend, Settings(steps=2)).generate([Request(prompt, "x")]))
    assert made.images.shape == (1, 3, 32, 32)
    assert not made.broken.any()


def test_clip_loads_with_its_tokenizer(place: Path, data: Path) -> None:
    import torch
    from transformers import CLIPModel, CLIPTokenizer

    folder = generator_model(later(place), "clip")
    model, words = CLIPModel.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
    ids = words(["a photo of a left"], padding="max_length", return_tensors="pt").input_ids
    assert ids.shape == (1, 16)
    with torch.no_grad():
        assert torch.isfinite(model(input_ids=ids, pixel_values=torch.zeros(1, 3, 32, 32)).logits_per_image).all()
    assert generator_of(later(place), "clip").native_size == (32, 32)


def test_the_class_model_knows_the_names(data: Path) -> None:
    index = json.loads((data / "generator/classes/model_index.json").read_text())
    assert index["id2label"] == {"0": "left", "1": "right"}


def test_digests_are_those_of_the_folders_files(place: Path, data: Path) -> None:
    for role in ("text", "classes", "clip"):
        folder = data / "generator" / role
        lines = sorted(
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n"
            for path in folder.rglob("*")
            if path.is_file()
        )
        expected = hashlib.sha256("".join(lines).encode()).hexdigest()
        assert generator_digest(later(place), role) == folder_digest(folder) == expected


def test_the_check_counts_what_the_teacher_says(data: Path) -> None:
    metrics = json.loads((data / "generator/metrics.json").read_text())
    rows = list(csv.DictReader((data / "generator/checks/check-0000.csv").open()))
    assert [(row["label"], row["ordinal"]) for row in rows] == [(str(i % 2), str(i // 2)) for i in range(6)]
    right = [row["label"] == row["predicted"] for row in rows]
    teacher = json.loads((data / "squeeze/metrics.json").read_text())["test_top1"]
    assert metrics["images"] == 6
    assert metrics["top1"] == sum(right) / 6
    assert metrics["classes"]["right"] == {"images": 3, "top1": sum(right[1::2]) / 3}
    assert metrics["teacher_test_top1"] == teacher
    assert metrics["ratio"] == pytest.approx(metrics["top1"] / teacher)


def test_the_teacher_sees_an_image_at_its_own_size(place: Path, data: Path) -> None:
    from pipelines.loaders.arrays import load_arrays

    looking = generator_check.Looking(job_of(place))
    test = load_arrays(Dataset.open(str(data / "split/test")))
    once = test.images.transpose(0, 2, 3, 1)
    twice = once.repeat(2, axis=1).repeat(2, axis=2)
    found = generator_check.classify(twice, looking.teacher)
    top1 = float(np.mean(np.array(generator_check.classify(once, looking.teacher)) == test.labels))
    assert top1 == json.loads((data / "squeeze/metrics.json").read_text())["test_top1"]
    assert np.mean(np.array(found) == test.labels) >= top1 - 0.25


def test_a_contact_sheet_has_a_row_for_each_class(data: Path) -> None:
    for role in ("text", "classes"):
        sheet = cv2.imread(str(data / f"generator/samples/{role}.png"))
        assert sheet.shape == (2 * 32 + 2, 2 * 32 + 2, 3)
        assert (sheet[32:34] == 255).all()


def test_images_stand_in_the_sheet_in_order() -> None:
    images = np.arange(6, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(5, 2).repeat(3, 3)
    sheet = generator_check.contact_sheet(images, 3)
    assert sheet.shape == (2 * 4 + 2, 3 * 5 + 2 * 2, 3)
    assert [int(sheet[row, column, 0]) for row in (0, 6) for column in (0, 7, 14)] == list(range(6))


def test_the_same_job_elsewhere_gives_the_same_bytes(place: Path, data: Path, tmp_path: Path) -> None:
    run_in(place, tmp_path)
    assert_same(tree(tmp_path / "generator"), tree(data / "generator"))


def test_a_second_run_does_nothing_and_a_longer_check_only_checks(place: Path, data: Path) -> None:
    assert "up to date" in run_stage(job_of(place), "serial")
    job = job_of(place, "generator", "generator.check_images=8")
    assert [unit.name for unit, _ in prepare(get_stage("generator"), job).pending] == ["check-0000"]


def test_half_precision_folders_are_half_the_size(place: Path, data: Path, tmp_path: Path) -> None:
    run_in(place, tmp_path, "generator.dtype=float16", "generator.sheet_images=0", "generator.check_images=0")
    name = "generator/text/unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / name).stat().st_size < 0.6 * (data / name).stat().st_size


def test_weights_are_stored_as_they_are_unpacked(place: Path, data: Path) -> None:
    """Half precision in, single out: nothing is lost on the way."""
    import safetensors.torch
    import torch

    stored = safetensors.torch.load_file(place / "family/dit.safetensors")
    made = safetensors.torch.load_file(data / "generator/classes/transformer/diffusion_pytorch_model.safetensors")
    assert set(stored) == set(made)
    assert all(
        value.dtype == torch.float16 and torch.equal(value.float(), made[name]) for name, value in stored.items()
    )


def test_a_damaged_family_is_refused_before_anything_is_touched(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "family", tmp_path / "family")
    weights = tmp_path / "family/unet.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    sentence = r"unet\.safetensors is not the file that SHA256SUMS names; copy the folder again, or choose another generator\.folder"
    with pytest.raises(UserError, match=sentence):
        run_in(place, tmp_path, f"generator.folder={tmp_path / 'family'}")
    assert not (tmp_path / "generator").exists()


def test_without_a_teacher_the_note_names_the_command(place: Path, tmp_path: Path) -> None:
    job = job_of(place, "generator", "generator.sheet_images=0", data=tmp_path)
    run_stage(job, "serial", debug=True)
    assert json.loads((tmp_path / "generator/metrics.json").read_text()) == {
        "images": 0,
        "note": "there is no teacher: limbeck run squeeze",
    }


def test_a_teacher_of_other_classes_is_not_asked(place: Path, tmp_path: Path) -> None:
    family = write_family(tmp_path / "family", ("right", "left"))
    run_in(place, tmp_path, f"generator.folder={family}", "generator.sheet_images=0")
    assert "other classes" in json.loads((tmp_path / "generator/metrics.json").read_text())["note"]


# pretrained


def test_pretrained_folders_are_named_and_not_copied(place: Path, data: Path, tmp_path: Path) -> None:
    models = {role: data / "generator" / role for role in ("text", "classes", "clip")}
    given = [f"generator.model.{role}={folder}" for role, folder in models.items()]
    run_in(place, tmp_path, "generator.source=model", "generator.folder=null", *given)
    assert sorted(path.name for path in (tmp_path / "generator").iterdir() if path.is_dir()) == [
        "checks",
        "ledger",
        "plan",
        "samples",
    ]
    for role, folder in models.items():
        entry = generator_of(later(place, tmp_path), role)  # type: ignore[arg-type]
        assert (entry.kind, entry.model, entry.native_size) == ("reference", str(folder), (32, 32))
        assert entry.digest == generator_digest(later(place), role)  # type: ignore[arg-type]
        assert generator_model(later(place, tmp_path), role) == str(folder)  # type: ignore[arg-type]
    # The same models, seeds and settings: the same images.
    for name in ("samples/classes.png", "checks/check-0000.csv"):
        assert (tmp_path / "generator" / name).read_bytes() == (data / "generator" / name).read_bytes()


def test_a_changed_folder_is_another_model(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(data / "generator/clip", folder)
    before = reference(str(folder), "clip").digest
    (folder / ".cache").mkdir()
    (folder / ".cache/note").write_text("a download tool's")
    assert reference(str(folder), "clip").digest == before
    with (folder / "model.safetensors").open("r+b") as handle:
        handle.seek(-1, 2)
        handle.write(b"\x01")
    assert reference(str(folder), "clip").digest != before


def test_an_id_is_named_with_its_revision(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "models--some--model"
    shutil.copytree(data / "generator/text", cache / "snapshots/abc123")
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text("abc123")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    entry = reference("some/model", "text")
    assert (entry.model, entry.revision, entry.family, entry.native_size) == ("some/model", "abc123", "sd", (32, 32))
    with pytest.raises(UserError, match="hf download other/model"):
        reference("other/model", "text")


def test_families_and_sizes_are_told_as_backends_tell_them(tmp_path: Path) -> None:
    from synth.backends import load_backend
    from tests.synth import making

    for name in ("sd15", "sdxl", "sd3", "flux", "dit", "gligen"):
        folder = making.saved(making.MAKERS[name](), tmp_path / name)
        entry, can = reference(folder, "classes" if name == "dit" else "text"), load_backend(folder).capabilities
        assert entry.family == can.family, name
        assert entry.native_size == tuple(can.native_size), name


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["generator.source=model"], "at least one of generator.model.text"),
        (["generator.model.text=x"], "source is embedded; set source: model"),
        (["generator.folder=/nowhere"], "no family of generators at /nowhere"),
        (["generator.folder=null", "generator.source=model", "generator.model.text=/nowhere"], "is not a folder"),
        (["generator.text.stps=3"], "did you mean generator.text.steps"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(place: Path, overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence.replace(".", r"\.")):
        run_stage(job_of(place, "generator", *overrides), "serial", debug=True)


def test_a_model_of_another_kind_does_not_play_the_role(data: Path) -> None:
    with pytest.raises(UserError, match="it takes a DiTPipeline"):
        reference(str(data / "generator/text"), "classes")
    with pytest.raises(UserError, match="holds a DiTPipeline"):
        reference(str(data / "generator/classes"), "text")


def test_a_role_that_nobody_plays_names_the_command(place: Path, data: Path, tmp_path: Path) -> None:
    only = ["generator.source=model", "generator.folder=null", f"generator.model.clip={data / 'generator/clip'}"]
    run_in(place, tmp_path, *only)
    with pytest.raises(UserError, match=r"evaluate needs a text model .* limbeck run generator"):
        generator_model(later(place, tmp_path), "text")
    with pytest.raises(UserError, match="run first: limbeck run generator"):
        generator_model(later(place, tmp_path / "elsewhere"), "text")


# training


@pytest.fixture(scope="module")
def training(place: Path) -> Path:
    """Scenes composed of the training images, and parameters that train a tiny family on them."""
    import yaml

    params = yaml.safe_load((place / "params.yaml").read_text())
    base = {"type": "folder", "path": str(place / "source/train"), "split": "train"}
    scenes = {"type": "composed", "base": base, "scenes": 12, "size": 32, "items": [1, 2]}
    (place / "scenes.yaml").write_text(
        yaml.safe_dump({"run": params["run"], "ingest": {"sources": [scenes], "image": {"format": "png"}}})
    )
    run_stage(make_job("ingest", place / "scenes.yaml", data=str(place / "scenes")), "serial", debug=True)
    params["generator"] = yaml.safe_load(TINY_TRAINING.replace("SCENES", str(place / "scenes/ingest")))
    (place / "train.yaml").write_text(yaml.safe_dump(params))
    return place


def training_job(place: Path, data: Path, *overrides: str) -> Any:
    if not (data / "split").exists():
        shutil.copytree(place / "data/split", data / "split")
    return make_job("generator", place / "train.yaml", overrides, str(data))


@pytest.fixture(scope="module")
def trained(training: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("trained")
    run_stage(training_job(training, data), "serial", debug=True)
    return data


def test_a_trained_family_loads_and_is_told_of(training: Path, trained: Path) -> None:
    from synth.backends import load_backend

    for role in ("text", "classes"):
        assert load_backend(generator_model(later(training, trained), role)).capabilities.native_size == (32, 32)  # type: ignore[arg-type]
    family = json.loads((trained / "generator/family.json").read_text())
    assert (family["classes"], family["nouns"]) == (["left", "right"], ["left", "right"])
    assert family["facts"]["scenes"] == 12
    metrics = json.loads((trained / "generator/metrics.json").read_text())
    origins = metrics["trained_on"]["scene_origins"]
    assert origins["test"] == origins["elsewhere"] == 0
    assert origins["train"] > 0


def test_what_was_trained_can_be_embedded(training: Path, trained: Path, tmp_path: Path) -> None:
    """The folder `parts` is a family's folder: unpacked, it is what the training left."""
    run_in(training, tmp_path, f"generator.folder={trained / 'generator/parts'}", "generator.check_images=0")
    for role in ("text", "classes", "clip"):
        assert_same(tree(tmp_path / "generator" / role), tree(trained / "generator" / role))


def test_training_that_was_killed_ends_with_the_same_bytes(
    training: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "INTERVAL", 0.0)  # a checkpoint after every step
    job, stage = training_job(training, tmp_path), get_stage("generator")
    begin(stage, job, prepare(stage, job))
    for part in ("vae", "clip", "unet", "dit"):
        unit, identity = next(one for one in prepare(stage, job).pending if one[0].name == f"train-{part}")

        def interrupt(done: float, _total: float, _note: str) -> None:
            if done == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_unit(stage, job, None, unit, identity, interrupt)
        steps: list[float] = []
        run_unit(stage, job, None, unit, identity, lambda done, _total, _note, steps=steps: steps.append(done))
        # two were kept, the interrupted third ran again
        assert steps == list(range(3, 6 if part == "vae" else 5))
    execute(stage, job, SerialRunner)
    assert_same(tree(tmp_path / "generator"), tree(trained / "generator"))


def test_another_budget_trains_what_depends_on_it(training: Path, trained: Path) -> None:
    def pending(*overrides: str) -> set[str]:
        job = training_job(training, trained, *overrides)
        return {unit.name for unit, _ in prepare(get_stage("generator"), job).pending}

    assert pending() == set()
    assert pending("generator.train.dit.steps=5") == {"train-dit", "family", "sheet-text", "sheet-classes"}
    assert pending("generator.train.clip.steps=5") >= {"train-clip", "train-unet", "train-dit", "family"}
    assert "train-vae" not in pending("generator.train.clip.steps=5")
    assert pending("generator.classes.steps=3") == {"sheet-classes"}


def test_scenes_made_of_test_images_are_refused(training: Path, tmp_path: Path) -> None:
    import yaml

    params = yaml.safe_load((training / "scenes.yaml").read_text())
    params["ingest"]["sources"][0]["base"]["path"] = str(training / "source/test")
    (tmp_path / "scenes.yaml").write_text(yaml.safe_dump(params))
    run_stage(make_job("ingest", tmp_path / "scenes.yaml", data=str(tmp_path / "scenes")), "serial", debug=True)
    job = training_job(training, tmp_path / "data", f"generator.train.scenes={tmp_path / 'scenes/ingest'}")
    with pytest.raises(UserError, match=r"shows .*, an image of split/test; compose scenes from training images only"):
        run_stage(job, "serial", debug=True)
    assert not (tmp_path / "data/generator").exists()


def test_a_test_image_among_the_training_images_is_refused(training: Path, tmp_path: Path) -> None:
    job = training_job(training, tmp_path)
    shutil.rmtree(tmp_path / "split/train")
    shutil.copytree(tmp_path / "split/test", tmp_path / "split/train")
    seal(tmp_path / "split", "split")
    with pytest.raises(UserError, match="is an image of split/test: nothing may train on it"):
        run_stage(job, "serial", debug=True)


def test_scenes_of_another_size_are_refused(training: Path, tmp_path: Path) -> None:
    job = training_job(training, tmp_path, "generator.train.shape={size: 64}")
    with pytest.raises(UserError, match=r"holds 32x32, and generator\.train\.shape\.size is 64"):
        run_stage(job, "serial", debug=True)


def test_images_without_captions_are_no_scenes(training: Path, tmp_path: Path) -> None:
    job = training_job(training, tmp_path, f"generator.train.scenes={training / 'data/split/train'}")
    with pytest.raises(UserError, match="has no caption; ingest scenes with both"):
        run_stage(job, "serial", debug=True)


def test_no_test_image_of_the_embedded_sample_is_in_what_the_embedded_family_learnt_from() -> None:
    """The family was trained on the 60 000 training images of Fashion-MNIST; no test image, of the sample or not, is one of them."""
    originals = Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")
    if not originals.is_file():
        pytest.skip("the originals are not here: Debian's package dataset-fashion-mnist")

    def hashes(path: Path) -> set[bytes]:
        data = gzip.decompress(path.read_bytes())[16:]
        return {hashlib.sha256(data[at : at + 784]).digest() for at in range(0, len(data), 784)}

    tested = hashes(sample.folder() / "t10k-images-idx3-ubyte.gz")
    assert len(tested) == 2000
    every = hashes(originals.with_name("t10k-images-idx3-ubyte.gz"))
    assert len(every) == 10_000
    assert tested <= every
    learnt = hashes(originals)
    assert len(learnt) == 60_000
    assert not every & learnt
