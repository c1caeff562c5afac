"""What is drawn belongs to the sample: not to the batch, the order or the worker; and a record of it is exact."""

from __future__ import annotations

import json

import numpy as np
import pytest

from augment import presets
from augment.draws import Draws, draw, from_rows, program
from augment.policy import Policy, load
from augment.program import Blend, Colour, Filter, Warp
from augment.seeds import operation_seed, operation_seeds, sample_seeds, uniforms

SIZE = (48, 64)
KEYS = [f"key-{number:03d}" for number in range(40)]


def same(first: Draws, second: Draws) -> bool:
    return all((first.on[path] == second.on[path]).all() for path in first.on) and all(
        column.dtype == second.values[path][name].dtype and (column == second.values[path][name]).all()
        for path, named in first.values.items()
        for name, column in named.items()
    )


@pytest.fixture(params=presets.NAMES)
def policy(request: pytest.FixtureRequest) -> Policy:
    return load(request.param)


def test_a_batch_split_or_shuffled_gives_each_sample_the_same_draw(policy: Policy) -> None:
    whole = draw(policy, KEYS, SIZE, seed=3)
    assert whole.rows()[7:19] == draw(policy, KEYS[7:19], SIZE, seed=3).rows()
    order = np.random.default_rng(0).permutation(len(KEYS))
    shuffled = draw(policy, [KEYS[place] for place in order], SIZE, seed=3)
    assert [whole.row(place) for place in order] == shuffled.rows()


def test_a_row_written_as_json_gives_the_same_bits_back(policy: Policy) -> None:
    whole = draw(policy, KEYS, SIZE, seed=3)
    assert same(whole, from_rows(policy, SIZE, json.loads(json.dumps(whole.rows()))))


@pytest.mark.parametrize("change", [{"epoch": 1}, {"seed": 4}, {"view": 1}])
def test_another_epoch_seed_or_view_draws_anew_and_the_same_again_agrees(change: dict[str, int]) -> None:
    policy = load("simclr")
    first, again = (draw(policy, KEYS, SIZE, **{"seed": 3, **change}) for _ in range(2))
    assert same(first, again)
    other = draw(policy, KEYS, SIZE, seed=3)
    left = first.values["resized_crop"]["left"] != other.values["resized_crop"]["left"]
    assert left.mean() > 0.5


def test_a_siamese_policy_draws_once_for_all_samples_of_a_step() -> None:
    policy = load("dsa")
    rows = draw(policy, KEYS, SIZE, view=5).rows()
    assert all(row == rows[0] for row in rows)
    steps = [json.dumps(draw(policy, KEYS, SIZE, view=step).row(0)) for step in range(20)]
    assert len(set(steps)) > 10


