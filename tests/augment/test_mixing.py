"""Mixing is drawn from keys, written down exactly, and labels weigh what the pixels show."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from augment.errors import PolicyError
from augment.mixing import Mixing, MixTable, apply_mix, cutmix_box, draw_mix, mix_labels

SIZE = (12, 20)
KEYS = [f"sample{number}" for number in range(9)]


def flat_images(count: int = 9) -> torch.Tensor:
    """Image i has the value i everywhere, so that pixels tell where they come from."""
    return torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(count, 3, *SIZE).clone()


def drawn(kind: Any = "cutmix", keys: list[str] = KEYS, epoch: int = 0, **settings: Any) -> MixTable:
    return draw_mix(Mixing(kind, **settings), keys, SIZE, seed=4, epoch=epoch)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@pytest.mark.parametrize("per_batch", [False, True])
def test_labels_weigh_what_the_pixels_show(kind: str, per_batch: bool) -> None:
    table = drawn(kind, per_batch=per_batch)
    mixed = apply_mix(flat_images(), table)
    labels = mix_labels(torch.arange(9), table)
    shown = labels.weight * labels.label + (1 - labels.weight) * labels.partner
    torch.testing.assert_close(mixed.mean((1, 2, 3)), shown, rtol=0, atol=1e-4)
    torch.testing.assert_close(labels.soft(9) @ torch.arange(9.0), shown, rtol=0, atol=1e-4)
    torch.testing.assert_close(labels.soft(9).sum(1), torch.ones(9))


def test_the_drawn_lambda_can_stand_in_the_label_instead_of_the_patch() -> None:
    by_patch, by_lambda = drawn(), drawn(weigh="lambda")
    assert (by_patch.patch == by_lambda.patch).all()
    assert (by_lambda.share <= by_patch.share + 1e-12).all()  # a clipped or rounded patch covers less than was drawn
    assert (by_lambda.share < by_patch.share).any()


def test_a_sample_has_its_own_weight_and_a_partner_that_is_not_itself() -> None:
    table = drawn("mixup")
    assert len(set(table.share.tolist())) == 9
    assert sorted(table.partner.tolist()) == list(range(9))
    assert (table.partner != np.arange(9)).all()


def test_the_order_of_a_batch_changes_nothing() -> None:
    table = drawn()
    order = [4, 0, 8, 2, 6, 1, 7, 3, 5]
    again = drawn(keys=[KEYS[place] for place in order])
    for new, old in enumerate(order):
        assert again.row(new) == table.row(old)


def test_weight_and_patch_belong_to_the_key_in_any_company() -> None:
    table, alone = drawn("mixup"), drawn("mixup", keys=KEYS[:4])
    assert alone.share.tolist() == table.share[:4].tolist()


def test_per_batch_is_one_weight_one_patch_and_a_permutation() -> None:
    table = drawn(per_batch=True)
    mixed = table.partner != np.arange(9)
    assert len(set(table.share[mixed].tolist())) == 1
    assert len(np.unique(table.patch[mixed], axis=0)) == 1
    assert sorted(table.partner.tolist()) == list(range(9))


@pytest.mark.parametrize("per_batch", [False, True])
def test_epochs_differ_and_the_same_seed_agrees(per_batch: bool) -> None:
    first, again, other = (drawn("mixup", epoch=epoch, per_batch=per_batch) for epoch in (0, 0, 1))
    assert first.share.tolist() == again.share.tolist() != other.share.tolist()


def test_a_probability_leaves_samples_alone() -> None:
    keys = [f"k{number}" for number in range(400)]
    table = drawn(keys=keys, p=0.25)
    mixed = table.partner != np.arange(400)
    assert 60 < mixed.sum() < 140
    assert (table.share[~mixed] == 1).all()
    assert not table.patch[~mixed].any()
    assert not (drawn(p=0.0).partner != np.arange(9)).any()


def test_beta_weights_have_the_mean_and_the_spread_of_their_alpha() -> None:
    keys = [f"k{number}" for number in range(2000)]
    share = drawn("mixup", keys=keys, alpha=0.2).share
    assert share.mean() == pytest.approx(0.5, abs=0.03)
    assert share.var() == pytest.approx(1 / (4 * (2 * 0.2 + 1)), abs=0.01)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_recorded_table_gives_the_same_bits_in_another_order(kind: str) -> None:
    images = torch.rand(9, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    table = drawn(kind, alpha=0.4)
    mixed = apply_mix(images, table)
    rows = json.loads(json.dumps([table.row(place) for place in range(9)]))
    back = torch.arange(8, -1, -1)
    replayed = apply_mix(images[back], MixTable.from_rows(KEYS[::-1], rows[::-1]))
    assert torch.equal(replayed[back], mixed)


def test_bytes_are_rounded_and_patches_copied() -> None:
    images = (torch.rand(9, 3, *SIZE, generator=torch.Generator().manual_seed(2)) * 255).to(torch.uint8)
    blended = apply_mix(images, drawn("mixup"))
    assert blended.dtype == torch.uint8
    exact = apply_mix(images.double(), drawn("mixup"))
    assert (blended.double() - exact).abs().max() <= 0.5 + 1e-4
    assert torch.equal(apply_mix(images, drawn()).double(), apply_mix(images.double(), drawn()))


def test_gradients_reach_both_images_with_their_weights() -> None:
    images = torch.rand(2, 3, *SIZE, dtype=torch.float64, requires_grad=True)
    table = drawn("mixup", keys=KEYS[:2])
    apply_mix(images, table)[0].sum().backward()
    assert images.grad is not None
    np.testing.assert_allclose(images.grad[0].numpy(), table.share[0])
    np.testing.assert_allclose(images.grad[1].numpy(), 1 - table.share[0])


def test_a_cutmix_patch_in_the_middle_has_the_area_that_was_drawn() -> None:
    x1, y1, x2, y2 = cutmix_box((100, 200), 0.75, 100, 50)
    assert (x1, y1, x2, y2) == (50, 25, 150, 75)
    assert cutmix_box((100, 200), 0.75, 0, 99) == (0, 74, 50, 100)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"kind": "mixop"}, "takes mixup or cutmix, got 'mixop'"),
        ({"kind": "mixup", "alpha": 0}, "a number above 0, got 0"),
        ({"kind": "mixup", "p": 1.5}, "a probability in 0 to 1, got 1.5"),
        ({"kind": "cutmix", "weigh": "box"}, "patch or lambda, got 'box'"),
    ],
)
def test_an_impossible_setting_is_one_sentence(settings: Any, sentence: str) -> None:
    with pytest.raises(PolicyError, match=sentence):
        Mixing(**settings)


def test_an_empty_batch_and_a_missing_partner_are_said() -> None:
    with pytest.raises(PolicyError, match="the batch is empty"):
        drawn(keys=[])
    table = drawn()
    with pytest.raises(PolicyError, match="which is not in the batch"):
        MixTable.from_rows(KEYS[:1], [table.row(0)])
