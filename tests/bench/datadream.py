"""DataDream's two costs against the published loops: a LoRA step and a generated image, on the same model and machine.

    python -m tests.bench.datadream --quick                              # minutes on a core
    python -m tests.bench.datadream --size 256 --out figures.json
    python -m tests.bench.datadream --device cuda --divide 1 --size 512 --precision bf16

Models have Stable Diffusion 1.5's and 2.1-base's layers with widths divided by `--divide` (LoRA's rank too) and random weights:
time does not depend on what they know. The plain loops are in `tests.bench.datadream_plain`. Arms take turns within a repeat; a
speed is the ratio of medians. Time is of the process's CPU on a CPU, so that other jobs matter little, and the clock's on CUDA.
The ceiling is the ratio of the arithmetic that both do, counted: what is gained if everything else cost nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import diffusers
import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms.functional import to_pil_image

from synth import guided_batch
from synth.backends import load_backend, wrap
from synth.backends.loading import GeneratorOptions
from synth.backends.step_reuse import StepReuse
from synth.datadream.adapt import Adaptation, AdaptConfig, Subject
from synth.datadream.lora import LoraSet
from synth.requests import Request
from synth.sampling import Sampler
from synth.settings import Settings
from tests.bench.datadream_plain import PlainTraining, Version, load_pipeline, png, publish, stable_diffusion

CLASSES = ("dog", "cat", "fox")
SHOTS = 16
STEP_GOAL, IMAGE_GOAL = 1.5, 2.0
PER_CLASS = 500  # images a class, and
RUN = 400  # steps an adapter, as published: what a cost that is paid once is divided by
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NAMES: dict[str, Any] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Scale:
    """What is measured: a model, a size and how much of it."""

    version: Version
    divide: int
    size: int
    device: str
    precision: str
    repeats: int
    image_repeats: int
    images: int
    steps: int

    @property
    def rank(self) -> int:
        """16, divided as the widths are, so that adapters keep their share of the arithmetic."""
        return max(1, 16 // self.divide)

    def clock(self) -> float:
        """Seconds, once the device has done what it was asked."""
        if self.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def timed(self, run: Callable[[], Any]) -> float:
        """What `run` takes, in seconds."""
        start = self.clock()
        run()
        return self.clock() - start


class Phases:
    """Where a training step's time goes: a mark at every border puts what has passed since the last one to a phase's account."""

    def __init__(self, scale: Scale, parts: dict[str, nn.Module]) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._scale, self._last = scale, scale.clock()
        self._handles: list[Any] = [register_optimizer_step_pre_hook(lambda *_: self.mark("text backward"))]
        for name, part in parts.items():
            self._handles.append(part.register_forward_pre_hook(lambda *_: self.mark("rest")))
            self._handles.append(part.register_forward_hook(self._after(name)))

    def mark(self, name: str) -> None:
        """What has passed since the last mark was `name`."""
        now = self._scale.clock()
        self.seconds[name] += now - self._last
        self._last = now

    def _after(self, name: str) -> Callable[..., None]:
        # A gradient reaches the UNet's output when its backward pass begins, and the text's when that ends.
        ended = {"unet": "rest", "text": "unet backward"}.get(name, "")

        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self.mark(name)
            first = output if isinstance(output, torch.Tensor) else output[0]
            if ended and first.requires_grad:
                first.register_hook(lambda _: self.mark(ended))

        return hook

    def close(self) -> dict[str, float]:
        """Take the hooks off; the seconds by phase."""
        self.mark("rest")
        for handle in self._handles:
            handle.remove()
        return dict(self.seconds)


def flops(scale: Scale, run: Callable[[], Any]) -> int:
    """The arithmetic of `run`, 2 for a multiplication and its addition."""
    # The counter knows CUDA's fused attention and not the CPU's, which is therefore taken apart.
    seen = sdpa_kernel(SDPBackend.MATH) if scale.device == "cpu" else nullcontext()
    with seen, FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def training_step(scale: Scale) -> dict[str, Any]:
    """(a): the published step, ours as published and ours as it is by default."""
    base = stable_diffusion(scale.version, scale.divide, scale.size)
    dtype = torch.float32 if scale.precision == "fp32" else torch.bfloat16  # adapters are not trained in float16
    images = torch.rand(SHOTS, 3, scale.size, scale.size, generator=torch.Generator().manual_seed(1))
    prompt = "a photo of a dog"

    def plain(half: torch.dtype | None) -> PlainTraining:
        return PlainTraining(deepcopy(base).to(scale.device), images, prompt, scale.rank, half)

    def ours(mode: Any, dtype: torch.dtype = torch.float32) -> Adaptation:
        backend = wrap(deepcopy(base).to(scale.device, dtype))
        subject = Subject("dog", list(images), [prompt] * SHOTS)
        config = AdaptConfig(mode=mode, rank=scale.rank, size=scale.size)
        return Adaptation(LoraSet(backend), subject, config, run_seed=1)

    arms: dict[str, Any] = {"published, fp32": plain(None)}
    if dtype != torch.float32:
        arms["published, bf16"] = plain(dtype)
    arms["ours, mode reference"] = ours("reference", dtype)
    # What is encoded once is made here, and paid for over a run.
    arms["ours"] = made = ours("improved", dtype)
    vae = made.adapters.backend.pipeline.vae
    once = scale.timed(lambda: encode_all(vae, images.to(scale.device, dtype))) / RUN
    times: dict[str, list[float]] = defaultdict(list)
    for repeat in range(scale.repeats + 1):
        for name, arm in arms.items():
            taken = scale.timed(arm.advance)
            if repeat:  # the first warms up
                times[name].append(taken)
    equal = "published, fp32" if dtype == torch.float32 else "published, bf16"
    rows = []
    for name, arm in arms.items():
        pipeline = arm if isinstance(arm, PlainTraining) else arm.adapters.backend.pipeline
        text = arm.text if isinstance(arm, PlainTraining) else pipeline.text_encoder
        phases = Phases(scale, {"vae": pipeline.vae.encoder, "text": text, "unet": pipeline.unet})
        arm.advance()
        middle = statistics.median(times[name]) + (once if name == "ours" else 0.0)
        rows.append({"arm": name, "seconds": middle, "phases": phases.close(), "flops": flops(scale, arm.advance)})
    of = {row["arm"]: row for row in rows}
    for row in rows:
        row["speed"] = of[equal]["seconds"] / row["seconds"]
        row["ceiling"] = of[equal]["flops"] / row["flops"]
    return {"base": equal, "once_a_step": once, "rows": rows}


@torch.no_grad()
def encode_all(vae: Any, images: torch.Tensor) -> None:
    """A pass of the VAE over the few shots."""
    for part in images.split(8):
        vae.encode(part)


def generated_image(scale: Scale) -> dict[str, Any]:
    """(b): the published call with the pipeline kept, and ours at equal steps and with a newer solver; loading apart."""
    dtype = DTYPES[scale.precision]
    with tempfile.TemporaryDirectory() as place:
        folder, adapters = f"{place}/model", {name: f"{place}/{name}" for name in CLASSES}
        write_model(scale, folder, adapters)
        backend: Any = load_backend(GeneratorOptions(folder, dtype=NAMES[scale.precision], device=scale.device))
        attach = [scale.timed(lambda name=name: backend.load_adapter(adapters[name], name)) for name in CLASSES]
        kept = load_pipeline(folder, dtype, scale.device)
        solvers = {
            "ours": Settings(steps=scale.steps, guidance=2.0, seeds="reference"),
            "ours, DPM++ 20": Settings(steps=20, guidance=2.0, scheduler="dpmpp_2m"),
            "ours, DPM++ 20, CFG in [.2, .8]": Settings(
                steps=20, guidance=2.0, scheduler="dpmpp_2m", interval=(0.2, 0.8)
            ),
        }
        samplers = {name: Sampler(backend, one, run_seed=1) for name, one in solvers.items()}
        apart = mock.patch.object(guided_batch, "StepReuse", return_value=StepReuse(None))
        times: dict[str, list[float]] = defaultdict(list)
        load: list[float] = []
        difference = 0.0
        for repeat in range(scale.image_repeats):
            for index, name in enumerate(CLASSES):
                prompt = f"a photo of a {name}"
                kept.unload_lora_weights()
                kept.load_lora_weights(adapters[name])
                if repeat == 0:
                    difference = max(difference, disagreement(backend, kept, samplers["ours"], name))
                taken = scale.timed(lambda p=prompt: publish(kept, p, scale.images, scale.steps, scale.size, 0))
                times["published"].append(taken / scale.images)
                with apart:
                    taken = scale.timed(lambda n=name: make(samplers["ours"], backend, n, scale.images))
                times["ours, nothing shared by steps"].append(taken / scale.images)
                for arm, sampler in samplers.items():
                    taken = scale.timed(lambda s=sampler, n=name: make(s, backend, n, scale.images))
                    times[arm].append(taken / scale.images)
                if repeat == 0 or index == 0:
                    load.append(scale.timed(lambda n=name: rebuilt(folder, adapters[n], dtype, scale.device)))
        rebuild = statistics.median(load)
        arithmetic = {
            "published": flops(scale, lambda: publish(kept, "a photo of a dog", 1, scale.steps, scale.size, 0)),
            **{name: flops(scale, lambda s=one: make(s, backend, "dog", 1)) for name, one in samplers.items()},
        }
    rows = [{"arm": name, "seconds": statistics.median(taken)} for name, taken in times.items()]
    base = next(row["seconds"] for row in rows if row["arm"] == "published")
    per_image = rebuild / PER_CLASS
    rows.insert(1, {"arm": f"published, loading over {PER_CLASS} images", "seconds": base + per_image})
    for row in rows:
        row["speed"] = base / row["seconds"]
        if row["arm"] in arithmetic:
            row["flops"] = arithmetic[row["arm"]]
            row["ceiling"] = arithmetic["published"] / row["flops"]
    return {
        "rows": rows,
        "rebuild_seconds": rebuild,
        "attach_seconds": statistics.median(attach),
        "largest_difference": difference,
    }


def write_model(scale: Scale, folder: str, adapters: dict[str, str]) -> None:
    """The model and an adapter of each class on disk; the adapters' weights are random, of a trained one's size."""
    pipeline = stable_diffusion(scale.version, scale.divide, scale.size)
    pipeline.to(DTYPES[scale.precision]).save_pretrained(folder, safe_serialization=True)
    training = LoraSet(wrap(pipeline.to(torch.float32)))
    for seed, (name, place) in enumerate(adapters.items()):
        training.add(name, scale.rank, scale.rank, seed)
        source = torch.Generator().manual_seed(seed)
        for weight in training.parameters(name):
            if not weight.any():
                weight.data.copy_(torch.randn(weight.shape, generator=source) * 0.02)
        training.save(name, place)


def rebuilt(folder: str, adapter: str, dtype: torch.dtype, device: str) -> None:
    """A class's start as published."""
    load_pipeline(folder, dtype, device).load_lora_weights(adapter)


