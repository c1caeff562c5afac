"""An image belongs to its (run seed, key, ordinal): not to its batch, its neighbours, its place, its process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from synth.errors import SynthError
from synth.requests import Request, torch_generators
from synth.sampling import Sampler
from synth.settings import Cads, Settings
from tests.synth import making

Find = Callable[[str], Any]


def requests(count: int, key: str = "dog", prompt: str = "a photo of a dog") -> list[Request]:
    return [Request(prompt, key, i) for i in range(count)]


def images(backend: Any, asked: list[Request], batch: int = 4, seed: int = 3, **settings: Any) -> torch.Tensor:
    sampler = Sampler(backend, Settings(**{"steps": 4, "guidance": 2.0, **settings}), run_seed=seed, batch_size=batch)
    return torch.cat([made.images for made in sampler.generate(asked)])


@pytest.mark.parametrize("name", sorted(making.MAKERS))
def test_every_family_is_loaded_from_a_folder_and_generates(generator: Find, name: str) -> None:
    backend = generator(name)
    prompts: list[Any] = [3, 4] if name == "dit" else ["a red bag", "a dog"]
    [made] = Sampler(backend, Settings(steps=3, size=(32, 32)), run_seed=1).generate(
        [Request(prompt, "k", i) for i, prompt in enumerate(prompts)]
    )
    assert made.images.shape == (2, 3, 32, 32)
    assert made.images.dtype == torch.float32
    assert 0 <= made.images.min() < made.images.max() <= 1
    assert not made.black.any()
    assert not made.broken.any()


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "flux", "dit"])
def test_18_the_same_image_at_batch_1_and_4_and_in_any_order(generator: Find, name: str) -> None:
    backend = generator(name)
    asked = [Request(i if name == "dit" else f"a photo {i}", "dog", i) for i in range(5)]
    more = {"size": (32, 32)}
    fours, ones = images(backend, asked, 4, **more), images(backend, asked, 1, **more)
    torch.testing.assert_close(fours, ones, atol=1e-5, rtol=0)
    back = images(backend, asked[::-1], 3, **more).flip(0)
    torch.testing.assert_close(fours, back, atol=1e-5, rtol=0)


def test_18_a_resumed_run_has_the_same_bits(generator: Find) -> None:
    backend, asked = generator("sd15"), requests(7)
    whole = images(backend, asked, 3)
    sampler = Sampler(backend, Settings(steps=4, guidance=2.0), run_seed=3, batch_size=3)
    batches = list(sampler.batches(asked))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert torch.equal(sampler.batch(batches[1]).images, whole[3:6])
    assert torch.equal(sampler.batch(batches[2]).images, whole[6:])


def test_18_another_process_makes_the_same_bits(folder_of: Find, generator: Find) -> None:
    program = (
        "import sys, hashlib, torch; torch.set_num_threads(1)\n"
        "from synth.backends import load_backend\n"
        "from tests.synth.test_sampling import images, requests\n"
        "made = images(load_backend(sys.argv[1]), requests(3))\n"
        "print(hashlib.sha256(made.numpy().tobytes()).hexdigest())"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", program, folder_of("sd15")], env=environment, capture_output=True, text=True, check=True
    )
    here = images(generator("sd15"), requests(3))
    assert ran.stdout.split()[-1] == hashlib.sha256(here.numpy().tobytes()).hexdigest()


def test_19_reference_seeds_start_every_class_from_the_same_noise_and_ours_do_not(generator: Find) -> None:
    backend = generator("sd15")
    dogs, cats = requests(3, "dog"), requests(3, "cat")
    reference = Sampler(backend, Settings(seeds="reference"), run_seed=0)
    assert torch.equal(reference.initial_noise(dogs), reference.initial_noise(cats))
    ours = Sampler(backend, Settings(), run_seed=0)
    both = torch.cat([ours.initial_noise(dogs), ours.initial_noise(cats)])
    assert len({row.numpy().tobytes() for row in both}) == 6
    other = Sampler(backend, Settings(), run_seed=1)
    assert not torch.equal(other.initial_noise(dogs), ours.initial_noise(dogs))


def test_19_the_start_noise_is_standard_normal(generator: Find) -> None:
    noise = Sampler(generator("sd15"), Settings(), run_seed=5).initial_noise(requests(64))
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02


def test_every_use_of_chance_has_numbers_of_its_own(generator: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    first = [torch_generators(0, requests(1), purpose)[0] for purpose in ("latents", "solver", "cads", "posterior")]
    assert len({float(torch.randn((), generator=source)) for source in first}) == 4
    used: list[str] = []

    def spy(run_seed: int, asked: Any, purpose: str, mode: Any = "sample") -> list[torch.Generator]:
        used.append(purpose)
        return torch_generators(run_seed, asked, purpose, mode)

    monkeypatch.setattr("synth.sampling.torch_generators", spy)
    request = Request("a", "k", 0, image=torch.rand(3, 32, 32), strength=50)
    settings = Settings(steps=4, scheduler="euler_ancestral", posterior="sample", cads=Cads())
    Sampler(generator("sd15"), settings).batch([request])
    assert sorted(used) == ["cads", "latents", "posterior", "solver"]


@pytest.mark.parametrize("scheduler", ["euler_ancestral", "ddim"])
def test_a_solver_that_draws_draws_for_each_sample(generator: Find, scheduler: str) -> None:
    backend = generator("sd15")
    fours = images(backend, requests(4), 4, scheduler=scheduler)
    ones = images(backend, requests(4), 1, scheduler=scheduler)
    torch.testing.assert_close(fours, ones, atol=1e-5, rtol=0)


def test_nothing_touches_the_global_generator(folder_of: Find) -> None:
    from synth.backends import load_backend

    for name in ("sd15", "flux", "dit"):
        torch.manual_seed(11)
        before = torch.random.get_rng_state()
        backend = load_backend(folder_of(name))
        prompt: Any = 2 if name == "dit" else "a dog"
        Sampler(backend, Settings(steps=2, size=(32, 32))).batch([Request(prompt, "k", 0)])
        assert torch.equal(torch.random.get_rng_state(), before), name


def test_a_fixed_batch_is_filled_up_and_cut_again(generator: Find) -> None:
    backend, rows = generator("sd15"), []
    sampler = Sampler(backend, Settings(steps=2, guidance=2.0), run_seed=3, batch_size=4, fixed_batch=True)
    hook = backend.denoiser.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    made = list(sampler.generate(requests(5)))
    hook.remove()
    assert [len(batch.images) for batch in made] == [4, 1]
    assert set(rows) == {8}
    loose = images(backend, requests(5), 4, steps=2)
    torch.testing.assert_close(torch.cat([batch.images for batch in made]), loose, atol=1e-5, rtol=0)


def test_black_and_broken_images_are_counted(generator: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = generator("sd15")

    def decode(latents: torch.Tensor) -> torch.Tensor:
        made = torch.full((len(latents), 3, 8, 8), 0.5)
        made[1] = 0
        made[2, 0, 0, 0] = float("nan")
        return made

    monkeypatch.setattr(backend, "decode", decode)
    made = Sampler(backend, Settings(steps=1)).batch(requests(3))
    assert made.black.tolist() == [False, True, False]
    assert made.broken.tolist() == [False, False, True]


def test_mixed_kinds_get_batches_of_their_own(generator: Find) -> None:
    picture = torch.rand(3, 32, 32)
    asked = [
        Request("a", "k", 0),
        Request("a", "k", 1),
        Request("a", "k", 2, image=picture, strength=50),
        Request("a", "k", 3, image=picture, strength=30),
    ]
    sampler = Sampler(generator("sd15"), Settings(steps=4), batch_size=8)
    assert [len(batch) for batch in sampler.batches(asked)] == [2, 1, 1]
    with pytest.raises(SynthError, match="batches of their own"):
        sampler.batch(asked)


def test_a_weak_strength_stays_near_the_image(generator: Find) -> None:
    backend = generator("sd15")
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1))
    around = backend.decode(backend.encode_images(picture[None]))[0]
    far = []
    for strength in (10, 50, 100):
        made = images(backend, [Request("a", "k", 0, image=picture, strength=strength)], steps=10)
        far.append(float((made[0] - around).abs().mean()))
    assert far[0] < far[1] < far[2]


def test_requests_a_model_cannot_meet_are_refused_in_a_sentence(generator: Find) -> None:
    sd = generator("sd15")
    with pytest.raises(SynthError, match="takes no boxes"):
        images(sd, [Request("a", "k", 0, boxes=torch.rand(1, 4), phrases=("a",))])
    with pytest.raises(SynthError, match="images of 16x16 came where 32x32 are made"):
        images(sd, [Request("a", "k", 0, image=torch.rand(3, 16, 16), strength=50)])
    with pytest.raises(SynthError, match="multiples of 2, not 31x32"):
        images(sd, requests(1), size=(31, 32))
    with pytest.raises(SynthError, match="class numbers from 0 to 9, got 'a dog'"):
        images(generator("dit"), [Request("a dog", "k", 0)])
    with pytest.raises(SynthError, match="class numbers from 0 to 9, got 10"):
        images(generator("dit"), [Request(10, "k", 0)])
    with pytest.raises(SynthError, match="leaves out a UNet's encoder"):
        images(generator("dit"), [Request(1, "k", 0)], encoder_every=3)
    with pytest.raises(SynthError, match="2 boxes came with 1 phrases"):
        Request("a", "k", 0, boxes=torch.rand(2, 4), phrases=("a",))
    with pytest.raises(SynthError, match="no image was given"):
        Request("a", "k", 0, mask=torch.ones(1, 32, 32))
    with pytest.raises(SynthError, match="at most 30 boxes"):
        images(generator("gligen"), [Request("a", "k", 0, boxes=torch.rand(31, 4), phrases=("a",) * 31)])
    with pytest.raises(SynthError, match="SDXL on SDXL"):
        Sampler(sd, refiner=generator("sdxl"))
    with pytest.raises(SynthError, match=r"interval takes two numbers"):
        Settings(interval=(0.8, 0.2))


def test_a_compiled_model_gives_the_same_image(folder_of: Find, generator: Find) -> None:
    from synth.backends import load_backend

    backend: Any = load_backend(folder_of("sd15"))
    backend.compile(compiler="eager")
    torch.testing.assert_close(
        images(backend, requests(2), steps=2), images(generator("sd15"), requests(2), steps=2), atol=1e-5, rtol=0
    )


def test_the_memory_probe_is_asked_once_on_a_gpu_and_never_on_a_cpu(
    generator: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = Sampler(generator("sd15"), Settings(steps=2))
    assert [len(batch) for batch in sampler.batches(requests(11))] == [8, 3]
    asked: list[int] = []

    def probe(run: Callable[[int], None], device: torch.device) -> int:
        asked.append(1)
        run(2)
        return 5

    sampler = Sampler(generator("sd15"), Settings(steps=2))
    monkeypatch.setattr("synth.sampling.largest_batch", probe)
    monkeypatch.setattr("synth.sampling.needs_probe", lambda device: True)
    for _ in range(2):
        assert [len(batch) for batch in sampler.batches(requests(11))] == [5, 5, 1]
    assert asked == [1]
    weak = Request("a", "k", 0, image=torch.rand(3, 32, 32), strength=5)
    assert len(list(Sampler(generator("sd15"), Settings(steps=50)).batches([weak]))) == 1
