"""The Augmenter on a CUDA device: the same pictures as on the CPU, replayed to the bit, whatever the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from augment.augmenter import Augmenter
from tests.augment.making import photo

KEYS = [f"key-{number}" for number in range(12)]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("name", ["imagenet", "randaugment", "trivial", "simclr", "dsa", "detection", "augmix"])
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
