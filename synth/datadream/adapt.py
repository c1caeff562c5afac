"""Adaptation: LoRA on a frozen generator from a few images (DataDream, section 3.1; `docs/specs/datadream.md`, adaptation).

`mode: reference` is the published loop: every image cut and encoded anew at every step, levels drawn independently, 100 steps of
warm-up however short the run. `mode: improved`, the default, departs from it in three places:

* posteriors are cached, not encoded again (`latents.py`): the same numbers for square images, 40 % of the arithmetic less;
* levels are stratified over the batch (`objective.py`): the same mean of the loss, less variance;
* warm-up is at most a tenth of the run: as published, half of a 4-shot run of 200 steps is warm-up.

A prompt is encoded once a step and repeated, in both, and only once at all where the text encoder is not adapted. All randomness of
a step follows from (run seed, name of the adapter, number of the step), so a run that was stopped goes on as if it had not been,
and adapters that take turns on one base do not disturb each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from augment.seeds import operation_seed
from augment.values import not_finite
from synth.backends.protocol import Conditioning
from synth.datadream.config import AdaptConfig
from synth.datadream.embedding import embed
from synth.datadream.latents import CachedLatents, FreshLatents, LatentSource
from synth.datadream.lora import LoraSet
from synth.datadream.objective import loss_of, objective_for
from synth.datadream.schedules import batches_in_epoch
from synth.errors import SynthError

#: Steps between two looks at the loss on a device that has to be waited for.
LOOK_EVERY = 50
#: An adapter that ends at so many times the loss of predicting nothing has diverged, though its numbers are finite.
HOPELESS = 100.0


@dataclass(frozen=True, eq=False)
class Subject:
    """The training data of one adapter: images, RGB (3, h, w) float in [0, 1] of any size, and a prompt for each."""

    name: str
    images: Sequence[torch.Tensor]
    prompts: Sequence[str]

    def __post_init__(self) -> None:
        if not self.images or len(self.images) != len(self.prompts):
            raise SynthError(
                f"adapter {self.name!r} has {len(self.images)} images and {len(self.prompts)} prompts: give a prompt for each image"
            )


class Adaptation:
    """Trains one adapter on `adapters`, to which it is added at once under its subject's name.

    training = Adaptation(LoraSet(backend), Subject("dog", images, prompts), AdaptConfig(), run_seed=1)
    while not training.done:
        training.advance()
    training.adapters.save("dog", "adapters/dog")
    """

    def __init__(self, adapters: LoraSet, subject: Subject, config: AdaptConfig, run_seed: int = 0) -> None:
        self.adapters, self.subject, self.config, self.run_seed = adapters, subject, config, run_seed
        if adapters.text and not config.train_text:
            raise SynthError(
                "train_text is off, and these adapters cover the text encoder: make LoraSet(backend, text=False)"
            )
        backend = adapters.backend
        self.objective = objective_for(backend.scheduler, config.min_snr)
        self.total = config.total_steps(len(subject.images))
        self.step = 0
        self.size = _side(backend, config.size)
        self._latents = self._source()
        self._prompt_rows: Conditioning | None = None
        alpha = config.rank if config.alpha is None else config.alpha
        adapters.add(subject.name, config.rank, alpha, self._seed("weights"))
        self._weights = adapters.parameters(subject.name)
        self._seen, self._blank = (torch.zeros((), device=backend.device) for _ in range(2))
        self._optimizer = torch.optim.AdamW(
            self._weights,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=backend.device.type == "cuda",
        )

    @property
    def done(self) -> bool:
        """Whether all steps have been taken."""
        return self.step >= self.total

    def advance(self) -> torch.Tensor:
        """Take one optimiser step and return its loss, a scalar on the device (reading it waits for the device).

        Makes this adapter the active one. SynthError for an adapter that diverged: at once on a CPU, within `LOOK_EVERY` steps
        elsewhere, after the last step anyway.
        """
        if self.done:
            raise SynthError(f"adapter {self.subject.name!r} has had all of its {self.total} steps")
        self.adapters.activate(self.subject.name)
        loss = self.loss(self.step)
        loss.backward()
        # One norm over the denoiser and the text encoder together, as published.
        torch.nn.utils.clip_grad_norm_(self._weights, self.config.clip)
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.rate(self.step, self.total)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        self._seen += loss.detach()
        if loss.is_cpu or self.step == 1 or self.step % LOOK_EVERY == 0 or self.done:
            self.require_sound()
        if self.done:
            # What the last step did shows in no loss of the training: its batch is looked at once more.
            with torch.no_grad():
                last = float(self.loss(self.step - 1))
            if not last <= HOPELESS * float(self._blank):
                raise self._diverged(
                    f"its loss ended at {last:.3g}, where predicting nothing has {float(self._blank):.3g}"
                )
        if self.done:
            self.adapters.backend.forget_prompts()
        return loss.detach()

    def require_sound(self) -> None:
        """Raise SynthError when a loss so far, or a weight now, is no finite number.

        Waits for the device. To be called before a state is saved.
        """
        finite = math.isfinite(float(self._seen))
        if not finite and self.step == 1:  # the generator's own output: its adapter has changed nothing yet
            raise SynthError(
                f"adapter {self.subject.name!r}: the generator's first prediction is no finite number; its weights are broken, or "
                "its dtype is too narrow for it (float32 is not)"
            )
        if not finite:
            raise self._diverged(f"its loss is no finite number by step {self.step} of {self.total}")
        if not_finite({str(place): weight.detach() for place, weight in enumerate(self._weights)}) is not None:
            raise self._diverged(f"its weights are no finite numbers after step {self.step} of {self.total}")

    def _diverged(self, what: str) -> SynthError:
        lower = f"lower learning_rate (now {self.config.learning_rate:g}) or raise warmup_steps"
        return SynthError(f"adapter {self.subject.name!r} diverged: {what}; {lower}")

    def loss(self, step: int) -> torch.Tensor:
        """Draw this step's batch and compute its loss, with a graph, under the adapter now active."""
        backend, config = self.adapters.backend, self.config
        rows = self.rows(step)
        generator = self._generator(f"step/{step}")
        latents = self._latents.draw(rows, generator)
        noise = torch.randn(latents.shape, generator=generator)
        if config.noise_offset:
            noise = noise + config.noise_offset * torch.randn(*latents.shape[:2], 1, 1, generator=generator)
        noise = noise.to(latents.device)
        levels = self.objective.levels(len(rows), generator, stratified=config.mode == "improved")
        noised = self.objective.noised(latents, noise, levels)
        timesteps = self.objective.timesteps(levels, latents.device)
        conditioning = self._conditioning([self.subject.prompts[row] for row in rows])
        prediction = backend.predict(noised, timesteps, conditioning)
        target = self.objective.target(latents, noise, levels)
        weights = self.objective.weights(levels, latents.device)
        if step + 1 == self.total:
            self._blank = loss_of(torch.zeros_like(target), target, weights)
        return loss_of(prediction, target, weights)

    def rows(self, step: int) -> list[int]:
        """Draw the images of this step's batch: every epoch a new order, its last batch possibly smaller."""
        count, size = len(self.subject.images), self.config.batch_size
        epoch, batch = divmod(step, batches_in_epoch(count, size))
        order = torch.randperm(count, generator=self._generator(f"order/{epoch}")).tolist()
        return order[batch * size : (batch + 1) * size]

    def state(self) -> dict[str, Any]:
        """Return what a stopped run needs to go on: plain numbers and tensors, copied to the CPU."""
        optimizer = self._optimizer.state_dict()["state"]
        moments = {
            place: {k: v.detach().cpu().clone() for k, v in moment.items()} for place, moment in optimizer.items()
        }
        return {"step": self.step, "weights": self.adapters.state(self.subject.name), "optimizer": moments}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load what `state` gave: the following steps have the same bits as if nothing had been stopped."""
        self.step = int(state["step"])
        self.adapters.load_state(self.subject.name, state["weights"])
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": dict(state["optimizer"]), "param_groups": groups})

    def _conditioning(self, prompts: Sequence[str]) -> Conditioning:
        """Encode the prompts of a batch, a row each; each distinct prompt goes through the text encoder once.

        Where the text encoder is not adapted all prompts are encoded at the first call and cached.
        """
        backend = self.adapters.backend
        distinct = list(dict.fromkeys(prompts if self.adapters.text else self.subject.prompts))
        if self.adapters.text:
            rows = embed(backend, distinct)
        else:
            if self._prompt_rows is None:
                with torch.no_grad():
                    self._prompt_rows = embed(backend, distinct)
            rows = self._prompt_rows
        conditioning = rows.take([distinct.index(prompt) for prompt in prompts])
        conditioning = backend.size_conditioning(conditioning, (self.size, self.size), False)
        if backend.capabilities.guidance == "embedded":
            scale = torch.full((len(prompts),), backend.capabilities.default_guidance, device=backend.device)
            conditioning = conditioning.having(guidance=scale)
        return conditioning

    def _source(self) -> LatentSource:
        backend, config, images = self.adapters.backend, self.config, self.subject.images
        if config.mode == "reference":
            return FreshLatents(backend, images, self.size, config.crop)
        return CachedLatents(backend, images, self.size, config.crop, config.crops, self._generator("crops"))

    def _seed(self, purpose: str) -> int:
        return operation_seed(self.run_seed, self.subject.name, f"datadream/adapt/{purpose}")

    def _generator(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed(purpose))


def _side(backend: Any, size: int | None) -> int:
    side = min(backend.capabilities.native_size) if size is None else size
    backend.latent_shape((side, side))  # refuses a size that the model cannot take
    return side
