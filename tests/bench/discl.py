"""What the guidance levels of real images cost: `python -m tests.bench.discl`.

DisCL's levels {0, 10, 30, 50} of each image by Euler in 50 steps with guidance 10 (`docs/specs/discl.md`, spectrum), four ways: a call of
diffusers' image-to-image pipeline for each image and level, as published; a call of `Sampler` each; `Sampler` level by level with as many
images in a batch as there are rows in the widest staggered one; and `SpectrumSampler`, of one image at a time and of several. All encode
the images and their prompts, sample and decode. Calls and rows are those of the UNet for the levels of one image. The largest
difference of the staggered latents from separate ones is a share of the largest value.

On a CPU the model is the embedded text generator and time is of the process's CPU, one thread; with `--device cuda` it has Stable Diffusion
2.1's layers and random weights, and time is the clock's. A figure is the median over repeats, in which the arms take turns. No time is
asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# Before torch: waiting threads must sleep, or they burn the CPU time that is measured.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import diffusers
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from rich.console import Console
from rich.table import Table

from pipelines.artifacts.families import embedded_family, family_files, load_family
from synth import schedules
from synth.backends import GeneratorOptions, load_backend, wrap
from synth.discl.levels import REFERENCE
from synth.discl.spectrum import Spectrum, SpectrumSampler
from synth.family.assemble import assemble
from synth.requests import Request
from synth.sampling import Sampler
from synth.settings import Settings
from tests.bench.datadream import hardware
from tests.bench.datadream_plain import stable_diffusion

LEVELS = REFERENCE["imagenet_lt"]
SETTINGS = Settings(steps=50, guidance=10.0, scheduler="euler", posterior="sample")
GOAL = 2.5
SEPARATE = "Sampler, a call for each image and level"
PUBLISHED = "diffusers, a call for each image and level"


@dataclass(frozen=True)
class Case:
    """A model, how many `images` of it are made together, in `repeats`; `single` of them in the arms that make one at a time."""

    name: str
    backend: Any
    images: int
    single: int
    repeats: int

    def requests(self, count: int) -> list[Request]:
        """Images of noise with prompts of the embedded generator's words."""
        size = self.backend.capabilities.native_size
        source = torch.Generator().manual_seed(1)
        words = ("sneaker", "coat", "bag", "dress")
        return [
            Request(f"a photo of a {words[i % len(words)]}", f"key{i}", i, image=torch.rand(3, *size, generator=source))
            for i in range(count)
        ]

    def clock(self) -> float:
        """Seconds, once the device has done what it was asked."""
        if self.backend.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


def published(backend: Any) -> Callable[[list[Request]], Any]:
    """The published loop with one pipeline kept: every level of every image is a call."""
    pipeline = StableDiffusionImg2ImgPipeline(**backend.pipeline.components, requires_safety_checker=False)
    pipeline.scheduler = schedules.make("euler", backend.scheduler)
    pipeline.set_progress_bar_config(disable=True)

    def run(requests: list[Request]) -> Any:
        for request in requests:
            for level in LEVELS:
                pipeline(
                    prompt=request.prompt,
                    image=request.image[None],  # type: ignore[index]
                    strength=(100 - level) / 100,
                    num_inference_steps=SETTINGS.steps,
                    guidance_scale=SETTINGS.guidance,
                    generator=torch.Generator().manual_seed(request.ordinal),
                    output_type="pt",
                )

    return run


def separate(backend: Any, batch: int) -> Callable[[list[Request]], dict[int, torch.Tensor]]:
    """`Sampler`, level by level; the latents by level."""
    sampler = Sampler(backend, SETTINGS, run_seed=1, batch_size=batch)

    def run(requests: list[Request]) -> dict[int, torch.Tensor]:
        return {
            level: torch.cat(
                [made.latents for made in sampler.generate([replace(r, strength=100 - level) for r in requests])]
            )  # type: ignore[misc]
            for level in LEVELS
        }

    return run


def staggered(backend: Any, rows: int) -> Callable[[list[Request]], dict[int, torch.Tensor]]:
    """`SpectrumSampler` with at most so many rows; the latents by level."""
    sampler = SpectrumSampler(backend, SETTINGS, run_seed=1, batch_size=rows)

    def run(requests: list[Request]) -> dict[int, torch.Tensor]:
        made = [sampler.make(batch) for batch in sampler.batches([Spectrum(request, LEVELS) for request in requests])]
        return {level: torch.cat([part[level].latents for part in made]) for level in LEVELS}  # type: ignore[misc]

    return run


