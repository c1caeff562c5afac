"""The choice of groups beside the published search: time, winners, memory, and what a search gains.

The published search is written here from `docs/specs/d3hr.md`, selection, the published way: for each class on its own, groups are drawn as
tensors, and mean, deviation and skew are taken of what was drawn. Groups of 10, D = 4096, one thread, CPU time of the process. The
published search runs a sample, some dozens of candidates of one class in float32, right before and right after each of our
rows. Its time per candidate and class is the same for any number of them, so that the ratio is of times per candidate and
class; nothing else is extrapolated. Ours is `select` as the stage calls it, models to groups, the second scoring of the
short lists included.

Winners are those of a whole published lot of 10 000 candidates in its own float16, at D = 512. Memory is the growth of the process's
peak while `select` runs, each number of candidates in a process of its own, at D = 512 too.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from distill.d3hr.config import LOT, SelectConfig
from distill.d3hr.models import ClassModel
from distill.d3hr.selection import select

MEMBERS, DIMENSIONS = 10, 4096
CLASSES = (10, 100, 1000)
CANDIDATES = 10_000
SAMPLE = 64
WINNERS = 4
MEMORY_CLASSES, MEMORY_CANDIDATES = 100, (1_000, 10_000, 100_000)
#: Of the parts that ask for no more to show what they show.
SMALL = 512
GAIN_DRAWS = 4_000
WEIGHTS = (1.0, 1.0, 0.1)
GOAL = 1000


def class_models(classes: int, dimensions: int = DIMENSIONS) -> list[ClassModel]:
    """Diagonal models whose deviations differ by a tenth of themselves, in numbers that float16 holds."""
    rng = torch.Generator().manual_seed(1)
    models = []
    for _ in range(classes):
        mean = 0.15 * torch.randn(1, dimensions, generator=rng)
        variance = (1 + 0.1 * torch.randn(1, dimensions, generator=rng)).clamp_min(0.5).square()
        nothing = torch.zeros(0, dimensions)
        models.append(ClassModel(torch.ones(1), mean.half().float(), variance.half().float(), nothing))
    return models


def published_totals(x: torch.Tensor, mu: torch.Tensor, sd: torch.Tensor) -> torch.Tensor:
    """The published score (m,) of groups (m, n, D)."""
    d = x.shape[2]
    mean, std = x.mean(dim=1), x.std(dim=1)
    l_mean = torch.norm(mean - mu, dim=1)
    l_std = torch.norm(std - sd, dim=1)
    q = d / ((d - 1) * (d - 2)) * (((x - mean.unsqueeze(1)) / std.unsqueeze(1)) ** 3).sum(dim=2)
    return l_mean + l_std + 0.1 * torch.norm(q, dim=1)


def published_time() -> float:
    """Seconds that the published search takes for one candidate of one class."""
    (model,) = class_models(1)
    mu, sd = model.means[0], model.variances[0].sqrt()
    times = []
    for repeat in range(4):
        rng = torch.Generator().manual_seed(12345 * repeat)
        start = time.process_time()
        z = torch.randn(SAMPLE // 4, MEMBERS, DIMENSIONS, generator=rng)
        sums = published_totals(z * sd + mu, mu, sd)
        assert int(sums.argmin()) >= 0
        times.append((time.process_time() - start) / len(z))
    return sorted(times)[1]


def published_winners(models: list[ClassModel]) -> list[int]:
    """The best of one published lot for each class, scored in float16."""
    rng = torch.Generator().manual_seed(0)
    best = [(float("inf"), -1)] * len(models)
    for first in range(0, LOT, 80):
        z = torch.randn(80, MEMBERS, SMALL, generator=rng).half()
        for place, model in enumerate(models):
            mu, sd = model.means[0].half(), model.variances[0].half().sqrt()
            totals = published_totals(z * sd + mu, mu, sd)
            lowest = int(totals.argmin())
            if float(totals[lowest]) < best[place][0]:
                best[place] = (float(totals[lowest]), first + lowest)
    return [number for _, number in best]


def our_time(classes: int, config: SelectConfig) -> float:
    """Seconds that `select` takes."""
    models, seeds = class_models(classes), list(range(classes))
    start = time.process_time()
    select(models, MEMBERS, config, 0, seeds)
    return time.process_time() - start


def peak_growth(candidates: int) -> int:
    """Bytes by which the peak of a fresh process grows while it selects."""
    code = f"from tests.bench.d3hr.selection import grow; print(grow({candidates}))"
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def grow(candidates: int) -> int:
    """Bytes by which this process's peak grows while it selects."""
    torch.set_num_threads(1)
    models = class_models(MEMORY_CLASSES, SMALL)
    before = _peak()
    select(models, MEMBERS, SelectConfig(group="best_of", candidates=candidates), 0, list(range(MEMORY_CLASSES)))
    return _peak() - before


