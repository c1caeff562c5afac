"""`evaluate`: students trained on the distilled set, on as many random real images, and on the full set -> metrics.

One unit is one student: (arm, IPC, seed). Soft arms see the same views with the same kind of labels from the same teacher,
so that the images are all that differs; every seed draws its own random images. Accuracy is that of the last epoch on the
test set; the best epoch is shown beside it, never quoted.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from distill.config import TrainConfig, ViewConfig
from pipelines.config import Section
from pipelines.errors import UserError
from pipelines.loaders.arrays import ImageArrays, load_arrays
from pipelines.loaders.soft_labels import read_soft_labels
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.ledger import CONFIG_FILE
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.seeds import seed_for
from pipelines.stages.checkpoints import train_resumably
from pipelines.stages.common import (
    METRICS_FILE,
    TEACHER_FILE,
    Teacher,
    build_network,
    csv_bytes,
    dataset_digest,
    load_teacher,
    open_part,
    require_classes,
    stage_digest,
    torch_device,
)
from pipelines.stages.distilled import load_distilled, random_real, stored_image_bytes
from pipelines.stages.relabel import RelabelParams, label_epochs, view_seed
from pipelines.storage import Storage, pretty_json

if TYPE_CHECKING:
    from distill.training import Row, SoftLabels

Arm = Literal["distilled_soft", "random_soft", "distilled_hard", "random_hard", "real_hard"]
CURVES = "curves.csv"
CURVE_COLUMNS = ("arm", "ipc", "seed", "epoch", "train_loss", "test_top1")
FULL = 0  # the IPC of the arm that sees everything


class EvaluateParams(Section):
    """Parameters of `evaluate`."""

    network: str = Field("convnet3_w128", description="the student; a name of distill.networks")
    ipc: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None, description="subsets to compare; all that relabel labelled if not given"
    )
    seeds: int = Field(3, ge=1, description="students per arm; fewer than 3 is said in the report")
    arms: tuple[Arm, ...] = ("distilled_soft", "random_soft", "distilled_hard", "random_hard", "real_hard")
    soft: TrainConfig = Field(TrainConfig(), description="soft arms; views and batch size are those of relabel")
    hard: TrainConfig = Field(TrainConfig(), description="distilled and random arms with hard labels")
    full: TrainConfig = Field(TrainConfig(), description="the full training set with hard labels")
    note: str = Field("", description="what a reader must know about these numbers; printed with them")


class Evaluate(Stage[EvaluateParams]):
    """Trains and tests students."""

    name = "evaluate"
    version = 1
    summary = "students on distilled, random real and full data -> accuracy with controls"
    Params = EvaluateParams
    upstream = ("split", "squeeze", "cda", "relabel")
    workers = "actors"
    computes = True

    def plan(self, job: Job[EvaluateParams]) -> Plan:
        params, train = job.params, open_part(job, "split", "train")
        inputs = {part: dataset_digest(open_part(job, "split", part)) for part in ("train", "test")}
        made = {
            "distilled": dataset_digest(open_part(job, "cda")),
            "teacher": stage_digest(job, "squeeze"),
            "labels": stage_digest(job, "relabel"),
        }
        subsets = _subsets(job)
        units = [Unit("teacher", {"arm": "teacher", "inputs": inputs | {"teacher": made["teacher"]}})]
        for arm in params.arms:
            needs = _needs(arm)
            used = inputs | {name: made[name] for name in needs}
            config = asdict(_config(arm, params, _relabel_params(job)))
            for ipc in (FULL,) if arm == "real_hard" else subsets:
                for seed in range(params.seeds):
                    name = f"{arm}-{'full' if ipc == FULL else f'ipc{ipc:03d}'}-seed{seed}"
                    units.append(Unit(name, {"arm": arm, "ipc": ipc, "seed": seed, "inputs": used, "config": config}))
        return Plan(units, facts={"classes": train.classes})

    def identity_params(self, job: Job[EvaluateParams]) -> dict[str, Any]:
        """A student's payload holds its own recipe, so adding an arm or a seed keeps the others."""
        return {"network": job.params.network, "seed": job.run.seed, "threads": job.run.threads}

    def check(self, job: Job[EvaluateParams]) -> None:
        torch_device(job)
        facts = json.loads(job.input("squeeze").read_bytes(TEACHER_FILE))
        build_network(job.params.network, len(facts["classes"]), facts["image_size"], 0, "evaluate.network")

    def open(self, job: Job[EvaluateParams]) -> tuple[Teacher, ImageArrays]:
        teacher = load_teacher(job, torch_device(job))
        test = open_part(job, "split", "test")
        require_classes(test.classes, teacher.classes, test.storage.url)
        return teacher, load_arrays(test)

    def run(
        self,
        unit: Unit,
        worker: tuple[Teacher, ImageArrays],
        output: UnitOutput,
        job: Job[EvaluateParams],
    ) -> None:
        from distill.training import Trainer, evaluate

        teacher, test = worker
        device = torch_device(job)
        if unit.payload["arm"] == "teacher":
            top1, loss = evaluate(teacher.model, *test.tensors(device), mean=teacher.mean, std=teacher.std)
            output.summary = {"arm": "teacher", "test_top1": top1, "test_loss": loss}
            return
        arm, ipc, seed = unit.payload["arm"], unit.payload["ipc"], unit.payload["seed"]
        classes = len(teacher.classes)
        data = _images(job, arm, ipc, seed)
        config = _config(arm, job.params, _relabel_params(job))
        soft, label_bytes = _labels(job, arm, ipc, data, teacher, output.scratch())
        init = seed_for(job.run.seed, "evaluate", f"seed {seed}", "init")
        model = build_network(job.params.network, classes, teacher.image_size, init, "evaluate.network").to(device)
        views = view_seed(job, ipc) if soft else seed_for(job.run.seed, "evaluate", f"seed {seed}", "views")
        trainer = Trainer(
            model,
            data.tensors(device),
            config,
            mean=teacher.mean,
            std=teacher.std,
            seed=views,
            validation=test.tensors(device),
            soft_labels=soft,
            view_epochs=_relabel_params(job).epochs if soft else None,
        )
        rows = train_resumably(trainer, output)
        accuracies = [float(row["val_top1"]) for row in rows if "val_top1" in row]
        output.write(f"curves/{unit.name}.csv", csv_bytes(_curve(rows, arm, ipc, seed), CURVE_COLUMNS))
        source = open_part(job, "cda") if arm.startswith("distilled") else open_part(job, "split", "train")
        output.summary = {
            "arm": arm,
            "ipc": ipc,
            "seed": seed,
            "last": accuracies[-1],
            "best": max(accuracies),
            "images": len(data),
            "image_bytes": stored_image_bytes(source, data.keys),
            "label_bytes": label_bytes or len(data) * (1 if classes <= 256 else 2),
        }

    def finish(self, job: Job[EvaluateParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        students = [marker.summary for marker in markers if marker.summary["arm"] != "teacher"]
        teacher = next(marker.summary for marker in markers if marker.summary["arm"] == "teacher")
        squeezed = json.loads(job.input("squeeze").read_bytes(TEACHER_FILE))
        metrics: dict[str, Any] = {
            "teacher": {"network": squeezed["network"], "test_top1": teacher["test_top1"]},
            "protocol": _protocol(job),
        }
        for ipc in sorted({one["ipc"] for one in students}):
            here = [one for one in students if one["ipc"] == ipc]
            arms = {arm: _summary([one for one in here if one["arm"] == arm]) for arm in {one["arm"] for one in here}}
            metrics["full" if ipc == FULL else f"ipc_{ipc}"] = arms
        job.output.write_bytes(METRICS_FILE, pretty_json(metrics))
        tables = [
            job.output.read_bytes(f"curves/{m.name}.csv").decode() for m in markers if m.summary["arm"] != "teacher"
        ]
        body = "".join(table.split("\n", 1)[1] for table in tables)
        job.output.write_bytes(CURVES, (",".join(CURVE_COLUMNS) + "\n" + body).encode())
        return {"teacher": teacher["test_top1"]}


def _needs(arm: str) -> list[str]:
    """Which products an arm depends on; the others may change without training it again."""
    needs = ["distilled"] if arm.startswith("distilled") else []
    return needs + (["teacher", "labels"] if arm.endswith("soft") else [])


def _subsets(job: Job[EvaluateParams]) -> list[int]:
    """Images per class to compare, each of which has labels."""
    labelled = sorted(
        int(name.removeprefix("ipc_")) for name in json.loads(job.input("relabel").read_bytes(METRICS_FILE))
    )
    wanted = list(job.params.ipc or labelled)
    if missing := [ipc for ipc in wanted if ipc not in labelled]:
        raise UserError(
            f"evaluate.ipc: there are no labels for {missing} images per class, only for {labelled}; see relabel.ipc"
        )
    return wanted


def _relabel_params(job: Job[Any]) -> RelabelParams:
    resolved = json.loads(job.input("relabel").read_bytes(CONFIG_FILE))
    return RelabelParams.model_validate(resolved["relabel"])


def _config(arm: str, params: EvaluateParams, labels: RelabelParams) -> TrainConfig:
    if arm == "real_hard":
        return params.full
    if arm.endswith("hard"):
        return params.hard
    views: ViewConfig = labels.views
    return replace(params.soft, views=views, batch_size=labels.batch_size)


def _images(job: Job[EvaluateParams], arm: str, ipc: int, seed: int) -> ImageArrays:
    if arm.startswith("distilled"):
        return load_distilled(job, ipc)
    train = open_part(job, "split", "train")
    return load_arrays(train) if arm == "real_hard" else random_real(train, ipc, job.run.seed, seed)


def _labels(
    job: Job[EvaluateParams], arm: str, ipc: int, data: ImageArrays, teacher: Teacher, scratch: Storage
) -> tuple[SoftLabels | None, int]:
    """Soft labels of an arm and their bytes: from `relabel` for the distilled set, made the same way for random images."""
    from distill.labels import replay

    if arm.endswith("hard"):
        return None, 0
    params = _relabel_params(job)
    if arm == "distilled_soft":
        paths = job.input("relabel").list(f"labels/ipc_{ipc:03d}")
        tables = read_soft_labels(job.input("relabel"), paths, data.keys)
        return replay(tables), sum(job.input("relabel").size(path) for path in paths)
    with scratch.replacing("labels.arrow") as temporary:
        size = label_epochs(temporary, range(params.epochs), data, ipc, teacher, params, job)
    tables = read_soft_labels(scratch, ["labels.arrow"], data.keys)
    return replay(tables), size


def _curve(rows: Sequence[Row], arm: str, ipc: int, seed: int) -> list[dict[str, Any]]:
    named = {"arm": arm, "ipc": "full" if ipc == FULL else ipc, "seed": seed}
    return [
        named | {"epoch": row["epoch"], "train_loss": row["train_loss"], "test_top1": row["val_top1"]}
        for row in rows
        if "val_top1" in row
    ]


def _summary(students: Sequence[dict[str, Any]]) -> dict[str, Any]:
    last, best = [one["last"] for one in students], [one["best"] for one in students]
    return {
        "last_mean": statistics.fmean(last),
        "last_std": statistics.stdev(last) if len(last) > 1 else 0.0,
        "best_mean": statistics.fmean(best),
        "seeds": len(students),
        "images": students[0]["images"],
        "image_bytes": round(statistics.fmean(one["image_bytes"] for one in students)),
        "label_bytes": round(statistics.fmean(one["label_bytes"] for one in students)),
    }


def _protocol(job: Job[EvaluateParams]) -> dict[str, Any]:
    params, labels = job.params, _relabel_params(job)
    note = params.note
    if params.seeds < 3:
        note = f"{note} Only {params.seeds} seed(s) per arm: a demonstration, not a result to quote.".strip()
    return {
        "network": params.network,
        "epochs": params.soft.epochs,
        "batch_size": labels.batch_size,
        "seeds": params.seeds,
        "temperature": params.soft.temperature,
        "label_format": labels.format,
        "note": note,
    }
