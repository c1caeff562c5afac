"""How fast images are recovered, next to the published arithmetic: `python -m tests.bench.recover`.

The published step is written here from `docs/specs/cda.md`, recover, the published way: torchvision's transforms built each
step, a forward hook that copies and reduces every batch-norm input, contiguous float32, `loss.item()` and a clone of the
images each step, plain Adam. Ours is `distill.cda.recover` as the pipeline calls it. Same network, same images, same
random draws, same process; the arms take turns within each repeat. "network alone" is a forward pass and the gradient of
the input without any matching, in the two memory layouts; "convolutions alone" is what no recover step of this network
can get under in float32, however little the rest costs: the published loop's time over it is the largest speed there is.

Time is of the process's CPU, all threads, per image and iteration, so that other jobs on the machine matter little
(`--wall` takes the clock instead); a figure is the median over repeats and its interquartile range. Memory is what
autograd keeps of one step, counted as unique storages without the network's own. The batch is the published 100 at
32 px and smaller above, where 100 images take this kind of machine minutes (`--batch` for another). With `--device cuda`
it is 100 everywhere, time is the clock's once the device has finished, TF32 is left as PyTorch sets it, and one repeat that
is not counted warms every arm up.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

# Before torch: waiting threads must sleep, or they burn the CPU time that is measured.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F
from torchvision import transforms  # timm brings torchvision

from distill.cda import recover
from distill.config import RecoverConfig
from distill.networks import build

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = {32: 100, 64: 40, 224: 10}
GOALS = {32: 1.5, 64: 1.5, 224: 1.4}
MEMORY_GOAL = 0.7


class PublishedHook:
    """The published statistics of one layer: `r_feature` is set by every forward pass."""

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        self.handle = layer.register_forward_hook(self.measure)
        self.r_feature = torch.zeros(())

    def measure(self, layer: Any, inputs: tuple[torch.Tensor, ...], _output: torch.Tensor) -> None:
        """The forward hook."""
        channels = inputs[0].shape[1]
        mean = inputs[0].mean([0, 2, 3])
        var = inputs[0].permute(1, 0, 2, 3).contiguous().reshape(channels, -1).var(1, unbiased=False)
        self.r_feature = torch.norm(layer.running_var.data - var, 2) + torch.norm(layer.running_mean.data - mean, 2)


def published(model: nn.Module, targets: torch.Tensor, config: RecoverConfig, seed: int, size: int) -> list[float]:
    """The published loop, on the device of the targets; returns the loss before each step."""
    hooks = [PublishedHook(layer) for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    weights = [config.first_multiplier] + [1.0] * (len(hooks) - 1)
    losses = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        images = torch.randn(len(targets), 3, size, size).to(targets.device).requires_grad_(True)
        optimizer = torch.optim.Adam([images], lr=config.learning_rate, betas=config.betas, eps=1e-8)
        for step in range(config.iterations):
            progress = 0.5 * (1 + math.cos(math.pi * step / config.iterations))
            optimizer.param_groups[0]["lr"] = config.learning_rate * progress
            lowest = config.min_scale + (1 - config.min_scale) * progress
            crop = transforms.RandomResizedCrop(size, scale=(lowest, 1.0))
            view = transforms.Compose([crop, transforms.RandomHorizontalFlip()])(images)
            shift = random.randint(0, config.jitter), random.randint(0, config.jitter)
            view = torch.roll(view, shifts=shift, dims=(2, 3))
            optimizer.zero_grad()
            entropy = F.cross_entropy(model(view), targets)
            matched = sum(hook.r_feature * weight for hook, weight in zip(hooks, weights, strict=True))
            loss = entropy + config.r_bn * matched
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
                    images[:, channel].clamp_(-mean / std, (1 - mean) / std)
            losses.append(loss.item())
            best = images.data.clone()
        assert best.isfinite().all()
    for hook in hooks:
        hook.handle.remove()
    return losses


def ours(model: nn.Module, targets: torch.Tensor, config: RecoverConfig, seed: int, size: int) -> list[float]:
    """Our loop as the pipeline calls it, but that the loss is read at every step, to be compared."""
    done = recover(model, targets, config, seeds=[seed], mean=MEAN, std=STD, image_size=size)
    return [loss for _, loss in done.losses]


def network_alone(
    model: nn.Module, targets: torch.Tensor, config: RecoverConfig, seed: int, size: int, layout: torch.memory_format
) -> list[float]:
    """Forward and input gradient without matching, augmentation or optimiser."""
    images = torch.randn(len(targets), 3, size, size, generator=torch.Generator().manual_seed(seed))
    images = images.to(targets.device, memory_format=layout).requires_grad_(True)
    losses = []
    for _ in range(config.iterations):
        loss = F.cross_entropy(model(images), targets)
        torch.autograd.grad(loss, images)
        losses.append(loss.item())
    return losses


class ConvolutionsAlone:
    """Only the network's convolutions and their input gradients, channels_last, on inputs that are made once."""

    def __init__(self, model: nn.Module, targets: torch.Tensor, size: int) -> None:
        self.calls: list[tuple[nn.Conv2d, torch.Tensor]] = []
        handles = [
            layer.register_forward_hook(self._record) for layer in model.modules() if isinstance(layer, nn.Conv2d)
        ]
        with torch.no_grad():
            model(torch.zeros(len(targets), len(MEAN), size, size, device=targets.device))
        for handle in handles:
            handle.remove()

    def _record(self, layer: nn.Conv2d, inputs: tuple[torch.Tensor, ...], _output: torch.Tensor) -> None:
        image = torch.rand_like(inputs[0]).contiguous(memory_format=torch.channels_last)
        self.calls.append((layer, image.requires_grad_(True)))

    def __call__(self, config: RecoverConfig, _seed: int) -> list[float]:
        for _ in range(config.iterations):
            for layer, image in self.calls:
                output = layer(image)
                torch.autograd.grad(output, image, output.detach())
        return []


