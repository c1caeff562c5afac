"""Does a unit of `dm`: trains a network of the pool or an expert, or condenses a chunk of classes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import safetensors.torch
import torch

from distill.clusters import medoids
from distill.features import head_inputs
from distill.matching.distribution import Matching, pool_trainer
from distill.matching.gradients import GradientMatching
from distill.matching.images import ImageMatching
from distill.matching.trajectories import TrajectoryMatching, expert_trainer
from distill.training import Trainer
from pipelines.artifacts.datasets import finished, open_part
from pipelines.artifacts.distilled import set_name, shuffled_keys
from pipelines.artifacts.teacher import TEACHER_FILE, load_teacher
from pipelines.fields import caption_of
from pipelines.images.made import synthetic_sample
from pipelines.loaders.arrays import ImageArrays, load_arrays
from pipelines.runtime.checkpoints import Checkpoint, Progress, run_resumably
from pipelines.runtime.committed import Committed
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job
from pipelines.runtime.units import UnitOutput
from pipelines.shards.keys import slot_key
from pipelines.shards.sample import Sample
from pipelines.stages.dm.params import LOSS_COLUMNS, DmParams
from pipelines.stages.dm.payloads import Condense, TrainExpert, TrainNetwork
from pipelines.storage import canonical_json, csv_bytes


class Worker:
    """What a worker keeps: the training images by class, and how the teacher normalises them."""

    def __init__(self, job: Job[DmParams]) -> None:
        facts = finished(job, "squeeze").json(TEACHER_FILE)
        self.train = open_part(job, "split", "train")
        self.mean, self.std = tuple(facts["mean"]), tuple(facts["std"])
        self.images = load_arrays(self.train)
        self.places = {key: place for place, key in enumerate(self.images.keys)}
        first = self.images.images[:, :1]
        #: whether no training image has a colour; of the whole set, so that a class does not depend on those of its unit
        self.grey = bool((self.images.images == first).all())

    def of_class(self, label: int) -> ImageArrays:
        """The training images of a class."""
        return self.images.take(np.flatnonzero(self.images.labels == label))


def _network_file(number: int, place: int) -> str:
    return f"networks/{set_name('dm', number)}-{place:03d}.safetensors"


def train_network(payload: TrainNetwork, worker: Worker, output: UnitOutput, job: Job[DmParams]) -> None:
    """Train a network of the pool and write its weights after each of the snapshots' epochs."""
    config, device = job.params.match, torch_device(job)
    seed = job.seed(f"set {payload.number} network {payload.place}", "pool")
    trainer = pool_trainer(
        worker.images.tensors(device),
        config,
        classes=len(worker.train.classes),
        mean=worker.mean,
        std=worker.std,
        seed=seed,
    )
    _write_snapshots(trainer, config.pool.snapshots, _network_file(payload.number, payload.place), output)


def _expert_file(place: int) -> str:
    return f"experts/{place:03d}.safetensors"


def train_expert(payload: TrainExpert, worker: Worker, output: UnitOutput, job: Job[DmParams]) -> None:
    """Train an expert and write its weights before the first epoch and after each."""
    config, device = job.params.match, torch_device(job)
    trainer = expert_trainer(
        worker.images.tensors(device),
        config,
        classes=len(worker.train.classes),
        mean=worker.mean,
        std=worker.std,
        seed=job.seed(f"expert {payload.place}", "trajectories"),
    )
    _write_snapshots(trainer, range(config.trajectories.epochs + 1), _expert_file(payload.place), output)


def _write_snapshots(trainer: Trainer, epochs: Collection[int], path: str, output: UnitOutput) -> None:
    """Train to the last of `epochs` and write the weights after each of them into one file, as EPOCH/NAME; 0 is before the first."""
    weights: dict[str, Any] = {}

    def keep(epoch: int) -> None:
        state = trainer.model.state_dict()
        weights.update({f"{epoch}/{name}": value.detach().clone().contiguous() for name, value in state.items()})

    if 0 in epochs:
        keep(0)
    for row in trainer.run():
        epoch = int(row["epoch"]) + 1
        output.tick(epoch, max(epochs), f"loss {row['train_loss']:.3f}")
        if epoch in epochs:
            keep(epoch)
    output.write(path, safetensors.torch.save(weights))


def _snapshots(path: str, epochs: Iterable[int], job: Job[DmParams]) -> list[dict[str, Any]]:
    """The weights that `_write_snapshots` wrote, by epoch."""
    weights = safetensors.torch.load(Committed(job).read(path))
    prefixes = [f"{epoch}/" for epoch in epochs]
    return [{k.removeprefix(p): v for k, v in weights.items() if k.startswith(p)} for p in prefixes]


