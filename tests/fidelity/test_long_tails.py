"""Fidelity of the losses of long tails (`docs/specs/long_tails.md`, losses)."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from distill.errors import DistillError
from distill.losses import AdjustedLogits, shift_of

LOGITS, COUNTS = (2.0, 1.0, 0.0), (1000, 100, 10)
CE, BS = (0.4076, 1.4076, 2.4076), (0.0374, 3.3400, 6.6426)


def published(logits: tuple[float, ...], counts: tuple[int, ...], label: int, tau: float) -> float:
    """-log of n_y^tau e^z_y over the sum of n_c^tau e^z_c."""
    weights = [count**tau * math.exp(logit) for logit, count in zip(logits, counts, strict=True)]
    return -math.log(weights[label] / sum(weights))


@pytest.mark.parametrize("label", [0, 1, 2])
def test_f41_balanced_softmax_adds_the_logarithm_of_the_counts(label: int) -> None:
    logits, target = torch.tensor([LOGITS]), torch.tensor([label])
    assert shift_of("cross_entropy", 1.0, COUNTS) is None
    assert float(F.cross_entropy(logits, target)) == pytest.approx(CE[label], abs=5e-5)
    shift = shift_of("balanced_softmax", 5.0, COUNTS)
    assert shift is not None
    assert float(F.cross_entropy(logits + shift, target)) == pytest.approx(BS[label], abs=5e-5)
    assert published(LOGITS, COUNTS, label, 1.0) == pytest.approx(BS[label], abs=5e-5)


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_the_logit_adjusted_loss_weighs_the_logarithm_by_tau(tau: float) -> None:
    shift = shift_of("logit_adjusted", tau, COUNTS)
    assert shift is not None
    for label in range(3):
        loss = float(F.cross_entropy(torch.tensor([LOGITS]) + shift, torch.tensor([label])))
        assert loss == pytest.approx(published(LOGITS, COUNTS, label, tau), abs=1e-5)


def test_adjusting_afterwards_takes_tau_log_pi_off_the_answers() -> None:
    adjusted = AdjustedLogits(torch.nn.Identity(), COUNTS, 0.5)(torch.tensor([LOGITS]))
    total = sum(COUNTS)
    expected = [z - 0.5 * math.log(count / total) for z, count in zip(LOGITS, COUNTS, strict=True)]
    assert adjusted[0].tolist() == pytest.approx(expected, abs=1e-6)
    # A class with a hundredth of the images is ahead as soon as its logit is less than log 100 behind.
    assert AdjustedLogits(torch.nn.Identity(), COUNTS, 1.0)(torch.tensor([LOGITS])).argmax() == 2


def test_a_class_without_images_has_no_share() -> None:
    with pytest.raises(DistillError, match="class 1 has no training image"):
        shift_of("balanced_softmax", 1.0, (3, 0))
