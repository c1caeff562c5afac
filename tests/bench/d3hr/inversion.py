"""What inverting an image and decoding its latents cost, beside diffusers' loops: `python -m tests.bench.d3hr.inversion`.

The loops of diffusers are written here as people write them: `DDIMInverseScheduler` from its second timestep on and `DDIMScheduler` from
the level, both branches stacked as DiTPipeline stacks them, the transformer called plainly. They take as many evaluations as ours:
`steps` x 0.6, 30 of 50. "Published" is their time for D3HR's evaluations, 38 of 50 upwards, and 32 downwards one image at a time.
Same network, latents, labels and guidance, in one process; arms take turns within each repeat. Decoding includes the autoencoder. The
largest difference of ours from diffusers' latents is printed beside.

Two networks: the embedded family's DiT with its autoencoder and a random one of DiT-XL's depth and heads, narrow, both on a
grid of ten steps. Time is of the process's CPU, one thread, per image; a figure is the median over repeats. Nothing here asserts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before torch: waiting threads must sleep, or they burn the CPU time that is measured.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from rich.console import Console
from rich.table import Table

from pipelines.artifacts.families import embedded_family, family_files, load_family
from synth.backends import GeneratorOptions, load_backend, wrap
from synth.family.assemble import assemble
from synth.inversion import Inverter
from synth.requests import Request
from synth.sampling import Sampler
from synth.settings import InversionSettings, Settings
from tests.synth import making

LEVEL = 600
GOAL = 1.25


@dataclass(frozen=True)
class Case:
    """A network to measure: `steps` of the grid, `batch` images together, `repeats` of every arm."""

    name: str
    backend: Any
    steps: int
    batch: int
    repeats: int

    @property
    def schedule(self) -> dict[str, Any]:
        """The network's noise schedule, as both of diffusers' schedulers are to have it."""
        config = self.backend.scheduler.config
        shared = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps", "prediction_type")
        more = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 0}
        return {name: config[name] for name in shared} | more

    def guided(self, latents: torch.Tensor, timestep: torch.Tensor, labels: torch.Tensor, scale: float) -> torch.Tensor:
        """One evaluation as DiTPipeline's."""
        network = self.backend.denoiser
        if scale <= 1:
            output = network(latents, timestep.expand(len(latents)), class_labels=labels, return_dict=False)[0]
            return output[:, : latents.shape[1]]
        null = torch.full_like(labels, self.backend.capabilities.classes)
        output = network(
            torch.cat([latents, latents]),
            timestep.expand(2 * len(latents)),
            class_labels=torch.cat([labels, null]),
            return_dict=False,
        )[0]
        conditional, unconditional = output[:, : latents.shape[1]].chunk(2)
        return unconditional + scale * (conditional - unconditional)


def diffusers_inversion(case: Case, latents: torch.Tensor, labels: torch.Tensor, scale: float, until: int) -> Any:
    """The latents at timestep `until`."""
    scheduler = DDIMInverseScheduler(**case.schedule)
    scheduler.set_timesteps(case.steps)
    for timestep in scheduler.timesteps[1:]:
        if int(timestep) > until:
            break
        noise = case.guided(latents, timestep, labels, scale)
        latents = scheduler.step(noise, int(timestep), latents, return_dict=False)[0]
    return latents


def diffusers_decoding(
    case: Case, latents: torch.Tensor, labels: torch.Tensor, scale: float, first: int, last: int
) -> Any:
    """The clean latents, decoded, from timestep `first` to the step at `last`."""
    scheduler = DDIMScheduler(**case.schedule)
    scheduler.set_timesteps(case.steps)
    for timestep in scheduler.timesteps:
        if last <= int(timestep) <= first:
            noise = case.guided(latents, timestep, labels, scale)
            latents = scheduler.step(noise, int(timestep), latents, return_dict=False)[0]
    vae = case.backend.pipeline.vae
    vae.decode(latents / vae.config.scaling_factor, return_dict=False)
    return latents


