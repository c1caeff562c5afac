"""Distribution matching on a CUDA device at its published size: what an iteration costs in float32 and bfloat16, and where it goes.

    python -m pytest tests/gpu/test_dm.py -m gpu -s
    python -m tests.gpu.test_dm dm-iteration-GPU.json      # the table alone, written as JSON

Without a CUDA device it skips, or says so. ConvNet-3 of width 128, 10 classes of colour images of 32 px, 256 real images a class, IPC 1,
10 and 50. bfloat16 is autocast round the networks; TF32 is left as PyTorch sets it. No time is asserted.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.matching.config import MatchConfig
from distill.matching.distribution import Matching

CLASSES, SIZE, IPCS = 10, 32, (1, 10, 50)
MEAN, STD = (0.49, 0.48, 0.45), (0.2, 0.2, 0.2)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def matching(ipc: int, device: str = "cuda", network: str = "convnet3_w128_in", batch: int = 256) -> Matching:
    """Published settings on random images."""
    config = MatchConfig(network=network, iterations=20_000, tiles=1, real_batch=batch, pool_every=0)
    generator = torch.Generator().manual_seed(0)
    shape = (CLASSES, 1000, 3, SIZE, SIZE)
    real = torch.randint(256, shape, generator=generator, dtype=torch.uint8).to(device)
    of_the_set: dict[str, Any] = {"classes": CLASSES, "mean": MEAN, "std": STD, "seed": 0}
    return Matching(list(real), range(CLASSES), real[:, :ipc], config, **of_the_set)


def seconds(run: Callable[[], Any], repeats: int = 10) -> float:
    """Seconds of a run on the clock, with the device waited for, after two that are not counted."""
    for _ in range(2):
        run()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(repeats):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / repeats


def measure() -> dict[str, Any]:
    """Seconds and memory of an iteration, and the share that draws and augments the real side, by IPC and precision."""
    numbers: dict[str, Any] = {"device": torch.cuda.get_device_name()}
    for ipc in IPCS:
        for name, half in (("float32", False), ("bfloat16", True)):
            one = matching(ipc)
            torch.cuda.reset_peak_memory_stats()
            with torch.autocast("cuda", torch.bfloat16, enabled=half):
                whole = seconds(one.advance)
                batches = [one._real_batch(place, 0) for place in range(CLASSES)]
                drawn = seconds(lambda: torch.cat([one._real_batch(p, 0) for p in range(CLASSES)]))  # noqa: B023
                seen = seconds(lambda: one._seen(torch.cat(batches), 0, range(CLASSES)))  # noqa: B023
            numbers[f"ipc_{ipc}_{name}"] = {
                "seconds": round(whole, 4),
                "minutes_of_20000": round(whole * 20_000 / 60, 1),
                "share_of_drawing": round(drawn / whole, 3),
                "share_of_augmentation": round(seen / whole, 3),
                "memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
            }
    return numbers


def test_an_iteration_is_that_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same draws on both, so the same images up to rounding."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    ours, theirs = (matching(2, device, "convnet3_w16_in", 32) for device in ("cuda", "cpu"))
    for _ in range(3):
        assert ours.advance() == pytest.approx(theirs.advance(), rel=1e-3)
    assert float((ours.images.detach().cpu() - theirs.images.detach()).abs().max()) < 1e-2


@pytest.mark.timeout(600)
def test_it_is_measured() -> None:
    numbers = measure()
    print(json.dumps(numbers, indent=1, sort_keys=True))
    assert all(0 < row["share_of_augmentation"] < 1 for row in numbers.values() if isinstance(row, dict))


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("no CUDA device: nothing is measured")
    text = json.dumps(measure(), indent=1, sort_keys=True) + "\n"
    Path(sys.argv[1]).write_text(text) if len(sys.argv) > 1 else print(text, end="")
