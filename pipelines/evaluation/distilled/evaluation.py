"""`evaluate@distilled`: students on the distilled set, on as many random real images, on the full set.

One unit is one student: (arm, IPC, seed). Soft arms see the same views with the same kind of labels from the same teacher,
so that the images are all that differs; every seed draws its own random images, and takes the next of the distilled sets, where there
are several. Accuracy is that of the last epoch on the
test set; the best epoch is shown beside it, never quoted.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Literal

from distill.config import TrainConfig, ViewConfig
from pipelines.artifacts.datasets import (
    METRICS_FILE,
    commonest_share,
    dataset_digest,
    finished,
    open_part,
    stage_digest,
)
from pipelines.artifacts.distilled import distilled_sets, load_distilled, random_real, stored_image_bytes
from pipelines.artifacts.labels import RelabelParams, label_epochs, labels_of, view_seed
from pipelines.artifacts.teacher import TEACHER_FILE, Teacher, build_network, load_teacher, require_classes
from pipelines.artifacts.trainable import require_trainable, smallest_batch
from pipelines.errors import UserError
from pipelines.evaluation.distilled.params import DistilledParams
from pipelines.evaluation.protocol import Evaluation, Measured
from pipelines.evaluation.verdicts import Comparison, compare, settle
from pipelines.loaders.arrays import ImageArrays, load_arrays
from pipelines.loaders.soft_labels import read_soft_labels
from pipelines.runtime.checkpoints import train_resumably
from pipelines.runtime.committed import Committed
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job, Plan
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.seeds import seed_for
from pipelines.storage import Storage, csv_bytes

if TYPE_CHECKING:
    from distill.training import Row, SoftLabels

#: Accuracy and loss of every student over its epochs.
STUDENTS = "students.csv"
STUDENT_COLUMNS = ("arm", "ipc", "seed", "epoch", "train_loss", "test_top1")
FULL = 0  # the IPC of the arm that sees everything


class DistilledEvaluation(Evaluation[DistilledParams]):
    """Students that show what distilled sets are worth."""

    name = "distilled"
    summary = "students on distilled sets, on as many random real images, and on all"
    upstream = ("split", "squeeze", "cda", "relabel")
    curves = "Test accuracy of the students"

    def plan(self, job: Job[DistilledParams]) -> Plan:
        """The teacher, and a student for each arm, IPC and seed."""
        params = job.params
        inputs = {part: dataset_digest(open_part(job, "split", part)) for part in ("train", "test")}
        products = {
            "distilled": dataset_digest(open_part(job, "cda")),
            "teacher": stage_digest(job, "squeeze"),
            "labels": stage_digest(job, "relabel"),
        }
        subsets, sets = _subsets(job), distilled_sets(job)
        units = [Unit("teacher", {"arm": "teacher", "inputs": inputs | {"teacher": products["teacher"]}})]
        for arm in params.arms:
            used = inputs | {name: products[name] for name in _needs(arm)}
            config = asdict(_config(arm, params, _relabel_params(job)))
            for ipc in (FULL,) if arm == "real_hard" else subsets:
                for seed in range(params.seeds):
                    number = seed % sets if arm.startswith("distilled") else 0
                    name = f"{arm}-{'full' if ipc == FULL else f'ipc{ipc:03d}'}-seed{seed}"
                    payload = {"arm": arm, "ipc": ipc, "seed": seed, "set": number, "inputs": used, "config": config}
                    units.append(Unit(name, {**payload, "network": params.network}))
        return Plan(units)

    def check(self, job: Job[DistilledParams]) -> None:
        """Raise `UserError` for a student that cannot be built, or not be trained on batches of some arm."""
        facts = finished(job, "squeeze").json(TEACHER_FILE)
        classes, trainings = len(facts["classes"]), []
        for arm in job.params.arms:
            size = _config(arm, job.params, _relabel_params(job)).batch_size
            if arm == "real_hard":
                trainings.append((len(open_part(job, "split", "train")), size))
            else:
                trainings += [(ipc * classes, size) for ipc in _subsets(job)]
        batch = smallest_batch(trainings)
        require_trainable(job.params.network, classes, facts["image_size"], "evaluate.distilled.network", batch)

    def open(self, job: Job[DistilledParams]) -> DistilledStudents:
        return DistilledStudents(job)

    def run(self, unit: Unit, worker: DistilledStudents, output: UnitOutput) -> None:
        worker.run(unit, output)

    def subject(self, unit: Unit, job: Job[DistilledParams]) -> str:
        if unit.payload["arm"] == "teacher":
            return "the teacher of squeeze"
        return f"evaluate.distilled.{_section(unit.payload['arm'])} of the student {job.params.network}"

    def metrics(self, job: Job[DistilledParams], plan: Plan, markers: Sequence[Marker]) -> Measured:
        """The teacher, the protocol, every arm's accuracies and bytes by IPC, and who is told apart."""
        judged = settle(_comparisons(job, markers))
        results = _results(job, markers, judged)
        job.output.write_bytes(STUDENTS, _students(job, markers))
        teacher = results["teacher"]["test_top1"]
        return Measured(_numbers(results), results, job.params.seeds, _curves(job, markers), {"teacher": teacher})