def _matching(payload: Condense, worker: Worker, job: Job[DmParams], start: torch.Tensor) -> ImageMatching:
    """The matching of a chunk of classes by the objective that is asked for."""
    config, device = job.params.match, torch_device(job)
    real = [torch.from_numpy(worker.of_class(label).images).to(device) for label in payload.classes]
    of_the_set: dict[str, Any] = {
        "classes": len(worker.train.classes),
        "mean": worker.mean,
        "std": worker.std,
        "seed": job.seed(f"set {payload.number}", "match"),
        "grey": worker.grey,
    }
    places, first = range(len(payload.pool)), (real, payload.classes, start, config)
    if config.objective == "gradients":
        return GradientMatching(*first, training=worker.images.tensors(device), **of_the_set)
    if config.objective == "trajectories":
        epochs = range(config.trajectories.epochs + 1)
        return TrajectoryMatching(
            *first, experts=[_snapshots(_expert_file(p), epochs, job) for p in places], **of_the_set
        )
    files = [_network_file(payload.number, place) for place in places]
    pool = [state for path in files for state in _snapshots(path, config.pool.snapshots, job)]
    return Matching(*first, pool=pool, **of_the_set)


class _Iterations:
    """A matching, an iteration a step."""

    def __init__(self, matching: ImageMatching) -> None:
        self._matching = matching

    @property
    def done(self) -> bool:
        return self._matching.done

    def advance(self) -> Progress:
        loss = self._matching.advance()
        return Progress(self._matching.iteration, self._matching.config.iterations, f"loss {loss:.3f}")

    def state(self) -> dict[str, Any]:
        return self._matching.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self._matching.load_state(state)


def condense(payload: Condense, worker: Worker, output: UnitOutput, job: Job[DmParams]) -> None:
    """Condense a chunk of classes and write its images."""
    params = job.params
    device = torch_device(job)
    keys = _start_keys(payload, worker, job)
    places = [[worker.places[key] for key in of_class] for of_class in keys]
    start = torch.from_numpy(np.stack([worker.images.images[chosen] for chosen in places])).to(device)
    matching = _matching(payload, worker, job, start)
    run_resumably(_Iterations(matching), output, Checkpoint(output))
    images = matching.result().cpu().numpy().transpose(0, 1, 3, 4, 2)
    each = params.match.tiles**2
    with output.shard() as shard:
        for slot in range(payload.ipc):
            for column, label in enumerate(payload.classes):
                parents = keys[column][slot * each : (slot + 1) * each]
                shard.keep(_sample(images[column, slot], (payload.number, slot), label, parents, worker, job))
    losses = [{"unit": output.unit.name, "iteration": step, "loss": loss} for step, loss in matching.losses]
    output.write(f"losses/{output.unit.name}.csv", csv_bytes(losses, LOSS_COLUMNS))
    output.summary = {"loss": matching.losses[-1][1]}


def _start_keys(payload: Condense, worker: Worker, job: Job[DmParams]) -> list[list[str]]:
    """Keys of the real images that each class starts from, as many as it has tiles; none twice while there are enough."""
    params, wanted = job.params, payload.ipc * job.params.match.tiles**2
    if params.start == "random":
        pools = shuffled_keys(worker.train, job.seed(f"set {payload.number}", "start"))
        return [[pools[label][place % len(pools[label])] for place in range(wanted)] for label in payload.classes]
    device = torch_device(job)
    teacher, chosen = load_teacher(job, device), []
    for label in payload.classes:
        own = worker.of_class(label)
        points = head_inputs(teacher.model, own.tensors(device)[0], mean=teacher.mean, std=teacher.std)
        places = medoids(points, wanted, job.seed(f"set {payload.number} class {label}", "start"))
        chosen.append([own.keys[place] for place in places.tolist()])
    return chosen


def _sample(
    pixels: np.ndarray[Any, Any],
    place: tuple[int, int],
    label: int,
    parents: Sequence[str],
    worker: Worker,
    job: Job[DmParams],
) -> Sample:
    """Make the sample of the image at a (set, slot)."""
    number, slot = place
    tiles = job.params.match.tiles
    at = {"slot": slot} | ({"set": number} if number else {}) | ({"tiles": tiles} if tiles > 1 else {})
    row = {
        "source": f"set {number} slot {slot}" if number else f"slot {slot}",
        "parents": list(dict.fromkeys(parents)),
        "op": "dm",
        "params": canonical_json(at).decode(),
    }
    name, template = worker.train.classes[label], job.params.caption
    caption = None if template is None else caption_of(template, name)
    key = slot_key(set_name(job.stage, number), label, slot)
    return synthetic_sample(
        key, pixels, job.params.image, (label, name), row, at | {"parents": row["parents"]}, caption=caption
    )
