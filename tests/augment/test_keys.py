"""What is one sample: keys as strings, as numbers of every type, in arrays, tensors and lists; and what is no key."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from augment.augmenter import Augmenter
from augment.draws import draw
from augment.errors import PolicyError
from augment.mixing import Mixing, MixTable, draw_mix
from augment.mosaic import MosaicTable, draw_mosaic
from augment.policy import load
from augment.seeds import operation_seed

POLICY = load("imagenet")
SIZE = (32, 32)
THREES: dict[str, Any] = {
    "a list": [3, 5],
    "floats, as a table with a hole gives them": [3.0, 5.0],
    "numpy's ints in a list": [np.int64(3), np.int32(5)],
    "numpy's floats in a list": [np.float32(3), np.float64(5)],
    "an array of int64": np.array([3, 5]),
    "an array of uint8": np.array([3, 5], np.uint8),
    "an array of floats": np.array([3.0, 5.0]),
    "an array of objects": np.array([3, 5.0], object),
    "a tensor": torch.tensor([3, 5]),
    "a tensor of floats": torch.tensor([3.0, 5.0]),
    "tensors in a tuple": (torch.tensor(3), torch.tensor(5)),
}
WORDS: dict[str, Any] = {
    "a list": ["3", "b"],
    "numpy's strings in a list": [np.str_("3"), np.str_("b")],
    "an array": np.array(["3", "b"]),
    "a tuple": ("3", "b"),
}


@pytest.mark.parametrize("kind", THREES)
def test_a_number_is_the_same_key_whatever_holds_it(kind: str) -> None:
    assert draw(POLICY, THREES[kind], SIZE).rows() == draw(POLICY, [3, 5], SIZE).rows()


@pytest.mark.parametrize("kind", WORDS)
def test_a_string_is_the_same_key_whatever_holds_it_and_another_than_the_number_in_it(kind: str) -> None:
    rows = draw(POLICY, WORDS[kind], SIZE).rows()
    assert rows == draw(POLICY, ["3", "b"], SIZE).rows()
    assert rows[0] != draw(POLICY, [3], SIZE).row(0)


def test_numbers_that_differ_are_different_keys_also_between_whole_ones_and_beyond_64_bits() -> None:
    keys: list[Any] = [0, -1, 0.2, 0.7, 1, 1.2, 1.9, 2**63, 2**70, 2**70 + 1, -(2**70), 1e300, "0", "1"]
    rows = [json.dumps(row) for row in draw(POLICY, keys, SIZE).rows()]
    assert len(set(rows)) == len(keys)


@pytest.mark.parametrize(
    "keys",
    [
        [1, float("nan")],
        np.array([1, np.nan]),
        [1, float("inf")],
        [1, None],
        [1, b"a"],
        np.array([b"a"]),
        [[1, 2]],
        "ab",
        b"ab",
        7,
    ],
    ids=repr,
)
def test_what_is_no_key_is_refused_in_a_sentence(keys: Any) -> None:
    for run in (
        lambda: draw(POLICY, keys, SIZE),
        lambda: draw_mix(Mixing("mixup"), keys, SIZE),
        lambda: draw_mosaic(keys, SIZE),
    ):
        with pytest.raises(PolicyError, match="key"):
            run()


@pytest.mark.parametrize("kind", THREES)
def test_tables_of_mixing_and_mosaic_hold_keys_that_json_holds_and_find_them_again(kind: str) -> None:
    keys = THREES[kind]
    mixed, laid = draw_mix(Mixing("mixup"), keys, SIZE), draw_mosaic(keys, SIZE)
    rows = [json.loads(json.dumps(mixed.row(index))) for index in range(2)]
    assert MixTable.from_rows([5, 3], rows[::-1]).partner.tolist() == [1, 0]
    tiles = [json.loads(json.dumps(laid.row(index))) for index in range(2)]
    assert np.array_equal(MosaicTable.from_rows(keys, tiles).tiles, laid.tiles)
    assert mixed.row(0) == draw_mix(Mixing("mixup"), [3, 5], SIZE).row(0)


def test_seeds_take_numpys_numbers_too() -> None:
    assert (
        operation_seed(1, np.int64(3), "crop")
        == operation_seed(1, 3, "crop")
        == operation_seed(np.int64(1), 3.0, "crop")
    )  # type: ignore[arg-type]


def test_seed_epoch_and_view_are_their_numbers() -> None:
    given: list[Any] = [1, 1.0, np.int64(1), np.float32(1), torch.tensor(1)]
    rows = [draw(POLICY, [3], SIZE, seed=one, epoch=one, view=one).rows() for one in given]
    assert all(row == rows[0] for row in rows)
    for wrong in (0.5, "1", float("nan"), None):
        with pytest.raises(PolicyError, match="epoch takes a whole number"):
            draw(POLICY, [3], SIZE, epoch=wrong)  # type: ignore[arg-type]


def test_progress_may_end_a_rounding_beyond_one() -> None:
    policy = load({"preset": "randaugment", "magnitude": [0, 9]})
    assert draw(policy, [1], SIZE, progress=sum([1 / 49] * 49) + 1e-9).rows() == draw(policy, [1], SIZE).rows()
    with pytest.raises(PolicyError, match="progress"):
        draw(policy, [1], SIZE, progress=1.01)


def test_more_channels_than_opencv_moves_go_through_torch_or_are_refused() -> None:
    images = torch.randint(0, 256, (2, 5, 20, 20), dtype=torch.uint8)
    policy = [{"rotate": {"degrees": 30}}]
    made = Augmenter(policy)(images, [1, 2]).images
    assert torch.equal(made, Augmenter(policy, backend="torch")(images, [1, 2]).images)
    with pytest.raises(PolicyError, match="up to 4 channels, got 5"):
        Augmenter(policy, backend="cv2")(images, [1, 2])


def test_numbers_of_a_normalisation_and_sizes_of_images_are_checked() -> None:
    augmenter = Augmenter("none", output="normalised", mean=[0.5] * 3, std=[0.2] * 3)
    with pytest.raises(PolicyError, match="3 numbers for images of 1 channels"):
        augmenter(torch.zeros(2, 1, 8, 8), [1, 2])
    with pytest.raises(PolicyError, match="empty"):
        augmenter(torch.zeros(2, 3, 0, 8), [1, 2])
    with pytest.raises(PolicyError, match="min_visible"):
        Augmenter("none", min_visible=float("nan"))


@pytest.mark.parametrize(
    "spec",
    [
        [{"brightness": {"factor": float("inf")}}],
        [{"brightness": {"factor": float("nan")}}],
        [{"augmix": ["invert"], "alpha": float("nan")}],
        [{"one_of": ["invert", "equalize"], "weights": [1, float("inf")]}],
        {"operations": [], "fill": float("nan")},
    ],
)
def test_a_setting_that_is_no_number_is_refused(spec: Any) -> None:
    with pytest.raises(PolicyError):
        load(spec)