def _peak() -> int:
    """The peak of this process's resident memory in bytes; getrusage would show that of the process it was forked from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def gains(dimensions: int) -> dict[str, float]:
    """Scores of groups, over the mean score of one draw: of the search, by candidates, and of a matched draw."""
    (model,) = class_models(1, dimensions)

    def total(config: SelectConfig, seed: int) -> float:
        return select([model], MEMBERS, config, seed, [seed])[0].scores.total(WEIGHTS)

    plain = sum(total(SelectConfig(group="random"), seed) for seed in range(64)) / 64
    rows = {"one draw": 1.0}
    for candidates in (100, 1_000, GAIN_DRAWS):
        rows[f"best of {candidates}"] = total(SelectConfig(group="best_of", candidates=candidates), 0) / plain
    rows["matched"] = total(SelectConfig(), 0) / plain
    return rows


def measure() -> dict[str, Any]:
    """All figures of this part."""
    best_of = SelectConfig(group="best_of", candidates=CANDIDATES)
    reference = SelectConfig(mode="reference", candidates=CANDIDATES)
    rows = []
    for classes, config in (*((classes, best_of) for classes in CLASSES), (CLASSES[-1], reference)):
        before, seconds, after = published_time(), our_time(classes, config), published_time()
        each, published = seconds / CANDIDATES / classes, (before + after) / 2
        figures = {"seconds": seconds, "each_us": each * 1e6, "published_us": published * 1e6}
        rows.append({"classes": classes, "mode": config.mode, **figures, "faster": published / each})
    models = class_models(WINNERS, SMALL)
    ours = [group.candidate for group in select(models, MEMBERS, reference, 0, [0] * WINNERS)]
    theirs = published_winners(models)
    return {
        "members": MEMBERS,
        "dimensions": DIMENSIONS,
        "candidates": CANDIDATES,
        "published_sample": SAMPLE,
        "selection": rows,
        "winners": {"ours": ours, "published": theirs, "same": ours == theirs},
        "memory_mb": {str(candidates): peak_growth(candidates) / 1e6 for candidates in MEMORY_CANDIDATES},
        "gains": {str(dimensions): gains(dimensions) for dimensions in (512, 4096)},
    }


def show(result: dict[str, Any], console: Console) -> None:
    """Print the tables."""
    table = Table(
        title=f"groups of {MEMBERS}, D = {DIMENSIONS}, {CANDIDATES:,} candidates; goal {GOAL}x at 1000 classes"
    )
    for column in ("classes", "mode", "CPU s", "us per candidate and class", "published", "over the published search"):
        table.add_column(column, justify="right")
    for row in result["selection"]:
        figures = (
            f"{row['seconds']:.1f}",
            f"{row['each_us']:.2f}",
            f"{row['published_us']:,.0f}",
            f"{row['faster']:,.0f}x",
        )
        table.add_row(f"{row['classes']}", row["mode"], *figures)
    console.print(table)
    winners = result["winners"]
    console.print(f"winners of one lot in mode reference {winners['ours']}, published float16 {winners['published']}")
    memory = Table(title=f"growth of the peak, {MEMORY_CLASSES} classes, D = {SMALL}")
    memory.add_column("candidates", justify="right")
    memory.add_column("MB", justify="right")
    for candidates, size in result["memory_mb"].items():
        memory.add_row(f"{int(candidates):,}", f"{size:.0f}")
    console.print(memory)
    score = Table(title="score over that of one draw (mean of 64)")
    score.add_column("group")
    for dimensions in result["gains"]:
        score.add_column(f"D = {dimensions}", justify="right")
    for name in next(iter(result["gains"].values())):
        score.add_row(name, *(f"{rows[name]:.3f}" for rows in result["gains"].values()))
    console.print(score)