def calls_and_rows(backend: Any, run: Callable[[], Any]) -> tuple[int, int]:
    """How often `run` calls the UNet, and with how many rows in all."""
    rows: list[int] = []
    hook = backend.denoiser.register_forward_pre_hook(
        lambda _, inputs, named: rows.append(len(inputs[0] if inputs else named["sample"])), with_kwargs=True
    )
    run()
    hook.remove()
    return len(rows), sum(rows)


@torch.no_grad()
def measure(case: Case) -> dict[str, Any]:
    """Every arm's seconds an image, an image at a level being one; its calls and rows; and how far the staggered latents are."""
    backend, rows = case.backend, case.images * len(LEVELS)
    arms: dict[str, tuple[Callable[[list[Request]], Any], int]] = {
        PUBLISHED: (published(backend), case.single),
        SEPARATE: (separate(backend, 1), case.single),
        f"Sampler, {rows} images of a level a batch": (separate(backend, rows), rows),
        "staggered, 1 image a batch": (staggered(backend, len(LEVELS)), case.single),
        f"staggered, {case.images} images a batch": (staggered(backend, rows), case.images),
    }
    wanted = {count: case.requests(count) for count in {count for _, count in arms.values()}}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for run, count in arms.values():
        run(wanted[count][:1])  # the first call of each arm chooses kernels
    for _ in range(case.repeats):
        for name, (run, count) in arms.items():
            began = case.clock()
            run(wanted[count])
            seconds[name].append((case.clock() - began) / (count * len(LEVELS)))
    table = {}
    for name, (run, _) in arms.items():
        calls, evaluated = calls_and_rows(backend, lambda: run(case.requests(1)))  # noqa: B023 (called at once)
        table[name] = {"seconds_per_image": statistics.median(seconds[name]), "calls": calls, "rows": evaluated}
    for row in table.values():
        for arm, key in ((SEPARATE, "times_separate"), (PUBLISHED, "times_published")):
            row[key] = round(table[arm]["seconds_per_image"] / row["seconds_per_image"], 2)
        row["seconds_per_image"] = float(f"{row['seconds_per_image']:.4g}")
    ours, single = (
        arms[name][0](wanted[case.single]) for name in (f"staggered, {case.images} images a batch", SEPARATE)
    )
    differences = [float((ours[level] - single[level]).abs().max() / single[level].abs().max()) for level in LEVELS]
    return {"model": case.name, "arms": table, "largest_relative_difference": max(differences)}


def show(result: dict[str, Any], console: Console) -> None:
    """The table of one model and whether the goal is met."""
    columns = ("arm", "ms an image", "against separate", "against published", "calls", "rows")
    table = Table(*columns, title=f"levels {', '.join(map(str, LEVELS))}, 50 steps of Euler: {result['model']}")
    for name, row in result["arms"].items():
        table.add_row(
            name,
            f"{1e3 * row['seconds_per_image']:.1f}",
            f"{row['times_separate']:.2f}x",
            f"{row['times_published']:.2f}x",
            str(row["calls"]),
            str(row["rows"]),
        )
    console.print(table)
    best = list(result["arms"].values())[-1]["times_separate"]
    console.print(
        f"staggered against separate calls: {best:.2f}x, goal {GOAL}x {'met' if best >= GOAL else 'MISSED'}; latents differ by "
        f"{result['largest_relative_difference']:.1e} of the largest at most.\n"
    )


def embedded() -> Any:
    """The text generator of the package, on the CPU."""
    storage = embedded_family()
    stored = load_family(family_files(storage), storage.url)
    with tempfile.TemporaryDirectory() as folder:
        assemble(stored.family, stored.parts, stored.load_tokenizer(), Path(folder))
        return load_backend(GeneratorOptions(f"{folder}/text", device="cpu"))


def main() -> None:
    """Parse options, measure, print, and write the figures if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=8, help="images in a staggered batch")
    parser.add_argument("--single", type=int, default=2, help="images of the arms that make one at a time")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()
    if options.device == "cpu":
        name, backend = "embedded text generator, 64 px, fp32, cpu", embedded()
    else:
        name = "Stable Diffusion 2.1's layers, 512 px, bf16, cuda"
        backend = wrap(stable_diffusion("sd21", 1).to("cuda", torch.bfloat16))
    result = measure(Case(name, backend, options.images, options.single, options.repeats))
    result |= {"machine": hardware(options.device), "cpus": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    show(result, Console(width=120))
    print(f"load {result['load']} on {result['cpus']} cores")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
