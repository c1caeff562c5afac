"""The worker of `d3hr`: inverts real images, chooses groups, generates their images. Decisions of what to do are in the plan.

Real images pass in batches and leave moments behind; a class is held whole only where the choice of its group reads latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from distill.d3hr.config import SelectConfig
from distill.d3hr.models import ClassModel, diagonal, fit
from distill.d3hr.selection import medoid_group, select
from distill.errors import DistillError
from pipelines.artifacts.class_model import Style, Wanted, as_written, load_generator, shown_to_model, write_images
from pipelines.artifacts.datasets import open_part
from pipelines.artifacts.distilled import set_name
from pipelines.images.encode import encode
from pipelines.images.params import ImageParams
from pipelines.loaders.arrays import load_images
from pipelines.outcomes import KEPT, Outcome, failed
from pipelines.runtime.committed import Committed
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job
from pipelines.runtime.units import UnitOutput
from pipelines.shards.keys import slot_key
from pipelines.shards.sidecar import Sidecar
from pipelines.stages.d3hr.diagnosing import diagnosed
from pipelines.stages.d3hr.groups import ChosenSet, read_block
from pipelines.stages.d3hr.measured import CLEAN, Latents, Measured, Measuring
from pipelines.stages.d3hr.params import (
    DIAGNOSTICS,
    ROUND_TRIP_TABLE,
    D3hrParams,
    inverted_file,
    round_trip_file,
    scores_file,
)
from pipelines.stages.d3hr.payloads import Decode, Diagnose, Invert, Prompt, RoundTrip, Select
from pipelines.storage import csv_bytes, pretty_json
from synth.backends import SteppedBackend
from synth.inversion import Inverter
from synth.levels import Diffusion, grid
from synth.requests import Request, torch_generators
from synth.sampling import Sampler
from synth.settings import InversionSettings, Settings

ROUND_TRIP_COLUMNS = ("key", "label", "place", "latent_error", "decoded_error", "again_error")


class Distiller:
    """One worker. `invert`, `round_trip`, `select`, `diagnose` and `decode` do the units of these kinds."""

    def __init__(self, job: Job[D3hrParams]) -> None:
        self.job, self.params = job, job.params
        self.device = torch_device(job)
        self._committed = Committed(job)

    @cached_property
    def backend(self) -> SteppedBackend:
        """The generator, frozen."""
        return load_generator(self.job, self.params.model, self.params.dtype)

    # real images to latents

    def invert(self, payload: Invert, output: UnitOutput) -> None:
        """Bring a block of real images to the levels, batch by batch; an image whose latents are no numbers is a row with a reason."""
        rows = output.rows()
        labels = sorted({row["label"] for row in rows})
        inverter = Inverter(self.backend, settings_of(payload.settings, payload.levels[-1]))
        measuring, sidecar = Measuring(labels, payload.keep), Sidecar()
        images = self._real([row["key"] for row in rows])
        for start in range(0, len(rows), payload.model.batch_size):
            batch = rows[start : start + payload.model.batch_size]
            prompts = [payload.prompts[row["label"]] for row in batch]
            shown = images[start : start + len(batch)]
            latents, sound = self._inverted(inverter, [row["key"] for row in batch], shown, prompts, payload.levels)
            for row, is_sound in zip(batch, sound, strict=True):
                outcome = KEPT if is_sound else _BROKEN
                sidecar.add(self._row(row, outcome))
                output.count(outcome)
            if good := [row for row, is_sound in zip(batch, sound, strict=True) if is_sound]:
                of_class = torch.tensor([row["label"] for row in good])
                measuring.add(Latents([row["key"] for row in good], of_class, latents))
            output.tick(start + len(batch), len(rows), "inverted")
        mixing = {level: self._mixing(inverter, level) for level in payload.levels}
        for name, data in measuring.files(output.unit.name, mixing).items():
            output.write(name, data)
        with output.file(inverted_file(output.unit.name)) as path:
            sidecar.write(path)
        output.summary = {"images": len(rows), "evaluations": inverter.evaluations(payload.levels)}

    def _inverted(
        self,
        inverter: Inverter,
        keys: Sequence[str],
        images: Sequence[np.ndarray[Any, Any]],
        prompts: Sequence[Prompt],
        levels: Sequence[int],
    ) -> tuple[dict[int, torch.Tensor], list[bool]]:
        """Latents by level (m, c, h, w), the clean ones among them, of the m images whose latents are numbers, and which those are."""
        clean = self._encoded(inverter, keys, images)
        places = _finite(clean).nonzero()[:, 0]
        latents = {CLEAN: clean[places]}
        if len(places):
            latents |= inverter.invert(latents[CLEAN], [prompts[place] for place in places.tolist()], levels)
            whole = torch.stack([_finite(one) for one in latents.values()]).all(0)
            latents, places = {level: one[whole] for level, one in latents.items()}, places[whole]
        sound = set(places.tolist())
        return latents, [place in sound for place in range(len(keys))]

    def _encoded(self, inverter: Inverter, keys: Sequence[str], images: Sequence[np.ndarray[Any, Any]]) -> torch.Tensor:
        """Clean latents (n, c, h, w) of stored images: the posterior's mean, or as published a draw from it, one for each key."""
        height, width = inverter.size
        pixels = torch.stack([shown_to_model(image, (height, width)) for image in images]).to(self.device)
        sources = None
        if inverter.settings.posterior == "sample":
            asked = [Request("", key) for key in keys]
            sources = torch_generators(self.job.seed("", "invert"), asked, "posterior")
        return self.backend.encode_images(pixels, sources)

    def _mixing(self, inverter: Inverter, level: int) -> tuple[float, float]:
        """What noising forward to a level mixes: signal and noise."""
        levels = grid(self.backend, inverter.settings, inverter.size)
        if isinstance(levels, Diffusion):
            return levels.signal[level] ** 0.5, (1 - levels.signal[level]) ** 0.5
        sigma = levels.sigmas[inverter.settings.place(level)]
        return 1 - sigma, sigma

    def _row(self, row: dict[str, Any], outcome: Outcome) -> dict[str, Any]:
        decision = {"outcome": outcome.status, "reason": outcome.reason or None, "detail": outcome.detail or None}
        named = {"label": row["label"], "label_name": self._classes[row["label"]], "split": "train"}
        return {"key": row["key"], **named, **decision, "error_class": outcome.error_class, "op": "d3hr"}

    @cached_property
    def _classes(self) -> list[str]:
        return open_part(self.job, "split", "train").classes

    def _real(self, keys: Sequence[str]) -> list[np.ndarray[Any, Any]]:
        """(3, h, w) uint8 of training images."""
        return load_images(open_part(self.job, "split", "train"), keys)

    def round_trip(self, payload: RoundTrip, output: UnitOutput) -> None:
        """Write real images as the autoencoder gives them back, and as inversion and generation do; and how far off both are."""
        cells = [(label, place, key) for label, keys in payload.keys.items() for place, key in enumerate(keys)]
        settings = settings_of(payload.settings, payload.level)
        inverter = Inverter(self.backend, settings)
        rows: list[dict[str, Any]] = []
        for start in range(0, len(cells), payload.model.batch_size):
            batch = cells[start : start + payload.model.batch_size]
            keys, images = [key for *_, key in batch], self._real([key for *_, key in batch])
            prompts = [payload.prompts[label] for label, *_ in batch]
            latents, sound = self._inverted(inverter, keys, images, prompts, [payload.level])
            batch = [cell for cell, is_sound in zip(batch, sound, strict=True) if is_sound]
            if not batch:
                continue
            requests = [
                Request(payload.prompts[label], key, latents=one, level=payload.level)
                for (label, _, key), one in zip(batch, latents[payload.level], strict=True)
            ]
            again = self._sampler(settings, payload.guidance).batch(requests)
            decoded = self.backend.decode(latents[CLEAN])
            real = [shown_to_model(one, inverter.size) for one, ok in zip(images, sound, strict=True) if ok]
            assert again.latents is not None
            for at, (label, place, key) in enumerate(batch):
                for what, pixels in (("decoded", decoded[at]), ("again", again.images[at])):
                    png = encode(as_written(pixels, payload.written), "png", ImageParams(format="png"))
                    output.write(round_trip_file(label, place, what), png)
                base = latents[CLEAN][at]
                errors = (
                    float((again.latents[at] - base).norm() / base.norm()),
                    _rmse(decoded[at].cpu(), real[at]),
                    _rmse(again.images[at].cpu(), real[at]),
                )
                values = (key, label, place, *(round(error, 6) for error in errors))
                rows.append(dict(zip(ROUND_TRIP_COLUMNS, values, strict=True)))
            output.tick(start + len(keys), len(cells), "round trip")
        output.write(ROUND_TRIP_TABLE, csv_bytes(rows, ROUND_TRIP_COLUMNS))
        output.summary = {name: _mean([row[name] for row in rows]) for name in ROUND_TRIP_COLUMNS[3:]}

    # latents to groups

    def select(self, payload: Select, output: UnitOutput) -> None:
        """Choose the latents of every class of a set, from all that was measured, merged in the order of the plan."""
        config = SelectConfig(**{**payload.config, "weights": tuple(payload.config["weights"])})
        classes = range(payload.classes)
        seeds = [self.job.seed(f"set {payload.set} class {label}", "select") for label in classes]
        # The published set is the first of the published variant; its seeds are added to this one.
        published = config.mode == "reference" and payload.set == 0
        seed = 0 if published else self.job.seed(f"set {payload.set}", "select")
        parents: list[list[str]] = [[] for _ in classes]
        measured = Measured(self._committed, payload.parts, payload.classes)
        if config.group == "medoids":
            groups = []
            models = diagonal(measured.moments(payload.level), config)
            for label, latents in enumerate(measured.latents()):
                at = latents.at
                group = medoid_group(at[CLEAN], at[payload.level], models[label], payload.ipc, seeds[label])
                assert group.images is not None
                parents[label] = [latents.keys[place] for place in group.images.tolist()]
                groups.append(group)
                output.tick(label + 1, payload.classes, "classes")
        else:
            groups = select(self._models(payload, measured, config, seeds), payload.ipc, config, seed, seeds)
        chosen = ChosenSet(payload.set, groups, seeds, parents)
        for path, data in chosen.files(payload.block):
            output.write(path, data)
        output.write(scores_file(payload.set), chosen.scores(self._classes, config))
        output.summary = chosen.mean_scores

    def _models(
        self, payload: Select, measured: Measured, config: SelectConfig, seeds: Sequence[int]
    ) -> list[ClassModel]:
        """The model of every class; one that is fitted to latents holds those of one class at a time."""
        if config.class_model == "diagonal":
            return diagonal(measured.moments(payload.level), config)
        models = []
        for label, latents in enumerate(measured.latents()):
            if len(latents) < 2:
                raise DistillError(
                    f"class {self._classes[label]} has {len(latents)} images whose latents are numbers, and a model takes two"
                )
            models.append(fit(latents.at[payload.level], latents.at[CLEAN], payload.ipc, config, seeds[label]))
        return models

    def diagnose(self, payload: Diagnose, output: UnitOutput) -> None:
        """Write how Gaussian classes are at each level."""
        measured = {tag: Measured(self._committed, parts, payload.classes) for tag, parts in payload.parts.items()}
        rows = diagnosed(payload, measured, self._classes)
        output.write(f"{DIAGNOSTICS}.json", pretty_json(rows))
        means = [{name: value for name, value in row.items() if name != "classes"} for row in rows]
        output.write(f"{DIAGNOSTICS}.csv", csv_bytes(means, list(means[0])))

    # groups to images

    def decode(self, payload: Decode, output: UnitOutput) -> None:
        """Generate a block of a set's images and store them, batches mixing classes."""
        latents, members = read_block(self._committed.read(payload.latents))
        sampler = self._sampler(settings_of(payload.settings, payload.level), payload.guidance)
        shape, name = self.backend.latent_shape(sampler.size), set_name(self.job.stage, payload.set)
        wanted = []
        for (slot, label), one, member in zip(payload.cells, latents, members, strict=True):
            key, start = slot_key(name, label, slot), one.reshape(shape)
            request = Request(payload.prompts[label], key, latents=start, level=payload.level)
            facts = {"weight": member.weight, "component": member.component}
            parents = [member.parent] if member.parent else []
            wanted.append(Wanted(request, payload.set, (slot, label), member.seed, parents, facts))
        style = Style(payload.written, payload.names, payload.caption, payload.model.digest)
        write_images(self.job, output, sampler, wanted, style)

    def _sampler(self, settings: InversionSettings, guidance: float | None) -> Sampler:
        generation = Settings(steps=settings.steps, guidance=guidance, size=settings.size)
        batch = self.params.batch_size
        return Sampler(self.backend, generation, batch_size=batch, inversion=settings)


_BROKEN = failed("not_finite", detail="its latents are no numbers: the autoencoder or the generator overflowed on it")


def settings_of(form: dict[str, Any], level: int) -> InversionSettings:
    """Settings of inversion as a payload has them, at a level."""
    size = form["size"]
    return InversionSettings(**{**form, "level": level, "size": None if size is None else tuple(size)})


def _finite(latents: torch.Tensor) -> torch.Tensor:
    """Which rows (n,) of latents (n, ...) are all numbers."""
    return latents.isfinite().flatten(1).all(1)


def _rmse(image: torch.Tensor, other: torch.Tensor) -> float:
    return float((image - other).square().mean().sqrt())


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