@dataclass
class Arm:
    """A way to take steps: seconds per image-iteration and losses of every repeat, memory kept by one step."""

    run: Callable[[RecoverConfig, int], list[float]]
    times: list[float] = field(default_factory=list)
    losses: list[list[float]] = field(default_factory=list)
    megabytes: float = 0.0

    def milliseconds(self) -> tuple[float, float]:
        """Median and interquartile range."""
        low, middle, high = statistics.quantiles([1e3 * one for one in self.times], n=4, method="inclusive")
        return middle, high - low


def teacher(size: int, classes: int) -> nn.Module:
    """A ResNet-18 whose running statistics are those of noise, frozen, in eval mode."""
    model = build("resnet18", classes, size, seed=1)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(2)))
    return model.eval().requires_grad_(False)


def kept_megabytes(model: nn.Module, step: Callable[[], object]) -> float:
    """MiB of unique storages that autograd keeps for the backward pass of one step, the network's own not counted."""
    own = {one.untyped_storage().data_ptr() for one in [*model.parameters(), *model.buffers()]}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            # The tensor is held so that its address is not given to another one.
            kept[place] = (tensor.untyped_storage().nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(size for size, _ in kept.values()) / 2**20


def make_arms(model: nn.Module, targets: torch.Tensor, size: int, bfloat16: bool) -> dict[str, Arm]:
    """The published loop, ours, and the network alone."""

    def run_ours(config: RecoverConfig, seed: int, precision: Any = "float32") -> list[float]:
        return ours(model, targets, replace(config, precision=precision), seed, size)

    def run_alone(config: RecoverConfig, seed: int, layout: torch.memory_format) -> list[float]:
        return network_alone(model, targets, config, seed, size, layout)

    arms = {
        "published": Arm(lambda config, seed: published(model, targets, config, seed, size)),
        "ours": Arm(run_ours),
        "network alone, contiguous": Arm(partial(run_alone, layout=torch.contiguous_format)),
        "network alone, channels last": Arm(partial(run_alone, layout=torch.channels_last)),
    }
    arms["convolutions alone"] = Arm(ConvolutionsAlone(model, targets, size))
    if bfloat16:
        arms["ours, bfloat16"] = Arm(partial(run_ours, precision="bfloat16"))
    return arms


def loss_gap(arm: Arm, base: Arm) -> float:
    """Largest relative difference of the two loss curves over all steps of all repeats."""
    return max(
        abs(one - other) / abs(other)
        for curve, expected in zip(arm.losses, base.losses, strict=True)
        for one, other in zip(curve, expected, strict=True)
    )


def measure(size: int, options: argparse.Namespace) -> dict[str, Any]:
    """All arms at one image side, in turns within each repeat."""
    on_gpu = options.device == "cuda"
    batch = options.batch or (BATCH[32] if on_gpu else BATCH[size])
    targets = torch.arange(batch, device=options.device)
    model = teacher(size, batch).to(options.device)
    config = RecoverConfig(iterations=options.steps, log_every=1, jitter=32 if size > 64 else 4)
    arms = make_arms(model, targets, size, options.bfloat16)
    for arm in arms.values():
        arm.megabytes = kept_megabytes(model, partial(arm.run, replace(config, iterations=1), 0))

    def clock() -> float:
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() if options.wall or on_gpu else time.process_time()

    for repeat in range(-1 if on_gpu else 0, options.repeats):
        for arm in arms.values():
            start = clock()
            losses = arm.run(config, repeat)
            if repeat >= 0:
                arm.times.append((clock() - start) / (options.steps * batch))
                arm.losses.append(losses)
    base = arms["published"]
    rows = []
    for name, arm in arms.items():
        middle, spread = arm.milliseconds()
        row = {"arm": name, "ms": middle, "iqr": spread, "mib_per_image": arm.megabytes / batch}
        row["speed"] = base.milliseconds()[0] / middle
        row["memory"] = arm.megabytes / base.megabytes
        row["loss_gap"] = loss_gap(arm, base) if "ours" in name else None
        rows.append(row)
    return {"size": size, "batch": batch, "steps": options.steps, "repeats": options.repeats, "arms": rows}


def show(result: dict[str, Any], console: Console) -> bool:
    """Print one size; whether ours meets the goals."""
    size = result["size"]
    table = Table(title=f"ResNet-18 at {size} px, {result['batch']} images a step")
    for column in ("arm", "ms / image-iteration", "IQR", "speed", "MiB kept / image", "memory", "loss differs by"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for row in result["arms"]:
        gap = "" if row["loss_gap"] is None else f"{row['loss_gap']:.1e}"
        figures = (f"{row['ms']:.2f}", f"{row['iqr']:.2f}", f"{row['speed']:.2f}x", f"{row['mib_per_image']:.1f}")
        table.add_row(row["arm"], *figures, f"{row['memory']:.0%}", gap)
    console.print(table)
    by_name = {row["arm"]: row for row in result["arms"]}
    ours_row, goal = by_name["ours"], GOALS.get(size, 1.4)
    met = ours_row["speed"] >= goal and ours_row["memory"] <= MEMORY_GOAL
    base, floor = by_name["published"]["ms"], by_name["convolutions alone"]["ms"]
    alone = by_name["network alone, channels last"]["ms"]
    console.print(
        f"{size} px: {ours_row['speed']:.2f}x (goal {goal}x), memory {ours_row['memory']:.0%} (goal {MEMORY_GOAL:.0%}): "
        f"{'met' if met else 'not met'}. Convolutions are {floor / ours_row['ms']:.0%} of our time and "
        f"{floor / base:.0%} of the published loop's, so no more than {base / floor:.2f}x can be had with them as they are. "
        f"Ours takes {ours_row['ms'] / alone:.2f}x the time of the network alone.\n"
    )
    return bool(met)


def main() -> None:
    """Parse options, measure each size, print, and write the numbers as json if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 224], choices=sorted(BATCH))
    parser.add_argument("--batch", type=int, help="images a step; the published batch is 100")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, choices=range(2, 100), metavar="2..99")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--wall", action="store_true", help="clock time instead of CPU time")
    parser.add_argument("--bfloat16", action="store_true", help="also ours with bfloat16 activations")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console(width=120)
    where = (
        torch.cuda.get_device_name() if options.device == "cuda" else f"{platform.machine()}, {options.threads} threads"
    )
    timed = "clock" if options.wall or options.device == "cuda" else "CPU"
    console.print(
        f"torch {torch.__version__}, {where}, {timed} time, {options.repeats} repeats of {options.steps} steps"
    )
    results = []
    for size in options.sizes:
        results.append(measure(size, options))
        show(results[-1], console)
        if options.json:  # after each, so that a run that is cut off leaves what it has
            options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
