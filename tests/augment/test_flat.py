"""Flat channels, few levels and tiny images: PIL is what the pointwise operations are compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from augment.augmenter import Augmenter

torch.set_num_threads(1)
BACKENDS = ["cv2", "torch", "kornia"]
FLAT = {"white": (255, 255, 255), "grey": (128, 128, 128), "black": (0, 0, 0), "red": (255, 0, 0), "sky": (0, 128, 255)}
PIL_OF: dict[str, tuple[Any, Any]] = {
    "autocontrast": ("autocontrast", ImageOps.autocontrast),
    "equalize": ("equalize", ImageOps.equalize),
    "contrast": ({"contrast": {"factor": 0.4}}, lambda image: ImageEnhance.Contrast(image).enhance(0.4)),
    "saturation": ({"saturation": {"factor": 0.4}}, lambda image: ImageEnhance.Color(image).enhance(0.4)),
    "posterize": ({"posterize": {"bits": 2}}, lambda image: ImageOps.posterize(image, 2)),
    "solarize": ({"solarize": {"threshold": 128 / 255}}, lambda image: ImageOps.solarize(image, 128)),
    "sharpness": ({"sharpness": {"factor": 2.0}}, lambda image: ImageEnhance.Sharpness(image).enhance(2.0)),
}


def pictures() -> dict[str, np.ndarray]:
    """(H, W, 3) uint8 each."""
    rng = np.random.default_rng(0)
    found = {name: np.full((20, 17, 3), colour, np.uint8) for name, colour in FLAT.items()}
    one_flat = rng.integers(0, 256, (20, 17, 3), np.uint8)
    one_flat[..., 1] = 77
    found |= {"one channel flat": one_flat, "two levels": rng.choice([10, 11], (20, 17, 3)).astype(np.uint8)}
    found |= {
        "one pixel": np.full((1, 1, 3), (9, 200, 60), np.uint8),
        "a row": rng.integers(0, 256, (1, 9, 3), np.uint8),
    }
    found["one pixel differs"] = np.full((20, 17, 3), 200, np.uint8)
    found["one pixel differs"][3, 4] = 10
    return found


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operation", PIL_OF)
@pytest.mark.parametrize("name", pictures())
def test_flat_and_tiny_pictures_come_out_as_pils(name: str, operation: str, backend: Any) -> None:
    if backend == "kornia":
        pytest.importorskip("kornia")
    picture, (policy, pil) = pictures()[name], PIL_OF[operation]
    if operation == "sharpness" and min(picture.shape[:2]) < 3:
        pytest.skip("PIL and Kornia differ on what has no inside")
    expected = np.asarray(pil(Image.fromarray(picture))).astype(int)
    made = Augmenter([policy], backend=backend)(torch.from_numpy(picture).permute(2, 0, 1)[None], ["k"]).images
    found = made[0].permute(1, 2, 0).numpy().astype(int)
    kornias_levels = (
        operation == "posterize" and backend != "cv2"
    )  # floor(x 255 / 64) of 85 levels, not the highest bits
    assert np.abs(found - expected).max() <= (64 if kornias_levels else 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_flat_channel_stays_to_the_level(backend: Any) -> None:
    if backend == "kornia":
        pytest.importorskip("kornia")
    for colour in FLAT.values():
        images = torch.tensor(colour, dtype=torch.uint8)[None, :, None, None].expand(1, 3, 100, 100).contiguous()
        for policy in (["autocontrast"], ["equalize"]):
            assert torch.equal(Augmenter(policy, backend=backend)(images, ["k"]).images, images)


def test_what_resampling_leaves_of_a_flat_channel_is_not_stretched_to_noise() -> None:
    images = torch.full((6, 3, 40, 40), 0.7)
    policy = [{"resized_crop": {"size": 30}}, "autocontrast"]
    made = Augmenter(policy, seed=1)(images, list(range(6))).images
    assert float((made - 0.7).abs().max()) < 1e-5


def test_flat_pictures_do_not_turn_black_in_the_presets() -> None:
    images = torch.full((90, 3, 16, 16), 200, dtype=torch.uint8)
    for preset in ("randaugment", "trivial", "augmix"):
        made = Augmenter({"preset": preset}, seed=0)(images, [f"k{number}" for number in range(90)])
        used = np.logical_or.reduce([on for path, on in made.draws.on.items() if "autocontrast" in path])
        black = (made.images.flatten(1).amax(1) == 0).numpy()
        assert used.any()
        assert not black.any()


@pytest.mark.parametrize("operation", [{"gamma": {"gamma": 1.7}}, {"posterize": {"bits": 3}}, "equalize"], ids=str)
@pytest.mark.parametrize("first", [{"gaussian_noise": {"std": 0.4}}, {"brightness_shift": {"shift": -0.6}}], ids=str)
def test_what_is_not_defined_beyond_its_range_is_given_what_lies_in_it(first: Any, operation: Any) -> None:
    pytest.importorskip("kornia")
    images = torch.rand(4, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    made = {
        name: Augmenter([first, operation], backend=name)(images, list(range(4))).images for name in ("torch", "kornia")
    }  # type: ignore[arg-type]
    assert made["torch"].isfinite().all()
    torch.testing.assert_close(made["torch"], made["kornia"], atol=2e-6, rtol=0)
