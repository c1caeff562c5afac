"""Round trips of held-out images through the embedded DiT: `python -m tests.bench.d3hr.round_trips`.

Images of the sample's test split are encoded, inverted to a level and sampled back from it, by the scale of guidance both ways, the level
and the way: as published (one step off, its ending), aligned, and aligned with a pass of the fixed point. Printed is the root mean
squared difference from the clean latents over the latents' own root mean square. `--sheet FILE` draws the images: a block for each pair
of scales, in it rows for the images themselves, published and aligned. Nothing here asserts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from pipelines.artifacts.families import embedded_family, family_files, load_family
from pipelines.images.encode import encode
from pipelines.images.params import ImageParams
from pipelines.stages.generator.worker import contact_sheet
from synth.backends import GeneratorOptions, load_backend
from synth.family.assemble import assemble
from synth.inversion import Inverter
from synth.requests import Request
from synth.sampling import Sampler
from synth.settings import InversionSettings, Settings
from tests.bench.family import held_out_shots

#: Scales of guidance, up and down.
SCALES = ((1.0, 1.0), (1.5, 1.5), (4.0, 4.0), (1.0, 4.0))
LEVELS = (200, 400, 480, 600, 760)
WAYS = ("published", "aligned", "one pass")


def relative(difference: torch.Tensor, latents: torch.Tensor) -> float:
    """Root mean square over that of `latents`."""
    return float(difference.square().mean().sqrt() / latents.square().mean().sqrt())


def round_trip(
    backend: Any, latents: torch.Tensor, labels: list[int], up: float, down: float, way: str, levels: tuple[int, ...]
) -> dict[int, Any]:
    """The generated batch for each level."""
    published = InversionSettings(mode="reference", guidance=up)
    inversion = published if way == "published" else InversionSettings(guidance=up, passes=int(way == "one pass"))
    batches = {}
    for level, inverted in Inverter(backend, inversion).invert(latents, labels, levels).items():
        requests = [Request(label, "k", i, latents=inverted[i], level=level) for i, label in enumerate(labels)]
        sampler = Sampler(backend, Settings(guidance=down), inversion=inversion, batch_size=len(labels))
        batches[level] = sampler.batch(requests)
    return batches


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--levels", type=int, nargs="+", default=LEVELS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path, help="a PNG of the images at level 600")
    options = parser.parse_args()
    torch.set_num_threads(1)
    storage = embedded_family()
    stored = load_family(family_files(storage), storage.url)
    with tempfile.TemporaryDirectory() as folder:
        assemble(stored.family, stored.parts, stored.load_tokenizer(), Path(folder))
        backend: Any = load_backend(GeneratorOptions(f"{folder}/classes", device="cpu"))
    images, labels = held_out_shots(stored.family.shape.size)
    # Every class as often as any other.
    places = [[i for i, label in enumerate(labels) if label == c] for c in range(len(stored.family.classes))]
    chosen = [place for turn in zip(*places, strict=False) for place in turn][: options.images]
    images, labels = images[chosen], [labels[place] for place in chosen]
    latents = backend.encode_images(images)
    table = Table("guidance up / down", "way", *(f"t = {level}" for level in options.levels), title="Relative RMSE")
    errors: dict[str, dict[str, dict[int, float]]] = {}
    rows = []
    for up, down in SCALES:
        rows.append(images)
        for way in WAYS:
            batches = round_trip(backend, latents, labels, up, down, way, tuple(options.levels))
            row = {level: round(relative(batch.latents - latents, latents), 4) for level, batch in batches.items()}
            errors.setdefault(f"{up:g} / {down:g}", {})[way] = row
            table.add_row(f"{up:g} / {down:g}", way, *(f"{value:.3f}" for value in row.values()))
            if way != "one pass" and 600 in batches:
                rows.append(batches[600].images)
    Console(width=120).print(table)
    if options.json:
        options.json.write_text(json.dumps({"images": len(labels), "errors": errors}, indent=1, sort_keys=True) + "\n")
    if options.sheet:
        pixels = (torch.cat(rows).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        options.sheet.write_bytes(encode(contact_sheet(pixels, len(labels)), "png", ImageParams(format="png")))


if __name__ == "__main__":
    main()
