"""Scores of images at guidance levels, the bounds on them, and the tries that they lead to."""

from __future__ import annotations

import math

import pytest
import torch

from synth.discl.admission import Admission, calibrated
from synth.discl.retries import Attempts, Cell, expected_tries
from synth.discl.scoring import source_cosine, spectrum_scores, text_cosine
from synth.errors import SynthError


def test_images_are_scored_by_their_own_class_source_and_label() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [float("nan"), 1.0]])
    texts = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    scores = spectrum_scores(features, texts, [0, 1, 1], texts, [1, 0, 0], torch.tensor([[0.0, 0.0]] * 3))
    assert scores["text_cosine"][:2] == pytest.approx([1.0, 0.5**0.5])
    assert scores["source_cosine"][:2] == pytest.approx([0.5**0.5, 0.0])
    assert scores["teacher_confidence"] == pytest.approx([0.5] * 3)
    assert math.isnan(scores["text_cosine"][2])
    assert math.isnan(scores["source_cosine"][2])
    assert text_cosine(features[:2], texts, [0, 1]) == scores["text_cosine"][:2]
    with pytest.raises(SynthError, match="2 owners"):
        source_cosine(features, texts, [0, 0])


def test_the_first_bound_that_is_missed_is_the_reason() -> None:
    bounds = Admission(min_text_cosine=0.2, min_source_cosine=0.5, min_teacher_confidence=0.1)
    fit = {"text_cosine": 0.2, "source_cosine": 0.5, "teacher_confidence": 0.1}
    assert bounds.reason(fit) is None
    assert bounds.reason({**fit, "text_cosine": 0.1, "source_cosine": 0.1}) == "off_prompt"
    assert bounds.reason({**fit, "source_cosine": 0.49}) == "off_source"
    assert bounds.reason({**fit, "teacher_confidence": 0.0}) == "teacher_disagrees"
    assert Admission().reason({}) is None
    with pytest.raises(SynthError, match="min_source_cosine needs the score source_cosine"):
        bounds.reason({"text_cosine": 0.3})
    with pytest.raises(SynthError, match="min_teacher_confidence takes a number from 0 to 1"):
        Admission(min_teacher_confidence=-0.5)


def test_a_calibrated_bound_is_met_by_all_but_a_share_of_real_images() -> None:
    real = [0.9, 0.1, 0.5, 0.3, 0.7, 0.2, 0.8, 0.4, 0.6, 1.0]
    assert calibrated(real, 0.0) == 0.1
    assert calibrated(real, 0.1) == 0.2
    assert calibrated(real, 0.29) == 0.3
    for share in (0.1, 0.29, 0.3, 0.5, 0.95):
        bound = calibrated(real, share)
        assert sum(score < bound for score in real) <= share * len(real) + 1e-9
    assert calibrated([0.2, float("nan")]) == 0.2
    for wrong in ([], [float("nan")]):
        with pytest.raises(SynthError, match="no real image"):
            calibrated(wrong)
    with pytest.raises(SynthError, match="below 1"):
        calibrated(real, 1.0)


def test_levels_that_were_tried_equally_often_are_tried_together() -> None:
    attempts = Attempts({Cell("k", 0, level): 0.5 for level in (0, 10, 30)}, limit=3)
    for level, score in ((0, 0.4), (10, 0.6), (30, 0.1)):
        attempts.record(Cell("k", 0, level), score)
    assert [(one.attempt, one.levels) for one in attempts.pending()] == [(1, (0, 30))]
    attempts.record(Cell("k", 0, 30), float("nan"))
    assert [(one.attempt, one.levels) for one in attempts.pending()] == [(1, (0,)), (2, (30,))]
    attempts.record(Cell("k", 0, 30), 0.1)
    assert attempts.best(Cell("k", 0, 30)) == 0  # the first of equals, and never the broken one
    assert attempts.best(Cell("k", 0, 10)) == 0
    with pytest.raises(SynthError, match="no try of image 0 of k at level 10"):
        attempts.record(Cell("k", 0, 10), 0.9)
    with pytest.raises(SynthError, match="no try"):
        attempts.record(Cell("k", 0, 70), 0.9)


def test_tries_come_to_what_is_expected() -> None:
    source = torch.Generator().manual_seed(5)
    cells = [Cell(f"key{i}", 0, 0) for i in range(2000)]
    attempts = Attempts(dict.fromkeys(cells, 0.535))
    while wave := attempts.pending():
        for one, score in zip(wave, torch.rand(len(wave), generator=source).tolist(), strict=True):
            attempts.record(Cell(one.key, one.ordinal, 0), score)
    counts = [len(attempts.scores(cell)) for cell in cells]
    assert max(counts) == 6
    assert sum(counts) / len(counts) == pytest.approx(expected_tries(0.465), abs=0.1)


def test_tries_are_bounded() -> None:
    with pytest.raises(SynthError, match="once at least"):
        Attempts({}, limit=0)
    with pytest.raises(SynthError, match="from 0 to 9999"):
        Attempts({Cell("k", 10_000, 0): 0.3})
    assert Attempts({}).pending() == []
