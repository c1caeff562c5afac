"""`dm`: train images + teacher's normalisation -> condensed sets, by distribution matching (Zhao and Bilen, 2023).

Units come in two waves: a network of the pool is trained on the real images; a chunk of classes is condensed for all its slots. What
a class becomes follows from the seed and its number, so that the bytes do not depend on the number of workers. An image may store
several smaller ones (`tiles` in its sample's json): readers decode them before anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipelines.artifacts.datasets import dataset_digest, finished, open_part
from pipelines.artifacts.distilled import set_name, shuffled_keys
from pipelines.artifacts.teacher import TEACHER_FILE, load_teacher
from pipelines.errors import UserError
from pipelines.fields import caption_of
from pipelines.images.made import synthetic_sample
from pipelines.loaders.arrays import ImageArrays, load_arrays
from pipelines.runtime.checkpoints import Checkpoint, Progress, run_resumably
from pipelines.runtime.code import WRITERS
from pipelines.runtime.committed import Committed
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.publication import publish_datasets
from pipelines.runtime.typed import Payload
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.shards.keys import slot_key
from pipelines.shards.sample import Sample
from pipelines.stages.dm.params import DmParams
from pipelines.storage import canonical_json, csv_bytes

if TYPE_CHECKING:
    from distill.matching.distribution import Matching

LOSSES = "losses.csv"
COLUMNS = ("unit", "iteration", "loss")


@dataclass(frozen=True)
class TrainNetwork(Payload):
    """Train network `place` of the pool of a set. `inputs` are digests of what is read."""

    kind: ClassVar[str] = "network"

    number: int
    place: int
    inputs: dict[str, str]


@dataclass(frozen=True)
class Condense(Payload):
    """Condense some classes of a set to `ipc` images each. `pool` are digests of the networks that take turns."""

    kind: ClassVar[str] = "condense"

    number: int
    classes: tuple[int, ...]
    ipc: int
    inputs: dict[str, str]
    pool: tuple[str, ...]


class Worker:
    """What a worker keeps: the training images by class, and how the teacher normalises them."""

    def __init__(self, job: Job[DmParams]) -> None:
        facts = finished(job, "squeeze").json(TEACHER_FILE)
        self.train = open_part(job, "split", "train")
        self.mean, self.std = tuple(facts["mean"]), tuple(facts["std"])
        self.images = load_arrays(self.train)
        self.places = {key: place for place, key in enumerate(self.images.keys)}

    def of_class(self, label: int) -> ImageArrays:
        """The training images of a class."""
        return self.images.take(np.flatnonzero(self.images.labels == label))


class Dm(Stage[DmParams]):
    """Condenses the training set by matching."""

    name = "dm"
    version = 1
    summary = "train images -> condensed sets (DM)"
    adds = "the condensed images"
    titles: ClassVar[Mapping[str, str]] = {"": "DM"}
    optional = True
    extras = ("distill",)
    product = "distilled"
    Params = DmParams
    upstream = ("split", "squeeze")
    code = ("augment", "distill", "pipelines.artifacts", "pipelines.images", "pipelines.loaders", *WRITERS)
    workers = "actors"
    computes = True

    def plan(self, job: Job[DmParams]) -> Plan:
        train, params = open_part(job, "split", "train"), job.params
        inputs = {"train": dataset_digest(train), **_normalisation(job)}
        units: list[Unit] = []
        condense: list[Unit] = []
        for number in range(params.seeds):
            named = set_name("dm", number)
            networks = params.match.pool.networks if params.match.pool_every else 0
            pool = [TrainNetwork(number, place, inputs) for place in range(networks)]
            units += [one.unit(f"{named}-network-{one.place:03d}") for one in pool]
            digests = tuple(one.digest for one in pool)
            for start in range(0, len(train.classes), params.class_chunk):
                chunk = tuple(range(start, min(start + params.class_chunk, len(train.classes))))
                payload = Condense(number, chunk, params.ipc, inputs, digests)
                condense.append(payload.unit(f"{named}-{start // params.class_chunk:06d}", wave=1))
        return Plan([*units, *condense], facts={"classes": train.classes, "ipc": params.ipc, "seeds": params.seeds})

    def check(self, job: Job[DmParams]) -> None:
        torch_device(job)
        params, side = job.params, finished(job, "squeeze").json(TEACHER_FILE)["image_size"]
        if side % params.match.tiles:
            raise UserError(
                f"dm.match.tiles: images of {side} px cannot be cut into {params.match.tiles} x {params.match.tiles} equal tiles; set it "
                "to a divisor, or to 1"
            )
        train = open_part(job, "split", "train")
        wanted = params.ipc * params.match.tiles**2
        for name, keys in zip(train.classes, shuffled_keys(train, 0), strict=True):
            if not keys:
                raise UserError(f"class {name} has no training image to match; mend the data, or leave the class out")
            if params.start == "medoids" and len(keys) < wanted:
                raise UserError(
                    f"class {name} has {len(keys)} different training images, fewer than the {wanted} medoids that dm.ipc and "
                    "dm.match.tiles ask for; lower them, or set dm.start: random"
                )

    def open(self, job: Job[DmParams]) -> Worker:
        return Worker(job)

    def run(self, unit: Unit, worker: Worker, output: UnitOutput, job: Job[DmParams]) -> None:
        if unit.kind == TrainNetwork.kind:
            _train_network(TrainNetwork.from_json(unit.payload), worker, output, job)
        else:
            _condense(unit, worker, output, job)

    def subject(self, unit: Unit, job: Job[DmParams]) -> str:
        return "dm.match.pool" if unit.kind == TrainNetwork.kind else "dm.match"

    def finish(self, job: Job[DmParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        committed = Committed(job, markers)
        names = [marker.name for marker in markers if marker.kind == Condense.kind]
        tables = [committed.read(f"losses/{name}.csv").decode() for name in names]
        body = "".join(table.split("\n", 1)[1] for table in tables)
        job.output.write_bytes(LOSSES, f"{','.join(COLUMNS)}\n{body}".encode())
        sets = f" of each of {plan.facts['seeds']} sets" if plan.facts["seeds"] > 1 else ""
        extra = {"name": "dm", "description": f"condensed images, {plan.facts['ipc']} stored per class{sets}"}
        return publish_datasets(job.output, markers, plan.facts["classes"], extra)


def _normalisation(job: Job[DmParams]) -> dict[str, str]:
    """What is read of the teacher: how it normalises, and where images begin at medoids its features."""
    output = finished(job, "squeeze")
    facts = output.json(TEACHER_FILE)
    read = {"mean": facts["mean"], "std": facts["std"], "image_size": facts["image_size"]}
    return {"normalisation": canonical_json(read).decode()} | (
        {"teacher": output.digest} if job.params.start == "medoids" else {}
    )


def _network_file(number: int, place: int) -> str:
    return f"networks/{set_name('dm', number)}-{place:03d}.safetensors"


def _train_network(payload: TrainNetwork, worker: Worker, output: UnitOutput, job: Job[DmParams]) -> None:
    """Train a network of the pool and write its weights after each of the snapshots' epochs."""
    import safetensors.torch

    from distill.matching.distribution import pool_trainer

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
    weights: dict[str, Any] = {}
    for row in trainer.run():
        epoch = int(row["epoch"]) + 1
        output.tick(epoch, config.pool.snapshots[-1], f"loss {row['train_loss']:.3f}")
        if epoch in config.pool.snapshots:
            state = trainer.model.state_dict()
            weights |= {f"{epoch}/{name}": value.detach().clone().contiguous() for name, value in state.items()}
    output.write(_network_file(payload.number, payload.place), safetensors.torch.save(weights))


