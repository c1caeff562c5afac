"""What generated images are judged by says when the judge itself is broken."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("diffusers", reason="diffusers is not installed: limbeck[synth]")

from pipelines.artifacts.scoring import Scorer
from pipelines.artifacts.teacher import Teacher
from pipelines.errors import UserError
from synth.quality.features import ClipFeatures
from tests.synth.datadream.clips import tiny_clip
from tests.synth.making import tokenizer


class Overflowing(nn.Module):
    """Sound weights, and answers beyond float32."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images.flatten(1)[:, :2] + 3) * 1e38 * 10


def scorer(model: nn.Module) -> Scorer:
    clip = ClipFeatures(tiny_clip())
    teacher = Teacher(model, "net", ["cat", "dog"], 8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return Scorer(clip, clip.texts(tokenizer(), ["a cat", "a dog"]), teacher)


def test_a_teacher_whose_answers_are_no_numbers_is_blamed_and_not_the_images() -> None:
    with pytest.raises(UserError, match="the teacher is broken; lower squeeze"):
        scorer(Overflowing()).score(torch.rand(2, 3, 16, 16), 0, None)


def test_an_image_that_is_no_numbers_is_a_row() -> None:
    images = torch.rand(2, 3, 16, 16)
    images[1] = float("nan")
    rows, _ = scorer(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())).score(images, 0, None)
    assert [row["non_finite"] > 0 for row in rows] == [False, True]
