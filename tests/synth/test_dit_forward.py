"""A DiT's forward pass without repetition gives what diffusers' gives, is there for a batch only, and leaves unknown networks alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from synth.backends import wrap
from synth.backends.dit_forward import is_published_dit, share_embedders
from synth.backends.step_reuse import StepReuse
from synth.requests import Request
from synth.sampling import Sampler
from synth.settings import Settings
from tests.synth import making

LABELS = torch.tensor([3, 10, 3, 0, 9, 10])


def network(seed: int = 0) -> Any:
    """A tiny DiT with gates, shifts and biases of all sizes."""
    model = making.dit().transformer.eval().requires_grad_(False)
    source = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight += 0.2 * torch.randn(weight.shape, generator=source)
    return model


@torch.no_grad()
def output(model: Any, time: int = 480, labels: torch.Tensor = LABELS) -> torch.Tensor:
    latents = torch.randn(len(labels), 4, 16, 16, generator=torch.Generator().manual_seed(1))
    return model(latents, timestep=torch.tensor(time).expand(len(labels)), class_labels=labels, return_dict=False)[0]


@pytest.mark.parametrize("shared", [True, False])
def test_a_batch_of_a_dit_equals_the_plain_forward(shared: bool) -> None:
    model = network()
    if shared:
        model.transformer_blocks[1].norm1.emb.load_state_dict(model.transformer_blocks[0].norm1.emb.state_dict())
    assert share_embedders(model) is shared
    for time in (480, 20):
        plain = output(model, time)
        with StepReuse(model):
            assert "forward" in model.__dict__
            torch.testing.assert_close(output(model, time), plain, rtol=0, atol=1e-5)
            torch.testing.assert_close(output(model, time, LABELS.flip(0)), output(model, time, LABELS.flip(0)))
    assert "forward" not in model.__dict__


def test_labels_of_two_kinds_of_steps_are_kept_apart() -> None:
    model = network()
    one, other = torch.tensor([1, 2]), torch.tensor([2, 2])
    plain = output(model, labels=one), output(model, labels=other)
    with StepReuse(model):
        for _ in range(2):
            for labels, expected in zip((one, other), plain, strict=True):
                torch.testing.assert_close(output(model, labels=labels), expected, rtol=0, atol=1e-5)


def test_rows_with_timesteps_of_their_own_and_gradients_take_the_plain_forward() -> None:
    model = network()
    latents, times = torch.randn(2, 4, 16, 16), torch.tensor([20, 480])
    with torch.no_grad():
        expected = model(latents, times, LABELS[:2], return_dict=False)[0]
        with StepReuse(model):
            assert torch.equal(model(latents, times, LABELS[:2], return_dict=False)[0], expected)
    with StepReuse(model):
        latents.requires_grad_(True)
        model(latents, times[:1].expand(2), LABELS[:2], return_dict=False)[0].sum().backward()
    assert latents.grad is not None


class Other(nn.Linear):
    """A layer that is not the published one."""


def test_networks_of_another_make_are_left_as_they_are() -> None:
    def residual(model: Any) -> None:
        model.transformer_blocks[1].attn1.residual_connection = True

    def layer(model: Any) -> None:
        model.transformer_blocks[0].ff.net[2] = Other(64, 16)

    def training(model: Any) -> None:
        model.train()

    for change in (residual, layer, training):
        model = network()
        assert is_published_dit(model)
        change(model)
        assert not is_published_dit(model)
        with StepReuse(model):
            assert "forward" not in model.__dict__


def test_sharing_takes_the_copies_away_and_changes_no_output() -> None:
    model = network()
    for block in model.transformer_blocks:
        block.norm1.emb.load_state_dict(model.transformer_blocks[0].norm1.emb.state_dict())
    before, expected = sum(weight.numel() for weight in model.parameters()), output(model)
    copy = sum(weight.numel() for weight in model.transformer_blocks[1].norm1.emb.parameters())
    assert share_embedders(model)
    assert sum(weight.numel() for weight in model.parameters()) == before - copy
    assert torch.equal(output(model), expected)


def test_weights_that_are_elsewhere_are_not_compared() -> None:
    model = network()
    model.transformer_blocks[1].norm1.emb.to("meta")
    assert not share_embedders(model)


def test_a_sampler_runs_the_shorter_forward_and_puts_the_models_own_back() -> None:
    backend: Any = wrap(making.dit())
    stood_in = []
    backend.denoiser.register_forward_pre_hook(lambda model, _: stood_in.append("forward" in model.__dict__))
    Sampler(backend, Settings(steps=2, guidance=4.0)).batch([Request(1, "k", 0)])
    assert stood_in == [True, True]
    assert "forward" not in backend.denoiser.__dict__
