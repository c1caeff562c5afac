"""`SpectrumSampler`: images at several guidance levels of one real image each, denoised in one staggered batch.

A guidance level is a whole percent, 100 less the strength of image-to-image: 0 is the prompt alone, 100 the real image itself. The
levels of an image differ in where its noised latent enters the schedule and in nothing else, so the schedule is walked once: at each
level's start its rows join the batch, and the model is called once a step, at one timestep for all rows. Published is a call of the
whole pipeline for each level: 155 model calls for levels {0, 10, 30, 50} of 50 steps, against 50 (`docs/specs/discl.md`, spectrum).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from synth import schedules
from synth.backends.protocol import Backend, SteppedBackend
from synth.discl.levels import LevelStart, StartRule, require_levels
from synth.discl.starts import level_starts
from synth.errors import SynthError
from synth.guided_batch import GuidedBatch
from synth.requests import Generated, Request, checked, torch_generators
from synth.sampling import Sampler
from synth.settings import Settings


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A real image, the `image` of a `request` whose own strength is ignored, and the guidance `levels` wanted of it."""

    request: Request
    levels: tuple[int, ...]


class SpectrumSampler:
    """Makes images at guidance levels with `backend` under `settings`, each equal to that of `Sampler` which begins at the same step.

    One noise, one latent (the posterior's mean or, with `settings.posterior: sample`, a draw) and one encoded prompt of a request
    serve all its levels. `batch_size` bounds the rows of a model call, an image at a level being one; None is found as `Sampler` finds
    it. A `refiner` (SDXL's) takes over below `settings.refine_below` of the schedule, whatever the level: at 0.3 it makes alone what is
    below 30 % strength, and the base begins the rest. As published the refiner is the `backend` itself. `starts` says where a level
    begins (`synth.discl.levels`): by `sigma`, or by `strength` as published, which is `Sampler` at strength 100 - level.

        sampler = SpectrumSampler(load_backend("models/sd21-base"), Settings(guidance=7.5), run_seed=1, batch_size=32)
        images = sampler.batch([Request("a photo of a lynx", key, 0, image=lynx)], (0, 10, 30, 50))
    """

    def __init__(
        self,
        backend: Backend,
        settings: Settings | None = None,
        *,
        run_seed: int = 0,
        batch_size: int | None = None,
        refiner: SteppedBackend | None = None,
        starts: StartRule = "sigma",
    ) -> None:
        self.rule = starts
        self.sampler = Sampler(backend, settings, run_seed=run_seed, batch_size=batch_size, refiner=refiner)
        self.settings = self.sampler.settings
        if not isinstance(backend, SteppedBackend):
            raise SynthError(
                f"{backend.capabilities.family} is only called whole: guidance levels need its single steps"
            )
        if self.settings.encoder_every > 1:
            raise SynthError("encoder_every counts each level's own steps, and levels share theirs here: leave it at 1")
        if backend.capabilities.layout:
            raise SynthError(f"a {backend.capabilities.family} model is for layouts, and guidance levels have none")
        self.backend: SteppedBackend = backend

    def starts(self, levels: Sequence[int]) -> dict[int, LevelStart]:
        """Find where each of `levels` enters the schedule; no model is called.

        SynthError for what is no level, two that begin at the same step, and a strength that is no step at all.
        """
        scheduler, _ = self._scheduler()
        return level_starts(levels, scheduler, self.backend.scheduler, self.settings.steps, self.rule)

    def batches(self, spectra: Sequence[Spectrum]) -> Iterator[list[Spectrum]]:
        """Cut `spectra` into batches of consecutive ones, of one image at least and otherwise of no more rows than fit."""
        size = self.sampler.largest_batch(spectra[0].request) if spectra else 0
        batch: list[Spectrum] = []
        for spectrum in spectra:
            if batch and sum(len(one.levels) for one in (*batch, spectrum)) > size:
                yield batch
                batch = []
            batch.append(spectrum)
        if batch:
            yield batch

    def batch(self, requests: Sequence[Request], levels: Sequence[int]) -> dict[int, Generated]:
        """Make the images of all `requests` at all `levels`, level by level in that order."""
        return self.make([Spectrum(request, tuple(levels)) for request in requests])

    @torch.no_grad()
    def make(self, spectra: Sequence[Spectrum]) -> dict[int, Generated]:
        """Make the images of `spectra`, each at its own levels, in one staggered batch; of a level those requests that want it.

        SynthError for no image, and what `starts` refuses.
        """
        rows = _rows(spectra)
        starts = self.starts(list(rows))
        requests = [spectrum.request for spectrum in spectra]
        clean = self.sampler.clean_latents(requests, self.sampler.stacked_images(requests))
        noise = self.sampler.initial_noise(requests)
        strands = [self._strand(starts[level], own, requests, clean, noise) for level, own in rows.items()]
        base = self._guided(self.backend, requests)
        refiner = None if self.sampler.refiner is None else self._guided(self.sampler.refiner, requests)
        size = self.sampler.largest_batch(requests[0])
        with base.reuse, nullcontext() if refiner is None else refiner.reuse:
            self._walk(sorted(strands, key=lambda strand: strand.first), base, refiner, size)
        generated = {}
        for strand in strands:
            images = torch.cat([self.backend.decode(part) for part in strand.latents.split(size)])
            generated[strand.level] = checked([requests[row] for row in strand.rows], images, strand.latents)
        return generated

    def _guided(self, backend: SteppedBackend, requests: Sequence[Request]) -> GuidedBatch:
        return GuidedBatch.of(backend, requests, None, self.sampler.size, self.sampler.guidance, self.settings)

    def _scheduler(self) -> tuple[Any, torch.Tensor]:
        """Return a solver without history and its timesteps (calls,)."""
        scheduler = schedules.make(self.settings.scheduler, self.backend.scheduler)
        arguments = self.backend.schedule_arguments(scheduler, self.settings.steps, self.sampler.size)
        return scheduler, schedules.prepare(scheduler, self.settings.steps, self.backend.device, arguments)

    def _strand(
        self, start: LevelStart, rows: list[int], requests: Sequence[Request], clean: torch.Tensor, noise: torch.Tensor
    ) -> _Strand:
        """Prepare a level's own solver, and the latents of its `rows` of the batch at the noise that it starts from."""
        scheduler, timesteps = self._scheduler()
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(start.place)
        own = [requests[row] for row in rows]
        return _Strand(
            level=start.level,
            rows=rows,
            first=start.place,
            scheduler=scheduler,
            latents=schedules.add_noise(scheduler, clean[rows], noise[rows], timesteps[start.place]),
            arguments=self.sampler.step_arguments(scheduler, own),
            cads_sources=torch_generators(self.sampler.run_seed, own, "cads", self.settings.seeds),
        )

    def _walk(self, strands: list[_Strand], base: GuidedBatch, refiner: GuidedBatch | None, size: int) -> None:
        """Take all steps, from where the first of `strands`, in order of their starts, begins; changes their latents.

        A model call has `size` rows at most.
        """
        timesteps = strands[0].scheduler.timesteps
        times = (timesteps.double().cpu() / strands[0].scheduler.config.num_train_timesteps).tolist()
        active: list[_Strand] = []
        calls: list[_Call] = []
        model: GuidedBatch | None = None
        for place in range(strands[0].first, len(timesteps)):
            joining = [strand for strand in strands if strand.first == place]
            now = refiner if refiner is not None and times[place] < self.settings.refine_below else base
            if joining or now is not model:
                active, model = [*active, *joining], now
                calls = _calls(active, model, size)
            timestep = timesteps[place]
            inputs = torch.cat([schedules.model_input(one.scheduler, one.latents, timestep) for one in active])
            outputs = torch.cat([call.predict(inputs, timestep, times[place]) for call in calls])
            for strand, output in zip(active, outputs.split([len(one.rows) for one in active]), strict=True):
                strand.step(output, timestep)