class DistilledStudents:
    """What a worker keeps: the teacher and the test set."""

    def __init__(self, job: Job[DistilledParams]) -> None:
        self._job = job
        self.device = torch_device(job)
        self.teacher = load_teacher(job, self.device)
        test = open_part(job, "split", "test")
        require_classes(test.classes, self.teacher.classes, test.storage.url)
        self.test = load_arrays(test)

    def run(self, unit: Unit, output: UnitOutput) -> None:
        """Train and test one student, or test the teacher."""
        from distill.accuracy import accuracy_and_loss
        from distill.training import Trainer

        job, teacher, test, device = self._job, self.teacher, self.test, self.device
        if unit.payload["arm"] == "teacher":
            top1, loss = accuracy_and_loss(teacher.model, *test.tensors(device), mean=teacher.mean, std=teacher.std)
            output.summary = {"arm": "teacher", "test_top1": top1, "test_loss": loss}
            return
        arm, ipc, seed = unit.payload["arm"], unit.payload["ipc"], unit.payload["seed"]
        classes = len(teacher.classes)
        number = unit.payload["set"]
        data = _images(job, arm, ipc, seed, number)
        config = _config(arm, job.params, _relabel_params(job))
        soft, label_bytes = _labels(job, arm, labels_of(ipc, number), ipc, data, teacher, output.scratch())
        init = seed_for(job.run.seed, "evaluate", f"seed {seed}", "init")
        model = build_network(job.params.network, classes, teacher.image_size, init, "evaluate.distilled.network").to(
            device
        )
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
        output.write(f"curves/{unit.name}.csv", csv_bytes(_curve(rows, arm, ipc, seed), STUDENT_COLUMNS))
        source = open_part(job, "cda") if arm.startswith("distilled") else open_part(job, "split", "train")
        output.summary = {
            "arm": arm,
            "ipc": ipc,
            "seed": seed,
            "set": number,
            "last": accuracies[-1],
            "best": max(accuracies),
            "images": len(data),
            "image_bytes": stored_image_bytes(source, data.keys),
            "label_bytes": label_bytes or len(data) * (1 if classes <= 256 else 2),
        }


def _comparisons(job: Job[DistilledParams], markers: Sequence[Marker]) -> list[Comparison]:
    """Distilled against as many random real images, by IPC and labels, in pairs of seeds; to be settled together."""
    test_images = len(open_part(job, "split", "test"))
    accuracies: dict[tuple[int, str], dict[int, float]] = {}
    sets: dict[int, int] = {}
    for one in (marker.summary for marker in markers if marker.summary["arm"] != "teacher"):
        if one["arm"].startswith("distilled"):
            sets[one["seed"]] = one["set"]
        accuracies.setdefault((one["ipc"], one["arm"]), {})[one["seed"]] = one["last"]
    pairs = []
    for (ipc, arm), ours in sorted(accuracies.items()):
        control = accuracies.get((ipc, arm.replace("distilled", "random")))
        if arm.startswith("distilled") and control is not None:
            # Students of one distilled set tell about this set, not about the method that made it.
            named = {"ipc": ipc, "labels": arm.removeprefix("distilled_")}
            pairs.append(named | compare(ours, control, sets, test_images))
    return pairs


def _results(job: Job[DistilledParams], markers: Sequence[Marker], judged: Sequence[Comparison]) -> dict[str, Any]:
    """The whole table; `judged` are the comparisons, settled."""
    students = [marker.summary for marker in markers if marker.summary["arm"] != "teacher"]
    teacher = next(marker.summary for marker in markers if marker.summary["arm"] == "teacher")
    squeezed = finished(job, "squeeze").json(TEACHER_FILE)
    results: dict[str, Any] = {
        "teacher": {"network": squeezed["network"], "test_top1": teacher["test_top1"]},
        "protocol": _protocol(job),
        "comparisons": list(judged),
    }
    for ipc in sorted({one["ipc"] for one in students}):
        here = [one for one in students if one["ipc"] == ipc]
        arms = {arm: _summary([one for one in here if one["arm"] == arm]) for arm in {one["arm"] for one in here}}
        results["full" if ipc == FULL else f"ipc_{ipc}"] = arms
    return results


def _numbers(results: dict[str, Any]) -> dict[str, Any]:
    """The few numbers of the table: accuracies by IPC and arm, and the differences that were judged."""
    groups = {name: arms for name, arms in results.items() if name == "full" or name.startswith("ipc_")}
    accuracy = {name: {arm: form["last_mean"] for arm, form in arms.items()} for name, arms in groups.items()}
    difference: dict[str, Any] = {}
    for one in results["comparisons"]:
        difference.setdefault(f"ipc_{one['ipc']}", {})[one["labels"]] = one["gap"]
    return {"teacher": results["teacher"]["test_top1"], "accuracy": accuracy, "difference": difference}


