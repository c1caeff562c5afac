"""`generator` with `source: train` and no scenes: the class model alone, from images that need no captions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipelines.artifacts.families import load_family
from pipelines.artifacts.generators import generator_model, generator_of
from pipelines.commands.jobs import make_job
from pipelines.commands.runs import run_stage
from pipelines.errors import UserError
from pipelines.runtime.execute import prepare
from pipelines.stages import get_stage
from tests.contract.folders import assert_same, tree
from tests.sealing import seal
from tests.stages.test_generator import PARAMS, QUICK, TINY_TRAINING, write_source

pytest.importorskip("diffusers", reason="diffusers is not installed: limbeck[synth]")

TRAINING = f"""
source: train
sheet_images: 2
check_images: 4
classes: {QUICK}
train:
  shape: {{size: 32, latents: 4, vae: [8, 8, 8], dit: [32, 1]}}
  vae: {{steps: 4, batch: 4, rate: 0.001, encoder_steps: 2}}
  dit: {{steps: 4, batch: 4, rate: 0.001}}
"""
DATADREAM = {"variants": ["zero_shot"], "images": 1}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes up to a teacher, and the class model trained on them."""
    root = tmp_path_factory.mktemp("classes")
    write_source(root / "source")
    params = yaml.safe_load(PARAMS.replace("SOURCE", str(root / "source")))
    params |= {"generator": yaml.safe_load(TRAINING), "datadream": DATADREAM}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    for stage in ("ingest", "split", "squeeze", "generator"):
        run_stage(job_of(root, stage), "serial", debug=True)
    return root


def job_of(root: Path, stage: str = "generator", *overrides: str, data: Path | None = None) -> Any:
    return make_job(stage, root / "params.yaml", overrides, str(data or root / "data"))


def test_the_family_has_the_class_model_and_nothing_else(place: Path) -> None:
    out = place / "data/generator"
    parts = {path.name for path in (out / "parts").iterdir()}
    assert parts == {"vae.safetensors", "dit.safetensors", "family.json", "MODEL_CARD.md", "SHA256SUMS"}
    assert "Two small models" in (out / "parts/MODEL_CARD.md").read_text()
    assert {path.name for path in out.iterdir()} & {"text", "clip", "classes"} == {"classes"}
    entries = json.loads((out / "generator.json").read_text())
    assert (entries["text"], entries["clip"]) == (None, None)
    assert entries["classes"]["native_size"] == [32, 32]
    family = json.loads((out / "family.json").read_text())
    assert (family["classes"], family["nouns"], family["vocabulary"]) == (["left", "right"], ["left", "right"], 0)
    assert "vae 4, dit 4" in family["facts"]["steps"]


def test_it_makes_images_that_the_teacher_looks_at(place: Path) -> None:
    from synth.backends import load_backend
    from synth.requests import Request
    from synth.sampling import Sampler, Settings

    backend = load_backend(generator_model(job_of(place, "evaluate"), "classes"))
    images = next(Sampler(backend, Settings(steps=2)).generate([Request(1, "x")]))
    assert images.images.shape == (1, 3, 32, 32)
    metrics = json.loads((place / "data/generator/metrics.json").read_text())
    assert (metrics["images"], metrics["trained_on"]) == (4, {"class_images": 18})
    assert [path.name for path in (place / "data/generator/samples").iterdir()] == ["classes.png"]


def test_latents_have_a_spread_of_one_over_all_classes(place: Path) -> None:
    """The scaling is measured on images of every class, not on the first that come."""
    import torch

    from pipelines.artifacts.datasets import open_part
    from pipelines.loaders.arrays import load_arrays
    from synth.family.assemble import built
    from synth.family.parts import latents_of

    files = tree(place / "data/generator/parts")
    stored = load_family(files, "here")
    images = load_arrays(open_part(job_of(place), "split", "train")).images
    latents = latents_of(built("vae", stored.family, stored.parts["vae"]), torch.from_numpy(images))
    assert np.isclose(float(latents.std()) * stored.family.scaling, 1.0, rtol=0.02)


def test_its_folder_can_be_named_instead_of_the_embedded_one(place: Path, tmp_path: Path) -> None:
    for stage in ("split", "squeeze"):
        shutil.copytree(place / "data" / stage, tmp_path / stage)
    folder = place / "data/generator/parts"
    overrides = ("generator.source=embedded", f"generator.folder={folder}", "generator.train={}")
    run_stage(job_of(place, "generator", *overrides, data=tmp_path), "serial", debug=True)
    for name in ("classes", "samples", "checks"):
        assert_same(tree(tmp_path / "generator" / name), tree(place / "data/generator" / name))
    assert json.loads((tmp_path / "generator/generator.json").read_text())["text"] is None


def test_a_stage_that_needs_texts_says_what_to_do(place: Path) -> None:
    sentence = (
        r"datadream needs a text model .* has none; give the family scenes to learn from \(generator\.train\.scenes\), or with "
        r"generator\.source: model set generator\.model\.text"
    )
    with pytest.raises(UserError, match=sentence):
        run_stage(job_of(place, "datadream"), "serial", debug=True)
    with pytest.raises(UserError, match="needs a clip model"):
        generator_of(job_of(place, "evaluate"), "clip")


def test_a_part_that_is_missing_is_named_with_those_it_takes(place: Path) -> None:
    files = tree(place / "data/generator/parts")
    del files["dit.safetensors"]
    with pytest.raises(
        UserError, match=r"has no dit\.safetensors; it takes family\.json, vae\.safetensors, dit\.safe[a-z]+$"
    ):
        load_family(files, "here")


def test_images_of_another_size_are_resized(place: Path) -> None:
    from pipelines.stages.generator.training import _class_images

    images, labels = _class_images(job_of(place, "generator", "generator.train.shape.size=16"))
    assert tuple(images.shape) == (18, 3, 16, 16)
    assert labels.tolist().count(1) == 9


def test_another_budget_trains_what_depends_on_it(place: Path) -> None:
    def pending(*overrides: str) -> set[str]:
        return {
            unit.name for unit, _ in prepare(get_stage("generator"), job_of(place, "generator", *overrides)).pending
        }

    assert pending() == set()
    assert pending("generator.train.dit.steps=5") == {"train-dit", "family", "sheet-classes", "check-0000"}
    assert pending("generator.train.vae.steps=5") >= {"train-vae", "train-dit"}


@pytest.mark.parametrize("part", ["clip", "unet"])
def test_a_budget_of_a_part_that_is_not_trained_is_refused(place: Path, part: str) -> None:
    with pytest.raises(UserError, match=rf"train\.{part} is given and generator\.train\.scenes is not"):
        job_of(place, "generator", f"generator.train.{part}.steps=5")


def test_the_parameters_of_a_whole_family_without_their_scenes_are_refused(place: Path, tmp_path: Path) -> None:
    params = yaml.safe_load((place / "params.yaml").read_text())
    params["generator"] = yaml.safe_load(TINY_TRAINING)
    params["generator"]["train"]["scenes"] = None
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(UserError, match="models of texts learn from scenes"):
        job_of(tmp_path)


def test_a_test_image_among_the_training_images_is_refused(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "data/split", tmp_path / "split")
    shutil.rmtree(tmp_path / "split/train")
    shutil.copytree(tmp_path / "split/test", tmp_path / "split/train")
    seal(tmp_path / "split", "split")
    with pytest.raises(UserError, match="is an image of split/test: nothing may train on it"):
        run_stage(job_of(place, data=tmp_path), "serial", debug=True)
