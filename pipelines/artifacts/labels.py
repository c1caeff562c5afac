"""Soft labels of every view of a set's images, as `relabel` stores them and students replay them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from distill.config import ViewConfig
from pipelines.artifacts.distilled import DEFAULT_SOURCES, Sources
from pipelines.artifacts.teacher import Teacher
from pipelines.config import PLAN_ONLY, Section
from pipelines.loaders.arrays import ImageArrays
from pipelines.loaders.soft_labels import Epoch, StoredLabels, read_soft_labels, write_soft_labels
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job
from pipelines.runtime.units import Tick, no_tick
from pipelines.seeds import seed_for
from pipelines.storage import Storage


class RelabelParams(Section):
    """Parameters of `relabel`.

    `format` is how logits are stored: `fp16` and `int8` all of them, `top_k` the largest ones of each view. `top_k` is how many these
    are. `epochs_per_unit` is how many epochs one file holds.
    """

    sources: Annotated[Sources, PLAN_ONLY] = Field(
        DEFAULT_SOURCES, description="stages whose distilled sets are labelled, an item each"
    )
    ipc: Annotated[tuple[Annotated[int, Field(ge=1)] | Literal["all"], ...], PLAN_ONLY] = Field(
        (1, "all"), min_length=1, description="subsets to label: the first n slots of every class, or all of them"
    )
    epochs: Annotated[int, PLAN_ONLY] = Field(
        300, ge=1, description="epochs of labels; a longer training uses them in turn"
    )
    batch_size: int = Field(100, ge=2, description="images are mixed within a batch of this size")
    views: ViewConfig = ViewConfig(crop="resized", mix="cutmix")
    format: Literal["fp16", "int8", "top_k"] = "fp16"
    top_k: int = Field(5, ge=1)
    epochs_per_unit: Annotated[int, PLAN_ONLY] = Field(100, ge=1)

    @field_validator("views")
    @classmethod
    def _views_are_stored(cls, views: ViewConfig) -> ViewConfig:
        if views.siamese:
            raise ValueError(
                "siamese views cannot be stored with their labels; set it in evaluate.distilled.hard, online or fixed"
            )
        return views


def labels_of(ipc: int, number: int) -> str:
    """The folder of a set's labels for a subset, below `labels`."""
    return f"ipc_{ipc:03d}" + (f"-s{number}" if number else "")


def label_epochs(
    path: Path,
    epochs: range,
    images: ImageArrays,
    ipc: int,
    teacher: Teacher,
    params: RelabelParams,
    job: Job[Any],
    tick: Tick = no_tick,
) -> int:
    """Write the labels of `epochs` of a set with `ipc` images per class, real or distilled; returns the file's bytes."""
    from distill.compression import pack
    from distill.labels import label_epoch

    pixels, _ = images.tensors(torch_device(job))

    def made() -> Iterator[Epoch]:
        for epoch in epochs:
            views, logits = label_epoch(
                teacher.model,
                pixels,
                params.views,
                seed=view_seed(job, ipc),
                epoch=epoch,
                batch_size=params.batch_size,
                mean=teacher.mean,
                std=teacher.std,
            )
            tick(epoch - epochs.start, len(epochs), f"{ipc} per class")
            yield epoch, views, pack(logits.cpu(), params.format, params.top_k)

    facts = {"format": params.format, "classes": len(teacher.classes), "teacher": teacher.network}
    return write_soft_labels(path, made(), images.keys, facts)


def store_again(
    scratch: Storage, labels: StoredLabels, keys: Sequence[str], params: RelabelParams
) -> tuple[int, StoredLabels]:
    """Store labels of a set anew in the format and with the first epochs of `params`; returns the bytes and what was stored.

    Files hold as many epochs as those of `relabel` do, so that the bytes are those that it would write: its logits differ by what half
    precision has rounded already, which no byte is added for.
    """
    from distill.compression import pack

    paths, size, facts = [], 0, {**labels.facts, "format": params.format}
    for first in range(0, params.epochs, params.epochs_per_unit):
        block = ((epoch, *labels[epoch]) for epoch in range(first, min(first + params.epochs_per_unit, params.epochs)))
        packed = ((epoch, views, pack(logits, params.format, params.top_k)) for epoch, views, logits in block)
        paths.append(f"labels-{first:06d}.arrow")
        with scratch.replacing(paths[-1]) as temporary:
            size += write_soft_labels(temporary, packed, keys, facts)
    return size, read_soft_labels(scratch, paths, keys)


def view_seed(job: Job[Any], ipc: int) -> int:
    """The seed of a subset's views; the students of `evaluate` replay the same views."""

    return seed_for(job.run.seed, "relabel", f"ipc {ipc}", "views")
