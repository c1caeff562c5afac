"""Generation and adaptation on a CUDA device, at the real size of Stable Diffusion 1.5 and 2.1-base with random weights.

    python -m pytest tests/gpu/test_synth.py -m gpu -s        # checks, and the bench's tables for bf16 and fp16
    python -m tests.gpu.test_synth                             # the tables alone, without pytest

Without a CUDA device it skips, or says so. No time is asserted: whether a goal is met is printed.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from rich.console import Console

from synth.backends import wrap
from synth.requests import Request
from synth.sampling import Sampler
from synth.settings import Settings
from tests.bench.datadream import DTYPES, Scale, measure, show
from tests.bench.datadream_plain import Version, stable_diffusion

VERSIONS: tuple[Version, ...] = ("sd15", "sd21")
HALVES = ("bf16", "fp16")
# The largest and the mean difference, of values in [0, 1], that another batch size may make: kernels sum in another order, and
# every one of the steps rounds to the precision's 8 or 11 bits.
WITHIN = {"fp32": (1e-3, 1e-4), "bf16": (0.3, 0.03), "fp16": (0.1, 0.01)}
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def made(backend: Any, batch_size: int) -> torch.Tensor:
    """Eight images, so many at a time, on the CPU."""
    requests = [Request("a photo of a dog", "dog", i) for i in range(8)]
    sampler = Sampler(
        backend, Settings(steps=10, guidance=2.0, scheduler="dpmpp_2m"), run_seed=5, batch_size=batch_size
    )
    return torch.cat([batch.images for batch in sampler.generate(requests)]).cpu()


def full_scale(version: Version, precision: str) -> Scale:
    """The real widths at 512 px, three classes of ten images."""
    return Scale(
        version=version,
        divide=1,
        size=512,
        device="cuda",
        precision=precision,
        repeats=5,
        image_repeats=1,
        images=10,
        steps=50,
    )


def bench(version: Version, precision: str) -> dict[str, Any]:
    """Both parts of `tests.bench.datadream`, printed."""
    scale = full_scale(version, precision)
    found = measure(scale)
    show(scale, found, Console(width=140))
    return found


@pytest.mark.parametrize("precision", ["fp32", *HALVES])
@pytest.mark.parametrize("version", VERSIONS)
def test_an_image_is_the_same_at_batch_1_and_8(
    version: Version, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # float32 is to be float32
    backend = wrap(stable_diffusion(version, 1, 512).to("cuda", DTYPES[precision]))
    one, eight, again = made(backend, 1), made(backend, 8), made(backend, 8)
    assert torch.isfinite(eight).all()
    assert torch.equal(eight, again)
    largest, mean = WITHIN[precision]
    difference = (one - eight).abs()
    assert float(difference.max()) < largest
    assert float(difference.mean()) < mean
    # The images of one batch are not each other's.
    assert float((eight[0] - eight[1]).abs().mean()) > mean


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_bench_runs_and_its_images_are_the_pipelines(version: Version, precision: str) -> None:
    found = bench(version, precision)
    assert all(row["seconds"] > 0 for part in ("step", "image") for row in found[part]["rows"])
    # Latents stay in float32 between our steps, and in the model's precision between the pipeline's.
    assert found["image"]["largest_difference"] < 2 * WITHIN[precision][0]


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("no CUDA device: nothing is measured")
    for version in VERSIONS:
        for precision in HALVES:
            bench(version, precision)
