"""The reference family: what its losses come to, that a stopped fit ends in the same bits, that its words have one number."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from synth.errors import SynthError
from synth.family.assemble import assemble, built, packed, training_schedule
from synth.family.config import NOISE, PARTS, Budget, Family, Shape, class_prompt, schedules
from synth.family.objectives import contrast, denoising, reconstruction
from synth.family.parts import AutoencoderPart, ClassDiTPart, ClipPart, TextUNetPart, latents_of, padded
from synth.family.shapes import EOS
from synth.family.tokens import byte_pairs, tokenizer
from synth.family.training import Fit

CAPTIONS = ["a photo of a bag", "a red shirt and a blue bag", "a shirt", "a photo of a shirt, left of a bag"]
SHAPE = Shape(32, 4, (8, 8, 8), (16, 16), (32, 1), (32, 1), 8, 16, 16, (32, 1))


@pytest.fixture(scope="module")
def family() -> Family:
    words = tokenizer(CAPTIONS, SHAPE.tokens)
    return Family(SHAPE, ("Bag", "Shirt"), ("bag", "shirt"), 0.8, len(words), schedules(), {})


def seeded(part: str, family: Family) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        return built(part, family)


# losses


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_min_snr_weights_are_those_of_the_paper(kind: str) -> None:
    """Hang et al., 2023: min(snr, 5)/snr for noise, min(snr, 5)/(snr + 1) for velocity, against targets written out."""
    schedule = DDPMScheduler(**NOISE, prediction_type=kind)
    generator = torch.Generator().manual_seed(0)
    latents, noise, predicted = (torch.randn(3, 2, 4, 4, generator=generator) for _ in range(3))
    timesteps = torch.tensor([1, 400, 990])
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)[timesteps]
    expected = 0.0
    for row in range(3):
        alpha = float(kept[row])
        snr = alpha / (1 - alpha)
        if kind == "epsilon":
            target, weight = noise[row], min(snr, 5) / snr
        else:
            target = alpha**0.5 * noise[row] - (1 - alpha) ** 0.5 * latents[row]
            weight = min(snr, 5) / (snr + 1)
        expected += weight * float((predicted[row] - target).square().mean()) / 3
    assert float(kept[0] / (1 - kept[0])) > 5 > float(kept[2] / (1 - kept[2]))  # both sides of the clamp
    assert float(denoising(predicted, latents, noise, timesteps, schedule, 5.0)) == pytest.approx(expected, rel=1e-4)


def test_contrast_of_distinct_texts_is_clips_loss() -> None:
    generator = torch.Generator().manual_seed(1)
    images, texts = (torch.randn(4, 8, generator=generator) for _ in range(2))
    images, texts = (nn.functional.normalize(side, dim=1) for side in (images, texts))
    logits = 10.0 * images @ texts.T
    rows, columns = logits.log_softmax(1).diagonal().mean(), logits.log_softmax(0).diagonal().mean()
    found = contrast(3 * images, 5 * texts, torch.tensor(10.0).log(), torch.eye(4, dtype=torch.bool))
    assert float(found) == pytest.approx(-float(rows + columns) / 2, rel=1e-5)


def test_contrast_shares_the_target_among_equal_captions() -> None:
    """Images 0 and 1 have one caption: with equal features for both, either may be named, and perfect telling costs log 2 twice."""
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
    found = contrast(features, features, torch.tensor(100.0).log(), same)
    assert float(found) == pytest.approx(2 / 3 * float(torch.tensor(2.0).log()), rel=1e-4)
    apart = contrast(features, features, torch.tensor(100.0).log(), torch.eye(3).bool())
    assert float(apart) == pytest.approx(float(found), rel=1e-4)
    pushed = torch.tensor([[1.0, 0.2], [1.0, -0.2], [0.0, 1.0]])  # telling equal captions apart costs
    assert contrast(pushed, pushed, torch.tensor(100.0).log(), same) > 2 * found


class Blurred(nn.Module):
    """Stands in for an autoencoder: a given posterior, and a decoder that returns the latent."""

    def __init__(self, mean: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.latent_dist = type("Posterior", (), {"mean": mean, "logvar": spread})()

    def encode(self, images: Tensor) -> Blurred:
        return self

    def decode(self, latents: Tensor) -> Any:
        return type("Decoded", (), {"sample": latents})()


def test_the_autoencoders_loss_is_its_three_terms() -> None:
    """|error|, half the error of differences, and kl times 0.5 (mu^2 + sigma^2 - 1 - log sigma^2)."""
    images = torch.zeros(1, 3, 4, 4)
    images[..., 2:] = 0.5
    mean, spread = torch.full((1, 3, 4, 4), 0.25), torch.full((1, 3, 4, 4), -200.0)  # no noise to speak of
    loss, squared = reconstruction(Blurred(mean, spread), images, torch.Generator(), 0.1)
    divergence = 0.5 * (0.25**2 + 0.0 - 1 + 200.0)
    assert float(squared) == pytest.approx(0.25**2)
    # The error is 0.25 left and -0.25 right: one of three neighbours differs, by 0.5.
    assert float(loss) == pytest.approx(0.25 + 0.5 * 0.5 / 3 + 0.1 * divergence, rel=1e-5)


def test_a_standard_normal_posterior_costs_nothing() -> None:
    images = torch.rand(1, 3, 4, 4)
    zero = torch.zeros(1, 3, 4, 4)
    costs = [float(reconstruction(Blurred(zero, zero), images, _seed(4), kl)[0]) for kl in (0.0, 1.0)]
    assert costs[0] == costs[1]


def _seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


# words


def test_words_have_the_same_numbers_in_every_process() -> None:
    code = (
        "import json, sys; from synth.family.tokens import tokenizer;"
        "t = tokenizer(json.loads(sys.argv[1]), 16); print(t.backend_tokenizer.to_str())"
    )
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", code, json.dumps(CAPTIONS[::-1])]
    elsewhere = subprocess.run(command, capture_output=True, check=True, cwd=root, text=True).stdout
    assert elsewhere == tokenizer(CAPTIONS, 16).backend_tokenizer.to_str() + "\n"


def test_the_commonest_pair_is_merged_first_and_of_equal_ones_the_lower() -> None:
    vocab, merges = byte_pairs(Counter({"aab": 3, "cab": 1, "dd": 4}), 1024)
    # `a b</w>` 4 times, `d d</w>` 4 times, `a a` 3, `c a` 1; b</w> is before d</w>, and a before d.
    assert merges[:2] == [("a", "b</w>"), ("d", "d</w>")]
    assert merges[2:] == [("a", "ab</w>"), ("c", "ab</w>")]
    assert sorted(vocab.values()) == list(range(len(vocab)))
    assert (vocab["<|startoftext|>"], vocab["<|endoftext|>"]) == (0, 1)
    assert [vocab[word] for word in ("ab</w>", "dd</w>", "aab</w>", "cab</w>")] == list(
        range(len(vocab) - 4, len(vocab))
    )


def test_the_vocabulary_is_no_larger_than_asked() -> None:
    vocab, merges = byte_pairs(Counter({"abcdef": 1}), 2 + 256 + 1 + 2)
    assert (len(vocab), len(merges)) == (261, 2)


def test_ids_stand_between_begin_and_end_and_read_back() -> None:
    words = tokenizer(CAPTIONS, 16)
    ids = words(CAPTIONS[3]).input_ids
    assert ids[0] == 0
    assert ids[-1] == EOS
    assert words.decode(ids, skip_special_tokens=True).replace(" ,", ",") == CAPTIONS[3]
    assert len(words("bag").input_ids) == 3  # a word of the captions is one token
    assert padded([ids[:3], ids], 5, EOS).tolist() == [[*ids[:3], EOS, EOS], ids[:5]]


# training


def parts_of(family: Family) -> dict[str, Any]:
    """Every part on random data."""
    images = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8, generator=_seed(0))
    words = tokenizer(CAPTIONS, SHAPE.tokens)
    tokens = padded(words(CAPTIONS * 3).input_ids, SHAPE.tokens, EOS)
    prompts = padded(words(family.prompts).input_ids, SHAPE.tokens, EOS)
    shown = (torch.arange(24).reshape(12, 2) % 3 != 0).float().clamp(min=0.0)
    shown[shown.sum(1) == 0] = 1.0
    empty = padded(words([""]).input_ids, SHAPE.tokens, EOS)
    clip = seeded("clip", family)
    latents = latents_of(seeded("vae", family), images, 5) * family.scaling
    text, classes = (training_schedule(family, role) for role in ("text", "classes"))
    return {
        "vae": AutoencoderPart(seeded("vae", family), images, encoder_steps=3),
        "clip": ClipPart(seeded("clip", family), images, tokens, shown, prompts, text_steps=3),
        "unet": TextUNetPart(seeded("unet", family), clip, text, latents, tokens, tokens, empty),
        "dit": ClassDiTPart(seeded("dit", family), classes, latents, torch.arange(12) % 2),
    }


@pytest.mark.parametrize(("part", "stop"), [*((part, 2) for part in PARTS), ("vae", 4), ("clip", 4)])
def test_a_fit_that_was_stopped_ends_in_the_same_bits(part: str, stop: int, family: Family) -> None:
    """Stopped before a half of it rests, and after."""
    budget = Budget(steps=6, batch=4, rate=1e-3, warmup=2)
    whole = Fit(parts_of(family)[part], budget, 5)
    whole.run()
    first = Fit(parts_of(family)[part], budget, 5)
    first.run(until=stop)
    saved = io.BytesIO()
    torch.save(first.state(), saved)
    saved.seek(0)
    torch.rand(3)  # what else happens in the process between does not matter
    second = Fit(parts_of(family)[part], budget, 5)
    second.restore(torch.load(saved, weights_only=True))
    second.run()
    expected, found = whole.finish().state_dict(), second.finish().state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    start = parts_of(family)[part].model().state_dict()
    assert any(not torch.equal(start[name], value) for name, value in expected.items())


@pytest.mark.parametrize(("part", "half"), [("vae", "encoder."), ("clip", "text_model.")])
def test_what_rests_stays_as_others_read_it(part: str, half: str, family: Family) -> None:
    """Its averaged weights at the step it rests are its weights to the end; the other half goes on."""
    budget = Budget(steps=6, batch=4, rate=1e-3, warmup=2)
    short = Fit(parts_of(family)[part], budget, 5)
    short.run(until=3)
    whole = Fit(parts_of(family)[part], budget, 5)
    whole.run()
    early, late = short.finish().state_dict(), whole.finish().state_dict()
    resting = {name for name in early if name.startswith(half)}
    assert resting
    assert all(torch.equal(early[name], late[name]) for name in resting)
    assert not all(torch.equal(early[name], late[name]) for name in set(early) - resting)


def test_a_fit_leaves_the_global_generator_alone(family: Family) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    Fit(parts_of(family)["dit"], Budget(steps=1, batch=2, rate=1e-3), 5)
    state = torch.get_rng_state()
    fit = Fit(parts_of(family)["dit"], Budget(steps=1, batch=2, rate=1e-3), 5)
    fit.run()
    assert torch.equal(before, state)
    assert torch.equal(torch.get_rng_state(), state)


def test_training_lowers_the_loss(family: Family) -> None:
    told: list[float] = []
    fit = Fit(parts_of(family)["vae"], Budget(steps=40, batch=8, rate=3e-3, warmup=5), 5)
    fit.run(tell=lambda _step, figures: told.append(figures["loss"]))
    assert sum(told[-5:]) < 0.95 * sum(told[:5])


def test_the_rate_warms_and_falls_to_a_fiftieth() -> None:
    class Nothing:
        name = "none"

        def model(self) -> nn.Module:
            return nn.Linear(1, 1)

        def frozen(self, step: int) -> tuple[str, ...]:
            return ()

        def loss(self, batch: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
            raise AssertionError

    fit = Fit(Nothing(), Budget(steps=100, batch=1, rate=1.0, warmup=10), 0)
    assert fit.rate(4) == pytest.approx(0.5, abs=0.01)
    assert fit.rate(50) == pytest.approx(0.51, abs=1e-6)
    assert fit.rate(99) == pytest.approx(0.02, abs=0.001)


# folders


def test_a_description_survives_json(family: Family) -> None:
    assert Family.from_json(json.loads(json.dumps(family.to_json()))) == family
    with pytest.raises(SynthError, match="not one"):
        Family.from_json({"shape": {}})


def test_a_prompt_has_the_right_article() -> None:
    assert class_prompt("ankle boot") == "a photo of an ankle boot"
    assert class_prompt("bag") == "a photo of a bag"


def test_weights_beyond_half_precision_are_refused() -> None:
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(1e6)
    with pytest.raises(SynthError, match="weight does not fit"):
        packed(model)


def test_weights_of_another_shape_are_refused(family: Family) -> None:
    with pytest.raises(SynthError, match="the weights of dit do not fit its shape"):
        built("dit", family, packed(built("vae", family)))


def test_the_folders_text_tower_is_clips(family: Family, tmp_path: Path) -> None:
    """What the UNet is told in a pipeline is what it was told in training."""
    from transformers import CLIPModel

    from synth.backends import load_backend

    parts = {part: packed(seeded(part, family)) for part in PARTS}
    words = tokenizer(CAPTIONS, SHAPE.tokens)
    assemble(family, parts, words, tmp_path)
    backend: Any = load_backend(str(tmp_path / "text"))
    clip = CLIPModel.from_pretrained(tmp_path / "clip")
    ids = padded(words([CAPTIONS[1]]).input_ids, SHAPE.tokens, EOS)
    with torch.no_grad():
        expected = clip.text_model(input_ids=ids).last_hidden_state
        assert torch.equal(backend.encode([CAPTIONS[1]]).tensors["context"], expected)
    assert backend.pipeline.vae.config.scaling_factor == family.scaling
    assert backend.scheduler.config.prediction_type == "v_prediction"
    assert not backend.scheduler.config.clip_sample
    kept = training_schedule(family, "text").alphas_cumprod
    assert torch.equal(backend.scheduler.alphas_cumprod, kept)
