"""Scores of generated images against values by hand, and decisions from scores alone."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pyarrow as pa
import pytest
import torch

from synth.errors import SynthError
from synth.filtering.columns import Scores
from synth.filtering.deciding import Thresholds, decide
from synth.filtering.scoring import artefacts, memorised, prompt_fit, teacher_fit, twins

OFF = Thresholds(max_non_finite=None)


def angles(*degrees: float) -> torch.Tensor:
    """Unit vectors in the plane: cosines are those of differences."""
    turned = torch.tensor(degrees).double().deg2rad()
    return torch.stack((turned.cos(), turned.sin()), 1)


def cos(degrees: float) -> float:
    return math.cos(math.radians(degrees))


def test_artefacts_are_counted_by_value_and_by_pixel() -> None:
    images = torch.full((4, 3, 2, 2), 0.5)
    images[0, :, 0] = 1.0  # half of the pixels white, each channel half at 1 and half at 0.5
    images[1, 0, 0, 0], images[1, 2, 1, 1] = torch.nan, torch.inf
    images[2, 0], images[2, 1] = 0.0, 2.0  # red and green at the ends, blue not
    images[3] = torch.tensor([0.001, 0.003, 0.998, 0.9985]).view(2, 2)  # in 8 bits 0, 1, 254, 255
    found = artefacts(images)
    assert found["non_finite"] == pytest.approx([0, 2 / 12, 0, 0])
    assert found["saturated"] == [0.5, 0, 0, 0.5]
    assert found["spread"][0] == pytest.approx(0.25)
    assert found["spread"][2] == 0


def test_a_flat_colour_is_blank_whatever_its_colour() -> None:
    red = torch.tensor([0.9, 0.1, 0.1]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    scores = Scores.of({"label": [0], **artefacts(red)})
    assert decide(scores, replace(OFF, min_spread=0.01)) == ["blank"]


def test_prompt_fit_is_a_plain_cosine_and_its_lead_over_the_best_other_class() -> None:
    found = prompt_fit(angles(10, 80, 170) * 7, angles(0, 90, 120) * 3, [0, 0, 2])
    assert found["clip_cosine"] == pytest.approx([cos(10), cos(80), cos(50)])
    assert found["clip_margin"] == pytest.approx([cos(10) - cos(80), cos(80) - cos(10), cos(50) - cos(80)])
    assert prompt_fit(angles(60), angles(0), [0])["clip_margin"] == pytest.approx([1.5])


def test_teacher_fit_is_softmax_of_the_own_class_entropy_in_nats_and_the_first_of_equals() -> None:
    logits = torch.tensor([[math.log(3), 0.0], [5.0, 5.0], [0.0, 200.0]])
    found = teacher_fit(logits, [0, 1, 1])
    assert found["teacher_confidence"] == pytest.approx([0.75, 0.5, 1])
    assert found["teacher_entropy"] == pytest.approx([-0.75 * math.log(0.75) - 0.25 * math.log(0.25), math.log(2), 0])
    assert found["teacher_label"] == [0, 0, 1]


def test_a_copy_of_a_training_image_is_named_with_its_pixels_difference() -> None:
    training_images = [torch.zeros(3, 4, 4), torch.full((3, 8, 8), 0.5), torch.ones(3, 4, 4)]
    images = torch.full((2, 3, 4, 4), 0.5)
    images[1] = 0.7
    found = memorised(angles(31, 90), angles(0, 30, 90), images, training_images)
    assert found["train_index"] == [1, 2]
    assert found["train_cosine"] == pytest.approx([cos(1), 1])
    assert found["train_rmse"] == pytest.approx([0, 0.3])
    assert memorised(angles(45), angles(0, 90))["train_index"] == [0]
    assert "train_rmse" not in memorised(angles(45), angles(0, 90))


def test_twins_are_earlier_images_of_the_same_class() -> None:
    found = twins(angles(0, 1, 2, 100, 0), [0, 1, 0, 0, 1], floor=0.99)
    assert found["earlier_cosine"] == pytest.approx([-1, -1, cos(2), cos(98), cos(1)])
    assert found["twin_index"] == [[], [], [0], [], [1]]
    assert found["twin_cosine"][4] == pytest.approx([cos(1)])


def test_a_twin_of_a_dropped_image_may_stay() -> None:
    scores = Scores.of({"label": [0] * 4, "clip_cosine": [0.9, 0.9, 0.9, 0.1], **twins(angles(0, 8, 16, 40), [0] * 4)})
    bound = replace(OFF, max_twin_cosine=cos(10))
    assert decide(scores, bound) == [
        None,
        "near_duplicate",
        None,
        None,
    ]  # 16 is 8 from what was dropped and 16 from what was kept
    first = replace(scores, clip_cosine=[0.1, 0.9, 0.9, 0.9])
    assert decide(first, replace(bound, min_clip_cosine=0.5)) == ["off_prompt", None, "near_duplicate", None]


def test_scores_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    source = torch.Generator().manual_seed(0)
    features, texts = torch.randn(20, 3, generator=source), torch.randn(4, 3, generator=source)
    images, labels = torch.rand(20, 3, 4, 4, generator=source), [n % 4 for n in range(20)]
    logits = torch.randn(20, 4, generator=source)

    def of(rows: slice) -> dict[str, list]:
        return {
            **artefacts(images[rows]),
            **prompt_fit(features[rows], texts, labels[rows]),
            **teacher_fit(logits[rows], labels[rows]),
            **memorised(features[rows], texts, images[rows], images[:4]),
        }

    whole, near = of(slice(0, 20)), twins(features, labels, 0.5)
    assert any(near["twin_index"])
    monkeypatch.setattr("synth.quality.arrays.ROWS", 2)
    again = twins(features, labels, 0.5)
    assert again["twin_index"] == near["twin_index"]
    for start, stop in ((0, 1), (1, 8), (8, 20)):
        for name, column in of(slice(start, stop)).items():
            assert column == pytest.approx(whole[name][start:stop], abs=1e-12), name


EVERY = Scores(
    label=[0, 1],
    non_finite=[0.0, 0.1],
    spread=[0.2, 0.1],
    saturated=[0.1, 0.2],
    clip_cosine=[0.3, 0.2],
    clip_margin=[0.1, 0.0],
    teacher_confidence=[0.9, 0.8],
    teacher_entropy=[0.1, 0.2],
    teacher_label=[0, 0],
    train_cosine=[0.8, 0.9],
    train_index=[3, 4],
    train_rmse=[0.2, 0.1],
    earlier_cosine=[-1.0, -1.0],
    twin_index=[[], []],
    twin_cosine=[[], []],
    twin_floor=[0.9, 0.9],
)


@pytest.mark.parametrize(
    ("name", "bound", "reason"),
    [
        ("max_non_finite", 0.0, "not_finite"),
        ("min_spread", 0.2, "blank"),
        ("max_saturated", 0.1, "saturated"),
        ("min_clip_cosine", 0.3, "off_prompt"),
        ("min_clip_margin", 0.1, "off_prompt"),
        ("min_teacher_confidence", 0.9, "teacher_disagrees"),
        ("max_teacher_entropy", 0.1, "teacher_disagrees"),
        ("teacher_agrees", True, "teacher_disagrees"),
        ("max_train_cosine", 0.8, "memorised"),
        ("min_train_rmse", 0.2, "memorised"),
    ],
)
def test_a_value_at_its_threshold_is_kept_and_what_is_beyond_is_dropped_with_a_reason(name, bound, reason) -> None:
    assert decide(EVERY, replace(OFF, **{name: bound})) == [None, reason]


def test_nothing_is_dropped_where_every_filter_is_off() -> None:
    assert decide(EVERY, OFF) == [None, None]
    assert decide(Scores(label=[0, 1]), OFF) == [None, None]
    assert decide(EVERY, replace(OFF, teacher_agrees=False)) == [None, None]


def test_the_first_failure_in_order_is_the_reason() -> None:
    strict = {"min_spread": 9.0, "max_saturated": -1.0, "min_clip_cosine": 9.0, "teacher_agrees": True}
    strict |= {"max_train_cosine": -2.0}
    expected = ["blank", "saturated", "off_prompt", "teacher_disagrees", "memorised"]
    found = []
    for name in list(strict):
        found.append(decide(EVERY, replace(OFF, **strict))[1])
        del strict[name]
    assert found == expected


def test_an_image_that_is_not_finite_is_dropped_by_default_and_by_any_filter_that_is_on() -> None:
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images[1, 0, 0, 0] = torch.nan
    broken = angles(0, 5)
    broken[1] = torch.nan
    labels = [0, 0]
    scores = Scores.of(
        {
            "label": labels,
            **artefacts(images),
            **prompt_fit(broken, angles(0, 90), labels),
            **teacher_fit(broken, labels),
            **memorised(broken, angles(50), images, torch.zeros(1, 3, 4, 4)),
            **twins(torch.cat((broken, angles(0)))[:2], labels),
        }
    )
    assert decide(scores, Thresholds()) == [None, "not_finite"]
    bounds = {
        "min_clip_cosine": -1.0,
        "min_clip_margin": -2.0,
        "min_teacher_confidence": 0.0,
        "max_teacher_entropy": 9.0,
    }
    bounds |= {
        "max_train_cosine": 1.0,
        "min_train_rmse": 0.0,
        "max_twin_cosine": 1.0,
        "keep_share": 1.0,
        "teacher_agrees": True,
    }
    for name, bound in bounds.items():
        kept, why = decide(scores, replace(OFF, **{name: bound}))
        assert (kept, why is None) == (None, False), name


def test_a_broken_image_does_not_hide_the_twins_behind_it() -> None:
    features = angles(0, 5, 0)
    features[1] = torch.nan
    found = twins(features, [0, 0, 0])
    assert found["earlier_cosine"][2] == pytest.approx(1)
    assert found["twin_index"][2] == [0]


def test_a_share_of_each_class_is_kept_by_falling_margin_and_the_earlier_of_equals() -> None:
    scores = Scores(label=[0, 1, 0, 0, 0, 1, 1], clip_margin=[0.1, 0.3, 0.5, 0.5, 0.5, 0.2, 0.4])
    assert decide(scores, replace(OFF, keep_share=0.5)) == [
        "outranked",
        "outranked",
        None,
        None,
        "outranked",
        "outranked",
        None,
    ]
    assert decide(scores, replace(OFF, keep_share=0.01)).count(None) == 2  # one of each class
    hundred = Scores(label=[0] * 100, clip_margin=[0.0] * 100)
    assert [n for n, why in enumerate(decide(hundred, replace(OFF, keep_share=0.29))) if why is None] == list(range(29))


def test_the_share_is_of_what_was_generated_so_other_filters_do_not_shrink_it() -> None:
    scores = Scores(label=[0] * 4, clip_margin=[0.4, 0.3, 0.2, 0.1], spread=[0.0, 0.2, 0.2, 0.2])
    assert decide(scores, replace(OFF, keep_share=0.5, min_spread=0.1)) == ["blank", None, None, "outranked"]


def test_scores_pass_through_a_table_unchanged() -> None:
    table = pa.table({**EVERY.columns(), "key": ["a", "b"]})
    assert Scores.of(table.to_pydict()).columns() == EVERY.columns()
    assert {field.name for field in fields(Scores)} == set(EVERY.columns())


def test_what_was_not_measured_or_stored_is_asked_for_in_a_sentence() -> None:
    with pytest.raises(SynthError, match="min_clip_cosine needs the column clip_cosine, which was not measured"):
        decide(Scores(label=[0]), replace(OFF, min_clip_cosine=0.2))
    with pytest.raises(SynthError, match=r"max_twin_cosine is 0.8, but only pairs from 0.9 were stored"):
        decide(EVERY, replace(OFF, max_twin_cosine=0.8))
    with pytest.raises(SynthError, match="keep_share takes a number above 0"):
        Thresholds(keep_share=0.0)
    with pytest.raises(SynthError, match="spread has 1 rows for 2 images"):
        Scores(label=[0, 1], spread=[0.1])
    with pytest.raises(SynthError, match="labels take 0 to 1, got 0 to 2"):
        prompt_fit(angles(0, 1), angles(0, 90), [0, 2])
    with pytest.raises(SynthError, match="for each of 3 labels"):
        twins(angles(0, 1), [0, 1, 2])
