"""`samples`: images of the class model, plain or pulled to modes, as condensed sets; nested, resumable, refused in a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.artifacts.distilled import CondensedSets, load_distilled
from pipelines.artifacts.generators import GENERATOR_FILE, generator_bytes
from pipelines.commands.jobs import make_job
from pipelines.commands.runs import run_stage
from pipelines.errors import UserError
from pipelines.runtime.execute import execute, prepare
from pipelines.runtime.folder import begin
from pipelines.runtime.serial import SerialRunner, run_unit
from pipelines.shards.sidecar import read_sidecar
from pipelines.stages import get_stage
from pipelines.storage import Storage, pretty_json
from tests.contract.folders import assert_same, tree
from tests.sealing import seal
from tests.stages.test_generator import write_source
from tests.stages.tiny_family import write_family

pytest.importorskip("diffusers", reason="diffusers is not installed: limbeck[synth]")

import safetensors.torch
import torch

PARAMS = """
run: {seed: 0, threads: 1, device: cpu}
ingest:
  sources: [{type: folder, path: SOURCE/train, split: train}, {type: folder, path: SOURCE/test, split: test}]
  image: {format: png, resize: exact, size: 24}
split: {validation: 0.25}
generator: {folder: FAMILY, sheet_images: 0, check_images: 0}
samples:
  ipc: 3
  seeds: 2
  images_per_unit: 4
  batch_size: 3
  generate: {steps: 4, guidance: 1.5, scheduler: ddim}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images of 24 px, parameters, and data up to a generator of 32 px, whose classes are in another order."""
    root = tmp_path_factory.mktemp("samples")
    write_source(root / "source")
    family = write_family(root / "family", ("right", "left"))
    (root / "params.yaml").write_text(PARAMS.replace("SOURCE", str(root / "source")).replace("FAMILY", str(family)))
    for stage in ("ingest", "split", "generator"):
        run_stage(job_of(root, stage), "serial", debug=True)
    return root


def job_of(root: Path, stage: str, *overrides: str, data: Path | None = None) -> Any:
    return make_job(stage, root / "params.yaml", overrides, str(data or root / "data"))


@pytest.fixture(scope="module")
def data(place: Path) -> Path:
    """The same with both items made."""
    for item in ("plain", "modes"):
        run_stage(job_of(place, f"samples@{item}"), "serial", debug=True)
    return place / "data"


def copied(place: Path, data: Path) -> Path:
    """A data folder of its own with the inputs."""
    for stage in ("split", "generator"):
        shutil.copytree(place / "data" / stage, data / stage)
    return data


def later(root: Path, data: Path | None = None) -> Any:
    return job_of(root, "split", data=data)


@pytest.mark.parametrize("item", ["plain", "modes"])
def test_every_slot_of_every_class_and_set_has_an_image_of_the_training_size(
    place: Path, data: Path, item: str
) -> None:
    sets = CondensedSets(later(place), f"samples@{item}")
    assert (sets.count, sets.ipc, sets.dataset.classes) == (2, 3, ["left", "right"])
    assert sets.keys(2, 1)[:2] == [f"samples_{item}_s1-c00000-s00000", f"samples_{item}_s1-c00000-s00001"]
    assert not sets.started_from_real
    images = load_distilled(later(place), f"samples@{item}", 3)
    assert images.images.shape == (6, 3, 24, 24)
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    other = load_distilled(later(place), f"samples@{item}", 3, 1)
    assert len({image.tobytes() for image in (*images.images, *other.images)}) == 12


def test_the_generator_is_asked_by_name(place: Path) -> None:
    """`right` is its class 0, and label 1 here."""
    units = prepare(get_stage("samples"), job_of(place, "samples@plain")).plan.units
    assert units[0].payload["prompts"] == {"0": 1, "1": 0}


def test_facts_say_what_the_generator_weighs(place: Path, data: Path) -> None:
    seals = {item: json.loads((data / f"samples/{item}/stage.json").read_text()) for item in ("plain", "modes")}
    for item, form in seals.items():
        metrics = json.loads((data / f"samples/{item}/metrics.json").read_text())
        assert (
            form["facts"]["generator_bytes"] == metrics["generator_bytes"] == generator_bytes(later(place), "classes")
        )
        assert (metrics["images"], metrics["failed"]) == (12, 0)
    assert 0 < seals["modes"]["facts"]["explained"] < 1
    assert seals["modes"]["facts"]["real_images"] == 18


def test_without_strength_modes_are_the_plain_images(place: Path, data: Path, tmp_path: Path) -> None:
    job = job_of(place, "samples@modes", "samples.modes.scale=0", data=copied(place, tmp_path))
    run_stage(job, "serial", debug=True)
    plain, free = (
        load_distilled(later(place, where), source, 3, 1).images
        for where, source in ((data, "samples@plain"), (tmp_path, "samples@modes"))
    )
    assert np.array_equal(plain, free)
    pulled = load_distilled(later(place), "samples@modes", 3, 1).images
    assert all(not np.array_equal(one, other) for one, other in zip(plain, pulled, strict=True))


def latents_of(folder: Path, label: int) -> torch.Tensor:
    blocks = [safetensors.torch.load_file(path) for path in sorted((folder / "latents").glob("*.safetensors"))]
    return torch.cat([block["latents"][block["labels"] == label] for block in blocks])


def test_the_modes_are_centres_of_the_class_and_their_weights_its_shares(data: Path) -> None:
    folder = data / "samples/modes"
    rows = [
        row
        for path in sorted((folder / "meta").glob("samples_modes-*.parquet"))
        for row in read_sidecar(Storage(folder), f"meta/{path.name}").to_pylist()
    ]
    modes = safetensors.torch.load_file(folder / "modes/samples_modes-000000.safetensors")
    for label in (0, 1):
        latents = latents_of(folder, label).flatten(1)
        own = modes[str(label)].flatten(1)
        nearest = torch.cdist(latents, own).argmin(1)
        for slot in range(3):
            torch.testing.assert_close(own[slot], latents[nearest == slot].mean(0), atol=1e-5, rtol=1e-5)
        weights = {
            json.loads(row["params"])["slot"]: json.loads(row["params"])["weight"]
            for row in rows
            if row["label"] == label
        }
        shares = nearest.bincount(minlength=3) / len(latents)
        assert [weights[slot] for slot in range(3)] == pytest.approx(shares.tolist(), abs=1e-6)


def test_with_one_image_per_class_the_mode_is_the_class_mean(place: Path, tmp_path: Path) -> None:
    overrides = ("samples.ipc=1", "samples.seeds=1", "samples.images_per_class=5")
    run_stage(job_of(place, "samples@modes", *overrides, data=copied(place, tmp_path)), "serial", debug=True)
    folder = tmp_path / "samples/modes"
    modes = safetensors.torch.load_file(folder / "modes/samples_modes-000000.safetensors")
    for label in (0, 1):
        latents = latents_of(folder, label)
        assert len(latents) == 5
        torch.testing.assert_close(modes[str(label)][0], latents.mean(0), atol=1e-5, rtol=1e-5)


def test_more_images_leave_the_full_blocks_and_another_pull_the_modes(place: Path, data: Path) -> None:
    def pending(item: str, *overrides: str) -> list[str]:
        job = job_of(place, f"samples@{item}", *overrides)
        return [unit.name for unit, _ in prepare(get_stage("samples"), job).pending]

    assert pending("plain") == pending("modes") == []
    assert pending("plain", "samples.ipc=4") == ["images/samples_plain-000001", "images/samples_plain_s1-000001"]
    assert pending("plain", "samples.seeds=3") == ["images/samples_plain_s2-000000", "images/samples_plain_s2-000001"]
    assert pending("plain", "samples.modes.scale=0.2", "samples.images_per_class=5") == []
    assert all(name.startswith("images/") for name in pending("modes", "samples.modes.scale=0.2"))
    assert all(name.startswith("modes/") or name.startswith("images/") for name in pending("modes", "samples.ipc=2"))


@pytest.mark.parametrize("item", ["plain", "modes"])
def test_killed_between_batches_and_gone_on_by_other_workers_gives_the_same_bytes(
    place: Path, data: Path, tmp_path: Path, item: str
) -> None:
    job, stage = job_of(place, f"samples@{item}", data=copied(place, tmp_path)), get_stage("samples")
    prepared = prepare(stage, job)
    begin(stage, job, prepared)

    def interrupt(_done: float, _total: float, _note: str) -> None:
        raise KeyboardInterrupt

    for wave in range(3):
        units = [one for one in prepared.pending if one[0].wave == wave][::-1]
        for unit, identity in units:  # each by a worker of its own, the last first
            with pytest.raises(KeyboardInterrupt):
                run_unit(stage, job, stage.open(job), unit, identity, interrupt)
        # Of the last wave some are left for whoever goes on.
        for unit, identity in units if wave < 2 else units[:2]:
            run_unit(stage, job, stage.open(job), unit, identity, lambda *_: None)
    execute(stage, job, SerialRunner)
    assert_same(tree(tmp_path / "samples" / item), tree(data / "samples" / item))


def test_a_real_image_without_a_latent_is_a_row_and_no_part_of_a_mode(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from synth.backends.transformers import DiT

    encode = DiT.encode_images

    def overflow(self: Any, images: torch.Tensor, generators: Any = None) -> torch.Tensor:
        latents = encode(self, images, generators)
        latents[0, 0, 0, 0] = float("inf")
        return latents

    monkeypatch.setattr(DiT, "encode_images", overflow)
    copied(place, tmp_path)
    run_stage(job_of(place, "samples@modes", "samples.ipc=2", data=tmp_path), "serial", debug=True)
    folder = tmp_path / "samples/modes"
    rows = [
        row
        for path in sorted((folder / "encoded/meta").glob("*.parquet"))
        for row in read_sidecar(Storage(folder), f"encoded/meta/{path.name}").to_pylist()
    ]
    broken = [row for row in rows if row["reason"] == "not_finite"]
    # Eighteen images in blocks of four and batches of three.
    assert (len(rows), len(broken)) == (18, 9)
    assert len(latents_of(folder, 0)) + len(latents_of(folder, 1)) == 9
    assert json.loads((folder / "metrics.json").read_text())["real_images_failed"] == 9
    sentence = (
        r"samples\.images_per_class: class left has . training images with a latent of numbers, fewer than the 8 modes"
    )
    with pytest.raises(UserError, match=sentence):
        run_stage(job_of(place, "samples@modes", "samples.ipc=8", data=tmp_path), "serial", debug=True)


@pytest.mark.parametrize(
    ("item", "overrides", "sentence"),
    [
        (
            "modes",
            ["samples.ipc=10"],
            r"class left has 9 different training images to look for 10 modes among; lower samples\.ipc",
        ),
        ("modes", ["samples.images_per_class=2"], r"look for 3 modes among; raise samples\.images_per_class"),
        ("plain", ["samples.names={left: church}"], r"does not know 'church' .* write under samples\.names"),
        ("plain", ["samples.names={left: right}"], r"'left' and 'right' are one class to the class model"),
        ("plain", ["samples.modes.stop=2"], r"a scale from 0 on and a stop from 0 to 1"),
        ("plain", ["samples.generate={size: [16, 16]}"], r"samples\.generate .*: this DiT makes 32x32 images only"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(
    place: Path, tmp_path: Path, item: str, overrides: list[str], sentence: str
) -> None:
    copied(place, tmp_path)
    with pytest.raises(UserError, match=sentence):
        run_stage(job_of(place, f"samples@{item}", *overrides, data=tmp_path), "serial", debug=True)


def test_a_generator_without_a_class_model_names_the_command(place: Path, tmp_path: Path) -> None:
    folder = copied(place, tmp_path) / "generator"
    form = json.loads((folder / GENERATOR_FILE).read_text())
    (folder / GENERATOR_FILE).write_bytes(pretty_json(form | {"classes": None}))
    seal(folder, "generator")
    with pytest.raises(UserError, match=r"samples needs a classes model .* limbeck run generator"):
        run_stage(job_of(place, "samples@plain", data=tmp_path), "serial", debug=True)
