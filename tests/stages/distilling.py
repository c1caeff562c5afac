"""A small job up to the generator, for tests of the stages that condense with one: two classes of 16 px and a tiny random DiT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

from pipelines.artifacts.generators import GENERATOR_FILE, reference
from pipelines.commands.jobs import make_job
from pipelines.commands.runs import run_stage
from pipelines.runtime.execute import execute
from pipelines.runtime.serial import SerialRunner
from pipelines.stages import get_stage
from pipelines.storage import pretty_json
from tests.sealing import seal
from tests.stages.test_pipeline import write_source
from tests.synth.making import saved, vae

PARAMS = """
run: {seed: 0, threads: 1, device: cpu}
ingest:
  sources:
    - {type: folder, path: SOURCE/train, split: train}
    - {type: folder, path: SOURCE/test, split: test}
  image: {format: png}
split: {validation: 0.25}
"""


def class_generator(classes: int = 2, seed: int = 4) -> Any:
    """A DiT of a few thousand random weights: images of 16 px, latents of 8 x 8. Its last layer says something, unlike a fresh one's."""
    torch.manual_seed(seed)
    transformer = DiTTransformer2DModel(
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        num_embeds_ada_norm=classes,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    )
    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False, steps_offset=0)
    return DiTPipeline(transformer=transformer, vae=vae(scaling_factor=0.18215), scheduler=scheduler)


def write_generator(data: Path, role: str = "classes", pipeline: Any = None, names: list[str] | None = None) -> None:
    """A finished `generator` stage with one model; `names` are its classes by number."""
    folder = data / "generator"
    saved(pipeline or class_generator(), folder / role)
    if names is not None:
        path = folder / role / "model_index.json"
        labels = {str(place): name for place, name in enumerate(names)}
        path.write_text(json.dumps({**json.loads(path.read_text()), "id2label": labels}))
    form: dict[str, Any] = {"text": None, "classes": None, "clip": None}
    form[role] = {**reference(str(folder / role), role).to_json(), "kind": "folder", "model": role}  # type: ignore[arg-type]
    (folder / GENERATOR_FILE).write_bytes(pretty_json(form))
    seal(folder, "generator")


def write_base(folder: Path, section: str) -> Path:
    """A folder with params.yaml, which ends in `section`, and data/ up to the generator."""
    write_source(folder / "source")
    (folder / "params.yaml").write_text(PARAMS.replace("SOURCE", str(folder / "source")) + section)
    for stage in ("ingest", "split"):
        run_stage(make_job(stage, folder / "params.yaml", data=str(folder / "data")), "serial", debug=True)
    write_generator(folder / "data")
    return folder


def job_of(base: Path, name: str, data: Path | None = None, **overrides: Any) -> Any:
    """The job of an item, with parameters of its stage, into `data`, where inputs that are not there are links to those of `base`."""
    if data is not None:
        data.mkdir(parents=True, exist_ok=True)
        for stage in ("ingest", "split", "generator"):
            if not (data / stage).exists():
                (data / stage).symlink_to(base / "data" / stage)
    stage = name.partition("@")[0]
    settings = [f"{stage}.{key}={json.dumps(value)}" for key, value in overrides.items()]
    return make_job(name, base / "params.yaml", settings, str(data or base / "data"))


def run(base: Path, name: str, data: Path | None = None, **overrides: Any) -> dict[str, Any]:
    """Run an item; returns stage.json with what ran."""
    job = job_of(base, name, data, **overrides)
    return execute(get_stage(job.stage), job, lambda: SerialRunner(debug=True))
