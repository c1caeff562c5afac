"""The Augmenter on a CUDA device: the CPU's pictures, replayed to the bit, whatever the batch.

Also a script, for a machine with torch and numpy and nothing else (Kornia's operation is left out where Kornia is not):

    python -m tests.gpu.test_augment                  # every preset and operation, 60 random triples; a few minutes
    python -m tests.gpu.test_augment --triples 300
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from augment.augmenter import Augmenter
from augment.colour import apply_colour
from augment.colour_plan import plan_colour
from augment.draws import draw, program
from augment.policy import load
from augment.program import Colour
from tests.augment.company import SIZES, WAYS, available, policies, unequal
from tests.augment.making import photo

try:
    import pytest
except ImportError:  # as a script
    pytest = None  # type: ignore[assignment]
else:
    pytestmark = [
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    ]

KEYS = [f"key-{number}" for number in range(12)]
PRESETS = ("imagenet", "randaugment", "trivial", "simclr", "dsa", "detection", "augmix")
COLOURS = (
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "gamma",
    "solarize",
    "posterize",
    "invert",
    "grayscale",
    "channel_shuffle",
)


def parametrised(name: str, values: Any) -> Callable[[Any], Any]:
    """pytest's parameters where there is pytest."""
    return (lambda function: function) if pytest is None else pytest.mark.parametrize(name, values)


@parametrised("name", PRESETS)
def test_a_policy_on_the_device_is_the_policy_on_the_cpu(name: str) -> None:
    policy: Any = name if name == "dsa" else {"preset": name, "size": 32}
    images = photo(12, 40, 48)
    augmenter = Augmenter(policy, seed=5, backend="torch", output="float")
    draws = augmenter.draw(KEYS, (40, 48))
    here = augmenter.replay(images, draws).images
    there = augmenter.replay(images.cuda(), draws).images
    again = augmenter.replay(images.cuda(), draws).images
    assert there.device.type == "cuda"
    assert torch.equal(there, again)
    # Sums are taken in another order; a level that sits on a threshold may fall to its other side.
    assert float((here - there.cpu()).abs().gt(1e-3).float().mean()) < 2e-3


@parametrised("name", PRESETS)
def test_a_sample_on_the_device_does_not_depend_on_its_company(name: str) -> None:
    policy: Any = name if name == "dsa" else {"preset": name, "size": 24}
    for way in (way for way in WAYS if way.backend == "torch"):
        assert unequal(policy, SIZES[1], way, "cuda") == [], way.name


@parametrised("last", [False, True])
def test_the_fused_kernel_is_the_torch_path(last: bool) -> None:
    if importlib.util.find_spec("triton") is None:
        return
    fused = importlib.import_module("augment.fused_colour")
    settings = {"factor": [0.3, 1.8], "turns": [-0.5, 0.5], "gamma": [0.5, 2], "threshold": [0.2, 0.8], "bits": [2, 8]}
    chosen = ("brightness", "contrast", "saturation"), ("hue",), ("gamma",), ("solarize",), ("posterize",)
    words = {name: {word: settings[word]} for names, word in zip(chosen, settings, strict=True) for name in names}
    policy = load([{name: words.get(name, {}) | {"p": 0.7}} for name in COLOURS])
    images = photo(12, 61, 47).float() / 255
    segment = program(draw(policy, KEYS, (61, 47)))[0]
    assert isinstance(segment, Colour)
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.4])
    given = images.cuda().contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    plan = plan_colour(segment, 12, mean, std)
    assert fused.can_fuse(plan).all()
    found = fused.apply_fused(given, plan)
    assert found.stride() == given.stride()
    expected = apply_colour(images, segment, mean.tolist(), std.tolist())
    # a level on a threshold of solarize or posterize may fall to its other side
    assert float((found.cpu() - expected).abs().gt(1e-3).float().mean()) < 2e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--triples", type=int, default=60, help="random triples of operations")
    options = parser.parse_args()
    print(
        torch.cuda.get_device_name(),
        "torch",
        torch.__version__,
        "triton",
        importlib.util.find_spec("triton") is not None,
    )
    failures = 0
    checks: list[tuple[Callable[[Any], None], Any]] = [
        (test_the_fused_kernel_is_the_torch_path, last) for last in (False, True)
    ]
    checks += [(test_a_policy_on_the_device_is_the_policy_on_the_cpu, name) for name in PRESETS]
    for check, value in checks:
        try:
            check(value)
            print(f"ok      {check.__name__} [{value}]", flush=True)
        except Exception as error:
            failures += 1
            print(f"FAILED  {check.__name__} [{value}]: {type(error).__name__}: {str(error)[:600]}", flush=True)
    tried, failed = Counter[str](), Counter[str]()
    ways = [way for way in WAYS if way.backend == "torch"]
    for (name, policy), way, size in itertools.product(policies(options.triples), ways, SIZES[1:]):
        if not available(name, way, "cuda"):
            continue
        tried[way.name] += 1
        try:
            bad = unequal(policy, size, way, "cuda")
        except Exception as error:
            bad = [f"{type(error).__name__}: {str(error)[:300]}"]
        if bad:
            failed[way.name] += 1
            print(f"unequal: {name} on {size} by {way.name}: {dict(Counter(bad))}", flush=True)
    for way in ways:
        print(f"{way.name}: {tried[way.name]} cases alone and in company, {failed[way.name]} unequal")
    raise SystemExit(bool(failures or failed))


if __name__ == "__main__":
    main()
