"""Trains and tests one student of `evaluate@distilled`, or tests the teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines.artifacts.datasets import finished, open_part
from pipelines.artifacts.distilled import load_start, random_real, source_slug, stored_image_bytes
from pipelines.artifacts.labels import label_epochs, labels_of, store_again, view_seed
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
    import numpy as np

    from distill.compression import Packed
    from distill.training import Row, SoftLabels

STUDENT_COLUMNS = ("arm", "ipc", "network", "set", "seed", "epoch", "train_loss", "test_top1")


@dataclass(frozen=True)
class Student:
    """What one student came to: accuracies are fractions, `last` that of the last epoch; sizes are bytes as stored.

    `number` says which set of its source it was trained on, where there are several, and `seed` which of this set's students it is.
    `at_epochs` are accuracies after so many epochs, of the largest set where all take as many steps. `epochs` and optimiser `steps` are
    those of its training.
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
    at_epochs: Mapping[str, float] = field(default_factory=dict)
    epochs: int = 0
    steps: int = 0

    @classmethod
    def of(cls, summary: dict[str, Any]) -> Student:
        """Read back from a marker."""
        return cls(Arm(**summary["arm"]), **{name: value for name, value in summary.items() if name != "arm"})


class DistilledStudents:
    """What a worker keeps: the teacher, the images that accuracy is measured on, of a `part` of `split`, and what is compared."""

    def __init__(self, job: Job[DistilledParams], part: str = "test") -> None:
        self._job, self._part = job, part
        self.device = torch_device(job)
        self.teacher = load_teacher(job, self.device)
        test = open_part(job, "split", part)
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
        student = TrainStudent.from_json(unit.payload)
        data, image_bytes = self._images(student)
        labels = self._labels(student, data, output.scratch())
        init = seed_for(job.run.seed, "evaluate", f"seed {student.chance}", "init")
        model = build_network(student.network, classes, teacher.image_size, init, "evaluate.distilled.networks")
        trainer = Trainer(
            model.to(self.device),
            data.tensors(self.device),
            self.compared.config(student.arm, student.ipc),
            mean=teacher.mean,
            std=teacher.std,
            seed=labels.view_seed,
            validation=self.test.tensors(self.device),
            soft_labels=labels.soft,
            view_epochs=labels.view_epochs,
            evaluate_at=list(student.at_epochs.values()),
        )
        rows = train_resumably(trainer, output)
        top1 = {int(row["epoch"]) + 1: float(row["val_top1"]) for row in rows if "val_top1" in row}
        columns = (*STUDENT_COLUMNS[:-1], f"{self._part}_top1")
        output.write(f"curves/{unit.name}.csv", csv_bytes(_curve(rows, student, columns[-1]), columns))
        result = Student(
            student.arm,
            student.ipc,
            student.seed,
            student.number,
            student.network,
            norm_of(model),
            top1[trainer.epoch],
            max(top1.values()),
            len(data),
            image_bytes,
            labels.bytes,
            {epoch: top1[own] for epoch, own in student.at_epochs.items()},
            trainer.epoch,
            trainer.steps,
        )
        output.summary = asdict(result)

    def labels_into(self, student: TrainStudent, folder: Storage) -> None:
        """Leave the stored labels of a student's images in `folder` as Arrow files, where they are made as students are trained."""
        self._labels(student, self._images(student)[0], folder)

    def fixed_labels(self, student: TrainStudent) -> np.ndarray[Any, Any]:
        """The teacher's answers to a student's images as they are, (images, classes) float16 logits."""
        logits: np.ndarray[Any, Any] = self._fixed(self._images(student)[0]).values.numpy()
        return logits

    def _fixed(self, data: ImageArrays) -> Packed:
        """The teacher's answers to images as they are, as they are stored."""
        from distill.compression import pack
        from distill.labels import label_images

        teacher, (pixels, _) = self.teacher, data.tensors(self.device)
        logits = label_images(teacher.model, pixels, mean=teacher.mean, std=teacher.std)
        return pack(logits.cpu(), "fp16")

    def _images(self, student: TrainStudent) -> tuple[ImageArrays, int]:
        """The images of a student, and their bytes as stored."""
        job, arm, train = self._job, student.arm, open_part(self._job, "split", "train")
        if arm.images == "source":
            sets = self.compared.sets[arm.source]
            keys = sets.keys(student.ipc, student.number)
            return sets.load(student.ipc, student.number), stored_image_bytes(sets.dataset, keys)
        if arm.images == "start":
            parents = self.compared.sets[arm.source].parents(student.ipc, student.number)
            return load_start(job, arm.source, student.ipc, student.number), stored_image_bytes(train, parents)
        if arm.images == "real":
            data = load_arrays(train)
        else:
            data = random_real(train, student.ipc, job.run.seed, student.chance)
        return data, stored_image_bytes(train, data.keys)

    def _labels(self, student: TrainStudent, data: ImageArrays, scratch: Storage) -> _Labels:
        """The labels of a student's images, and the views that it sees."""
        from distill.compression import unpack
        from distill.labels import fixed, online, replay

        job, ipc = self._job, student.ipc
        own_views = seed_for(job.run.seed, "evaluate", f"seed {student.chance}", "views")
        if student.arm.labels == "hard":
            return _Labels(None, len(data) * (1 if len(self.teacher.classes) <= 256 else 2), own_views)
        if student.arm.labels == "online":
            return _Labels(online(self.teacher.model), 0, own_views)
        if student.arm.labels == "fixed":
            packed = self._fixed(data)
            return _Labels(fixed(unpack(packed)), packed.bytes, own_views)
        params = self.compared.labelling
        assert params is not None
        if self.compared.stored(student.arm):
            stored = finished(job, "relabel", source_slug(student.arm.source))
            paths = stored.paths(f"labels/{labels_of(ipc, student.number)}")
            for path in paths:
                stored.require(path)
            size, tables = sum(map(stored.size, paths)), read_soft_labels(stored.storage, paths, data.keys)
            if (form := self.compared.label_form(student.arm)) is not None:
                params = form.of(params)
                size, tables = store_again(scratch, tables, data.keys, params)
        else:
            with scratch.replacing("labels.arrow") as temporary:
                size = label_epochs(temporary, range(params.epochs), data, ipc, self.teacher, params, job)
            tables = read_soft_labels(scratch, ["labels.arrow"], data.keys)
        return _Labels(replay(tables), size, view_seed(job, ipc), params.epochs)


@dataclass(frozen=True)
class _Labels:
    """How the images of a student are labelled: by their classes, or by what `soft` answers to each view.

    `bytes` is what labels take as stored: none where the teacher is asked. After `view_epochs` epochs the views begin again.
    """

    soft: SoftLabels | None
    bytes: int
    view_seed: int
    view_epochs: int | None = None


def _curve(rows: Sequence[Row], student: TrainStudent, accuracy: str) -> list[dict[str, Any]]:
    named = {"arm": student.arm.name, "ipc": "full" if student.ipc == FULL else student.ipc}
    named |= {"network": student.network, "set": student.number, "seed": student.seed}
    return [
        named | {"epoch": row["epoch"], "train_loss": row["train_loss"], accuracy: row["val_top1"]}
        for row in rows
        if "val_top1" in row
    ]
