"""What the embedded generators can do, on images that no training saw: `python -m tests.bench.family`.

Held out are the sample's 2 000 test images, and scenes composed of them. The autoencoder gives them back (PSNR), CLIP names them
(top-1 against the classes' prompts); the UNet is asked for each class by its prompt, the DiT by its number, and what they make is
compared with as many held-out images by CLIP's features. The same CLIP has to name what was made. The line `real` compares one
half of the held-out images with the other: what a perfect generator would get.

`--json FILE` writes the numbers, `--sheets FOLDER` pictures, `--family FOLDER` measures another family. Nothing here asserts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import interpolate, mse_loss
from transformers import CLIPModel, CLIPTokenizer

from pipelines.artifacts.families import embedded_family, family_files, load_family
from pipelines.artifacts.scoring import rounded
from pipelines.images.encode import encode
from pipelines.images.params import ImageParams
from pipelines.images.process import decode_rgb
from pipelines.sources import ComposedParams, open_source
from pipelines.stages.generator.worker import contact_sheet
from pipelines.storage import Storage
from synth.backends import GeneratorOptions, load_backend
from synth.family.assemble import assemble, built
from synth.family.config import Family
from synth.quality.features import ClipFeatures
from synth.quality.scores import quality_scores
from synth.requests import Request
from synth.sampling import Sampler
from synth.settings import Settings

TEST_SPLIT = {
    "type": "idx",
    "path": "sample:fashion_mnist",
    "images": "t10k-images-idx3-ubyte.gz",
    "labels": "t10k-labels-idx1-ubyte.gz",
    "split": "test",
}
#: As stage `generator` asks them for its contact sheets.
ASKED = {
    "text": Settings(steps=20, guidance=5.0, scheduler="dpmpp_2m"),
    "classes": Settings(steps=20, guidance=2.0, scheduler="dpmpp_2m"),
}
SHOWN = ("kid_1e3", "cmmd", "precision", "recall", "density", "coverage", "vendi", "vendi_real")
SCENE_SEED = 97  # that no training has


def held_out_scenes(count: int, size: int) -> tuple[Tensor, list[int]]:
    """(n, 3, size, size) float in [0, 1], one thing on each, and their classes."""
    params = {"type": "composed", "base": TEST_SPLIT, "scenes": count, "seed": SCENE_SEED, "items": [1, 1]}
    source: Any = open_source(ComposedParams.model_validate(params | {"size": size}))
    scenes = [source.scene(place) for place in range(count)]
    labels = [source.classes().index(scene.items[0].choice.label) for scene in scenes]
    return torch.from_numpy(np.stack([scene.pixels for scene in scenes])).permute(0, 3, 1, 2).float() / 255, labels


def held_out_shots(size: int) -> tuple[Tensor, list[int]]:
    """The test images themselves, padded as `ingest` pads them and resized as the DiT learnt them."""
    source: Any = open_source(ComposedParams.model_validate({"type": "composed", "base": TEST_SPLIT, "scenes": 1}).base)
    records = list(source.scan())
    decoded = [decode_rgb(source.read(record)) for record in records]
    pixels = torch.from_numpy(np.stack([np.pad(image, ((2, 2), (2, 2), (0, 0))) for image in decoded]))
    shown = interpolate(pixels.permute(0, 3, 1, 2).float(), size=(size, size), mode="bilinear", align_corners=False)
    return shown.round().clamp(0, 255) / 255, [record.label for record in records]


def psnr(autoencoder: Any, images: Tensor) -> float:
    """Decibels of the mean squared error over all `images`, through the mean of the posterior."""
    errors = []
    with torch.no_grad():
        for block in images.split(50):
            given = autoencoder.decode(autoencoder.encode(block * 2 - 1).latent_dist.mean).sample
            errors.append(float(mse_loss((given.clamp(-1, 1) + 1) / 2, block)) * len(block))
    return float(-10 * np.log10(sum(errors) / len(images)))


def generated(folder: Path, role: str, family: Family, count: int, seed: int) -> tuple[Tensor, list[int]]:
    """`count` images, classes in turn."""
    classes = len(family.classes)
    labels = [number % classes for number in range(count)]
    requests = [
        Request(family.prompts[label] if role == "text" else label, f"bench-{label}", number // classes)
        for number, label in enumerate(labels)
    ]
    sampler = Sampler(
        load_backend(GeneratorOptions(str(folder / role), device="cpu")), ASKED[role], run_seed=seed, batch_size=50
    )
    return torch.cat([group.images.float().clamp(0, 1) for group in sampler.generate(requests)]), labels


def named_right(features: Tensor, texts: Tensor, labels: Sequence[int]) -> float:
    """Top-1 of CLIP."""
    return float(((features @ texts.T).argmax(1) == torch.tensor(labels)).float().mean())


def against(first: Tensor, second: Tensor, seed: int) -> dict[str, Any]:
    """The figures that are shown, of CLIP features."""
    overall = asdict(quality_scores(first, second, clip=(first, second), kid_size=200, seed=seed).overall)
    overall["kid_1e3"] = 1e3 * overall["kid"]
    found: dict[str, Any] = rounded({name: overall[name] for name in SHOWN})
    return found


def measure(storage: Storage, count: int, seed: int, sheets: Path | None) -> dict[str, Any]:
    """Everything, as a tree of numbers."""
    stored = load_family(family_files(storage), storage.url)
    family, size = stored.family, stored.family.shape.size
    weights = sum(
        value.nelement() * value.element_size() for state in stored.parts.values() for value in state.values()
    )
    sets = {"text": held_out_scenes(2 * count, size), "classes": held_out_shots(size)}
    autoencoder = built("vae", family, stored.parts["vae"])
    found: dict[str, Any] = {"weights_bytes": weights, "images": count}
    found["psnr_db"] = {role: psnr(autoencoder, images[:500]) for role, (images, _) in sets.items()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        assemble(family, stored.parts, stored.load_tokenizer(), folder)
        clip = ClipFeatures(CLIPModel.from_pretrained(folder / "clip").eval())
        texts = clip.texts(CLIPTokenizer.from_pretrained(folder / "clip"), family.prompts)
        for role, (images, labels) in sets.items():
            real = clip(images)
            made, asked = generated(folder, role, family, count, seed)
            seen = clip(made)
            half = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed))[: 2 * count]
            found[role] = {
                "generated": {**against(seen, real[half[:count]], seed), "named": named_right(seen, texts, asked)},
                "real": {
                    **against(real[half[count:]], real[half[:count]], seed),
                    "named": named_right(real, texts, labels),
                },
            }
            if sheets is not None:
                order = sorted(range(min(count, 10 * len(family.classes))), key=lambda place: asked[place])
                shown = (made[order] * 255).round().byte().permute(0, 2, 3, 1).numpy()
                sheet = contact_sheet(shown, len(order) // len(family.classes))
                (sheets / f"{role}.png").write_bytes(encode(sheet, "png", ImageParams(format="png")))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=500, help="generated by each model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--family", type=Path, help="a family's folder; else the embedded one")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheets", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    storage = Storage(options.family) if options.family else embedded_family()
    found = measure(storage, options.images, options.seed, options.sheets)
    console = Console(width=140)
    table = Table(
        *("model", "images", *SHOWN, "named right"), title="By the family's own CLIP, against held-out images"
    )
    for role in ASKED:
        for line, row in found[role].items():
            table.add_row(role, line, *(f"{row[name]:.3f}" for name in SHOWN), f"{row['named']:.1%}")
    console.print(table)
    given = ", ".join(f"{role} {value:.1f} dB" for role, value in found["psnr_db"].items())
    console.print(f"Autoencoder: {given}. Weights: {found['weights_bytes'] / 1e6:.1f} MB.")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
