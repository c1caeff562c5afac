"""The subjects of adapters: a class, the whole data set, or a single image (DataDream's two variants and LoFT's), and LoFT's pairs.

Class names are free text ("Ram C/V Cargo Van Minivan 2012"); an adapter's name is also a folder's, so it is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Literal, get_args
from urllib.parse import quote, unquote

import torch

from augment.seeds import operation_seed
from synth.datadream.adapt import Subject
from synth.datadream.prompts import ContextBank, class_prompt
from synth.errors import SynthError

Variant = Literal["cls", "dset", "loft"]
WHOLE_DATASET = "dataset-wise"


def adapter_name(*parts: str) -> str:
    """Escape a class's name, or a class's and an image's, to one without dots and slashes; `parts_of` gives them back."""
    return "+".join(quote(part, safe=" ").replace(".", "%2E") for part in parts)


def parts_of(name: str) -> tuple[str, ...]:
    """Undo `adapter_name`."""
    return tuple(unquote(part) for part in name.split("+"))


def subjects(
    images: Mapping[str, Mapping[str, torch.Tensor]],
    variant: Variant,
    *,
    domain: str = "",
    bank: ContextBank | None = None,
) -> list[Subject]:
    """List the adapters to train for the few-shot `images` of each class, by key: RGB (3, h, w) float in [0, 1].

    `cls`: one for each class; `dset`: one for all, which tells them apart by the prompt alone; `loft`: one for each image.
    With a `bank` an image's prompt has its own context.
    """
    if variant not in get_args(Variant):
        raise SynthError(f"variant takes {' | '.join(get_args(Variant))}, got {variant!r}")

    def prompt(name: str, key: str) -> str:
        return class_prompt(name, domain) if bank is None else bank.training_prompt(name, key, domain)

    if variant == "loft":
        return [
            Subject(adapter_name(name, key), [image], [prompt(name, key)])
            for name, shots in images.items()
            for key, image in shots.items()
        ]
    prompts = {name: [prompt(name, key) for key in shots] for name, shots in images.items()}
    if variant == "cls":
        return [Subject(adapter_name(name), list(shots.values()), prompts[name]) for name, shots in images.items()]
    every = [image for shots in images.values() for image in shots.values()]
    return [Subject(WHOLE_DATASET, every, [text for texts in prompts.values() for text in texts])]


def loft_pairs(names: Sequence[str], count: int, *, key: str, run_seed: int = 0) -> list[tuple[str, ...]]:
    """Draw which image adapters of a class are mixed, half and half, for each of its `count` images.

    All pairs in an order that follows from (run seed, class `key`), over and over; a single adapter stays alone. Images of one pair
    can be made in one batch: sort by pair, the seeds are per image.
    """
    if not names:
        raise SynthError("LoFT mixes image adapters, and none was named")
    pairs: list[tuple[str, ...]] = list(combinations(sorted(names), 2)) or [(names[0],)]
    source = torch.Generator().manual_seed(operation_seed(run_seed, key, "datadream/loft"))
    order = torch.randperm(len(pairs), generator=source).tolist()
    return [pairs[order[i % len(pairs)]] for i in range(count)]
