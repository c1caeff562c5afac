"""`dm`: train images + teacher's normalisation -> condensed sets, by distribution matching (Zhao and Bilen, 2023) or another objective.

Units come in two waves: a network of the pool, or an expert, is trained on the real images; a chunk of classes is condensed for all its
slots. What
a class becomes follows from the seed and its number, so that the bytes do not depend on the number of workers. An image may store
several smaller ones (`tiles` in its sample's json): readers decode them before anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pipelines.artifacts.datasets import dataset_digest, finished, open_part
from pipelines.artifacts.distilled import set_name, shuffled_keys
from pipelines.artifacts.teacher import TEACHER_FILE
from pipelines.errors import UserError
from pipelines.runtime.code import WRITERS
from pipelines.runtime.committed import Committed
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.publication import publish_datasets
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.stages.dm.params import LOSS_COLUMNS, LOSSES, DmParams
from pipelines.stages.dm.payloads import Condense, TrainExpert, TrainNetwork
from pipelines.storage import canonical_json


class Dm(Stage[DmParams]):
    """Condenses the training set by matching."""

    name = "dm"
    version = 2
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
        match, classes = params.match, len(train.classes)
        experts = [TrainExpert(place, inputs) for place in range(match.trajectories.experts)]
        if match.objective == "trajectories":
            units += [one.unit(f"dm-expert-{one.place:03d}") for one in experts]
        for number in range(params.seeds):
            named = set_name("dm", number)
            networks = match.pool.networks if match.objective == "features" and match.pool_every else 0
            pool = [TrainNetwork(number, place, inputs) for place in range(networks)]
            units += [one.unit(f"{named}-network-{one.place:03d}") for one in pool]
            digests = tuple(one.digest for one in (experts if match.objective == "trajectories" else pool))
            size = classes if match.couples_classes else params.class_chunk
            for start in range(0, classes, size):
                chunk = tuple(range(start, min(start + size, classes)))
                payload = Condense(number, chunk, params.ipc, inputs, digests)
                condense.append(payload.unit(f"{named}-{start // size:06d}", wave=1))
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

    def open(self, job: Job[DmParams]) -> Any:
        from pipelines.stages.dm.worker import Worker

        return Worker(job)

    def run(self, unit: Unit, worker: Any, output: UnitOutput, job: Job[DmParams]) -> None:
        from pipelines.stages.dm.worker import condense, train_expert, train_network

        if unit.kind == TrainNetwork.kind:
            train_network(TrainNetwork.from_json(unit.payload), worker, output, job)
        elif unit.kind == TrainExpert.kind:
            train_expert(TrainExpert.from_json(unit.payload), worker, output, job)
        else:
            condense(Condense.from_json(unit.payload), worker, output, job)

    def subject(self, unit: Unit, job: Job[DmParams]) -> str:
        kinds = {TrainNetwork.kind: "dm.match.pool", TrainExpert.kind: "dm.match.trajectories"}
        return kinds.get(unit.kind, "dm.match")

    def finish(self, job: Job[DmParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        committed = Committed(job, markers)
        names = [marker.name for marker in markers if marker.kind == Condense.kind]
        tables = [committed.read(f"losses/{name}.csv").decode() for name in names]
        body = "".join(table.split("\n", 1)[1] for table in tables)
        job.output.write_bytes(LOSSES, f"{','.join(LOSS_COLUMNS)}\n{body}".encode())
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
