"""The one-kernel path of colour: in Triton's interpreter everywhere, on the device where there is one."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch

from augment.colour import apply_colour
from augment.colour_plan import plan_colour
from augment.program import Colour
from tests.augment.test_colour_plan import make_images, make_step

pytest.importorskip("triton", reason="Triton is not installed: it comes with torch for CUDA")
CHAINS = [
    ("jitter", "grayscale"),
    ("jitter", "solarize", "gamma", "posterize", "contrast", "channel_shuffle", "contrast_mean"),
    ("contrast", "invert", "saturation", "contrast", "brightness_shift"),
]
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """augment.fused_colour with kernels that run on the host."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.delitem(sys.modules, "augment.fused_colour", raising=False)
    yield importlib.import_module("augment.fused_colour")
    sys.modules.pop("augment.fused_colour", None)


def _colour(names: tuple[str, ...], seed: int, count: int) -> Colour:
    random = np.random.default_rng(seed)
    return Colour(tuple(make_step(name, random, count, 0.7) for name in names))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("names", CHAINS)
def test_the_kernel_is_the_torch_path_in_either_memory_format(
    interpreted: ModuleType, names: tuple[str, ...], last: bool
) -> None:
    images = make_images(np.random.default_rng(1), 4, 40, 37)
    colour = _colour(names, 2, 4)
    given = images.contiguous(memory_format=torch.channels_last) if last else images
    plan = plan_colour(colour, 4, MEAN, STD)
    assert interpreted.can_fuse(plan).all()
    found = interpreted.apply_fused(given, plan)
    assert found.stride() == given.stride()
    torch.testing.assert_close(found, apply_colour(images, colour, MEAN, STD), atol=2e-5, rtol=1e-5)


def test_histograms_and_extremes_are_not_the_kernels(interpreted: ModuleType) -> None:
    for name in ("equalize", "autocontrast"):
        assert not interpreted.can_fuse(plan_colour(_colour((name, "gamma"), 0, 4), 4)).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("names", CHAINS)
def test_the_device_gives_what_the_host_gives_and_the_same_bits_for_a_part(names: tuple[str, ...]) -> None:
    images = make_images(np.random.default_rng(1), 16, 65, 63)
    colour = _colour(names, 2, 16)
    whole = apply_colour(images.cuda(), colour, MEAN, STD)
    torch.testing.assert_close(whole.cpu(), apply_colour(images, colour, MEAN, STD), atol=2e-5, rtol=1e-5)
    again = apply_colour(images.cuda(), colour, MEAN, STD)
    assert torch.equal(again, whole)
    steps = tuple(
        type(step)(step.name, step.on[:5], {key: value[:5] for key, value in step.values.items()})
        for step in colour.steps
    )
    assert torch.equal(apply_colour(images[:5].cuda(), Colour(steps), MEAN, STD), whole[:5])
