"""`Sampler`: requests in, image tensors out, each the same at any batch size, order and worker.

The loop over the steps is here once for every stepped model. A result depends on (run seed, key, ordinal), the settings and
the model; the batch around it may change it in the last bits where a BLAS kernel sums in another order (below 1e-5 on a CPU).
Where bits must agree after a resume, make the same batches again: `batches` cuts them from the list alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from synth import schedules
from synth.backends.encoder_free import key_step
from synth.backends.protocol import Backend, SteppedBackend, WholeBackend
from synth.errors import SynthError
from synth.guided_batch import GuidedBatch
from synth.inpainting import Inpainting
from synth.levels import LevelSteps, grid
from synth.memory import largest_batch, needs_probe
from synth.mode_guidance import ModePull
from synth.requests import Generated, Request, checked, noise, stacked_latents, torch_generators
from synth.settings import InversionSettings, ModeGuidance, Settings

CPU_BATCH = 8


@dataclass(frozen=True, eq=False)
class _Start:
    """Where a batch's loop begins: the place of its `first` timestep, `latents` (n, c, h', w') at that noise level, the standard
    normal `noise` (n, c, h', w') in them, and what is painted anew (None: everything)."""

    first: int
    latents: torch.Tensor
    noise: torch.Tensor
    inpainting: Inpainting | None


class Sampler:
    """Makes images with `backend` under `settings`, batch by batch, each image the same in any batch.

    `batch_size` None is found by a memory probe on CUDA (the first batch pays for it) and 8 on a CPU. `fixed_batch` fills the last
    batch up, for a compiled model. A `refiner` (SDXL's) takes over the end of the schedule on the same latents. `modes` says how
    strongly requests with a mode are pulled to it. Requests with latents at a level run on the grid of `inversion`, in its mode (None:
    improved, of the settings' steps), by DDIM or, on flow models, Euler.

        sampler = Sampler(load_backend("models/sd21-base"), Settings(steps=20, guidance=2.0, scheduler="dpmpp_2m"), run_seed=1)
        for batch in sampler.generate([Request("a photo of a dog", "dog", i) for i in range(500)]):
            write(batch.images)
    """

    def __init__(
        self,
        backend: Backend,
        settings: Settings | None = None,
        *,
        run_seed: int = 0,
        batch_size: int | None = None,
        fixed_batch: bool = False,
        refiner: SteppedBackend | None = None,
        modes: ModeGuidance | None = None,
        inversion: InversionSettings | None = None,
    ) -> None:
        self.backend, self.run_seed, self.refiner = backend, run_seed, refiner
        self.settings, self.modes = settings or Settings(), modes or ModeGuidance()
        self.inversion = inversion
        self.fixed_batch = fixed_batch
        self._batch_size = batch_size
        can = backend.capabilities
        self.size = self.settings.size or can.native_size
        self.guidance = can.default_guidance if self.settings.guidance is None else self.settings.guidance
        self._check()

    def _check(self) -> None:
        can, settings = self.backend.capabilities, self.settings
        if self._batch_size is not None and self._batch_size < 1:
            raise SynthError(f"batch_size takes a whole number from 1, got {self._batch_size}")
        if not can.stepped and (settings.cads or settings.encoder_every > 1 or settings.interval != (0.0, 1.0)):
            raise SynthError(f"{can.family} is only called whole: it takes no cads, no encoder_every and no interval")
        if settings.encoder_every > 1 and not can.encoder_free:
            raise SynthError(f"encoder_every leaves out a UNet's encoder, and a {can.family} model has none")
        if self.refiner is not None:
            other = self.refiner.capabilities
            if can.family != "sdxl" or other.family != "sdxl":
                raise SynthError(f"a refiner goes with SDXL on SDXL, not {other.family} on {can.family}")

    def generate(self, requests: Sequence[Request]) -> Iterator[Generated]:
        """Make every request's image and yield them in the order of `requests`, a batch at a time."""
        for batch in self.batches(requests):
            yield self.batch(batch)

    def batches(self, requests: Sequence[Request]) -> Iterator[list[Request]]:
        """Cut `requests` into batches of consecutive ones of one kind. The first call on CUDA probes for the batch size."""
        size = self.largest_batch(requests[0]) if requests else 0
        batch: list[Request] = []
        for request in requests:
            if batch and (len(batch) == size or batch[0].kind != request.kind):
                yield batch
                batch = []
            batch.append(request)
        if batch:
            yield batch

    @torch.no_grad()
    def batch(self, requests: Sequence[Request]) -> Generated:
        """Make the images of `requests`, which are of one kind, in one batch; `fixed_batch` adds copies of the last and drops them.

        SynthError for no request, or for several kinds.
        """
        padded = list(requests)
        if not padded:
            raise SynthError("no request was given: a batch needs at least one")
        if len({request.kind for request in padded}) > 1:
            raise SynthError(
                "requests with and without an image or mask, of several strengths or of several levels, need batches of their own"
            )
        if self.fixed_batch and self._batch_size is not None:
            padded += [padded[-1]] * (self._batch_size - len(padded))
        count = len(requests)
        if isinstance(self.backend, SteppedBackend):
            latents = self._denoise(self.backend, padded)[:count]
            images = self.backend.decode(latents)
            return checked(requests, images, latents)
        assert isinstance(self.backend, WholeBackend)
        return checked(requests, self._whole(self.backend, padded)[:count], None)

    def largest_batch(self, request: Request) -> int:
        """Return how many rows ride together: the `batch_size` that was set, or what a probe with `request` says, once."""
        if self._batch_size is None:
            self._batch_size = self._probe(request)
        return self._batch_size

    def initial_noise(self, requests: Sequence[Request]) -> torch.Tensor:
        """Draw the standard normal noise (n, c, h', w') float32 that these requests start from, on the model's device."""
        assert isinstance(self.backend, SteppedBackend)
        sources = torch_generators(self.run_seed, requests, "latents", self.settings.seeds)
        return noise(sources, self.backend.latent_shape(self.size), self.backend.device)

    def stacked_images(self, requests: Sequence[Request]) -> torch.Tensor:
        """Stack the requests' images to (n, 3, h, w) float32 on the model's device; SynthError for another size than is made."""
        rows = [request.image for request in requests if request.image is not None]
        for one in rows:
            if tuple(one.shape[1:]) != tuple(self.size):
                raise SynthError(
                    f"images of {one.shape[1]}x{one.shape[2]} came where {self.size[0]}x{self.size[1]} are made"
                )
        return torch.stack(rows).to(self.backend.device, torch.float32)

    def clean_latents(self, requests: Sequence[Request], images: torch.Tensor) -> torch.Tensor:
        """Encode the requests' `images` (n, 3, h, w) to latents (n, c, h', w') float32: the posterior's mean, or a draw of each's own."""
        assert isinstance(self.backend, SteppedBackend)
        sources = None
        if self.settings.posterior == "sample":
            sources = torch_generators(self.run_seed, requests, "posterior", self.settings.seeds)
        return self.backend.encode_images(images, sources)

    def _whole(self, backend: WholeBackend, requests: Sequence[Request]) -> torch.Tensor:
        if any(part is not None for r in requests for part in (r.image, r.boxes, r.mode, r.latents)):
            raise SynthError(
                f"{backend.capabilities.family} makes images from text alone here, without image, boxes, mode or latents"
            )
        settings = self.settings
        return backend.generate(
            [str(request.prompt) for request in requests],
            torch_generators(self.run_seed, requests, "latents", settings.seeds),
            size=self.size,
            steps=settings.steps,
            guidance=self.guidance,
            scheduler=settings.scheduler,
            negative=settings.negative,
        )

    def _denoise(self, backend: SteppedBackend, requests: list[Request]) -> torch.Tensor:
        """Run all steps for `requests` and return their latents (n, c, h', w') float32, not yet decoded."""
        settings = self.settings
        scheduler: Any
        if requests[0].level is not None:
            scheduler, start = self._start_at_level(backend, requests, requests[0].level)
            timesteps = scheduler.timesteps
        else:
            scheduler = schedules.make(settings.scheduler, backend.scheduler)
            arguments = backend.schedule_arguments(scheduler, settings.steps, self.size)
            timesteps = schedules.prepare(scheduler, settings.steps, backend.device, arguments)
            start = self._start(backend, requests, scheduler, timesteps)
        base = GuidedBatch.of(backend, requests, start.inpainting, self.size, self.guidance, settings)
        refiner = None
        if self.refiner is not None:
            refiner = GuidedBatch.of(self.refiner, requests, start.inpainting, self.size, self.guidance, settings)
        with base.reuse, nullcontext() if refiner is None else refiner.reuse:
            return self._steps(requests, scheduler, timesteps, start, base, refiner)

    def _steps(
        self,
        requests: list[Request],
        scheduler: Any,
        timesteps: torch.Tensor,
        start: _Start,
        base: GuidedBatch,
        refiner: GuidedBatch | None,
    ) -> torch.Tensor:
        """Take the steps of `timesteps` from `start` on and return the last one's latents (n, c, h', w').

        `base` is the model, which loses its boxes after the grounded share of the steps; `refiner`, where there is one, takes over
        below `settings.refine_below`. Advances `scheduler`, and drops or keeps both models' encoder features.
        """
        settings, latents = self.settings, start.latents
        extra = self.step_arguments(scheduler, requests)
        cads_sources = torch_generators(self.run_seed, requests, "cads", settings.seeds)
        times = (timesteps.double().cpu() / scheduler.config.num_train_timesteps).tolist()
        count = len(timesteps) - start.first
        pull = ModePull.of(requests, latents, base.backend.scheduler, self.modes)
        for index, (timestep, time) in enumerate(zip(timesteps[start.first :], times[start.first :], strict=True)):
            if base.backend.capabilities.layout and index == int(settings.grounded * count):
                base = base.without_boxes()
            model = refiner if refiner is not None and time < settings.refine_below else base
            if model.features is not None:
                model.features.reuse = not key_step(index, count, settings.encoder_every)
            model_input = schedules.model_input(scheduler, latents, timestep)
            output = model.predict(model_input, timestep, time, cads_sources)
            if pull is not None:
                output = pull(output, model_input, timestep, (start.first + index) / len(timesteps))
            latents = scheduler.step(output, timestep, latents, return_dict=False, **extra)[0]
            if start.inpainting is not None:
                place = start.first + index + 1
                following = timesteps[place : place + 1]
                latents = start.inpainting.restore_outside(scheduler, latents, start.noise, following)
        return latents

    def _start(
        self, backend: SteppedBackend, requests: Sequence[Request], scheduler: Any, timesteps: torch.Tensor
    ) -> _Start:
        """Draw the start noise and say where the loop begins; for image-to-image `scheduler` is told its first step.

        SynthError where the model only paints into images and got none, or where an image is not of the size that is made.
        """
        settings, noise = self.settings, self.initial_noise(requests)
        pure_noise = noise * schedules.start_scale(scheduler)
        if requests[0].image is None:
            if not (backend.capabilities.text_to_image or backend.capabilities.class_conditional):
                raise SynthError(
                    f"this {backend.capabilities.family} model paints into images: give an image and a mask"
                )
            return _Start(0, pure_noise, noise, None)
        images = self.stacked_images(requests)
        clean = self.clean_latents(requests, images)
        inpainting = None
        if requests[0].mask is not None:
            mask = torch.stack([r.mask for r in requests if r.mask is not None]).to(backend.device, torch.float32)
            inpainting = Inpainting.of(backend, images, mask, clean)
        first = schedules.start_place(scheduler, settings.steps, requests[0].strength)
        if first == 0 and inpainting is not None:
            return _Start(0, pure_noise, noise, inpainting)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        return _Start(first, schedules.add_noise(scheduler, clean, noise, timesteps[first]), noise, inpainting)

    def _start_at_level(
        self, backend: SteppedBackend, requests: Sequence[Request], level: int
    ) -> tuple[LevelSteps, _Start]:
        """Return the steps from `level` on and the requests' latents to take them from.

        SynthError for another solver than DDIM (flow models: Euler), a level off the grid, and latents that are not of the model's
        shape or not finite.
        """
        solver = "euler" if schedules.is_flow(backend.scheduler) else "ddim"
        if self.settings.scheduler not in ("own", solver):
            raise SynthError(
                f"latents at a level are taken on by {solver}, and scheduler is {self.settings.scheduler!r}"
            )
        inversion = self.inversion or InversionSettings(steps=self.settings.steps, level=level)
        moves = grid(backend, inversion, self.size).downwards(inversion, inversion.place(level))
        rows = [request.latents for request in requests if request.latents is not None]
        latents = stacked_latents(rows, requests, backend.latent_shape(self.size)).to(backend.device, torch.float32)
        return LevelSteps(moves, backend.device), _Start(0, latents, latents, None)

    def step_arguments(self, scheduler: Any, requests: Sequence[Request]) -> dict[str, Any]:
        """Return what `scheduler.step` takes besides: a generator for each sample, where the solver draws."""
        if "generator" not in inspect.signature(scheduler.step).parameters:
            return {}
        return {"generator": torch_generators(self.run_seed, requests, "solver", self.settings.seeds)}

    def _probe(self, request: Request) -> int:
        if not needs_probe(self.backend.device):
            return CPU_BATCH

        def run(count: int) -> None:
            short = Sampler(
                self.backend, _short(self.settings), run_seed=self.run_seed, batch_size=count, refiner=self.refiner
            )
            short.batch([replace(request, strength=100, latents=None, level=None)] * count)

        return largest_batch(run, self.backend.device)


def _short(settings: Settings) -> Settings:
    """Shorten `settings` to two steps with both branches, which take as much memory as all of them do."""
    return replace(settings, steps=2, interval=(0.0, 1.0), encoder_every=1)