def measured(case: Case, scale: float) -> dict[str, Any]:
    """Seconds per image of every arm at one scale of guidance, and by how much ours differs from diffusers'."""
    shape = case.backend.latent_shape(case.backend.capabilities.native_size)
    latents = torch.randn(case.batch, *shape, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(case.batch) % case.backend.capabilities.classes
    inversion = InversionSettings(steps=case.steps, guidance=scale, level=LEVEL)
    spacing = inversion.spacing
    inverter = Inverter(case.backend, inversion)
    at_level = inverter.invert(latents, labels.tolist())[LEVEL]

    def ours_up(here: torch.Tensor, classes: torch.Tensor) -> Any:
        return inverter.invert(here, classes.tolist())[LEVEL]

    def ours_down(here: torch.Tensor, classes: torch.Tensor) -> Any:
        sampler = Sampler(case.backend, Settings(guidance=scale), inversion=inversion, batch_size=len(here))
        requests = [Request(int(label), "k", i, latents=here[i], level=LEVEL) for i, label in enumerate(classes)]
        return sampler.batch(requests).latents

    def plain_up(here: torch.Tensor, classes: torch.Tensor) -> Any:
        return diffusers_inversion(case, here, classes, scale, LEVEL)

    def plain_down(here: torch.Tensor, classes: torch.Tensor) -> Any:
        return diffusers_decoding(case, here, classes, scale, LEVEL, spacing)

    arms = {
        ("inversion", "ours"): (ours_up, latents),
        ("inversion", "diffusers"): (plain_up, latents),
        ("decoding", "ours"): (ours_down, at_level),
        ("decoding", "diffusers"): (plain_down, at_level),
    }
    seconds: dict[tuple[str, str, int], list[float]] = {}
    differences: dict[str, float] = {}
    with torch.no_grad():
        for part in ("inversion", "decoding"):
            ours, plain = (arms[part, arm][0](arms[part, arm][1], labels) for arm in ("ours", "diffusers"))
            differences[part] = float((ours - plain).abs().max())
        for _ in range(case.repeats):
            for (part, arm), (run, start) in arms.items():
                for count in (case.batch, 1):
                    began = time.process_time()
                    run(start[:count], labels[:count])
                    seconds.setdefault((part, arm, count), []).append((time.process_time() - began) / count)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows: dict[str, Any] = {}
    for part in ("inversion", "decoding"):
        one = {arm: medians[part, arm, 1] for arm in ("ours", "diffusers")}
        many = {arm: medians[part, arm, case.batch] for arm in ("ours", "diffusers")}
        published = many["diffusers"] * 38 / 30 if part == "inversion" else one["diffusers"] * 32 / 30
        rows[part] = {
            "seconds_per_image": {"batch_1": rounded(one), f"batch_{case.batch}": rounded(many)},
            "times_diffusers_at_equal_batch": round(many["diffusers"] / many["ours"], 3),
            "times_diffusers_at_batch_1": round(one["diffusers"] / one["ours"], 3),
            "times_batch_1": round(one["ours"] / many["ours"], 3),
            "times_published": round(published / many["ours"], 3),
            "evaluations": inverter.evaluations(),
            "largest_difference": differences[part],
        }
    return rows


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Four digits."""
    return {name: float(f"{value:.4g}") for name, value in values.items()}


def narrow_xl() -> Any:
    """A random DiT with XL's 28 blocks and 16 heads, of width 128, on latents (4, 16, 16)."""
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        sample_size=16,
        num_layers=28,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=16,
        in_channels=4,
        out_channels=8,
        num_embeds_ada_norm=1000,
    )
    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False)
    return wrap(DiTPipeline(transformer=transformer, vae=making.vae(scaling_factor=0.18215), scheduler=scheduler))


def cases(batch: int = 64, repeats: int = 3) -> list[Case]:
    """Both networks."""
    storage = embedded_family()
    stored = load_family(family_files(storage), storage.url)
    with tempfile.TemporaryDirectory() as folder:
        assemble(stored.family, stored.parts, stored.load_tokenizer(), Path(folder))
        embedded = load_backend(GeneratorOptions(f"{folder}/classes", device="cpu"))
    return [
        Case("embedded DiT", embedded, 10, batch, repeats),
        Case("narrow DiT of XL's depth", narrow_xl(), 10, max(1, batch // 4), repeats),
    ]


def measure() -> dict[str, Any]:
    """All numbers, by network and scale of guidance."""
    result: dict[str, Any] = {}
    for case in cases():
        result[case.name] = {"batch": case.batch, "steps": case.steps}
        for scale in (1.0, 4.0):
            result[case.name][f"guidance_{scale:g}"] = measured(case, scale)
    return result


def show(result: dict[str, Any], console: Console) -> None:
    """Print a table for each network and scale."""
    columns = ("", "batch", "ours", "diffusers", "against diffusers", "against published", "largest diff.")
    for name, scales in result.items():
        for scale, rows in ((key, value) for key, value in scales.items() if key.startswith("guidance")):
            title = f"{name}, {scale.replace('_', ' ')}: ms of CPU per image (goal {GOAL}x at equal batch)"
            table = Table(*columns, title=title)
            for part, row in rows.items():
                for count in (scales["batch"], 1):
                    times = row["seconds_per_image"][f"batch_{count}"]
                    against = row[f"times_diffusers_at_{'batch_1' if count == 1 else 'equal_batch'}"]
                    more = ("", "")
                    if count > 1:
                        more = f"{row['times_published']:.2f}x", f"{row['largest_difference']:.1e}"
                    figures = (f"{1e3 * times[arm]:.1f}" for arm in ("ours", "diffusers"))
                    table.add_row(part, str(count), *figures, f"{against:.2f}x", *more)
            console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = measure()
    show(result, Console(width=120))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
