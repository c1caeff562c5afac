"""Recovering images from a teacher: cross-entropy and batch-norm matching under a curriculum of crops.

`milestone: 0` is SRe2L (Yin et al., NeurIPS 2023), `milestone: 1` CDA (Yin and Shen, TMLR 2024); see `docs/specs/cda.md`,
recover. Pure: tensors in, tensors out, every random draw from a seed of the group it belongs to, so that a group does not
depend on its neighbours in the batch.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from augment.crops import Box, apply_matrices, axis_matrices, draw_resized_crop
from augment.values import require_spread
from distill.config import RecoverConfig
from distill.errors import DivergedError
from distill.graphs import Replayed
from distill.soundness import fault_of
from distill.statistics import BatchNormMatcher, Goal, cross_entropy_by_group

#: With fewer steps on a CUDA device it does not pay to record one.
RECORD_FROM = 10
#: A term of the loss (groups,) beside those of CDA, of a step's views (groups * B, 3, S, S), the teacher's logits for them and the
#: same views of the images that recovery started from. It draws nothing and is of fixed shapes.
ExtraLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Recovered:
    """The result of `recover`: `images` (G, B, 3, S, S) uint8; `losses`, (step, mean loss over groups) at every logged step."""

    images: torch.Tensor
    losses: list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Draw:
    """The view of a group, or of one image, at one step: crop box, mirror, roll down and right in pixels."""

    box: Box
    flip: bool
    roll: tuple[int, int]


def min_scale(step: int, config: RecoverConfig) -> float:
    """Return the lower bound of the crop area at `step`, from 0: the curriculum of CDA, section 3."""
    end = config.milestone * config.iterations
    if step >= end:
        return config.min_scale
    if config.curriculum == "step":
        return 1.0
    fraction = step / end
    fall = 1 - fraction if config.curriculum == "linear" else 0.5 * (1 + math.cos(math.pi * fraction))
    return config.min_scale + (1 - config.min_scale) * fall


def learning_rate(step: int, config: RecoverConfig) -> float:
    """Return the rate to set before `step`, from 0: a cosine to zero, no warm-up."""
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / config.iterations))


def pixel_bounds(mean: Sequence[float], std: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the lowest and the highest normalised value of a valid pixel per channel, each (C,) float64."""
    require_spread(mean, std)
    centre, spread = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
    return -centre / spread, (1 - centre) / spread


def to_uint8(images: torch.Tensor, mean: Sequence[float], std: Sequence[float], floor: bool) -> torch.Tensor:
    """Convert normalised images (..., C, S, S) to uint8; the published code floors, which darkens by half a level."""
    shape = (-1, 1, 1)
    spread, centre = images.new_tensor(std).view(shape), images.new_tensor(mean).view(shape)
    levels = (images * spread + centre).clamp(0, 1) * 255
    return (levels if floor else levels.round()).to(torch.uint8)


def draw(step: int, size: int, config: RecoverConfig, torch_rng: torch.Generator, roll_rng: random.Random) -> Draw:
    """Draw one view in the published order: box and mirror from `torch_rng`, roll from `roll_rng`; both move on."""
    box = Box(0, 0, size, size)
    if config.crop:
        box = draw_resized_crop(size, size, (min_scale(step, config), 1.0), torch_rng)
    flip = config.flip and bool(torch.rand(1, generator=torch_rng).item() < 0.5)
    low = -config.jitter if config.jitter_symmetric else 0
    return Draw(box, flip, (roll_rng.randint(low, config.jitter), roll_rng.randint(low, config.jitter)))


def draw_table(draws: Sequence[Draw]) -> torch.Tensor:
    """Write draws as a table (n, 7) int64: top, left, height and width of the box, flip, roll down, roll right."""
    return torch.tensor([(*one.box, one.flip, *one.roll) for one in draws])


