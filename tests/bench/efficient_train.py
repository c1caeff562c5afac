"""What training on low frequencies first saves, and what it costs: `python -m tests.bench.efficient_train`.

A student learns the embedded Fashion-MNIST sample, padded to 32 px, with `distill.training.Trainer`, and is tested on the sample's
test images. Arms see the same images in the same order as often, but for the control: whole images for as many epochs as cost what
EfficientTrain's published steps cost. Time is of the process's CPU on one thread, so that other jobs matter little, and
relative to the first arm, seed by seed; accuracy is the mean over seeds with its standard deviation. Seeds take minutes, in which
other jobs come and go, so a second table has single steps of the network at each side, taken in turn (`--steps` alone prints it): the
crop, the forward pass and the backward pass. The time of a curriculum is those of its sides, weighed by its epochs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from augment.augmenter import Augmenter
from augment.frequencies import PUBLISHED, EfficientTrain, low_frequency_crop
from distill.accuracy import accuracy_and_loss
from distill.config import TrainConfig
from distill.networks import build
from distill.training import Trainer
from pipelines.sample import folder
from pipelines.sources.idx import read_idx
from pipelines.storage import Storage

SIZE, CLASSES = 32, 10
MEAN, STD = (0.2860,) * 3, (0.3530,) * 3
#: Half the side for 60 % of the epochs and three quarters for 20 %: steeper than published.
STEEP = ((0.6, 0.5), (0.8, 0.75), (1.0, 1.0))
Operation = Callable[[torch.Tensor, int, slice], torch.Tensor]


@dataclass
class Arm:
    """One way to train: its `epochs`, what is done to a batch, and what was measured, a number a seed."""

    name: str
    epochs: int
    operation: Callable[[int], Operation] | None
    pixels: float
    seconds: list[float] = field(default_factory=list)
    top1: list[float] = field(default_factory=list)


def sample(kind: str, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first `limit` images of each class of a split, uint8 (n, 3, 32, 32), and their labels."""
    arrays = []
    for name in ("images-idx3", "labels-idx1"):
        stored = read_idx(Storage(folder()), f"{kind}-{name}-ubyte.gz")
        arrays.append(np.frombuffer(stored.data, np.uint8)[stored.start :].reshape(stored.shape))
    images, labels = arrays[0], arrays[1].astype(np.int64)
    chosen = np.concatenate([np.flatnonzero(labels == label)[:limit] for label in range(CLASSES)])
    padded = np.pad(images[chosen], ((0, 0), (2, 2), (2, 2)))
    return torch.from_numpy(padded)[:, None].repeat(1, 3, 1, 1), torch.from_numpy(labels[chosen])


def frequencies(curriculum: EfficientTrain) -> Callable[[int], Operation]:
    """The crop alone."""
    return lambda seed: lambda pixels, epoch, places: curriculum(pixels, epoch)


def augmented(magnitude: Any, epochs: int, curriculum: EfficientTrain | None) -> Callable[[int], Operation]:
    """RandAugment at a magnitude, which may grow, and then the crop, if any."""

    def operation(seed: int) -> Operation:
        augmenter = Augmenter({"preset": "randaugment", "magnitude": magnitude}, seed=seed)

        def augment(pixels: torch.Tensor, epoch: int, places: slice) -> torch.Tensor:
            augmenter.epoch, augmenter.progress = epoch, epoch / max(epochs - 1, 1)
            moved = augmenter(pixels, np.arange(places.start, places.start + len(pixels))).images
            return moved if curriculum is None else curriculum(moved, epoch)

        return augment

    return operation


def arms_of(epochs: int) -> list[Arm]:
    """Build all arms; the first is what the others are compared with."""
    published, steep = (EfficientTrain(SIZE, epochs, steps) for steps in (PUBLISHED, STEEP))
    fewer = max(1, round(published.cost() * epochs))
    return [
        Arm("whole images", epochs, None, 1.0),
        Arm(f"whole images, {fewer} epochs", fewer, None, fewer / epochs),
        Arm("low frequencies first, published steps", epochs, frequencies(published), published.cost()),
        Arm("low frequencies first, steeper steps", epochs, frequencies(steep), steep.cost()),
        Arm("RandAugment 9", epochs, augmented(9, epochs, None), 1.0),
        Arm("RandAugment 0 to 9, published steps", epochs, augmented([0, 9], epochs, published), published.cost()),
    ]


def train(arm: Arm, network: str, seed: int, data: Any, test: Any, batch_size: int) -> None:
    """Train and test one student, and note what it took."""
    config = TrainConfig(epochs=arm.epochs, batch_size=batch_size)
    began = time.process_time()
    trainer = Trainer(
        build(network, CLASSES, SIZE, seed),
        data,
        config,
        mean=MEAN,
        std=STD,
        seed=seed,
        batch_operation=None if arm.operation is None else arm.operation(seed),
    )
    for _ in trainer.run():
        pass
    arm.seconds.append(time.process_time() - began)
    arm.top1.append(accuracy_and_loss(trainer.final, *test, mean=MEAN, std=STD)[0])


