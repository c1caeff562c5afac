"""What an iteration of distribution matching costs beside the loop written the published way.

    python -m tests.bench.dm [--repeats N] [--json FOLDER]

Ours is `distill.matching` as the stage calls it; the published loop is `tests.bench.dm.published`. ConvNet-3 of width 32 with instance
norm, 10 classes of grey images of 32 px, 64 real images a class, fresh networks, one process, one thread. The arms take turns, an
iteration each; a figure is the median of the process's CPU seconds, the ratio is that of the medians. Both pay for six kinds of
augmentation, of which classes draw one each. Memory is how far three iterations raise the resident memory of a process at their peak, each
arm in a process of its own. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before torch: waiting threads must sleep, or they burn the CPU time that is measured.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from rich.console import Console
from rich.table import Table

from distill.matching.config import MatchConfig
from distill.matching.distribution import Matching
from tests.bench.dm.published import PublishedLoop

NETWORK, CLASSES, SIZE, BATCH, IMAGES = "convnet3_w32_in", 10, 32, 64, 900
MEAN, STD = (0.286,) * 3, (0.353,) * 3
#: (images per class, tiles)
CASES = ((1, 2), (10, 1))
GOAL = 2.0


def arms(ipc: int, tiles: int) -> dict[str, Callable[[], float]]:
    """An iteration of each, on the same real images and from the same start."""
    generator = torch.Generator().manual_seed(0)
    grey = [torch.randint(256, (IMAGES, 1, SIZE, SIZE), generator=generator).to(torch.uint8) for _ in range(CLASSES)]
    real = [one.expand(-1, 3, -1, -1).contiguous() for one in grey]
    config = MatchConfig(network=NETWORK, tiles=tiles, real_batch=BATCH, pool_every=0)
    start = torch.stack([one[: ipc * tiles**2] for one in real])
    ours = Matching(real, range(CLASSES), start, config, classes=CLASSES, mean=MEAN, std=STD, seed=0, grey=True)
    normalised = [(one.float() / 255 - MEAN[0]) / STD[0] for one in real]
    images = ours.images.detach().expand(-1, 3, -1, -1).contiguous()
    published = PublishedLoop(normalised, images, BATCH, tiles, NETWORK)
    return {"ours": ours.advance, "published": published.advance}


def seconds(ipc: int, tiles: int, repeats: int) -> dict[str, list[float]]:
    """CPU seconds of every iteration, by arm; the first, which warms up, is not counted."""
    taking_turns = arms(ipc, tiles)
    times: dict[str, list[float]] = {name: [] for name in taking_turns}
    for _ in range(1 + repeats):
        for name, advance in taking_turns.items():
            began = time.process_time()
            advance()
            times[name].append(time.process_time() - began)
    return {name: taken[1:] for name, taken in times.items()}


def peak_growth(name: str, ipc: int, tiles: int) -> int:
    """Bytes by which the peak of a fresh process grows over three iterations."""
    code = f"from tests.bench.dm.__main__ import grow; print(grow({name!r}, {ipc}, {tiles}))"
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def grow(name: str, ipc: int, tiles: int) -> int:
    """Bytes by which three iterations raise this process's resident memory at their peak."""
    torch.set_num_threads(1)
    advance = arms(ipc, tiles)[name]
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far, of building both arms, is forgotten
    before = _resident("VmRSS")
    for _ in range(3):
        advance()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    """Resident memory of this process in bytes, by its name in the kernel's status file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def measure(repeats: int) -> dict[str, Any]:
    """All figures."""
    rows = []
    for ipc, tiles in CASES:
        times = seconds(ipc, tiles, repeats)
        middle = {name: statistics.median(taken) for name, taken in times.items()}
        growth = {name: peak_growth(name, ipc, tiles) / 1e6 for name in times}
        ratio = middle["published"] / middle["ours"]
        rows.append({"ipc": ipc, "tiles": tiles, "seconds": middle, "faster": ratio, "memory_mb": growth})
    return {"network": NETWORK, "classes": CLASSES, "real_batch": BATCH, "repeats": repeats, "rows": rows}


def show(result: dict[str, Any], console: Console) -> None:
    """Print the table."""
    table = Table(title=f"an iteration of {NETWORK}, {CLASSES} classes, {BATCH} real images each; goal {GOAL:g}x")
    columns = ("images per class", "tiles", "CPU s", "published", "faster", "memory MB", "published")
    for column in columns:
        table.add_column(column, justify="right")
    for row in result["rows"]:
        times, growth = row["seconds"], row["memory_mb"]
        table.add_row(
            f"{row['ipc']}",
            f"{row['tiles']}",
            f"{times['ours']:.3f}",
            f"{times['published']:.3f}",
            f"{row['faster']:.2f}x",
            f"{growth['ours']:.0f}",
            f"{growth['published']:.0f}",
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=30, help="iterations of each arm")
    parser.add_argument("--json", type=Path, help="also write the results into this folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = measure(options.repeats)
    show(result, Console(width=120))
    if options.json:
        machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "torch": torch.__version__}
        (options.json / "dm-cpu-2core.json").write_text(json.dumps(result | machine, indent=2) + "\n")


if __name__ == "__main__":
    main()