def apply_draws(images: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Crop, stretch back, mirror and roll images (G, B, C, S, S) by a `draw_table` on their device; returns new images.

    The table has a row for each group, or G * B, one for each image.
    """
    size = images.shape[-1]
    top, left, height, width, flip, down, right = table.unbind(1)
    rows = axis_matrices(top, height, size, roll=down).to(images.dtype)
    columns = axis_matrices(left, width, size, flip.bool(), right).to(images.dtype)
    if len(table) == len(images):
        return apply_matrices(images, rows, columns)
    return apply_matrices(images.flatten(0, 1), rows, columns).view_as(images)


def recover(
    teacher: nn.Module,
    targets: torch.Tensor,
    config: RecoverConfig,
    *,
    seeds: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    image_size: int,
    init: torch.Tensor | None = None,
    raw_init: bool = False,
    extra: ExtraLoss | None = None,
    goals: Sequence[Goal] | None = None,
    dtype: torch.dtype = torch.float32,
    on_progress: Callable[[int, float | None], None] | None = None,
    on_step: Callable[[int, torch.Tensor, torch.Tensor], None] | None = None,
) -> Recovered:
    """Recover one group of images per seed, all groups in the same steps; group g is what it would be alone (F21 of the specs).

    `teacher` in eval mode with frozen weights; `targets` classes of a group's images, (B,) or (G, B) where groups have others; `init`
    (G, B, 3, S, S) uint8 real images to start from, noise if None; with `raw_init` their values in [0, 1] are taken for normalised
    ones (CUDD's code). `extra` is added to the loss and needs an `init`. `goals` are the statistics that each layer is matched to
    (`BatchNormMatcher`), those that the teacher has stored if None. `on_progress(step, loss)` is called every step, with the mean
    loss at every `log_every`-th (each costs a device sync). `on_step(step, images, losses (G,))` sees the state after each step,
    for tests.

    `DivergedError` for a broken teacher, and for images that end in what is no number.
    """
    if (fault := fault_of(teacher)) is not None:
        raise DivergedError(f"the teacher is broken: {fault}; train it again with a lower learning rate")
    groups, reference = len(seeds), config.mode == "reference"
    half = config.precision == "bfloat16" or (config.precision == "auto" and not reference and targets.is_cuda)
    torch_rngs = [torch.Generator().manual_seed(seed) for seed in seeds]
    roll_rngs = [random.Random(seed) for seed in seeds]
    low, high = (bound.to(targets.device, dtype).view(-1, 1, 1) for bound in pixel_bounds(mean, std))
    if config.learning_rate >= (across := float((high - low).min())):
        raise DivergedError(
            f"a step of learning_rate {config.learning_rate:g} takes every pixel from black to white ({across:.3g} apart) or back: the "
            "images would be nothing else; lower it (0.25 is usual)"
        )
    targets = targets.expand(groups, -1)
    images, start = _start(targets, torch_rngs, init, mean, std, image_size, dtype, raw_init)
    if start is None and extra is not None:
        raise ValueError("extra compares with the images that recovery starts from; give init")
    flat_targets = targets.flatten()
    recorded = images.is_cuda and not reference and config.iterations >= RECORD_FROM
    optimizer = _adam(images, config, recorded)
    views_drawn = targets.shape[1] if config.view_per_image else 1
    table = torch.zeros(groups * views_drawn, 7, dtype=torch.int64, device=images.device)
    losses: list[tuple[int, float]] = []
    with BatchNormMatcher(teacher, groups, config.first_multiplier, closed_form=not reference, goals=goals) as matcher:

        def one_step() -> torch.Tensor:
            """Take one step of the optimiser on views by `table`; returns the loss (groups,) before it."""
            views = apply_draws(images, table).flatten(0, 1)
            if not reference:
                views = views.contiguous(memory_format=torch.channels_last)
            with torch.autocast(views.device.type, torch.bfloat16, enabled=half and dtype == torch.float32):
                logits = teacher(views)
                beside = None
                if extra is not None and start is not None:
                    beside = extra(views, logits, apply_draws(start, table).flatten(0, 1))
            loss = cross_entropy_by_group(logits.to(dtype), flat_targets, groups) + config.r_bn * matcher.loss()
            loss = loss if beside is None else loss + beside
            optimizer.zero_grad(set_to_none=True)
            (images.grad,) = torch.autograd.grad(loss.sum(), images)
            optimizer.step()
            with torch.no_grad():
                torch.clamp(images, low, high, out=images)
            return loss.detach()

        take_step = Replayed(one_step, images.device) if recorded else one_step
        for step in range(config.iterations):
            if config.residual_every and step and step % config.residual_every == 0 and start is not None:
                with torch.no_grad():
                    images.lerp_(start, 1 - config.residual_alpha)
                _reset(optimizer)
            _set_rate(optimizer, learning_rate(step, config))
            draws = [
                draw(step, image_size, config, torch_rng, roll_rng)
                for torch_rng, roll_rng in zip(torch_rngs, roll_rngs, strict=True)
                for _ in range(views_drawn)
            ]
            drawn = draw_table(draws)
            # From pinned memory the copy is queued; from ordinary memory it would wait for the device at every step.
            table.copy_(drawn.pin_memory() if table.is_cuda else drawn, non_blocking=True)
            loss = take_step()
            logged = (step + 1) % config.log_every == 0 or step + 1 == config.iterations
            if step == 0 and not bool(loss.isfinite().all()):  # nothing has been changed yet
                raise DivergedError(
                    "the teacher's answers to the images that recovery starts from are not finite numbers: the teacher is at fault; "
                    "train it again with a lower learning rate"
                )
            if logged:
                losses.append((step + 1, float(loss.mean())))
                if not (math.isfinite(losses[-1][1]) and bool(images.detach().isfinite().all())):
                    raise DivergedError(
                        f"the images diverged by step {step + 1} of {config.iterations}: lower learning_rate (now "
                        f"{config.learning_rate:g}) or r_bn (now {config.r_bn:g})"
                    )
            if on_progress is not None:
                on_progress(step + 1, losses[-1][1] if logged else None)
            if on_step is not None:
                on_step(step, images.detach(), loss.clone())
    return Recovered(to_uint8(images.detach(), mean, std, floor=reference), losses)


def _start(
    targets: torch.Tensor,
    torch_rngs: Sequence[torch.Generator],
    init: torch.Tensor | None,
    mean: Sequence[float],
    std: Sequence[float],
    size: int,
    dtype: torch.dtype,
    raw: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Draw or normalise the images to start from, (G, B, 3, S, S) with gradient; also returns the real ones among them, or None."""
    shape = (targets.shape[1], len(mean), size, size)
    if init is None:
        noise = torch.stack([torch.randn(shape, generator=rng) for rng in torch_rngs])
        return noise.to(targets.device, dtype).requires_grad_(True), None
    if init.shape != (len(torch_rngs), *shape):
        raise ValueError(f"init must have shape {(len(torch_rngs), *shape)}, got {tuple(init.shape)}")
    # In order in memory, as their gradient is: fused Adam goes through both as they lie.
    pixels = init.to(targets.device, dtype).contiguous() / 255
    if raw:
        return pixels.clone().requires_grad_(True), pixels
    real = (pixels - pixels.new_tensor(mean).view(-1, 1, 1)) / pixels.new_tensor(std).view(-1, 1, 1)
    return real.clone().requires_grad_(True), real


def _adam(images: torch.Tensor, config: RecoverConfig, recorded: bool) -> torch.optim.Optimizer:
    """Build Adam as published; for a recorded step its learning rate and its count of steps are tensors on the device."""
    rate = torch.tensor(config.learning_rate, device=images.device) if recorded else config.learning_rate
    fused = config.mode != "reference"
    return torch.optim.Adam([images], lr=rate, betas=config.betas, eps=1e-8, fused=fused, capturable=recorded)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def _reset(optimizer: torch.optim.Optimizer) -> None:
    """Zero the optimiser's moments and its count of steps, in place."""
    for state in optimizer.state.values():
        for value in state.values():
            value.zero_()
