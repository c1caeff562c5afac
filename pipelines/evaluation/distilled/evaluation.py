"""The part of `evaluate` about distillation: students on the distilled set, on as many random real images, on the full set.

One unit is one student: (arm, IPC, seed). Soft arms see the same views with the same kind of labels from the same teacher,
so that the images are all that differs; every seed draws its own random images, and takes the next of the distilled sets, where there
are several. Accuracy is that of the last epoch on the
test set; the best epoch is shown beside it, never quoted.
"""

from __future__ import annotations

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
from pipelines.evaluation.params import EvaluateParams
from pipelines.evaluation.verdicts import Comparison, compare
from pipelines.loaders.arrays import ImageArrays, load_arrays
from pipelines.loaders.soft_labels import read_soft_labels
from pipelines.runtime.checkpoints import train_resumably
from pipelines.runtime.committed import Committed
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.seeds import seed_for
from pipelines.storage import Storage, csv_bytes

if TYPE_CHECKING:
    from distill.training import Row, SoftLabels

CURVES = "curves.csv"
CURVE_COLUMNS = ("arm", "ipc", "seed", "epoch", "train_loss", "test_top1")
FULL = 0  # the IPC of the arm that sees everything


def units(job: Job[EvaluateParams]) -> list[Unit]:
    """The teacher, and a student for each arm, IPC and seed."""
    params = job.params
    inputs = {part: dataset_digest(open_part(job, "split", part)) for part in ("train", "test")}
    made = {
        "distilled": dataset_digest(open_part(job, "cda")),
        "teacher": stage_digest(job, "squeeze"),
        "labels": stage_digest(job, "relabel"),
    }
    subsets, sets = _subsets(job), distilled_sets(job)
    found = [Unit("teacher", {"arm": "teacher", "inputs": inputs | {"teacher": made["teacher"]}})]
    for arm in params.arms:
        needs = _needs(arm)
        used = inputs | {name: made[name] for name in needs}
        config = asdict(_config(arm, params, _relabel_params(job)))
        for ipc in (FULL,) if arm == "real_hard" else subsets:
            for seed in range(params.seeds):
                number = seed % sets if arm.startswith("distilled") else 0
                name = f"{arm}-{'full' if ipc == FULL else f'ipc{ipc:03d}'}-seed{seed}"
                told = {"arm": arm, "ipc": ipc, "seed": seed, "set": number, "inputs": used, "config": config}
                found.append(Unit(name, {**told, "network": params.network}))
    return found


def check(job: Job[EvaluateParams]) -> None:
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
    require_trainable(job.params.network, classes, facts["image_size"], "evaluate.network", batch)


class DistilledStudents:
    """What a worker keeps: the teacher and the test set."""

    def __init__(self, job: Job[EvaluateParams]) -> None:
        self._job = job
        self.device = torch_device(job)
        self.teacher = load_teacher(job, self.device)
        test = open_part(job, "split", "test")
        require_classes(test.classes, self.teacher.classes, test.storage.url)
        self.test = load_arrays(test)

    def run(self, unit: Unit, output: UnitOutput) -> None:
        """Train and test one student, or test the teacher."""
        from distill.evaluation import evaluate
        from distill.training import Trainer

        job, teacher, test, device = self._job, self.teacher, self.test, self.device
        if unit.payload["arm"] == "teacher":
            top1, loss = evaluate(teacher.model, *test.tensors(device), mean=teacher.mean, std=teacher.std)
            output.summary = {"arm": "teacher", "test_top1": top1, "test_loss": loss}
            return
        arm, ipc, seed = unit.payload["arm"], unit.payload["ipc"], unit.payload["seed"]
        classes = len(teacher.classes)
        number = unit.payload["set"]
        data = _images(job, arm, ipc, seed, number)
        config = _config(arm, job.params, _relabel_params(job))
        soft, label_bytes = _labels(job, arm, labels_of(ipc, number), ipc, data, teacher, output.scratch())
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
            "set": number,
            "last": accuracies[-1],
            "best": max(accuracies),
            "images": len(data),
            "image_bytes": stored_image_bytes(source, data.keys),
            "label_bytes": label_bytes or len(data) * (1 if classes <= 256 else 2),
        }


def subject(unit: Unit, job: Job[EvaluateParams]) -> str:
    """What an error in this unit is about: the teacher, or the parameters that train its student."""
    if unit.payload["arm"] == "teacher":
        return "the teacher of squeeze"
    return f"evaluate.{_section(unit.payload['arm'])} of the student {job.params.network}"