def step_times(network: str, sides: list[int], batch_size: int, repeats: int) -> dict[int, float]:
    """Median CPU milliseconds of a training step on images cropped to each side, sides in turn."""
    model = build(network, CLASSES, SIZE).train()
    images = torch.rand(batch_size, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(batch_size) % CLASSES
    times: dict[int, list[float]] = {side: [] for side in sides}
    for repeat in range(repeats + 1):
        for side in sides:
            began = time.process_time()
            batch = low_frequency_crop(images, side).contiguous(memory_format=torch.channels_last)
            torch.nn.functional.cross_entropy(model(batch), labels).backward()
            if repeat:  # the first is not counted
                times[side].append(1000 * (time.process_time() - began))
    return {side: statistics.median(values) for side, values in times.items()}


def print_steps(network: str, epochs: int, batch_size: int, repeats: int) -> dict[str, Any]:
    """Measure steps, print their table, and return what it says."""
    curricula = {"published steps": EfficientTrain(SIZE, epochs), "steeper steps": EfficientTrain(SIZE, epochs, STEEP)}
    sides = sorted({SIZE} | {one.side(epoch) for one in curricula.values() for epoch in range(epochs)})
    times = step_times(network, sides, batch_size, repeats)
    table = Table(title=f"a step of {network}, {batch_size} images, median of {repeats}")
    for column in ("side", "CPU ms", "CPU time", "pixels"):
        table.add_column(column)
    for side, taken in times.items():
        table.add_row(str(side), f"{taken:.1f}", f"{taken / times[SIZE]:.2f}x", f"{side**2 / SIZE**2:.2f}x")
    Console(width=140).print(table)
    ratios = {}
    for name, curriculum in curricula.items():
        of_epochs = [times[curriculum.side(epoch)] for epoch in range(epochs)]
        ratios[name] = statistics.mean(of_epochs) / times[SIZE]
        print(
            f"a training of {epochs} epochs by {name}: {ratios[name]:.2f}x by steps, {curriculum.cost():.2f}x by pixels"
        )
    return {"batch_size": batch_size, "repeats": repeats, "milliseconds": times, "ratios": ratios}


def main() -> None:
    """Parse the command line, measure, print the table, and write it where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet20_w8")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--per-class", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", type=int, nargs="*", help="places of arms, the first is 0; all unless given")
    parser.add_argument("--steps", action="store_true", help="single steps alone, no student")
    parser.add_argument("--repeats", type=int, default=9, help="of single steps")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps = print_steps(options.network, options.epochs, 64, options.repeats)
    if options.steps:
        return
    data, test = sample("train", options.per_class), sample("t10k", 200)
    chosen = sorted({0, *options.arms}) if options.arms else range(len(arms_of(1)))
    arms, warm_up = ([arms_of(epochs)[place] for place in chosen] for epochs in (options.epochs, 1))
    for arm in warm_up:  # the first run of an operation is slower, and is not counted
        train(
            arm,
            options.network,
            0,
            (data[0][: options.batch_size], data[1][: options.batch_size]),
            test,
            options.batch_size,
        )
    for seed in range(options.seeds):
        for arm in arms:
            train(arm, options.network, seed, data, test, options.batch_size)
            line = f"seed {seed}, {arm.name}: {arm.seconds[-1]:.1f} s, {100 * arm.top1[-1]:.2f} %"
            print(line, file=sys.stderr, flush=True)
    table = Table(
        title=f"{options.network}, {len(data[0])} images of {SIZE} px, {options.epochs} epochs, {options.seeds} seeds"
    )
    for column in ("arm", "pixels", "CPU s", "CPU time", "top-1", "sd", "against the first"):
        table.add_column(column)
    rows = []
    for arm in arms:
        ratios = [own / first for own, first in zip(arm.seconds, arms[0].seconds, strict=True)]
        gains = [own - first for own, first in zip(arm.top1, arms[0].top1, strict=True)]
        spread = statistics.stdev(arm.top1) if len(arm.top1) > 1 else 0.0
        row = {
            "arm": arm.name,
            "pixels": arm.pixels,
            "cpu_s": statistics.median(arm.seconds),
            "cpu_ratio": statistics.median(ratios),
            "top1": statistics.mean(arm.top1),
            "top1_sd": spread,
            "gain": statistics.mean(gains),
            "top1_of_seeds": arm.top1,
        }
        rows.append(row)
        table.add_row(
            arm.name,
            f"{arm.pixels:.2f}x",
            f"{row['cpu_s']:.1f}",
            f"{row['cpu_ratio']:.2f}x",
            f"{100 * row['top1']:.2f} %",
            f"{100 * spread:.2f}",
            f"{100 * row['gain']:+.2f}",
        )
    Console(width=140).print(table)
    if options.json:
        facts = {name: value for name, value in vars(options).items() if name not in ("json", "steps")}
        options.json.write_text(json.dumps({"options": facts, "steps": steps, "arms": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
