"""A policy that cannot be meant is refused before anything runs, in one sentence that names the word and the value."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from augment.draws import draw
from augment.errors import PolicyError
from augment.policy import load


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("imagnet", "there is no preset 'imagnet'; did you mean imagenet?"),
        ({"preset": "imagenet", "sise": 3}, "the preset imagenet does not take 'sise'; it takes size, scale, color"),
        (
            {"preset": "randaugment", "magnitude": 31},
            "randaugment.magnitude takes 0 <= low <= high <= 30, got [31, 31]",
        ),
        ([{"horizontal_flp": {}}], "there is no operation 'horizontal_flp'; did you mean horizontal_flip?"),
        ([{"rotate": {"degree": 3}}], "rotate does not take 'degree'; did you mean degrees?"),
        (["rotate"], "rotate needs degrees"),
        ([{"rotate": {"degrees": [20, 10]}}], "rotate.degrees takes -360 <= low <= high <= 360, got [20, 10]"),
        ([{"solarize": {"threshold": 300}}], "solarize.threshold takes 0 <= low <= high <= 1, got [300, 300]"),
        ([{"resized_crop": {"size": 0}}], "resized_crop.size takes pixels, one number or [height, width], got 0"),
        ([{"resized_crop": {"size": 8, "p": 0.5}}], "resized_crop changes the size of an image, so it applies to all"),
        ([{"horizontal_flip": {"p": 2}}], "horizontal_flip.p takes 0 <= low <= high <= 1, got [2, 2]"),
        ([{"horizontal_flip": {"p": [0.1, 0.5]}}], "horizontal_flip.p takes one probability"),
        ([{"one_of": []}], "one_of takes a list of operations, got []"),
        ([{"one_of": ["invert"], "weights": [1, 2]}], "one_of.weights takes 1 numbers"),
        ([{"one_of": ["invert"], "from": []}], "one_of does not take 'from'; beside it may stand weights, p"),
        (
            [{"choose": 3, "from": ["invert"], "replace": False}],
            "choose without replacement takes no weights and at most 1",
        ),
        ([{"one_of": [{"one_of": ["invert"]}]}], "a group holds operations, not another group: one_of"),
        ([{"one_of": [{"resize": {"size": 8}}]}], "resize changes the size of an image, so it cannot be in a group"),
        ([{"gaussian_blur": {"kernel": 4}}], "gaussian_blur.kernel takes odd pixels or a share between 0 and 1, got 4"),
        ([{"brightness": {"factor": {"around": 1.5}}}], "brightness.factor takes 0 <= low <= high, got [-0.5, 2.5]"),
        ([{"hue": {"turns": {"start": 0, "end": 0.1, "until": 2}}}], "hue.turns.until takes a share of training"),
        ({"operations": [], "fil": 1}, "a policy does not take 'fil'"),
        ({"operations": [], "fill": 114}, "fill takes a colour in 0 to 1, got 114"),
        (7, "a policy is a preset's name, a list of operations or a mapping with operations, got 7"),
    ],
)
def test_a_wrong_policy_is_refused_in_one_sentence(spec: Any, words: str) -> None:
    with pytest.raises(PolicyError) as raised:
        load(spec)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_empty_batch_and_a_crop_that_does_not_fit_are_refused() -> None:
    with pytest.raises(PolicyError, match="the batch is empty"):
        draw(load("none"), [], (8, 8))
    with pytest.raises(PolicyError, match=r"random_crop of \(9, 9\) does not fit an image of \(8, 8\) padded by 0"):
        draw(load([{"random_crop": {"size": 9}}]), ["a"], (8, 8))
    with pytest.raises(PolicyError, match="progress takes the share of training done, 0 to 1, got 3"):
        draw(load("none"), ["a"], (8, 8), progress=3)


def test_repeated_operations_have_names_of_their_own() -> None:
    policy = load(["invert", "invert", {"one_of": ["invert", "invert"]}])
    assert [leaf.path for leaf in policy.leaves] == ["invert", "invert#2", "one_of.invert", "one_of.invert#2"]


def test_checking_a_policy_loads_neither_torch_nor_kornia() -> None:
    code = "import sys, augment.policy, augment.draws; augment.policy.load('simclr'); print({'torch', 'kornia'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
