"""Coresets by hand: which of a few points, and which crops, stand for a class."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from distill.coresets.config import MedoidsConfig, RdedConfig
from distill.coresets.herding import herd
from distill.coresets.medoids import nested_medoids
from distill.coresets.rded import KeyPatches, key_patches, tile
from distill.errors import DistillError, DivergedError
from distill.features import head_inputs
from distill.networks import build

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
WHOLE = (1.0, 1.0)


def points(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows)


class Brightness(nn.Module):
    """A teacher of two classes that is the surer of class 0 the brighter the image: logits (sum / 100, 0)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.01))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        bright = self.scale * images.sum((1, 2, 3))
        return torch.stack([bright, torch.zeros_like(bright)], 1)


def grey(*values: int, side: int = 4) -> list[torch.Tensor]:
    return [torch.full((3, side, side), value, dtype=torch.uint8) for value in values]


def patches_of(images: list[torch.Tensor], count: int, config: RdedConfig, size: int = 4) -> KeyPatches:
    model = Brightness().eval()
    return key_patches(model, images, 0, count, config, seeds=range(len(images)), image_size=size, **PLAIN)


def test_herding_keeps_the_mean_of_the_chosen_closest() -> None:
    """Of 0, 1, 5, 8 with the mean 3.5: 5 (off by 1.5); then 1 (mean 3 of two, 8 gives 6.5); then 8 (14/3; 0 gives 2); then 0."""
    line = points((0.0,), (1.0,), (5.0,), (8.0,))
    assert herd(line, 4).tolist() == [2, 1, 3, 0]
    assert herd(line, 2).tolist() == [2, 1]


def test_of_points_as_close_herding_takes_the_first_and_none_twice() -> None:
    assert herd(points((2.0, 0.0), (2.0, 0.0), (2.0, 0.0)), 3).tolist() == [0, 1, 2]
    with pytest.raises(DistillError, match="herding chooses from 1 to 3 of 3 images, got 4"):
        herd(torch.zeros(3, 2), 4)


def clusters() -> torch.Tensor:
    """Three crosses of five points, the middle of each first: at (0, 0), (10, 0) and (0, 12). Their mean (10/3, 4) is nearest to (1, 0)."""
    cross = points((0.0, 0.0), (1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0))
    return torch.cat([cross + torch.tensor(middle) for middle in ((0.0, 0.0), (10.0, 0.0), (0.0, 12.0))])


def test_medoids_are_the_middles_of_clusters() -> None:
    assert sorted(nested_medoids(clusters(), [3], seed=0).tolist()) == [0, 5, 10]


def test_an_image_that_was_chosen_for_a_smaller_set_represents_its_cluster_in_a_larger_one() -> None:
    """The point nearest to the mean is (0, 1), the fourth of the first cross, whose middle then need not join."""
    alone = nested_medoids(clusters(), [1], seed=0).tolist()
    assert alone == [3]
    three = nested_medoids(clusters(), [1, 3], seed=0).tolist()
    assert three[0] == 3
    assert sorted(three[1:]) == [5, 10]


def test_medoids_of_several_counts_are_heads_of_the_largest() -> None:
    cloud = torch.randn(60, 5, generator=torch.Generator().manual_seed(3))
    sets = [nested_medoids(cloud, counts, seed=7).tolist() for counts in ([1], [1, 4], [1, 4, 20])]
    assert all(more[: len(fewer)] == fewer for fewer, more in pairwise(sets))
    assert [len(set(one)) for one in sets] == [1, 4, 20]


def test_as_many_medoids_as_points_are_all_points_even_where_they_coincide() -> None:
    same = torch.ones(6, 2)
    assert sorted(nested_medoids(same, [1, 3, 6], seed=0).tolist()) == list(range(6))


def test_rded_takes_the_images_that_the_teacher_is_surest_of() -> None:
    """Whole images: loss log(1 + exp(-48 v / 25500)) of the grey value v, so the brightest come first."""
    config = RdedConfig(images=4, crops=1, scale=WHOLE)
    patches = patches_of(grey(51, 255, 0, 204), 3, config)
    assert patches.places.tolist() == [1, 3, 0]
    expected = [math.log1p(math.exp(-0.48 * value)) for value in (1.0, 0.8, 0.2)]
    assert patches.losses.tolist() == pytest.approx(expected, rel=1e-6)
    assert patches.pixels[:, 0, 0, 0].tolist() == pytest.approx([1.0, 0.8, 0.2], abs=1e-6)
    assert {tuple(box) for box in patches.boxes} == {(0, 0, 4, 4)}


