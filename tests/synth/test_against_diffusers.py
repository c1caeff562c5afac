"""Our loop gives what diffusers' own pipelines give, from the same noise: every family, guidance on and off, every solver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import diffusers
import pytest
import torch

from synth import schedules
from synth.backends import wrap
from synth.requests import Request
from synth.sampling import Sampler
from synth.settings import Settings
from tests.synth import making

PROMPTS = ["a red sneaker", "a green bag, on a table"]
SIDE = 32
Find = Callable[[str], Any]


def ours(backend: Any, settings: Settings, requests: list[Request]) -> torch.Tensor:
    [made] = Sampler(backend, settings, run_seed=7, batch_size=4).generate(requests)
    return made.images


def asked(prompts: list[Any], **more: Any) -> list[Request]:
    return [Request(prompt, "sneaker", i, **more) for i, prompt in enumerate(prompts)]


def start(backend: Any, settings: Settings, requests: list[Request]) -> torch.Tensor:
    return Sampler(backend, settings, run_seed=7).initial_noise(requests)


def theirs(backend: Any, settings: Settings, latents: torch.Tensor, **arguments: Any) -> torch.Tensor:
    pipeline = backend.pipeline
    own = pipeline.scheduler
    pipeline.scheduler = schedules.make(settings.scheduler, own)
    try:
        output = pipeline(latents=latents, num_inference_steps=settings.steps, output_type="pt", **arguments)
    finally:
        pipeline.scheduler = own
    return output.images


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl", "sd3", "schnell"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_text_to_image_equals_the_pipelines(generator: Find, name: str, guidance: float) -> None:
    backend, requests = generator(name), asked(PROMPTS)
    settings = Settings(steps=4, guidance=guidance, size=(SIDE, SIDE))
    latents = start(backend, settings, requests)
    if name == "schnell":
        latents = backend.pipeline._pack_latents(latents, 2, 4, SIDE // 2, SIDE // 2)
        told = {"true_cfg_scale": guidance, "negative_prompt": ["", ""]}
    else:
        told = {"guidance_scale": guidance}
    want = theirs(backend, settings, latents, prompt=PROMPTS, height=SIDE, width=SIDE, **told)
    torch.testing.assert_close(ours(backend, settings, requests), want, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["ddim", "pndm", "euler", "dpmpp_2m"])
def test_every_solver_equals_the_pipelines(generator: Find, name: schedules.SchedulerName) -> None:
    backend, requests = generator("sd15"), asked(PROMPTS)
    settings = Settings(steps=6, guidance=3.0, scheduler=name)
    want = theirs(backend, settings, start(backend, settings, requests), prompt=PROMPTS, guidance_scale=3.0)
    torch.testing.assert_close(ours(backend, settings, requests), want, atol=2e-5, rtol=0)


def test_a_model_that_is_told_its_guidance_equals_the_pipelines(generator: Find) -> None:
    backend, requests = generator("flux"), asked(PROMPTS)
    settings = Settings(steps=4, guidance=3.5, size=(SIDE, SIDE))
    latents = backend.pipeline._pack_latents(start(backend, settings, requests), 2, 4, SIDE // 2, SIDE // 2)
    want = theirs(backend, settings, latents, prompt=PROMPTS, guidance_scale=3.5, height=SIDE, width=SIDE)
    torch.testing.assert_close(ours(backend, settings, requests), want, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("sigma", "cells"), [(False, 16), (False, 128), (True, 16)])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_pixart_equals_its_pipelines(sigma: bool, cells: int, guidance: float) -> None:
    backend = wrap(making.pixart(sigma, cells))
    settings, height = Settings(steps=3, guidance=guidance, size=(24, SIDE), scheduler="dpmpp_2m"), 24
    latents = start(backend, settings, asked(PROMPTS))
    told = {"guidance_scale": guidance, "height": height, "width": SIDE, "use_resolution_binning": False}
    want = theirs(backend, settings, latents, prompt=PROMPTS, clean_caption=False, **told)
    torch.testing.assert_close(ours(backend, settings, asked(PROMPTS)), want, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_dpmpp_on_a_flow_model_equals_the_pipelines(generator: Find, name: str) -> None:
    backend, requests = generator(name), asked(PROMPTS)
    settings = Settings(steps=5, guidance=2.0, scheduler="dpmpp_2m", size=(SIDE, SIDE))
    latents = start(backend, settings, requests)
    if name != "sd3":
        latents = backend.pipeline._pack_latents(latents, 2, 4, SIDE // 2, SIDE // 2)
    told = {"prompt": PROMPTS, "guidance_scale": 2.0, "height": SIDE, "width": SIDE}
    want = theirs(backend, settings, latents, **told)
    torch.testing.assert_close(ours(backend, settings, requests), want, atol=2e-5, rtol=0)


def test_dit_equals_its_pipeline_where_that_knows_the_null_class() -> None:
    backend = wrap(making.dit(classes=1000))  # DiTPipeline writes 1000 for no class whatever the model
    settings, requests = Settings(steps=4, guidance=4.0), asked([207, 360])
    latents = start(backend, settings, requests)
    with mock.patch("diffusers.pipelines.dit.pipeline_dit.randn_tensor", return_value=latents):
        want = backend.pipeline([207, 360], guidance_scale=4.0, num_inference_steps=4, output_type="pt").images
    torch.testing.assert_close(ours(backend, settings, requests), want, atol=2e-5, rtol=0)


@pytest.mark.parametrize("strength", [35, 100])
@pytest.mark.parametrize("name", ["sd15", "sd3"])
def test_image_to_image_equals_the_pipelines(generator: Find, name: str, strength: int) -> None:
    backend = generator(name)
    kind = {"sd15": "StableDiffusionImg2ImgPipeline", "sd3": "StableDiffusion3Img2ImgPipeline"}[name]
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    requests = [Request(p, "bag", i, image=images[i], strength=strength) for i, p in enumerate(PROMPTS)]
    scheduler: schedules.SchedulerName = "ddim" if name == "sd15" else "own"
    settings = Settings(steps=6, guidance=2.0, scheduler=scheduler)
    noise = start(backend, settings, requests)
    parts = dict(backend.pipeline.components)
    pipeline = getattr(diffusers, kind)(**parts, **({"requires_safety_checker": False} if name == "sd15" else {}))
    pipeline.scheduler = schedules.make(scheduler, backend.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    with mock.patch(f"{pipeline.__module__}.randn_tensor", return_value=noise):
        want = pipeline(
            PROMPTS,
            image=backend.encode_images(images),
            strength=strength / 100,
            num_inference_steps=6,
            guidance_scale=2.0,
            output_type="pt",
            **({"height": SIDE, "width": SIDE} if name == "sd3" else {}),
        ).images
    torch.testing.assert_close(ours(backend, settings, requests), want, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    "solver", ["HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "EulerDiscreteScheduler", "PNDMScheduler"]
)
def test_image_to_image_equals_the_pipeline_with_a_solver_of_any_order(solver: str) -> None:
    """Solvers of second order have two timesteps a step: their place among these is not the number of the step."""
    whole = making.sd()
    whole.scheduler = getattr(diffusers, solver).from_config(whole.scheduler.config)
    backend = wrap(whole)
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    requests = [Request(p, "bag", i, image=images[i], strength=50) for i, p in enumerate(PROMPTS)]
    settings = Settings(steps=6, guidance=2.0)
    noise = start(backend, settings, requests)
    pipeline = diffusers.StableDiffusionImg2ImgPipeline(**backend.pipeline.components, requires_safety_checker=False)
    pipeline.scheduler = schedules.make("own", backend.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    with mock.patch(f"{pipeline.__module__}.randn_tensor", return_value=noise):
        want = pipeline(
            PROMPTS, image=backend.encode_images(images), strength=0.5, num_inference_steps=6, guidance_scale=2.0, output_type="pt"
        ).images  # fmt: skip
    torch.testing.assert_close(ours(backend, settings, requests), want, atol=2e-5, rtol=0)


@pytest.mark.parametrize("channels", [4, 9])
def test_inpainting_equals_the_pipelines(channels: int) -> None:
    backend = wrap(making.sd(scheduler=diffusers.DDIMScheduler, channels=channels))
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, 8:24, 4:20] = 1
    requests = [Request(p, "bag", i, image=images[i], mask=mask) for i, p in enumerate(PROMPTS)]
    settings = Settings(steps=5, guidance=2.0)
    noise = start(backend, settings, requests)
    pipeline = diffusers.StableDiffusionInpaintPipeline(**backend.pipeline.components, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    with mock.patch(f"{pipeline.__module__}.retrieve_latents", lambda found, **_: found.latent_dist.mode()):
        want = pipeline(
            PROMPTS,
            image=images,
            mask_image=mask.expand(2, 1, SIDE, SIDE),
            latents=noise,
            height=SIDE,
            width=SIDE,
            strength=1.0,
            num_inference_steps=5,
            guidance_scale=2.0,
            output_type="pt",
        ).images
    torch.testing.assert_close(ours(backend, settings, requests), want, atol=2e-5, rtol=0)


def test_boxes_and_phrases_equal_gligens_pipeline(generator: Find) -> None:
    backend = generator("gligen")
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.4, 0.3, 0.9, 0.9]])
    phrases = ("a bag", "a red shirt")
    requests = [Request(PROMPTS[0], "bag", 0, boxes=boxes, phrases=phrases)]
    settings = Settings(steps=6, guidance=3.0, scheduler="ddim", grounded=0.5)
    told = {"gligen_phrases": list(phrases), "gligen_boxes": boxes.tolist(), "gligen_scheduled_sampling_beta": 0.5}
    for module in backend.pipeline.unet.modules():
        if hasattr(module, "alpha_attn"):  # the gates start at 0, where boxes would have no say
            module.alpha_attn.fill_(1.0)
            module.alpha_dense.fill_(1.0)
    made = ours(backend, settings, requests)
    latents = start(backend, settings, requests)
    want = theirs(backend, settings, latents, prompt=PROMPTS[0], guidance_scale=3.0, **told)
    torch.testing.assert_close(made, want, atol=2e-5, rtol=0)
    without = ours(backend, settings, [Request(PROMPTS[0], "bag", 0)])
    assert (made - without).abs().max() > 1e-3


def test_the_refiner_takes_over_where_diffusers_ensemble_does(generator: Find) -> None:
    base, refiner = generator("sdxl"), wrap(making.sdxl(refiner=True))
    settings, requests = Settings(steps=10, guidance=3.0, refine_below=0.3), asked(PROMPTS)
    arguments = {"num_inference_steps": 10, "guidance_scale": 3.0}
    latents = base.pipeline(
        PROMPTS, latents=start(base, settings, requests), denoising_end=0.7, output_type="latent", **arguments
    ).images
    want = refiner.pipeline(PROMPTS, image=latents, denoising_start=0.7, output_type="pt", **arguments).images
    [made] = Sampler(base, settings, run_seed=7, refiner=refiner).generate(requests)
    # The base's autoencoder decodes; both have the same in real folders.
    torch.testing.assert_close(refiner.decode(made.latents), want, atol=2e-5, rtol=0)