def make(sampler: Sampler, backend: Any, name: str, count: int) -> list[bytes]:
    """A class's images by ours, as PNG files too."""
    backend.set_adapters(name)
    requests = [Request(f"a photo of a {name}", name, i) for i in range(count)]
    return [png(to_pil_image(image.cpu())) for made in sampler.generate(requests) for image in made.images]


def disagreement(backend: Any, pipeline: Any, sampler: Sampler, name: str) -> float:
    """The largest difference of two images, values in [0, 1], from the pipeline's of the same noise."""
    backend.set_adapters(name)
    requests = [Request(f"a photo of a {name}", name, i) for i in range(2)]
    latents = sampler.initial_noise(requests).to(pipeline.unet.dtype)
    want = pipeline(
        prompt=[str(one.prompt) for one in requests],
        num_inference_steps=sampler.settings.steps,
        guidance_scale=2.0,
        latents=latents,
        output_type="pt",
    ).images
    return float((sampler.batch(requests).images - want).abs().max())


def show(scale: Scale, found: dict[str, Any], console: Console) -> None:
    """Tables of one model, and whether the goals are met."""
    title = f"{scale.version} / {scale.divide}, {scale.size} px, {scale.precision}, {scale.device}"
    if "step" in found:
        step = found["step"]
        names = ["vae", "text", "unet", "unet backward", "text backward", "rest"]
        table = Table(title=f"LoRA step of 8 images: {title}")
        for column in ("arm", "ms", "speed", "ceiling", *(f"{name}, ms" for name in names)):
            table.add_column(column, justify="left" if column == "arm" else "right")
        for row in step["rows"]:
            parts = [f"{1e3 * row['phases'].get(name, 0):.0f}" for name in names]
            table.add_row(
                row["arm"], f"{1e3 * row['seconds']:.0f}", f"{row['speed']:.2f}x", f"{row['ceiling']:.2f}x", *parts
            )
        console.print(table)
        ours = step["rows"][-1]
        console.print(verdict("a step", ours["speed"], STEP_GOAL) + f"; arithmetic allows {ours['ceiling']:.2f}x.\n")
    if "image" in found:
        image = found["image"]
        table = Table(title=f"generated image, {scale.steps} steps, {len(CLASSES)} classes of {scale.images}: {title}")
        for column in ("arm", "ms an image", "speed", "ceiling"):
            table.add_column(column, justify="left" if column == "arm" else "right")
        for row in image["rows"]:
            ceiling = f"{row['ceiling']:.2f}x" if "ceiling" in row else ""
            table.add_row(row["arm"], f"{1e3 * row['seconds']:.0f}", f"{row['speed']:.2f}x", ceiling)
        console.print(table)
        ours = next(row for row in image["rows"] if row["arm"] == "ours")
        goal = verdict("an image at equal steps", ours["speed"], IMAGE_GOAL)
        console.print(
            f"{goal}; arithmetic allows {ours['ceiling']:.2f}x. Images differ from the pipeline's by "
            f"{image['largest_difference']:.1e} at most. A class costs {image['rebuild_seconds']:.2f} s of loading "
            f"as published, {image['attach_seconds']:.2f} s here.\n"
        )