@dataclass(eq=False)
class _Strand:
    """One level on its way: its `rows` of the batch, whose `latents` (rows, c, h', w') are the `first` place's until the first step.

    `scheduler` is its own, for solvers remember what they saw; `arguments` are what its steps take besides.
    """

    level: int
    rows: list[int]
    first: int
    scheduler: Any
    latents: torch.Tensor
    arguments: dict[str, Any]
    cads_sources: list[torch.Generator]

    def step(self, output: torch.Tensor, timestep: torch.Tensor) -> None:
        """Take the step from `timestep` by the model's guided `output` (rows, c, h', w')."""
        self.latents = self.scheduler.step(output, timestep, self.latents, return_dict=False, **self.arguments)[0]


@dataclass(frozen=True, eq=False)
class _Call:
    """One model call of a step: the active rows from `start` to `stop`, their conditioning and their generators for CADS."""

    start: int
    stop: int
    model: GuidedBatch
    cads_sources: list[torch.Generator]

    def predict(self, inputs: torch.Tensor, timestep: torch.Tensor, time: float) -> torch.Tensor:
        """Return the guided output (stop - start, c, h', w') for these rows of all active `inputs`."""
        return self.model.predict(inputs[self.start : self.stop], timestep, time, self.cads_sources)


def _calls(active: Sequence[_Strand], model: GuidedBatch, size: int) -> list[_Call]:
    """Cut the rows of all `active` levels into calls of `size` rows at most. The same objects serve until a level joins, so that
    `model.reuse` knows their conditioning again."""
    rows = [row for strand in active for row in strand.rows]
    sources = [source for strand in active for source in strand.cads_sources]
    return [
        _Call(
            start, min(start + size, len(rows)), model.take(rows[start : start + size]), sources[start : start + size]
        )
        for start in range(0, len(rows), size)
    ]


def _rows(spectra: Sequence[Spectrum]) -> dict[int, list[int]]:
    """Return which of `spectra` want each level, in the order in which levels first come; SynthError for what cannot be made."""
    if not spectra:
        raise SynthError("no image was given: a spectrum needs at least one")
    rows: dict[int, list[int]] = {}
    for row, spectrum in enumerate(spectra):
        request, levels = spectrum.request, spectrum.levels
        if request.image is None or any(part is not None for part in (request.mask, request.boxes, request.mode)):
            raise SynthError(
                f"guidance levels are of a whole image without boxes and mode: {request.key} is not such a one"
            )
        require_levels(levels)
        for level in levels:
            rows.setdefault(level, []).append(row)
    return rows