def comparisons(job: Job[EvaluateParams], markers: Sequence[Marker]) -> list[Comparison]:
    """Distilled against as many random real images, by IPC and labels, in pairs of seeds; to be judged with what else is compared."""
    test_images = len(open_part(job, "split", "test"))
    accuracies: dict[tuple[int, str], dict[int, float]] = {}
    sets: dict[int, int] = {}
    for one in (marker.summary for marker in markers if marker.summary["arm"] != "teacher"):
        if one["arm"].startswith("distilled"):
            sets[one["seed"]] = one["set"]
        accuracies.setdefault((one["ipc"], one["arm"]), {})[one["seed"]] = one["last"]
    found = []
    for (ipc, arm), ours in sorted(accuracies.items()):
        control = accuracies.get((ipc, arm.replace("distilled", "random")))
        if arm.startswith("distilled") and control is not None:
            # Students of one distilled set tell about this set, not about the method that made it.
            told = {"ipc": ipc, "labels": arm.removeprefix("distilled_")}
            found.append(told | compare(ours, control, sets, test_images))
    return found


def metrics(job: Job[EvaluateParams], markers: Sequence[Marker], judged: Sequence[Comparison]) -> dict[str, Any]:
    """The teacher, the protocol, every arm's accuracies and bytes by IPC, and `judged`: the `comparisons`, settled."""
    students = [marker.summary for marker in markers if marker.summary["arm"] != "teacher"]
    teacher = next(marker.summary for marker in markers if marker.summary["arm"] == "teacher")
    squeezed = finished(job, "squeeze").json(TEACHER_FILE)
    found: dict[str, Any] = {
        "teacher": {"network": squeezed["network"], "test_top1": teacher["test_top1"]},
        "protocol": _protocol(job),
        "comparisons": list(judged),
    }
    for ipc in sorted({one["ipc"] for one in students}):
        here = [one for one in students if one["ipc"] == ipc]
        arms = {arm: _summary([one for one in here if one["arm"] == arm]) for arm in {one["arm"] for one in here}}
        found["full" if ipc == FULL else f"ipc_{ipc}"] = arms
    return found


def curves(job: Job[EvaluateParams], markers: Sequence[Marker]) -> bytes:
    """The accuracy of every student over its epochs, as CSV."""
    made = Committed(job, markers)
    tables = [made.read(f"curves/{m.name}.csv").decode() for m in markers if m.summary["arm"] != "teacher"]
    body = "".join(table.split("\n", 1)[1] for table in tables)
    return (",".join(CURVE_COLUMNS) + "\n" + body).encode()


def _needs(arm: str) -> list[str]:
    """Which products an arm depends on; the others may change without training it again."""
    needs = ["distilled"] if arm.startswith("distilled") else []
    return needs + (["teacher", "labels"] if arm.endswith("soft") else [])


def _subsets(job: Job[EvaluateParams]) -> list[int]:
    """Images per class to compare, each of which has labels."""
    labelled = sorted(int(name.removeprefix("ipc_")) for name in finished(job, "relabel").json(METRICS_FILE))
    wanted = list(job.params.ipc or labelled)
    if missing := [ipc for ipc in wanted if ipc not in labelled]:
        raise UserError(
            f"evaluate.ipc: there are no labels for {missing} images per class, only for {labelled}; see relabel.ipc"
        )
    return wanted


def _relabel_params(job: Job[Any]) -> RelabelParams:
    return RelabelParams.model_validate(finished(job, "relabel").config()["relabel"])


def _section(arm: str) -> Literal["full", "hard", "soft"]:
    """Which of the parameters say how an arm is trained."""
    return "full" if arm == "real_hard" else "hard" if arm.endswith("hard") else "soft"


def _config(arm: str, params: EvaluateParams, labels: RelabelParams) -> TrainConfig:
    if (section := _section(arm)) != "soft":
        config: TrainConfig = getattr(params, section)
        return config
    views: ViewConfig = labels.views
    return replace(params.soft, views=views, batch_size=labels.batch_size)


def _images(job: Job[EvaluateParams], arm: str, ipc: int, seed: int, number: int) -> ImageArrays:
    if arm.startswith("distilled"):
        return load_distilled(job, ipc, number)
    train = open_part(job, "split", "train")
    return load_arrays(train) if arm == "real_hard" else random_real(train, ipc, job.run.seed, seed)


def _labels(
    job: Job[EvaluateParams],
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


def _protocol(job: Job[EvaluateParams]) -> dict[str, Any]:
    params, labels, test = job.params, _relabel_params(job), open_part(job, "split", "test")
    note = params.note
    if params.seeds < 3:
        note = f"{note} Only {params.seeds} seed(s) per arm: a demonstration, not a result to quote.".strip()
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
        "note": note,
    }