def _pool(payload: Condense, config: Any, job: Job[DmParams]) -> list[dict[str, Any]]:
    """The states of the pool, network by network and snapshot by snapshot."""
    import safetensors.torch

    committed, states = Committed(job), []
    for place in range(len(payload.pool)):
        weights = safetensors.torch.load(committed.read(_network_file(payload.number, place)))
        for epoch in config.pool.snapshots:
            prefix = f"{epoch}/"
            states.append({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    return states


class _Iterations:
    """A matching, an iteration a step."""

    def __init__(self, matching: Matching) -> None:
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


def _condense(unit: Unit, worker: Worker, output: UnitOutput, job: Job[DmParams]) -> None:
    """Condense a chunk of classes and write its images."""
    import torch

    from distill.matching.distribution import Matching

    payload, params = Condense.from_json(unit.payload), job.params
    device = torch_device(job)
    real = [torch.from_numpy(worker.of_class(label).images).to(device) for label in payload.classes]
    keys = _start_keys(payload, worker, job)
    places = [[worker.places[key] for key in of_class] for of_class in keys]
    start = torch.from_numpy(np.stack([worker.images.images[chosen] for chosen in places])).to(device)
    matching = Matching(
        real,
        payload.classes,
        start,
        params.match,
        classes=len(worker.train.classes),
        mean=worker.mean,
        std=worker.std,
        seed=job.seed(f"set {payload.number}", "match"),
        pool=_pool(payload, params.match, job),
    )
    run_resumably(_Iterations(matching), output, Checkpoint(output))
    images = matching.result().cpu().numpy().transpose(0, 1, 3, 4, 2)
    each = params.match.tiles**2
    with output.shard() as shard:
        for slot in range(payload.ipc):
            for column, label in enumerate(payload.classes):
                parents = keys[column][slot * each : (slot + 1) * each]
                shard.keep(_sample(images[column, slot], (payload.number, slot), label, parents, worker, job))
    losses = [{"unit": unit.name, "iteration": step, "loss": loss} for step, loss in matching.losses]
    output.write(f"losses/{unit.name}.csv", csv_bytes(losses, COLUMNS))
    output.summary = {"loss": matching.losses[-1][1], "grey": matching.grey}


def _start_keys(payload: Condense, worker: Worker, job: Job[DmParams]) -> list[list[str]]:
    """Keys of the real images that each class starts from, as many as it has tiles; none twice while there are enough."""
    params, wanted = job.params, payload.ipc * job.params.match.tiles**2
    if params.start == "random":
        pools = shuffled_keys(worker.train, job.seed(f"set {payload.number}", "start"))
        return [[pools[label][place % len(pools[label])] for place in range(wanted)] for label in payload.classes]
    import torch

    from distill.clusters import medoids
    from distill.features import head_inputs

    teacher = load_teacher(job, torch_device(job))
    chosen = []
    for label in payload.classes:
        own = worker.of_class(label)
        points = head_inputs(teacher.model, torch.from_numpy(own.images), mean=teacher.mean, std=teacher.std)
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