def test_numbers_are_uniform_and_independent_of_each_other() -> None:
    seeds = sample_seeds(0, [str(number) for number in range(20000)])
    drawn = uniforms(operation_seeds(seeds, ["a", "b"])[:, [0, 0, 1]], np.array([1, 2, 1], np.uint64))
    assert drawn.min() >= 0
    assert drawn.max() < 1
    # 20,000 uniforms: the mean's standard error is 0.002, a correlation's 0.007.
    assert np.abs(drawn.mean(0) - 0.5).max() < 0.01
    assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 0.03
    counts = np.histogram(drawn[:, 0], 20, (0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 50  # chi-squared, 19 degrees of freedom: p < 1e-4


def test_the_seed_of_an_operation_is_a_function_of_run_key_and_name() -> None:
    assert operation_seed(1, "key", "rotate") == 0x28FDC470C5B7126B  # another value changes every stored draw
    assert len({operation_seed(run, key, name) for run in (1, 2) for key in ("a", "b", 3) for name in ("x", "y")}) == 12


def test_shares_of_a_group_follow_its_weights_and_exactly_one_acts() -> None:
    policy = load([{"one_of": ["invert", "grayscale", "equalize"], "weights": [2, 1, 1]}])
    found = draw(policy, [str(number) for number in range(8000)], SIZE)
    shares = [found.on[path].mean() for path in ("one_of.invert", "one_of.grayscale", "one_of.equalize")]
    assert np.abs(np.array(shares) - [0.5, 0.25, 0.25]).max() < 0.02
    assert (sum(found.on[path].astype(int) for path in found.on) == 1).all()


def test_choosing_without_replacement_never_takes_one_twice() -> None:
    members = ["invert", "grayscale", "equalize", "autocontrast"]
    found = draw(load([{"choose": 3, "from": members, "replace": False}]), KEYS, SIZE)
    for member in members:
        assert (sum(found.on[f"choose.{slot}.{member}"].astype(int) for slot in range(3)) <= 1).all()
    assert (sum(on.astype(int) for on in found.on.values()) == 3).all()


def test_an_alternative_of_several_operations_applies_them_together() -> None:
    found = draw(load([{"one_of": [["invert", "grayscale"], "equalize"]}]), KEYS, SIZE)
    assert (found.on["one_of.invert"] == found.on["one_of.grayscale"]).all()
    assert (found.on["one_of.invert"] ^ found.on["one_of.equalize"]).all()


def test_resized_crops_have_the_area_and_aspect_that_were_asked_for() -> None:
    found = draw(load([{"resized_crop": {"size": 32, "scale": [0.2, 0.5]}}]), [str(n) for n in range(4000)], (100, 100))
    crop = found.values["resized_crop"]
    area = crop["height"] * crop["width"] / 1e4
    assert 0.19 < area.min() < 0.21
    assert 0.49 < area.max() < 0.51
    assert abs(area.mean() - 0.35) < 0.01
    ratio = crop["width"] / crop["height"]
    assert 0.73 < ratio.min() < 0.76
    assert 1.31 < ratio.max() < 1.36
    assert abs(np.log(ratio).mean()) < 0.02
    assert ((crop["top"] >= 0) & (crop["top"] + crop["height"] <= 100)).all()
    assert ((crop["left"] >= 0) & (crop["left"] + crop["width"] <= 100)).all()


def test_a_crop_that_never_fits_becomes_the_largest_in_the_middle() -> None:
    found = draw(load([{"resized_crop": {"size": 8, "scale": 1.0}}]), KEYS[:3], (10, 40))
    crop = found.values["resized_crop"]
    assert crop["height"].tolist() == [10] * 3
    assert crop["width"].tolist() == [13] * 3
    assert crop["left"].tolist() == [13] * 3


@pytest.mark.parametrize(("progress", "low"), [(0.0, 1.0), (0.25, 0.54), (0.5, 0.08), (1.0, 0.08)])
def test_the_curriculum_of_crops_is_cdas_cosine(progress: float, low: float) -> None:
    """CDA: the lower bound of the crop's area falls from 1 to 0.08 along half a cosine, until the milestone."""
    curriculum = {"start": [1, 1], "end": [0.08, 1], "shape": "cosine", "until": 0.5}
    found = draw(
        load([{"resized_crop": {"size": 64, "scale": curriculum, "ratio": 1.0}}]),
        [str(n) for n in range(3000)],
        (400, 400),
        progress=progress,
    )
    area = found.values["resized_crop"]["height"].astype(float) ** 2 / 400**2
    assert abs(area.min() - low) < 0.012
    assert abs(area.mean() - (1 + low) / 2) < 0.012


@pytest.mark.parametrize(("progress", "degrees"), [(0.0, 0.0), (0.5, 4.5), (1.0, 9.0)])
def test_randaugments_magnitude_grows_as_efficienttrains(progress: float, degrees: float) -> None:
    policy = load({"preset": "randaugment", "magnitude": [0, 9], "count": 1})
    found = draw(policy, [str(n) for n in range(2000)], SIZE, progress=progress)
    turned = found.on["choose.rotate"]
    np.testing.assert_allclose(np.abs(found.values["choose.rotate"]["degrees"][turned]), degrees, rtol=1e-6)
    brighter = found.values["choose.brightness"]["factor"][found.on["choose.brightness"]]
    np.testing.assert_allclose(np.abs(brighter - 1), 0.9 * degrees / 30, atol=1e-6)


def test_a_probability_may_grow_with_training() -> None:
    policy = load([{"invert": {"p": {"start": 0, "end": 0.8}}}])
    shares = [draw(policy, [str(n) for n in range(4000)], SIZE, progress=at).on["invert"].mean() for at in (0, 0.5, 1)]
    assert np.abs(np.array(shares) - [0, 0.4, 0.8]).max() < 0.03


def test_signed_values_toss_the_side_and_draw_the_distance() -> None:
    policy = load([{"rotate": {"degrees": {"signed": [10, 20]}}}, {"brightness": {"factor": {"around": 0.25}}}])
    found = draw(policy, [str(n) for n in range(4000)], SIZE).values
    degrees = found["rotate"]["degrees"]
    assert ((np.abs(degrees) >= 10) & (np.abs(degrees) <= 20)).all()
    assert abs((degrees > 0).mean() - 0.5) < 0.03
    assert abs(np.abs(degrees).mean() - 15) < 0.2
    assert set(found["brightness"]["factor"].tolist()) == {0.75, 1.25}


def test_neighbours_of_one_family_become_one_segment() -> None:
    spec = [
        {"resized_crop": {"size": 32}},
        {"rotate": {"degrees": 9}},
        {"horizontal_flip": {"p": 1}},
        "invert",
        "equalize",
    ]
    segments = program(draw(load([*spec, {"gaussian_blur": {"kernel": 3}}, "grayscale"]), KEYS, SIZE))
    assert [type(segment) for segment in segments] == [Warp, Colour, Filter, Colour]
    assert len(segments[0].steps) == 3
    assert segments[0].size == (32, 32)
    assert [step.name for step in segments[1].steps] == ["invert", "equalize"]
    assert [type(segment) for segment in program(draw(load("augmix"), KEYS, SIZE))] == [Blend]
    assert program(draw(load("none"), KEYS, SIZE)) == ()
