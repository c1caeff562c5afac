"""Adaptation learns, can be stopped at any step, and adapters on one base do not disturb each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: limbeck[synth]")

from synth.backends import wrap
from synth.datadream.adapt import Adaptation, Subject
from synth.datadream.config import AdaptConfig
from synth.datadream.embedding import embed
from synth.datadream.latents import CachedLatents, FreshLatents
from synth.datadream.lora import LoraSet
from synth.datadream.objective import objective_for
from synth.errors import SynthError
from tests.synth import making

QUICK = AdaptConfig(rank=4, steps=6, batch_size=2, learning_rate=1e-2)


def subject(name: str, seed: int = 0, count: int = 3) -> Subject:
    source = torch.Generator().manual_seed(seed)
    return Subject(
        name, [torch.rand(3, 32, 40, generator=source) for _ in range(count)], ["a dog", "a cat", "a dog"][:count]
    )


def trained(adapters: LoraSet, what: Subject, config: AdaptConfig = QUICK) -> Adaptation:
    training = Adaptation(adapters, what, config, run_seed=1)
    while not training.done:
        training.advance()
    return training


def same(first: Any, second: Any) -> bool:
    assert {part: set(first[part]) for part in first} == {part: set(second[part]) for part in second}
    return all(torch.equal(first[part][key], second[part][key]) for part in first for key in first[part])


@pytest.mark.parametrize("mode", ["improved", "reference"])
def test_the_loss_falls_on_noise_that_was_not_trained_on(mode: str) -> None:
    config = AdaptConfig(mode=mode, rank=8, steps=80, batch_size=4, learning_rate=1e-2, warmup_steps=5)  # type: ignore[arg-type]
    greys = [torch.full((3, 32, 32), value) for value in (0.1, 0.9)]
    training = Adaptation(LoraSet(wrap(making.sd())), Subject("grey", greys, ["a dog"] * 2), config, run_seed=1)

    @torch.no_grad()
    def held_out() -> float:
        training.adapters.activate("grey")
        return sum(float(training.loss(step)) for step in range(1000, 1010))

    before = held_out()
    while not training.done:
        training.advance()
    assert held_out() < 0.9 * before


@pytest.mark.parametrize("mode", ["improved", "reference"])
@pytest.mark.parametrize("text", [True, False])
def test_a_run_that_was_stopped_goes_on_with_the_same_bits(mode: str, text: bool) -> None:
    config = AdaptConfig(mode=mode, rank=4, steps=6, batch_size=2, learning_rate=1e-2, train_text=text)  # type: ignore[arg-type]
    whole = trained(LoraSet(wrap(making.sd()), text), subject("dog"), config)
    first = Adaptation(LoraSet(wrap(making.sd()), text), subject("dog"), config, run_seed=1)
    for _ in range(3):
        first.advance()
    state = first.state()
    first.advance()  # what came after the state was taken does not count
    second = Adaptation(LoraSet(wrap(making.sd()), text), subject("dog"), config, run_seed=1)
    second.load_state(state)
    while not second.done:
        second.advance()
    assert same(second.adapters.state("dog"), whole.adapters.state("dog"))


def test_adapters_in_turn_on_one_base_are_what_each_is_alone(tmp_path: Path) -> None:
    shared = LoraSet(wrap(making.sd()))
    subjects = [subject("dog"), subject("cat", 1, 2), subject("to_q", 2), subject("0", 3)]  # names of layers
    trainings = [Adaptation(shared, what, QUICK, run_seed=1) for what in subjects]
    while not all(training.done for training in trainings):
        for training in trainings:
            if not training.done:
                training.advance()
    for what in subjects:
        alone = LoraSet(wrap(making.sd()))
        trained(alone, what)
        assert same(shared.state(what.name), alone.state(what.name))
        first, second = (s.save(what.name, tmp_path / str(i)).read_bytes() for i, s in enumerate((shared, alone)))
        assert first == second


def test_another_seed_and_another_name_give_another_adapter() -> None:
    made = []
    for name, seed in (("dog", 1), ("dog", 2), ("cat", 1)):
        training = Adaptation(
            LoraSet(wrap(making.sd())), Subject(name, subject("x").images, ["a dog"] * 3), QUICK, seed
        )
        made.append(float(training.advance()))
    assert len(set(made)) == 3


def test_kept_posteriors_give_the_latents_of_encoding_again_for_square_images() -> None:
    backend = wrap(making.sd())
    images = [torch.rand(3, side, side) for side in (32, 48, 20)]
    kept = CachedLatents(backend, images, 32, "random", 4, torch.Generator())
    fresh = FreshLatents(backend, images, 32, "center")
    assert len(kept.moments) == 3
    rows = [2, 0, 0, 1]
    first, second = (source.draw(rows, torch.Generator().manual_seed(4)) for source in (kept, fresh))
    assert (first - second).abs().max() < 1e-6
    assert not torch.equal(first[1], first[2])


def test_several_crops_of_an_oblong_image_are_kept() -> None:
    kept = CachedLatents(
        wrap(making.sd()), [torch.rand(3, 32, 64), torch.rand(3, 32, 32)], 32, "random", 4, torch.Generator()
    )
    assert [len(places) for places in kept.places] == [4, 1]
    assert (kept.moments.mean[0] - kept.moments.mean[1]).abs().max() > 1e-3


def test_every_image_is_seen_once_an_epoch_and_the_last_batch_is_kept() -> None:
    training = Adaptation(LoraSet(wrap(making.sd())), subject("dog"), AdaptConfig(rank=2, batch_size=2, epochs=5), 1)
    assert training.total == 10
    epochs = [training.rows(2 * epoch) + training.rows(2 * epoch + 1) for epoch in range(5)]
    assert all(sorted(rows) == [0, 1, 2] for rows in epochs)
    assert len({tuple(rows) for rows in epochs}) > 1


def test_every_step_draws_anew() -> None:
    backend = wrap(making.sd())
    training = Adaptation(LoraSet(backend), Subject("dog", [torch.rand(3, 32, 32)], ["a dog"]), QUICK, run_seed=1)
    with torch.no_grad():
        assert len({float(training.loss(step)) for step in range(6)}) == 6
        assert training.loss(3) == training.loss(3)


def test_warm_up_is_a_tenth_at_most_unless_as_published() -> None:
    peaks = {}
    for mode in ("improved", "reference"):
        config = AdaptConfig(mode=mode)  # type: ignore[arg-type]
        rates = [config.rate(step, 200) for step in range(200)]
        peaks[mode] = rates.index(max(rates))
        assert max(rates) == 1e-4
    assert peaks == {"improved": 20, "reference": 100}


def test_prompts_encoded_before_an_adaptation_are_not_taken_for_those_after_it() -> None:
    backend = wrap(making.sd())
    adapters = LoraSet(backend)
    training = Adaptation(adapters, subject("dog"), QUICK, run_seed=1)
    adapters.activate("dog")
    before = backend.encode(["a dog"]).tensors["context"]
    while not training.done:
        training.advance()
    after = backend.encode(["a dog"]).tensors["context"]
    assert (after - before).abs().max() > 1e-4
    adapters.remove("dog")
    assert torch.equal(backend.encode(["a dog"]).tensors["context"], before)


def test_the_text_encoder_is_run_once_a_step_or_once_at_all() -> None:
    for text, expected in ((True, 7), (False, 1)):  # the last step's batch is looked at once more
        backend = wrap(making.sd())
        calls: list[int] = []
        backend.pipeline.text_encoder.register_forward_pre_hook(lambda *_, c=calls: c.append(1))
        trained(LoraSet(backend, text), subject("dog"), AdaptConfig(rank=2, steps=6, batch_size=3, train_text=text))
        assert len(calls) == expected


def test_a_bfloat16_base_is_adapted_by_float32_weights() -> None:
    pipeline = making.sd()
    pipeline.to(torch.bfloat16)
    adapters = LoraSet(wrap(pipeline))
    training = trained(adapters, subject("dog"))
    assert {weight.dtype for weight in adapters.parameters("dog")} == {torch.float32}
    assert all(torch.isfinite(weight).all() for weight in training.adapters.parameters("dog"))
    assert any(t.any() for name, t in adapters.state("dog")["unet"].items() if "lora_B" in name)
    assert pipeline.unet.conv_in.weight.dtype == torch.bfloat16


def test_the_base_and_the_global_generators_are_left_alone() -> None:
    backend = wrap(making.sd())
    before = {n: p.clone() for n, p in backend.pipeline.unet.named_parameters()}
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    adapters = LoraSet(backend)
    trained(adapters, subject("dog"))
    assert torch.equal(torch.rand(3), expected)
    adapters.remove("dog")
    after = {
        n.replace(".base_layer", ""): p for n, p in backend.pipeline.unet.named_parameters()
    }  # peft's wrappers stay
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux", "schnell"])
def test_every_family_with_adapters_is_adapted(family: str) -> None:
    config = AdaptConfig(rank=4, steps=12, batch_size=3, learning_rate=1e-2, size=32, warmup_steps=1)
    adapters = LoraSet(wrap(making.MAKERS[family]()))
    training = Adaptation(adapters, subject("dog"), config, run_seed=1)
    assert all(torch.isfinite(training.advance()) for _ in range(12))
    for part, state in adapters.state("dog").items():
        assert any(t.any() for name, t in state.items() if "lora_B" in name), part


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3", "flux"])
def test_prompts_are_told_in_training_as_in_sampling(family: str) -> None:
    backend = wrap(making.MAKERS[family]())
    prompts = ["a dog", "a photo of a cat", "a dog"]
    told, expected = embed(backend, prompts), backend.encode(prompts)
    assert told.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert (told.tensors[name] - tensor).abs().max() < 1e-5


def test_min_snr_weighs_as_published_and_is_refused_for_flow_models() -> None:
    for prediction in ("epsilon", "v_prediction"):
        objective = objective_for(wrap(making.sd(prediction)).scheduler, min_snr=5.0)
        levels = torch.tensor([0, 500, 999])
        signal = objective.signal[levels]  # type: ignore[attr-defined]
        ratio = signal / (1 - signal)
        expected = ratio.clamp(max=5) / (ratio if prediction == "epsilon" else ratio + 1)
        assert torch.allclose(objective.weights(levels, torch.device("cpu")), expected)  # type: ignore[arg-type]
    with pytest.raises(SynthError, match="min_snr weighs by"):
        objective_for(wrap(making.sd3()).scheduler, min_snr=5.0)


@pytest.mark.parametrize("family", ["sd15", "sd3"])
def test_stratified_levels_have_the_distribution_of_independent_ones(family: str) -> None:
    objective = objective_for(wrap(making.MAKERS[family]()).scheduler)
    source = torch.Generator().manual_seed(0)
    found = [torch.stack([objective.levels(8, source, even) for _ in range(4000)]).double() for even in (True, False)]
    means, spreads = [levels.mean().item() for levels in found], [levels.std().item() for levels in found]
    assert abs(means[0] - means[1]) < 6
    assert abs(spreads[0] - spreads[1]) < 6
    assert found[0].mean(1).std() < 0.4 * found[1].mean(1).std()  # what it is for: batches are alike
    assert abs(found[0][:, 0].mean() - means[0]) < 12  # and no place in the batch is special


def test_settings_that_cannot_be_used_are_one_sentence() -> None:
    backend = wrap(making.sd())
    for wrong, message in (
        ({"mode": "fast"}, "mode takes improved | reference, got 'fast'"),
        ({"rank": 0}, "rank takes a whole number from 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate takes a number above 0"),
        ({"steps": 0}, "steps takes a whole number from 1, got 0"),
    ):
        with pytest.raises(SynthError) as caught:
            AdaptConfig(**wrong)  # type: ignore[arg-type]
        assert message in str(caught.value)
    with pytest.raises(SynthError, match="has 2 images and 1 prompts"):
        Subject("dog", [torch.rand(3, 8, 8)] * 2, ["a dog"])
    with pytest.raises(SynthError, match="train_text is off"):
        Adaptation(LoraSet(backend), subject("dog"), AdaptConfig(train_text=False))
    with pytest.raises(SynthError, match="multiples of"):
        Adaptation(LoraSet(backend), subject("dog"), AdaptConfig(size=33))
    with pytest.raises(SynthError, match="no dots"):
        Adaptation(LoraSet(backend), subject("a.b"), QUICK)
    with pytest.raises(SynthError, match="no adapter called 'cat' is in training, only none"):
        LoraSet(backend).save("cat", "nowhere")
    with pytest.raises(SynthError, match="takes no LoRA adapters"):
        LoraSet(wrap(making.dit()))
    with pytest.raises(SynthError, match="an image is RGB"):
        Adaptation(LoraSet(backend), Subject("dog", [torch.zeros(1, 8, 8)], ["a dog"]), QUICK)
