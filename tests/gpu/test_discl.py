"""Guidance levels on a CUDA device at the real size of Stable Diffusion 2.1-base, 512 pixels, with random weights.

    python -m pytest tests/gpu/test_discl.py -m gpu -s
    python -m tests.gpu.test_discl discl-GPU.json      # the table of `tests.bench.discl` alone, written as JSON

Without a CUDA device it skips, or says so. Images a second are staggered and in separate calls, in bfloat16. No time is asserted.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from synth.backends import wrap
from synth.discl.spectrum import Spectrum, SpectrumSampler
from synth.requests import Request
from synth.sampling import Sampler
from synth.settings import Settings
from tests.bench.datadream_plain import stable_diffusion
from tests.bench.discl import LEVELS, Case, measure, show

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def full_size(dtype: torch.dtype) -> Any:
    return wrap(stable_diffusion("sd21", 1).to("cuda", dtype))


def images(count: int) -> list[Request]:
    source = torch.Generator().manual_seed(1)
    return [
        Request("a photo of a dog", f"k{i}", i, image=torch.rand(3, 512, 512, generator=source)) for i in range(count)
    ]


def table() -> dict[str, Any]:
    """The bench in bfloat16, printed; images a second beside seconds an image."""
    result = measure(Case("Stable Diffusion 2.1's layers, 512 px, bf16", full_size(torch.bfloat16), 16, 2, 2))
    result["device"] = torch.cuda.get_device_name()
    for row in result["arms"].values():
        row["images_per_second"] = round(1 / row["seconds_per_image"], 2)
    show(result, Console(width=120))
    return result


def test_levels_are_those_of_separate_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    backend, settings = full_size(torch.float32), Settings(steps=10, guidance=3.0, scheduler="euler")
    sampler = SpectrumSampler(backend, settings, run_seed=1, batch_size=8, starts="strength")
    made = sampler.batch(images(2), LEVELS)
    alone = Sampler(backend, settings, run_seed=1, batch_size=1)
    for level, generated in made.items():
        for request, latents in zip(images(2), generated.latents, strict=True):  # type: ignore[arg-type]
            separate = alone.batch([replace(request, strength=100 - level)]).latents
            assert separate is not None
            assert float((latents - separate[0]).abs().max() / separate.abs().max()) < 1e-4
    again = sampler.batch(images(2), LEVELS)
    assert all(torch.equal(again[level].images, made[level].images) for level in LEVELS)


def test_rows_are_found_by_a_probe_and_fit() -> None:
    sampler = SpectrumSampler(
        full_size(torch.bfloat16), Settings(steps=10, guidance=3.0, scheduler="euler"), run_seed=1
    )
    [first, *_] = sampler.batches([Spectrum(request, LEVELS) for request in images(64)])
    made = sampler.make(first)
    assert not any(bool(generated.broken.any()) for generated in made.values())


@pytest.mark.timeout(900)
def test_it_is_measured() -> None:
    print(json.dumps(table(), indent=1))


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("no CUDA device: nothing is measured")
    text = json.dumps(table(), indent=1) + "\n"
    Path(sys.argv[1]).write_text(text) if len(sys.argv) > 1 else print(text, end="")
