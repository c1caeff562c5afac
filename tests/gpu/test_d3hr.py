"""Inversion on a CUDA device at the real size of DiT-XL/2, 256 pixels, with random weights: batches agree, and what it costs.

    python -m pytest tests/gpu/test_d3hr.py -m gpu -s
    python -m tests.gpu.test_d3hr d3hr-inversion-GPU.json      # the table alone, written as JSON

Without a CUDA device it skips, or says so. Images a second are of inversion to level 600 in bfloat16; the share of the peak counts 237
GFLOP for a row of an evaluation (`docs/specs/d3hr.md`, speed) and sets them against a large square product of bfloat16 on this device.
No time is asserted.
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
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

from synth.backends import wrap
from synth.inversion import Inverter
from synth.requests import Request
from synth.sampling import Sampler
from synth.settings import InversionSettings, Settings

FLOP_PER_ROW = 237e9
BATCHES = (1, 64, 128)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def xl(dtype: torch.dtype) -> Any:
    """DiT-XL/2 with random weights and Stable Diffusion's autoencoder, narrow, which is not measured."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        transformer = DiTTransformer2DModel(
            sample_size=32,
            num_layers=28,
            patch_size=2,
            attention_head_dim=72,
            num_attention_heads=16,
            in_channels=4,
            out_channels=8,
            num_embeds_ada_norm=1000,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(32, 32, 64, 64),
            latent_channels=4,
            sample_size=256,
            scaling_factor=0.18215,
        )
    # As the published conversion has them: equal, so that they are shared.
    for block in transformer.transformer_blocks:
        block.norm1.emb.load_state_dict(transformer.transformer_blocks[0].norm1.emb.state_dict())
    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False)
    return wrap(DiTPipeline(transformer=transformer.to(dtype), vae=vae.to(dtype), scheduler=scheduler))


def latents(count: int) -> torch.Tensor:
    return torch.randn(count, 4, 32, 32, generator=torch.Generator().manual_seed(1)).cuda()


def seconds(run: Callable[[], Any], repeats: int = 3) -> float:
    """The shortest of `repeats` runs after one that is not counted, on the clock, with the device waited for."""
    times = []
    for _ in range(1 + repeats):
        torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def peak_flops() -> float:
    """FLOP a second of a product of 8192 x 8192 matrices in bfloat16."""
    side = 8192
    first, second = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 * 10 / seconds(lambda: [first @ second for _ in range(10)])


def measure() -> dict[str, Any]:
    """Images a second, share of the peak and memory, by guidance and batch; and of decoding from level 600 at 64."""
    backend, peak = xl(torch.bfloat16), peak_flops()
    numbers: dict[str, Any] = {"device": torch.cuda.get_device_name(), "peak_tflops": round(peak / 1e12, 1)}
    for scale in (1.0, 4.0):
        inverter = Inverter(backend, InversionSettings(guidance=scale))
        for batch in BATCHES:
            torch.cuda.reset_peak_memory_stats()
            start, labels = latents(batch), [7 * i % 1000 for i in range(batch)]
            taken = seconds(lambda: inverter.invert(start, labels))  # noqa: B023 (called at once)
            rows = inverter.evaluations() * batch * (2 if scale > 1 else 1)
            numbers[f"inversion_guidance_{scale:g}_batch_{batch}"] = {
                "images_per_second": round(batch / taken, 2),
                "share_of_peak": round(rows * FLOP_PER_ROW / taken / peak, 3),
                "memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
            }
    start = latents(64)
    requests = [Request(i, "k", i, latents=start[i], level=600) for i in range(64)]
    sampler = Sampler(backend, Settings(guidance=4.0), batch_size=64)
    numbers["decoding_guidance_4_batch_64_images_per_second"] = round(64 / seconds(lambda: sampler.batch(requests)), 2)
    return numbers


def test_a_batch_is_its_images_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    inverter = Inverter(xl(torch.float32), InversionSettings(steps=10, level=600, guidance=4.0))
    start, labels = latents(4), [3, 207, 999, 3]
    together = inverter.invert(start, labels)[600]
    alone = torch.cat([inverter.invert(start[i : i + 1], labels[i : i + 1])[600] for i in range(4)])
    assert float((together - alone).abs().max()) < 1e-3
    assert float((together[0] - together[3]).abs().mean()) > 1e-2
    assert torch.equal(inverter.invert(start, labels)[600], together)


def test_bfloat16_follows_float32() -> None:
    inversion = InversionSettings(steps=10, level=600)
    start, labels = latents(4), [3, 207, 999, 3]
    exact, half = (Inverter(xl(d), inversion).invert(start, labels)[600] for d in (torch.float32, torch.bfloat16))
    assert float((exact - half).square().mean().sqrt() / exact.square().mean().sqrt()) < 0.05


@pytest.mark.timeout(900)
def test_it_is_measured() -> None:
    numbers = measure()
    print(json.dumps(numbers, indent=1, sort_keys=True))
    assert all(0 < row["share_of_peak"] < 1 for row in numbers.values() if isinstance(row, dict))


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("no CUDA device: nothing is measured")
    text = json.dumps(measure(), indent=1, sort_keys=True) + "\n"
    Path(sys.argv[1]).write_text(text) if len(sys.argv) > 1 else print(text, end="")
