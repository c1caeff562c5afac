"""`Admission`: the bounds that generated images must meet, judged from stored scores alone, and where a bound comes from. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from augment.values import require_values
from synth.errors import SynthError

Columns = dict[str, list[float]]
Reason = Literal["off_prompt", "off_source", "teacher_disagrees"]

#: The published bounds of the text cosine of CLIP ViT-B/32; another CLIP has another scale.
REFERENCE_BOUNDS: Mapping[str, float] = {"imagenet_lt": 0.30, "iwildcam": 0.25}


@dataclass(frozen=True, kw_only=True)
class Admission:
    """The least scores of an image that is trained on; None is a bound that is off. A score at its bound passes, NaN never does.

    Judged in this order, an image's first failure is its reason: `min_text_cosine` (`off_prompt`), `min_source_cosine` (`off_source`),
    `min_teacher_confidence` (`teacher_disagrees`). SynthError for a cosine outside [-1, 1] or a confidence outside [0, 1].
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    min_text_cosine: float | None = None
    min_source_cosine: float | None = None
    min_teacher_confidence: float | None = None

    def __post_init__(self) -> None:
        require_values(self, SynthError)
        for name, low in (("min_text_cosine", -1), ("min_source_cosine", -1), ("min_teacher_confidence", 0)):
            bound = getattr(self, name)
            if bound is not None and not low <= bound <= 1:
                raise SynthError(f"{name} takes a number from {low} to 1, got {bound}")

    def reason(self, scores: Mapping[str, float | None]) -> Reason | None:
        """Judge one image: None where it is admitted, else why not; SynthError where a bound's score was not measured."""
        judged: tuple[tuple[str, Reason], ...] = (
            ("text_cosine", "off_prompt"),
            ("source_cosine", "off_source"),
            ("teacher_confidence", "teacher_disagrees"),
        )
        for name, reason in judged:
            bound, score = getattr(self, f"min_{name}"), scores.get(name)
            if bound is None:
                continue
            if score is None:
                raise SynthError(f"min_{name} needs the score {name}, which was not measured: score it or set None")
            if not score >= bound:
                return reason
        return None


def calibrated(real: Sequence[float], share: float = 0.1) -> float:
    """Return the bound that all but at most the `share`, in [0, 1), of the `real` images' own scores meet.

    A generated image is then held to what real images of its kind reach under this CLIP. SynthError without a finite score.
    """
    if not 0 <= share < 1:
        raise SynthError(f"a share of real images is from 0 to below 1, got {share}")
    scores = sorted(score for score in real if math.isfinite(score))
    if not scores:
        raise SynthError("no real image has a finite score: a bound cannot be taken from them")
    return scores[math.floor(share * len(scores) + 1e-9)]
