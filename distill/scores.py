"""Scores that set an accuracy against its controls (DD-Ranking, Li et al. 2025). Accuracies are fractions in [0, 1].

For `evaluate@distilled`, which prints them once the sets of several methods stand side by side (coreset and dm bring the first);
until then only the fidelity tests call them.

The released scorer feeds percentages to the exponential, which saturates it (HLR 30, IOR 5 gives -0.157); here a value
outside [0, 1] raises `DistillError`.
"""

from __future__ import annotations

import math

from distill.errors import DistillError


def hard_label_recovery(full_hard: float, distilled_hard: float) -> float:
    """Compute HLR, what is lost against the full set when both are trained on hard labels; smaller is better."""
    _require_fractions(full_hard, distilled_hard)
    return full_hard - distilled_hard


def improvement_over_random(distilled: float, random_real: float) -> float:
    """Compute IOR, what distilled images gain over as many random real ones under the same protocol; larger is better."""
    _require_fractions(distilled, random_real)
    return distilled - random_real


def label_robust_score(recovery: float, improvement: float, weight: float = 0.5) -> float:
    """Compute LRS in [0, 1] from HLR and IOR: alpha = w IOR - (1 - w) HLR, scaled as (e^alpha - e^-1) / (e - e^-1)."""
    for value in (recovery, improvement):
        if not -1 <= value <= 1:
            raise DistillError(f"HLR and IOR are differences of fractions, got {value}; divide percentages by 100")
    alpha = weight * improvement - (1 - weight) * recovery
    return (math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1))


def _require_fractions(*accuracies: float) -> None:
    for accuracy in accuracies:
        if not 0 <= accuracy <= 1:
            raise DistillError(f"an accuracy is a fraction from 0 to 1, got {accuracy}; divide percentages by 100")