def _students(job: Job[DistilledParams], markers: Sequence[Marker]) -> bytes:
    """The curves of every student in one table, as CSV."""
    committed = Committed(job, markers)
    tables = [committed.read(f"curves/{m.name}.csv").decode() for m in markers if m.summary["arm"] != "teacher"]
    body = "".join(table.split("\n", 1)[1] for table in tables)
    return (",".join(STUDENT_COLUMNS) + "\n" + body).encode()


def _curves(job: Job[DistilledParams], markers: Sequence[Marker]) -> list[dict[str, Any]]:
    """A line an arm: the mean accuracy of its seeds over the epochs."""
    lines: dict[tuple[str, int], list[float]] = {}
    for row in csv.DictReader(io.StringIO(_students(job, markers).decode())):
        where = "full set" if row["ipc"] == "full" else f"IPC {row['ipc']}"
        lines.setdefault((f"{row['arm']}, {where}", int(row["epoch"])), []).append(float(row["test_top1"]))
    return [
        {"line": line, "epoch": epoch, "test_top1": statistics.fmean(values), "seeds": len(values)}
        for (line, epoch), values in lines.items()
    ]


def _needs(arm: str) -> list[str]:
    """Which products an arm depends on; the others may change without training it again."""
    needs = ["distilled"] if arm.startswith("distilled") else []
    return needs + (["teacher", "labels"] if arm.endswith("soft") else [])


def _subsets(job: Job[DistilledParams]) -> list[int]:
    """Images per class to compare, each of which has labels."""
    labelled = sorted(int(name.removeprefix("ipc_")) for name in finished(job, "relabel").json(METRICS_FILE))
    wanted = list(job.params.ipc or labelled)
    if missing := [ipc for ipc in wanted if ipc not in labelled]:
        raise UserError(
            f"evaluate.distilled.ipc: there are no labels for {missing} images per class, only for {labelled}; see relabel.ipc"
        )
    return wanted


def _relabel_params(job: Job[Any]) -> RelabelParams:
    return RelabelParams.model_validate(finished(job, "relabel").config()["relabel"])


def _section(arm: str) -> Literal["full", "hard", "soft"]:
    """Which of the parameters say how an arm is trained."""
    return "full" if arm == "real_hard" else "hard" if arm.endswith("hard") else "soft"


def _config(arm: str, params: DistilledParams, labels: RelabelParams) -> TrainConfig:
    if (section := _section(arm)) != "soft":
        config: TrainConfig = getattr(params, section)
        return config
    views: ViewConfig = labels.views
    return replace(params.soft, views=views, batch_size=labels.batch_size)


def _images(job: Job[DistilledParams], arm: str, ipc: int, seed: int, number: int) -> ImageArrays:
    if arm.startswith("distilled"):
        return load_distilled(job, ipc, number)
    train = open_part(job, "split", "train")
    return load_arrays(train) if arm == "real_hard" else random_real(train, ipc, job.run.seed, seed)


def _labels(
    job: Job[DistilledParams],
    arm: str,
    folder: str,
    ipc: int,
    data: ImageArrays,
    teacher: Teacher,
    scratch: Storage,
) -> tuple[SoftLabels | None, int]:
    """Soft labels of an arm and their bytes: from `relabel` for the distilled set, made the same way for random images."""
    from distill.labels import replay

    if arm.endswith("hard"):
        return None, 0
    params = _relabel_params(job)
    if arm == "distilled_soft":
        made = finished(job, "relabel")
        paths = made.paths(f"labels/{folder}")
        for path in paths:
            made.require(path)
        return replay(read_soft_labels(made.storage, paths, data.keys)), sum(made.size(path) for path in paths)
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
        "last": [one["last"] for one in sorted(students, key=lambda one: int(one["seed"]))],
        "seeds": len(students),
        "sets": len({one["seed"] if one["arm"].startswith("random") else one["set"] for one in students}),
        "images": students[0]["images"],
        "image_bytes": round(statistics.fmean(one["image_bytes"] for one in students)),
        "label_bytes": round(statistics.fmean(one["label_bytes"] for one in students)),
    }


def _protocol(job: Job[DistilledParams]) -> dict[str, Any]:
    params, labels, test = job.params, _relabel_params(job), open_part(job, "split", "test")
    return {
        "network": params.network,
        "epochs": params.soft.epochs,
        "batch_size": labels.batch_size,
        "seeds": params.seeds,
        "distillation_seeds": distilled_sets(job),
        "temperature": params.soft.temperature,
        "test_images": len(test),
        "chance": commonest_share(test),
        "label_format": labels.format,
    }


EVALUATION = DistilledEvaluation()
