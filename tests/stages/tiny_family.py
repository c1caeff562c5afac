"""A family of generators of a few thousand weights, trained for two steps on nothing much, as a folder of files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from pipelines.artifacts.families import family_folder, tokenizer_files
from synth.family.assemble import built, packed
from synth.family.config import PARTS, Budget, Family, Shape, schedules
from synth.family.parts import AutoencoderPart
from synth.family.tokens import tokenizer
from synth.family.training import Fit

#: 32 px, latents of 8 x 8.
TINY = Shape(
    size=32,
    latents=4,
    vae=(8, 8, 8),
    unet=(16, 16),
    text=(32, 1),
    image=(32, 1),
    patch=8,
    joint=16,
    tokens=16,
    dit=(32, 1),
)
CLASSES = ("left", "right")


def family(classes: tuple[str, ...] = CLASSES, shape: Shape = TINY) -> Family:
    """The family without its weights."""
    made = Family(shape, classes, tuple(name.lower() for name in classes), 0.8, 0, schedules(), {"images": "none"})
    return replace(made, vocabulary=len(tokenizer(made.prompts, shape.tokens)))


def family_files(classes: tuple[str, ...] = CLASSES) -> dict[str, bytes]:
    """The files of the folder, by path."""
    import safetensors.torch

    made = family(classes)
    torch.manual_seed(3)
    models = {part: built(part, made) for part in PARTS}
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    fit = Fit(AutoencoderPart(models["vae"], images), Budget(steps=2, batch=4, rate=1e-3), 0)
    fit.run()
    models["vae"] = fit.finish()
    parts = {part: safetensors.torch.save(packed(model)) for part, model in models.items()}
    return family_folder(made, parts, tokenizer_files(tokenizer(made.prompts, made.shape.tokens)))


def write_family(folder: Path, classes: tuple[str, ...] = CLASSES) -> Path:
    """The folder, written."""
    for name, data in family_files(classes).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder
