"""Trains and tests one student of `evaluate@distilled`, or tests the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pipelines.artifacts.datasets import finished, open_part
from pipelines.artifacts.distilled import load_start, random_real, source_slug, stored_image_bytes
from pipelines.artifacts.labels import label_epochs, labels_of, view_seed
from pipelines.artifacts.teacher import build_network, load_teacher, require_classes
from pipelines.evaluation.distilled.arms import FULL, Arm, Compared, TrainStudent
from pipelines.evaluation.distilled.params import DistilledParams
from pipelines.evaluation.students import norm_of
from pipelines.loaders.arrays import ImageArrays, load_arrays
from pipelines.loaders.soft_labels import read_soft_labels
from pipelines.runtime.checkpoints import train_resumably
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job
from pipelines.runtime.units import Unit, UnitOutput
from pipelines.seeds import seed_for
from pipelines.storage import Storage, csv_bytes

if TYPE_CHECKING:
    from distill.training import Row, SoftLabels

STUDENT_COLUMNS = ("arm", "ipc", "seed", "epoch", "train_loss", "test_top1")


@dataclass(frozen=True)
class Student:
    """What one student came to: accuracies are fractions, `last` that of the last epoch; sizes are bytes as stored.

    `number` says which set of its source it was trained on, where there are several.
    """

    arm: Arm
    ipc: int
    seed: int
    number: int
    network: str
    norm: str
    last: float
    best: float
    images: int
    image_bytes: int
    label_bytes: int

    @classmethod
    def of(cls, summary: dict[str, Any]) -> Student:
        """Read back from a marker."""
        return cls(Arm(**summary["arm"]), **{name: value for name, value in summary.items() if name != "arm"})


class DistilledStudents:
    """What a worker keeps: the teacher, the test set and what is compared."""

    def __init__(self, job: Job[DistilledParams]) -> None:
        self._job = job
        self.device = torch_device(job)
        self.teacher = load_teacher(job, self.device)
        test = open_part(job, "split", "test")
        require_classes(test.classes, self.teacher.classes, test.storage.url)
        self.test = load_arrays(test)
        self.compared = Compared(job)

    def test_teacher(self, output: UnitOutput) -> None:
        """Write the teacher's accuracy into the unit's summary."""
        from distill.accuracy import accuracy_and_loss

        teacher, test = self.teacher, self.test.tensors(self.device)
        top1, loss = accuracy_and_loss(teacher.model, *test, mean=teacher.mean, std=teacher.std)
        output.summary = {"test_top1": top1, "test_loss": loss}

    def train_student(self, unit: Unit, output: UnitOutput) -> None:
        """Train and test one student; write its curve, and a `Student` as the unit's summary."""
        from distill.training import Trainer

        job, teacher, classes = self._job, self.teacher, len(self.teacher.classes)
        payload = TrainStudent.from_json(unit.payload)
        arm, ipc, seed, number = payload.arm, payload.ipc, payload.seed, payload.number
        data, image_bytes = self._images(arm, ipc, seed, number)
        soft, label_bytes, view_epochs = None, 0, None
        if arm.labels == "soft":
            assert self.compared.labelling is not None
            soft, label_bytes = self._labels(arm, ipc, number, data, output.scratch())
            view_epochs = self.compared.labelling.epochs
        init = seed_for(job.run.seed, "evaluate", f"seed {seed}", "init")
        network = payload.network
        model = build_network(network, classes, teacher.image_size, init, "evaluate.distilled.network").to(self.device)
        views = view_seed(job, ipc) if soft else seed_for(job.run.seed, "evaluate", f"seed {seed}", "views")
        trainer = Trainer(
            model,
            data.tensors(self.device),
            self.compared.config(arm),
            mean=teacher.mean,
            std=teacher.std,
            seed=views,
            validation=self.test.tensors(self.device),
            soft_labels=soft,
            view_epochs=view_epochs,
        )
        rows = train_resumably(trainer, output)
        accuracies = [float(row["val_top1"]) for row in rows if "val_top1" in row]
        output.write(f"curves/{unit.name}.csv", csv_bytes(_curve(rows, arm, ipc, seed), STUDENT_COLUMNS))
        student = Student(
            arm,
            ipc,
            seed,
            number,
            network,
            norm_of(model),
            accuracies[-1],
            max(accuracies),
            len(data),
            image_bytes,
            label_bytes or len(data) * (1 if classes <= 256 else 2),
        )
        output.summary = asdict(student)

    def _images(self, arm: Arm, ipc: int, seed: int, number: int) -> tuple[ImageArrays, int]:
        """The images of an arm, and their bytes as stored."""
        job, train = self._job, open_part(self._job, "split", "train")
        if arm.images == "source":
            sets = self.compared.sets[arm.source]
            keys = sets.keys(ipc, number)
            return load_arrays(sets.dataset, keys), stored_image_bytes(sets.dataset, keys)
        if arm.images == "start":
            parents = self.compared.sets[arm.source].parents(ipc, number)
            return load_start(job, arm.source, ipc, number), stored_image_bytes(train, parents)
        data = load_arrays(train) if arm.images == "real" else random_real(train, ipc, job.run.seed, seed)
        return data, stored_image_bytes(train, data.keys)

    def _labels(self, arm: Arm, ipc: int, number: int, data: ImageArrays, scratch: Storage) -> tuple[SoftLabels, int]:
        """Soft labels of an arm and their bytes: from `relabel` for a condensed set, made the same way for real images."""
        from distill.labels import replay

        if arm.images == "source":
            stored = finished(self._job, "relabel", source_slug(arm.source))
            paths = stored.paths(f"labels/{labels_of(ipc, number)}")
            for path in paths:
                stored.require(path)
            return replay(read_soft_labels(stored.storage, paths, data.keys)), sum(stored.size(path) for path in paths)
        params = self.compared.labelling
        assert params is not None
        with scratch.replacing("labels.arrow") as temporary:
            size = label_epochs(temporary, range(params.epochs), data, ipc, self.teacher, params, self._job)
        return replay(read_soft_labels(scratch, ["labels.arrow"], data.keys)), size


def _curve(rows: Sequence[Row], arm: Arm, ipc: int, seed: int) -> list[dict[str, Any]]:
    named = {"arm": arm.name, "ipc": "full" if ipc == FULL else ipc, "seed": seed}
    return [
        named | {"epoch": row["epoch"], "train_loss": row["train_loss"], "test_top1": row["val_top1"]}
        for row in rows
        if "val_top1" in row
    ]