def test_rded_takes_of_an_image_the_crop_with_the_least_loss() -> None:
    """An image that brightens to the right: of its crops the brightest, resized as torch resizes that box."""
    image = torch.arange(0, 256, 8, dtype=torch.uint8).expand(3, 32, 32).contiguous()
    config = RdedConfig(images=1, crops=40, scale=(0.1, 0.3))
    chosen = patches_of([image], 1, config, size=8)
    top, left, height, width = chosen.boxes[0]
    assert height == width
    assert 10 <= height <= 18
    cut = image[None, :, top : top + height, left : left + width].float() / 255
    resized = F.interpolate(cut, (8, 8), mode="bilinear", antialias=True, align_corners=False)
    assert torch.equal(chosen.pixels, resized)
    one = patches_of([image], 1, RdedConfig(images=1, crops=1, scale=(0.1, 0.3)), size=8)
    assert one.losses > chosen.losses  # the first crop of the same seed


def test_a_patch_is_shown_to_the_teacher_in_the_middle_of_nothing() -> None:
    """With factor 2 a quarter of the image is lit: loss log(1 + exp(-0.12)) of white ones at 4 px."""
    patches = patches_of(grey(255, side=9), 1, RdedConfig(images=1, crops=1, factor=2, scale=WHOLE))
    assert patches.pixels.shape == (1, 3, 2, 2)
    assert patches.losses.item() == pytest.approx(math.log1p(math.exp(-0.12)), rel=1e-6)


def test_the_choice_does_not_depend_on_how_many_images_go_together() -> None:
    images = grey(*range(0, 250, 5))
    many = patches_of(images, 20, RdedConfig(images=50, crops=300, scale=WHOLE))  # one image a batch
    few = patches_of(images, 20, RdedConfig(images=50, crops=1, scale=WHOLE))
    assert many.places.tolist() == few.places.tolist() == list(range(49, 29, -1))


def test_tiles_stand_in_order_row_by_row() -> None:
    patches = torch.arange(8.0).reshape(8, 1, 1, 1).expand(8, 3, 1, 1)
    assert tile(patches, 2)[:, 0].tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    assert torch.equal(tile(patches, 1), patches)


def test_what_rded_cannot_do_is_one_sentence() -> None:
    with pytest.raises(DistillError, match="3 patches of different images need as many images, got 2"):
        patches_of(grey(1, 2), 3, RdedConfig())
    with pytest.raises(DistillError, match="factor 3 does not divide the 4 px"):
        patches_of(grey(1, 2), 1, RdedConfig(factor=3))
    broken = Brightness().eval()
    broken.scale.data.fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"answers to crops are not finite numbers.*its scale holds"):
        key_patches(broken, grey(1), 0, 1, RdedConfig(), seeds=[0], image_size=4, **PLAIN)
    with pytest.raises(DistillError, match="scale takes 0 < low"):
        RdedConfig(scale=(0.5, 0.1))
    with pytest.raises(DistillError, match="crops takes 1 or more, got 0"):
        RdedConfig(crops=0)
    with pytest.raises(DistillError, match="levels take images per class from 1 on"):
        MedoidsConfig(levels=(0,))


@pytest.mark.parametrize("name", ["convnet2_w8", "resnet20", "resnet18"])
def test_features_are_what_the_head_is_given(name: str) -> None:
    model = build(name, 3, 16).eval()
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = head_inputs(model, images, mean=(0.5,) * 3, std=(0.25,) * 3)
    head = model.get_submodule({"convnet2_w8": "classifier", "resnet20": "linear", "resnet18": "fc"}[name])
    with torch.no_grad():
        assert torch.allclose(head(features), model((images / 255 - 0.5) / 0.25), atol=1e-4)
    assert not list(head._forward_pre_hooks)


def test_features_that_are_no_numbers_and_networks_without_a_head_are_refused() -> None:
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    model = build("convnet2_w8", 3, 16).eval()
    model.features[0].weight.data.fill_(1e38)
    with pytest.raises(DivergedError, match=r"features of images are not finite numbers \(they overflow\)"):
        head_inputs(model, images + 255, **PLAIN)
    with pytest.raises(DistillError, match="it has no features to choose images by"):
        head_inputs(nn.Flatten().eval(), images, **PLAIN)
