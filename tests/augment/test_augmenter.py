"""The Augmenter as a user meets it: any backend, any policy, images with their boxes, masks and points."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from augment import presets
from augment.augmenter import Augmenter
from augment.draws import from_rows
from augment.errors import PolicyError
from tests.augment.making import photo

KEYS = [f"key-{number}" for number in range(12)]
#: Presets with a size of the test's own, so that nothing large is made.
POLICIES: dict[str, Any] = {
    name: {"preset": name} | ({"size": 32} if name not in ("none", "dsa") else {}) for name in presets.NAMES
}


@pytest.fixture(params=presets.NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("backend", ["torch", "cv2"])
def test_replaying_recorded_draws_gives_the_same_bits(name: str, backend: str) -> None:
    images = photo(12, 40, 48)
    augmenter = Augmenter(POLICIES[name], seed=5, backend=backend)  # type: ignore[arg-type]
    first = augmenter(images, KEYS)
    rows = json.loads(json.dumps(first.draws.rows()))
    again = augmenter.replay(images, from_rows(augmenter.policy, (40, 48), rows))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.images, augmenter(images, KEYS).images)


@pytest.mark.parametrize("backend", ["torch", "cv2"])
def test_a_split_batch_in_another_order_gives_every_sample_the_same_image(name: str, backend: str) -> None:
    images = photo(12, 40, 48)
    augmenter = Augmenter(POLICIES[name], seed=5, backend=backend)  # type: ignore[arg-type]
    whole = augmenter(images, KEYS).images
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    parts = [augmenter(images[chosen], [KEYS[place] for place in chosen]).images for chosen in order.split([1, 4, 7])]
    assert torch.equal(whole[order], torch.cat(parts))


def test_two_epochs_differ(name: str) -> None:
    if name == "none":
        pytest.skip("nothing to draw")
    images = photo(12, 40, 48)
    augmenter = Augmenter(POLICIES[name], seed=5)
    first = augmenter(images, KEYS).images
    augmenter.epoch = 1
    second = augmenter(images, KEYS).images
    assert (first != second).flatten(1).any(1).float().mean() > 0.5


def test_nothing_changes_where_nothing_is_asked_for() -> None:
    images = photo(3, 20, 24)
    boxes = [np.array([[2.0, 3.0, 9.0, 8.0]])] * 3
    for backend in ("torch", "cv2"):
        found = Augmenter("none", backend=backend)(images, KEYS[:3], boxes=boxes)  # type: ignore[arg-type]
        assert torch.equal(found.images, images)
        assert all((here == boxes[0]).all() for here in found.boxes or [])
    neutral = [{"affine": {}}, {"color_jitter": {}}, {"sharpness": {"factor": 1}}, {"resize": {"size": [20, 24]}}]
    for backend in ("torch", "cv2"):
        assert torch.equal(Augmenter(neutral, backend=backend)(images, KEYS[:3]).images, images)  # type: ignore[arg-type]


def test_a_known_affine_moves_image_mask_box_and_point_together() -> None:
    """A square is painted, outlined and pointed at; after a quarter turn, a flip and a shift all four still agree."""
    images = torch.zeros(1, 3, 41, 61)
    images[:, :, 10:20, 30:45] = 1
    targets = {
        "masks": images[:, :1].clone(),
        "boxes": [np.array([[30.0, 10.0, 45.0, 20.0]])],
        "keypoints": [np.array([[30.0, 10.0], [44.0, 19.0]])],
    }
    spec = [{"rotate": {"degrees": 90}}, {"horizontal_flip": {"p": 1}}, {"affine": {"translate_y": 3 / 41}}]
    found = Augmenter(spec, backend="torch")(images, ["a"], **targets)
    painted = (found.images[0, 0] > 0.5).nonzero()
    (top, left), (bottom, right) = painted.min(0).values.tolist(), painted.max(0).values.tolist()
    assert (bottom - top, right - left) == (14, 9)
    assert found.masks is not None
    assert torch.equal(found.masks[0, 0] > 0.5, found.images[0, 0] > 0.5)
    np.testing.assert_allclose((found.boxes or [])[0], [[left, top, right + 1, bottom + 1]], atol=1e-6)
    # Anticlockwise by 90 about (30, 20): (x, y) -> (30 + (y - 20), 20 - (x - 30)); then x -> 60 - x, y -> y + 3.
    expected = [[60 - (30 + (y - 20)), 20 - (x - 30) + 3, 1] for x, y in ((30, 10), (44, 19))]
    np.testing.assert_allclose((found.keypoints or [])[0], expected, atol=1e-6)


def test_boxes_that_leave_the_crop_go_and_the_map_says_which_stayed() -> None:
    images = torch.zeros(1, 3, 40, 40)
    boxes = [np.array([[0.0, 0, 6, 6], [12, 12, 20, 20], [8, 15, 12, 25], [9, 15, 13, 25]])]
    found = Augmenter([{"center_crop": {"size": 20}}])(images, ["a"], boxes=boxes)
    assert found.kept is not None
    assert found.kept[0].tolist() == [1, 2, 3]  # half of the third is inside, three quarters of the fourth
    np.testing.assert_allclose((found.boxes or [])[0], [[2, 2, 10, 10], [0, 5, 2, 15], [0, 5, 3, 15]])
    strict = Augmenter([{"center_crop": {"size": 20}}], min_visible=0.6)(images, ["a"], boxes=boxes)
    assert strict.kept is not None
    assert strict.kept[0].tolist() == [1, 3]


@pytest.mark.parametrize("name", ["imagenet", "simclr", "dsa", "detection", "augmix"])
def test_gradients_agree_with_finite_differences(name: str) -> None:
    """In double precision, without two equal channels, where hue has a kink; equalize and posterize have no gradient."""
    spec: Any = POLICIES[name]
    if name == "augmix":
        spec = [{"augmix": [{"rotate": {"degrees": 20}}, {"contrast": {"factor": 0.7}}, "invert"]}]
    images = 0.3 + 0.4 * torch.rand(2, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    augmenter = Augmenter(spec if name in ("dsa", "augmix") else {**spec, "size": 6}, seed=2, backend="torch")
    draws = augmenter.draw(KEYS[:2], (12, 12))
    images.requires_grad_()
    weights = torch.rand(augmenter.replay(images, draws).images.shape, dtype=torch.float64)
    (augmenter.replay(images, draws).images * weights).sum().backward()
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        direction = torch.randn(images.shape, generator=generator, dtype=torch.float64)
        step = 1e-6
        ends = [
            (augmenter.replay(images.detach() + side * step * direction, draws).images * weights).sum()
            for side in (1, -1)
        ]
        slope = float((ends[0] - ends[1]) / (2 * step))
        assert float((images.grad * direction).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", ["imagenet", "randaugment", "trivial", "simclr", "detection"])
def test_the_backends_agree(name: str) -> None:
    """Torch and the eager chain of Kornia in floats; cv2, which rounds to eight bits between passes, in levels of 255."""
    images = photo(12, 40, 48)
    found = {
        backend: Augmenter(POLICIES[name], seed=7, backend=backend, output="float")(images, KEYS).images  # type: ignore[arg-type]
        for backend in ("torch", "cv2", "kornia")
    }
    mean = {backend: float((found[backend] - found["torch"]).abs().mean()) * 255 for backend in ("cv2", "kornia")}
    assert mean["cv2"] < 2, mean
    assert mean["kornia"] < 2, mean  # resampled twice where ours is once


def test_the_backends_take_the_same_nearest_pixels() -> None:
    images = photo(12, 40, 48)
    policy = {"operations": [{"resized_crop": {"size": 32}}, "horizontal_flip"], "interpolation": "nearest"}
    found = [
        Augmenter(policy, seed=7, backend=backend)(images, KEYS).images  # type: ignore[arg-type]
        for backend in ("torch", "cv2", "kornia")
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("backend", ["torch", "cv2", "kornia"])
@pytest.mark.parametrize("policy", ["imagenet", {"preset": "imagenet", "color": 0}])
def test_normalising_is_the_last_step(backend: Any, policy: Any) -> None:
    images = photo(3, 20, 24)
    plain = Augmenter(policy, output="float", seed=1, backend=backend)(images, KEYS[:3]).images
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    settings: Any = {"output": "normalised", "mean": mean, "std": std, "backend": backend}
    found = Augmenter(policy, seed=1, **settings)(images, KEYS[:3]).images
    expected = (plain - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_formats_are_kept() -> None:
    images = photo(3, 20, 24)
    assert Augmenter("imagenet")(images, KEYS[:3]).images.dtype == torch.uint8
    half = Augmenter("imagenet", output="float", dtype=torch.bfloat16)(images, KEYS[:3]).images
    assert half.dtype == torch.bfloat16
    last = images.to(memory_format=torch.channels_last)
    assert torch.equal(
        Augmenter("imagenet", seed=1)(last, KEYS[:3]).images, Augmenter("imagenet", seed=1)(images, KEYS[:3]).images
    )


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        (torch.zeros(0, 3, 8, 8), {}, "the batch is empty"),
        (torch.zeros(2, 1, 8, 8), {}, "takes RGB, got 1 channels"),
        (torch.zeros(2, 3, 8), {}, r"images take \(n, C, H, W\) uint8 or float, got \(2, 3, 8\)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.int32), {}, "uint8 or float"),
        (torch.zeros(2, 3, 8, 8), {"boxes": [np.zeros((0, 4))]}, "2 images, 1 arrays"),
        (torch.zeros(2, 3, 8, 8), {"boxes": [np.array([[5, 5, 9, 9.0]])] * 2}, "box 0 of image 0.*inside 8 x 8 pixels"),
        (torch.zeros(2, 3, 8, 8), {"boxes": [np.array([[5, 5, 4, 9.0]])] * 2}, "is not x1 < x2"),
        (torch.zeros(2, 3, 8, 8), {"masks": torch.zeros(2, 1, 9, 8)}, r"masks take \(2, M, 8, 8\), got \(2, 1, 9, 8\)"),
        (torch.zeros(2, 3, 8, 8), {"keypoints": [np.zeros(3)] * 2}, "keypoints of image 0 take"),
    ],
)
def test_data_that_does_not_fit_is_refused_in_one_sentence(
    images: torch.Tensor, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(PolicyError, match=words):
        Augmenter([{"horizontal_flip": {"p": 1}}, "invert"])(images, KEYS[: len(images)], **options)


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(PolicyError, match="mean and std belong to output: normalised"):
        Augmenter("none", mean=[0.5] * 3, std=[0.2] * 3)
    with pytest.raises(PolicyError, match=r"backend takes auto \| torch .* got .dali."):
        Augmenter("none", backend="dali")  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="cv2 backend takes uint8 images on the cpu"):
        Augmenter("none", backend="cv2")(torch.zeros(1, 3, 8, 8), ["a"])
    with pytest.raises(PolicyError, match="boxes, masks and points cannot follow"):
        Augmenter("augmix")(photo(12, 8, 8), KEYS, boxes=[np.zeros((0, 4))] * 12)
    augmenter = Augmenter("none")
    with pytest.raises(PolicyError, match=r"these draws are for 2 images of \(8, 8\), got 1 of \(9, 8\)"):
        augmenter.replay(torch.zeros(1, 3, 9, 8), augmenter.draw(["a", "b"], (8, 8)))
