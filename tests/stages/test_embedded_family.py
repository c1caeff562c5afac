"""The generators that are part of the package: whole, small, in half precision, and able to make what they are asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines import sample
from pipelines.artifacts.families import (
    CARD_FILE,
    StoredFamily,
    embedded_family,
    family_files,
    load_family,
    tokenizer_files,
)
from pipelines.images.process import decode_rgb
from pipelines.sources import IdxParams, open_source

pytest.importorskip("diffusers", reason="diffusers is not installed: limbeck[synth]")

from synth.backends import GeneratorOptions, load_backend
from synth.family.assemble import assemble
from synth.requests import Request
from synth.sampling import Sampler
from synth.settings import Settings

EACH = 4
COLOURS = {"red": (0, 1, 2), "green": (1, 0, 2), "blue": (2, 0, 1)}


@pytest.fixture(scope="module")
def stored() -> StoredFamily:
    return load_family(family_files(embedded_family()), "the package")


@pytest.fixture(scope="module")
def folder(stored: StoredFamily, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("family")
    assemble(stored.family, stored.parts, stored.load_tokenizer(), made)
    return made


def images(folder: Path, role: str, requests: list[Request], settings: Settings) -> Any:
    """(n, 3, 64, 64) float in [0, 1]."""
    torch.set_num_threads(1)
    backend = load_backend(GeneratorOptions(str(folder / role), device="cpu"))
    sampler = Sampler(backend, settings, run_seed=0, batch_size=len(requests))
    return torch.cat([group.images for group in sampler.generate(requests)]).float().clamp(0, 1)


def test_weights_are_half_precision_and_at_most_40_mb(stored: StoredFamily) -> None:
    tensors = [value for state in stored.parts.values() for value in state.values()]
    assert {value.dtype for value in tensors if value.is_floating_point()} == {torch.float16}
    assert all(bool(torch.isfinite(value).all()) for value in tensors)
    assert sum(path.stat().st_size for path in sample.folder("generator").rglob("*") if path.is_file()) <= 40e6


def test_the_card_says_what_a_user_has_to_know() -> None:
    card = embedded_family().read_bytes(CARD_FILE).decode()
    for heading in ("Data", "Licence", "Recipe", "Compute", "Samples", "Figures", "Limits"):
        assert f"\n## {heading}\n" in card


def test_its_classes_are_those_of_the_sample(stored: StoredFamily) -> None:
    assert list(stored.family.classes) == json.loads((sample.folder() / "classes.json").read_text())


def test_the_class_model_makes_the_class_it_is_asked_for(stored: StoredFamily, folder: Path) -> None:
    """The mean test image of the class asked for is the nearest of the ten; chance is one in ten."""
    params = {"type": "idx", "path": "sample:fashion_mnist", "split": "test"}
    params |= {"images": "t10k-images-idx3-ubyte.gz", "labels": "t10k-labels-idx1-ubyte.gz"}
    source = open_source(IdxParams.model_validate(params))
    classes = len(stored.family.classes)
    shots: list[list[Any]] = [[] for _ in range(classes)]
    for record in source.scan():
        assert record.label is not None
        shots[record.label].append(np.pad(decode_rgb(source.read(record)).mean(2) / 255, 2))  # type: ignore[union-attr]
    means = torch.from_numpy(np.stack([np.mean(one, axis=0) for one in shots])).flatten(1)
    asked = [label for label in range(classes) for _ in range(EACH)]
    requests = [Request(label, f"class {label}", place) for place, label in enumerate(asked)]
    made = images(folder, "classes", requests, Settings(steps=10, guidance=2.0, scheduler="dpmpp_2m"))
    small = torch.nn.functional.avg_pool2d(made.mean(1, keepdim=True), 2).flatten(1).double()
    nearest = torch.cdist(small, means).argmin(1)
    assert float((nearest == torch.tensor(asked)).float().mean()) >= 0.5


def test_the_text_model_paints_in_the_colour_it_is_told(folder: Path) -> None:
    asked = [(colour, place) for colour in COLOURS for place in range(EACH)]
    requests = [Request(f"a {colour} bag on a plain grey background", colour, place) for colour, place in asked]
    made = images(folder, "text", requests, Settings(steps=10, guidance=5.0, scheduler="dpmpp_2m"))
    saturated = made.amax(1) - made.amin(1)
    right = 0
    for (colour, _), image, strength in zip(asked, made, saturated, strict=True):
        own, first, second = image[:, strength > 0.5 * strength.max()].mean(1)[list(COLOURS[colour])]
        right += bool(own > max(first, second))
    assert right >= 0.75 * len(asked)


def test_a_tokenizer_is_stored_alike_with_and_without_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    stored = load_family(family_files(embedded_family()), "the embedded family")
    written = []
    for offline in (False, True):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
        written.append(tokenizer_files(stored.load_tokenizer()))
    assert written[0] == written[1]
