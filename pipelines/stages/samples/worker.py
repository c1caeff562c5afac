"""The worker of `samples`: encodes real images, finds the modes of classes, makes images. Decisions of what to do are in the plan."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import safetensors.torch
import torch

from distill.clusters import k_means
from pipelines.artifacts.class_model import Style, Wanted, load_generator, shown_to_model, write_images
from pipelines.artifacts.datasets import open_part
from pipelines.errors import UserError
from pipelines.loaders.arrays import load_images
from pipelines.outcomes import KEPT, failed
from pipelines.runtime.committed import Committed
from pipelines.runtime.job import Job
from pipelines.runtime.units import UnitOutput
from pipelines.shards.sidecar import Sidecar
from pipelines.stages.samples.params import SamplesParams, encoded_file, latents_file, modes_file
from pipelines.stages.samples.payloads import Cluster, Encode, Generate
from synth.backends import SteppedBackend
from synth.requests import Request
from synth.sampling import Sampler

_BROKEN = failed("not_finite", detail="its latent is no numbers: the autoencoder overflowed on it")


class Sampling:
    """One worker. `encode`, `cluster` and `generate` do the units of these kinds."""

    def __init__(self, job: Job[SamplesParams]) -> None:
        self.job, self.params = job, job.params
        self._committed = Committed(job)

    @cached_property
    def backend(self) -> SteppedBackend:
        """The class-conditional generator, frozen."""
        return load_generator(self.job, "classes", self.params.dtype)

    def encode(self, payload: Encode, output: UnitOutput) -> None:
        """Bring a block of real images to latents, posterior means; an image whose latent is no numbers is a row with a reason."""
        rows, sidecar = output.rows(), Sidecar()
        train = open_part(self.job, "split", "train")
        latents, labels = [], []
        for start in range(0, len(rows), payload.model.batch_size):
            batch = rows[start : start + payload.model.batch_size]
            images = load_images(train, [row["key"] for row in batch])
            size = self.backend.capabilities.native_size
            shown = torch.stack([shown_to_model(image, size) for image in images]).to(self.backend.device)
            encoded = self.backend.encode_images(shown, None).cpu()
            sound = encoded.isfinite().flatten(1).all(1)
            latents.append(encoded[sound])
            labels += [row["label"] for row, is_sound in zip(batch, sound.tolist(), strict=True) if is_sound]
            for row, is_sound in zip(batch, sound.tolist(), strict=True):
                outcome = KEPT if is_sound else _BROKEN
                named = {"label": row["label"], "label_name": train.classes[row["label"]], "split": "train"}
                why = {"reason": outcome.reason or None, "detail": outcome.detail or None}
                about = {"outcome": outcome.status, "error_class": outcome.error_class, "op": self.job.stage}
                sidecar.add({"key": row["key"], **named, **about, **why})
                output.count(outcome)
            output.tick(start + len(batch), len(rows), "encoded")
        tensors = {"latents": torch.cat(latents), "labels": torch.tensor(labels, dtype=torch.int64)}
        output.write(latents_file(output.unit.name), safetensors.torch.save(tensors))
        with output.file(encoded_file(output.unit.name)) as path:
            sidecar.write(path)

    def cluster(self, payload: Cluster, output: UnitOutput) -> None:
        """Find the modes of some classes: the centres of k-means among the latents of a class, and the share of the class at each."""
        modes, shares, explained = {}, {}, []
        for done, (label, parts) in enumerate(payload.parts.items()):
            name = payload.names[label]
            latents = self._latents(label, parts)
            if len(latents) < payload.ipc:
                raise UserError(
                    f"samples.images_per_class: class {name} has {len(latents)} training images with a latent of numbers, fewer than the "
                    f"{payload.ipc} modes to find; set samples.dtype: float32, or lower samples.ipc"
                )
            points = latents.flatten(1)
            centres, labels = k_means(points, payload.ipc, self.job.seed(f"set {payload.set} {name}", "modes"))
            modes[str(label)] = centres.reshape(-1, *latents.shape[1:]).contiguous()
            counts = labels.bincount(minlength=payload.ipc)
            shares[str(label)] = [round(count / len(points), 6) for count in counts.tolist()]
            explained.append(_explained(points, centres, labels))
            output.tick(done + 1, len(payload.parts), name)
        data = safetensors.torch.save(modes, {"shares": json.dumps(shares, sort_keys=True)})
        output.write(modes_file(output.unit.name), data)
        output.summary = {"explained": explained}

    def _latents(self, label: int, parts: Sequence[str]) -> torch.Tensor:
        """Latents (n, c, h', w') of a class's real images, in the order of the plan."""
        own = []
        for part in parts:
            tensors = safetensors.torch.load(self._committed.read(latents_file(part)))
            own.append(tensors["latents"][tensors["labels"] == label])
        return torch.cat(own)

    def generate(self, payload: Generate, output: UnitOutput) -> None:
        """Make a block of a set's images, batches mixing classes, and store them."""
        modes, shares = self._modes(payload)
        # The noise of an image does not know the method: what is pulled and what is not start alike.
        run_seed = self.job.seed(f"set {payload.set}", "noise")
        wanted = []
        for slot, label in payload.cells:
            mode = modes[label][slot] if modes else None
            request = Request(payload.prompts[label], payload.names[label], slot, mode=mode)
            facts = {"weight": shares[label][slot]} if shares else {}
            wanted.append(Wanted(request, payload.set, (slot, label), run_seed, facts=facts))
        batch = payload.model.batch_size
        sampler = Sampler(
            self.backend, self.params.generate, run_seed=run_seed, batch_size=batch, modes=self.params.modes
        )
        style = Style(payload.written, payload.names, payload.caption, payload.model.digest)
        write_images(self.job, output, sampler, wanted, style)

    def _modes(self, payload: Generate) -> tuple[dict[int, torch.Tensor], dict[int, list[float]]]:
        """By label the modes (ipc, c, h', w') and what share of the class is at each; empty where nothing is pulled."""
        modes, shares = {}, {}
        for unit in dict.fromkeys(payload.modes.values()):
            data = self._committed.read(modes_file(unit))
            tensors, told = safetensors.torch.load(data), json.loads(_metadata(data)["shares"])
            for label in (label for label, of in payload.modes.items() if of == unit):
                modes[label], shares[label] = tensors[str(label)], told[str(label)]
        return modes, shares


def _explained(points: torch.Tensor, centres: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of the variance of points (n, d) that lies between clusters and not within them; 0 where all points coincide."""
    points, centres = points.double(), centres.double()
    total = float((points - points.mean(0)).square().sum())
    within = float((points - centres[labels]).square().sum())
    return round(1 - within / total, 6) if total > 0 else 0.0


def _metadata(data: bytes) -> dict[str, Any]:
    """The texts in a file of safetensors."""
    header: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header["__metadata__"]
