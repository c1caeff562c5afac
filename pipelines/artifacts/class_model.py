"""Condensed sets of generated images: the model loaded, pixels on their way into it and out of it, its images as samples of a set.

Several stages make such sets with the generator of their job, each from requests of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.artifacts.distilled import set_name
from pipelines.artifacts.generators import Role, generator_model, generator_of
from pipelines.errors import UserError
from pipelines.fields import caption_of
from pipelines.images.colour import Pixels
from pipelines.images.geometry import Plan, Size, fit, plan, resize
from pipelines.images.made import synthetic_sample
from pipelines.images.params import ImageParams
from pipelines.outcomes import failed
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job
from pipelines.runtime.method_errors import method_errors
from pipelines.runtime.units import UnitOutput
from pipelines.shards.keys import slot_key
from pipelines.storage import canonical_json

if TYPE_CHECKING:
    import torch

    from synth.backends import SteppedBackend
    from synth.requests import Request
    from synth.sampling import Sampler

#: The place of an image in a set: (slot, label).
Cell = tuple[int, int]


def cells_of(ipc: int, classes: int) -> list[Cell]:
    """(slot, label) of a set's images in the order in which they are made: classes of a slot together, so that a batch mixes them."""
    return [(slot, label) for slot in range(ipc) for label in range(classes)]


def load_generator(job: Job[Any], role: Role, dtype: Any) -> SteppedBackend:
    """The model that plays `role`, on the job's device, frozen; `UserError` for one whose steps are its own."""
    from synth.backends import GeneratorOptions, SteppedBackend, load_backend
    from synth.errors import SynthError

    options = GeneratorOptions(
        generator_model(job, role),
        revision=generator_of(job, role).revision,
        dtype=dtype,
        device=str(torch_device(job)),
    )
    with method_errors("generator"):
        backend = load_backend(options)
        if not isinstance(backend, SteppedBackend):
            raise SynthError(
                f"{backend.capabilities.family} is only called whole, and {job.name} takes its steps one by one"
            )
    return backend


# pixels


@dataclass(frozen=True)
class Written:
    """How images are written: resized, then cut or padded to `final`, both (height, width); `image` are the parameters of an image."""

    resized: Size
    final: Size
    image: dict[str, Any]


def written_as(job: Job[Any], role: Role, sizes: Collection[Size], image: ImageParams) -> Written:
    """How a generator's images are written: as `image` says of its own size, else at the size of the training images.

    `sizes` (height, width) are those that training images have. Of training images that are not square it is the largest square; where
    they have several sizes, the generator's own size.
    """
    native = generator_of(job, role).native_size
    if image.resize == "none":
        side = min(next(iter(sizes)))
        own = (side, side) if len(set(sizes)) == 1 else native
        resized = None if own is None else Plan(own, own)
    else:
        resized = None if native is None else plan(native, image)
    if resized is None and native is None:
        raise UserError(
            "the generator does not say which size its images have, and the training images have several: set "
            f"{job.stage}.image.resize: none and ingest images of one size"
        )
    if resized is None:
        assert native is not None
        raise UserError(
            f"{job.stage}.image.size is {image.size} and the generator makes images of {min(native)} px; lower it, or set "
            f"{job.stage}.image.upscale: true"
        )
    return Written(resized.resized, resized.final, image.model_dump(mode="json"))


def shown_to_model(image: np.ndarray[Any, Any], size: Size) -> torch.Tensor:
    """Bring a stored image (3, h, w) uint8 to the generator's `size` (height, width): float32 (3, height, width) in [0, 1].

    Bilinear, antialiased, until it covers the size, then its middle: as class images are shown to generators in their training.
    """
    import torch
    from PIL import Image

    pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
    height, width = pixels.shape[:2]
    scale = max(size[0] / height, size[1] / width)
    covering = (max(size[0], round(height * scale)), max(size[1], round(width * scale)))
    if covering != (height, width):
        grown = Image.fromarray(pixels).resize((covering[1], covering[0]), Image.Resampling.BILINEAR)
        pixels = np.array(grown)
    whole = fit(pixels, size, (0, 0, 0))
    return torch.from_numpy(whole).permute(2, 0, 1).float() / 255


def as_written(image: torch.Tensor, written: Written) -> Pixels:
    """Bring a generated image (3, h, w) in [0, 1] to the size that is written: uint8 (height, width, 3). What is no number is black."""
    import torch

    params = ImageParams(**written.image)
    levels = (torch.nan_to_num(image, nan=0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    pixels = np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy())
    return fit(resize(pixels, written.resized, params.interpolation), written.final, params.pad_value)


# samples


@dataclass(frozen=True, eq=False)
class Wanted:
    """One image of a condensed set: what the generator is asked for, and its `cell` in set `number`, which its key is made of.

    `seed` is the one that its noise follows from, `parents` the real images that it began from, `facts` what else is known of it.
    """

    request: Request
    number: int
    cell: Cell
    seed: int
    parents: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Style:
    """What is said of all images of a job: how they are `written`, class names by label, the `caption`'s template, the generator's
    digest (`model`)."""

    written: Written
    names: Mapping[int, str]
    caption: str | None
    model: str


def write_images(job: Job[Any], output: UnitOutput, sampler: Sampler, wanted: Sequence[Wanted], style: Style) -> None:
    """Make the images of `wanted`, batch by batch, and store them in the unit's shard; what is no number is a row with a reason.

    The unit's summary says how many are `black`.
    """
    black, done, left = 0, 0, iter(wanted)
    image = ImageParams(**style.written.image)
    with output.shard() as shard:
        for batch in sampler.generate([one.request for one in wanted]):
            for generated, is_broken in zip(batch.images, batch.broken.tolist(), strict=True):
                one = next(left)
                (slot, label), row = one.cell, _row(job, one, style)
                key, name = slot_key(set_name(job.name, one.number), label, slot), style.names[label]
                if is_broken:
                    row |= {"key": key, "label": label, "label_name": name, "split": "train"}
                    shard.reject(failed("not_finite", detail="the generator's image is no numbers"), row)
                    continue
                pixels = as_written(generated, style.written)
                black += not pixels.any()
                caption = None if style.caption is None else caption_of(style.caption, name)
                described = _place(one) | {"seed": one.seed}
                shard.keep(synthetic_sample(key, pixels, image, (label, name), row, described, caption=caption))
            done += len(batch.requests)
            output.tick(done, len(wanted), "images")
    output.summary = {"black": black}


def _place(one: Wanted) -> dict[str, Any]:
    return {"slot": one.cell[0]} | ({"set": one.number} if one.number else {}) | dict(one.facts)


def _row(job: Job[Any], one: Wanted, style: Style) -> dict[str, Any]:
    """The sidecar's columns about how an image was made."""
    return {
        "source": f"set {one.number} slot {one.cell[0]}",
        "parents": list(one.parents),
        "op": job.stage,
        "params": canonical_json(_place(one)).decode(),
        "seed": one.seed,
        "model_id": style.model,
    }
