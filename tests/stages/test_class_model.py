"""Generated images as condensed sets: pixels in and out of a model, the size that is written, rows, and images that are no numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.artifacts.class_model import (
    Style,
    Wanted,
    Written,
    as_written,
    cells_of,
    load_generator,
    shown_to_model,
    write_images,
    written_as,
)
from pipelines.artifacts.generators import GENERATOR_FILE, folder_digest, generator_bytes
from pipelines.config import RunParams, Section
from pipelines.errors import UserError
from pipelines.images.params import ImageParams
from pipelines.runtime.job import Job
from pipelines.runtime.units import Unit, UnitOutput
from pipelines.shards.sidecar import read_sidecar
from pipelines.storage import Storage, pretty_json
from tests.sealing import seal

pytest.importorskip("diffusers", reason="diffusers is not installed: limbeck[synth]")

import torch

from synth.requests import Request
from synth.sampling import Sampler
from synth.settings import Settings
from tests.synth import making

PNG = ImageParams(format="png")
SQUARE = Written((16, 16), (16, 16), PNG.model_dump(mode="json"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose generator is a random DiT of ten classes, 32 px."""
    root = tmp_path_factory.mktemp("class_model")
    making.saved(making.dit(), root / "data/generator/classes")
    name_model(root, [32, 32])
    return root


def name_model(root: Path, size: Any) -> None:
    folder = root / "data/generator"
    digest = folder_digest(folder / "classes")
    entry = {"kind": "folder", "model": "classes", "family": "dit", "native_size": size, "digest": digest}
    (folder / GENERATOR_FILE).write_bytes(pretty_json({"text": None, "classes": entry, "clip": None}))
    seal(folder, "generator")


def job_in(root: Path) -> Any:
    run = RunParams.model_validate({"threads": 1, "device": "cpu"})
    return Job("samples", Section(), run, str(root / "data"))


def test_cells_mix_classes_and_more_images_come_after() -> None:
    assert cells_of(2, 3) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert cells_of(3, 3)[:6] == cells_of(2, 3)


def test_an_image_of_the_models_size_is_shown_as_it_is() -> None:
    image = np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8)
    assert torch.equal(shown_to_model(image, (8, 8)) * 255, torch.from_numpy(image).float())


def test_a_small_image_grows_bilinearly_and_the_middle_of_a_long_one_is_shown() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 8, 12), np.uint8)
    shown = shown_to_model(image, (16, 16))
    grown = torch.nn.functional.interpolate(torch.from_numpy(image)[None].float(), (16, 24), mode="bilinear")[0]
    torch.testing.assert_close(shown * 255, grown[:, :, 4:20], atol=1.01, rtol=0)


def test_what_is_written_is_the_mean_of_the_pixels_it_covers() -> None:
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    levels = (image * 255).round()
    means = torch.nn.functional.avg_pool2d(levels, 2).permute(1, 2, 0).numpy()
    assert np.abs(as_written(image, SQUARE).astype(float) - means).max() <= 0.51
    image[:, :2] = float("nan")
    assert not as_written(image, SQUARE)[0].any()


def test_images_are_written_at_the_size_of_the_training_images(place: Path, tmp_path: Path) -> None:
    job = job_in(place)
    assert written_as(job, "classes", [(28, 28), (28, 28)], PNG).final == (28, 28)
    assert written_as(job, "classes", [(28, 40)], PNG).final == (28, 28)
    assert written_as(job, "classes", [(28, 40), (28, 28)], PNG).final == (32, 32)
    small = ImageParams(format="png", resize="exact", size=16)
    assert written_as(job, "classes", [(28, 28)], small).final == (16, 16)
    large = ImageParams(format="png", resize="exact", size=64)
    with pytest.raises(UserError, match=r"samples\.image\.size is 64 and the generator makes images of 32 px"):
        written_as(job, "classes", [(28, 28)], large)
    (tmp_path / "data/generator/classes").mkdir(parents=True)
    name_model(tmp_path, None)
    with pytest.raises(UserError, match="does not say which size its images have"):
        written_as(job_in(tmp_path), "classes", [(28, 40), (28, 28)], PNG)


def test_the_generator_weighs_what_its_denoiser_and_autoencoder_do(place: Path) -> None:
    folder = place / "data/generator/classes"
    parts = [folder / part / "diffusion_pytorch_model.safetensors" for part in ("transformer", "vae")]
    assert generator_bytes(job_in(place), "classes") == sum(part.stat().st_size for part in parts)


def test_images_are_samples_of_a_set_and_a_broken_one_is_a_row(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_in(place)
    backend: Any = load_generator(job, "classes", "auto")
    decode = type(backend).decode

    def broken(latents: torch.Tensor) -> torch.Tensor:
        images = decode(backend, latents)
        images[1] = float("nan")
        return images

    monkeypatch.setattr(backend, "decode", broken)
    sampler = Sampler(backend, Settings(steps=2, guidance=1.0, scheduler="ddim"), batch_size=3)
    wanted = [Wanted(Request(label, "class", 4), 1, (4, label), 7, ("real",), {"mode": label}) for label in range(3)]
    output = UnitOutput(Storage(tmp_path), Unit("samples_s1-000000", {}), "0" * 32)
    write_images(job, output, sampler, wanted, Style(SQUARE, {0: "a", 1: "b", 2: "c"}, "a {label_name}", "digest"))
    marker = output.commit()
    rows = read_sidecar(Storage(tmp_path), "meta/samples_s1-000000.parquet").to_pylist()
    assert [(row["outcome"], row["reason"]) for row in rows] == [
        ("kept", None),
        ("failed", "not_finite"),
        ("kept", None),
    ]
    assert marker.counts == {"failed": 1, "kept": 2}
    assert marker.summary == {"black": 0}
    last = rows[2]
    assert (last["key"], last["label"], last["label_name"], last["width"]) == ("samples_s1-c00002-s00004", 2, "c", 16)
    assert (last["parents"], last["op"], last["seed"], last["model_id"]) == (["real"], "samples", 7, "digest")
    assert json.loads(last["params"]) == {"mode": 2, "set": 1, "slot": 4}


def test_a_model_that_is_only_called_whole_is_refused(tmp_path: Path) -> None:
    making.saved(making.sana(), tmp_path / "data/generator/classes")
    name_model(tmp_path, [32, 32])
    with pytest.raises(UserError, match="is only called whole, and samples takes its steps one by one"):
        load_generator(job_in(tmp_path), "classes", "auto")