def verdict(what: str, speed: float, goal: float) -> str:
    """A goal met or missed."""
    return f"{what}: {speed:.2f}x, goal {goal}x {'met' if speed >= goal else 'MISSED'}"


def hardware(device: str) -> dict[str, Any]:
    """What it ran on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {
        "machine": platform.machine(),
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "device": "cpu" if device == "cpu" else torch.cuda.get_device_name(),
        "clock": "process time" if device == "cpu" else "wall",
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }


def measure(scale: Scale, parts: tuple[str, ...] = ("step", "image")) -> dict[str, Any]:
    """The asked parts of one model."""
    makers = {"step": training_step, "image": generated_image}
    return {"scale": asdict(scale), **{part: makers[part](scale) for part in parts}}


def main() -> None:
    """Parse options, measure each model, print, and write the figures if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="128 px, 3 repeats of a step, 4 images a class")
    parser.add_argument("--models", nargs="+", default=["sd21", "sd15"], choices=["sd21", "sd15"])
    parser.add_argument("--parts", nargs="+", default=["step", "image"], choices=["step", "image"])
    parser.add_argument("--divide", type=int, default=8, help="of the real widths")
    parser.add_argument("--size", type=int, help="side in pixels")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--images", type=int, help="images a class")
    parser.add_argument("--repeats", type=int, help="of a training step")
    parser.add_argument("--image-repeats", type=int, default=1, help="of all classes")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="fp32", choices=sorted(DTYPES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the figures to this file as json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore", UserWarning)
    console = Console(width=140)
    results = []
    for version in options.models:
        scale = Scale(
            version=version,
            divide=options.divide,
            size=options.size or (128 if options.quick else 256),
            device=options.device,
            precision=options.precision,
            repeats=options.repeats or (3 if options.quick else 5),
            image_repeats=options.image_repeats,
            images=options.images or (4 if options.quick else 10),
            steps=options.steps,
        )
        results.append(measure(scale, tuple(options.parts)))
        show(scale, results[-1], console)
    if options.out:
        text = {"facts": hardware(options.device), "goals": {"step": STEP_GOAL, "image": IMAGE_GOAL}}
        options.out.write_text(json.dumps({**text, "models": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
