"""Networks as features: what they see, their modes, and that a batch says nothing about an image."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from synth.errors import SynthError
from synth.quality.features import ClipFeatures, InceptionFeatures, NetworkFeatures, cover_and_cut, pooled
from tests.synth.datadream.clips import tiny_clip
from tests.synth.making import tokenizer


def pictures(count: int, side: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_clip_features_have_length_one_and_do_not_depend_on_the_batch() -> None:
    images = pictures(7)
    whole = ClipFeatures(tiny_clip())(images)
    assert whole.shape == (7, 32)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(7))
    torch.testing.assert_close(ClipFeatures(tiny_clip(), batch=2)(images), whole, rtol=0, atol=1e-5)


def test_clip_features_are_those_of_the_model_on_normalised_images() -> None:
    model, images = tiny_clip(), pictures(2)
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    with torch.no_grad():
        plain = pooled(model.get_image_features(pixel_values=(images - mean.view(3, 1, 1)) / std.view(3, 1, 1)))
    torch.testing.assert_close(ClipFeatures(model)(images), plain / plain.norm(dim=1, keepdim=True))


def test_an_image_and_a_text_may_be_compared_for_both_have_one_width() -> None:
    features = ClipFeatures(tiny_clip())
    texts = features.texts(tokenizer(), ["a cat", "a dog on the grass"])
    assert texts.shape == (2, 32)
    torch.testing.assert_close(features.texts(tokenizer(), ["a cat"])[0], texts[0], rtol=0, atol=1e-5)
    with pytest.raises(SynthError, match="one prompt for each class"):
        features.texts(tokenizer(), [])


def test_a_feature_may_come_as_a_tensor_or_in_an_object() -> None:
    row = torch.ones(1, 4)
    assert pooled(row) is row
    assert pooled(SimpleNamespace(pooler_output=row)) is row


def test_clip_sees_the_middle_of_an_oblong_image() -> None:
    image = torch.zeros(1, 3, 8, 24)
    image[..., 8:16] = 1
    assert torch.equal(cover_and_cut(image, (8, 8)), torch.ones(1, 3, 8, 8))
    assert cover_and_cut(image, (16, 16)).shape == (1, 3, 16, 16)


def test_a_network_is_seen_in_eval_mode_and_its_modes_are_put_back() -> None:
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Dropout(0.5)).train()
    network[1].eval()
    features = NetworkFeatures(network, mean=(0.5,) * 3, std=(0.5,) * 3)
    images = pictures(5, 2)
    found = features(images)
    torch.testing.assert_close(found, (images.flatten(1) * 2 - 1) / (1 + 1e-5) ** 0.5)
    assert [part.training for part in network.modules()] == [True, True, False, True]
    assert not found.requires_grad


def test_a_network_is_given_images_of_its_size_and_another_layer_where_asked() -> None:
    network = nn.Conv2d(3, 4, 1)
    features = NetworkFeatures(network, lambda x: network(x).mean((2, 3)), size=(4, 4))
    assert features(pictures(3, 9)).shape == (3, 4)
    with pytest.raises(SynthError, match=r"shape \(3, 4, 4, 4\): pool it first"):
        NetworkFeatures(network, size=(4, 4))(pictures(3, 9))
    with pytest.raises(SynthError, match=r"float in \[0, 1\]"):
        features((pictures(3) * 255).byte())


def test_inception_is_torchvisions_from_a_file_of_weights(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = models.inception_v3(weights=None, aux_logits=True, transform_input=False, init_weights=False).eval()
    path = tmp_path / "inception.pth"
    torch.save(network.state_dict(), path)
    images = pictures(1, 40)
    found = InceptionFeatures(path)(images)
    assert found.shape == (1, 2048)
    seen = torch.nn.functional.interpolate(images, (299, 299), mode="bilinear", antialias=True) * 2 - 1
    network.fc = nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(found, network(seen))


def test_a_file_that_is_not_inceptions_is_refused_in_a_sentence(tmp_path: Path) -> None:
    pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    with pytest.raises(SynthError, match="no weights of Inception at"):
        InceptionFeatures(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(SynthError, match="not a file of weights alone"):
        InceptionFeatures(tmp_path / "text.pth")
    torch.save({"weight": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(SynthError, match="does not hold torchvision's inception_v3"):
        InceptionFeatures(tmp_path / "other.pth")
