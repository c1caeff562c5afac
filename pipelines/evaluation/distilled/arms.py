"""The arms of `evaluate@distilled`: which images students are trained on, with which labels, and what decides them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

from distill.config import TrainConfig
from pipelines.artifacts.datasets import METRICS_FILE, finished, open_part
from pipelines.artifacts.distilled import CondensedSets, source_slug
from pipelines.artifacts.labels import RelabelParams
from pipelines.errors import UserError
from pipelines.evaluation.distilled.label_forms import LabelForm, format_words
from pipelines.evaluation.distilled.params import ArmName, DistilledParams
from pipelines.evaluation.students import over_steps
from pipelines.runtime.job import Job
from pipelines.runtime.typed import Payload

#: `source`: a condensed set. `start`: the real images that it started from, untouched. `random`: as many random real ones, other
#: ones for every student. `real`: all of them.
ImagesFrom = Literal["source", "start", "random", "real"]
Labels = Literal["soft", "online", "fixed", "hard"]
#: What an image's label is: its class, the teacher's answer to the image, or to each view of every epoch, stored or given as the student
#: trains.
LABEL_KINDS: dict[Labels, str] = {"hard": "hard", "fixed": "fixed soft", "soft": "stored epochs", "online": "online"}
FULL = 0  # the IPC of the arm that sees everything


@dataclass(frozen=True)
class Arm:
    """Images of one kind with labels of one kind; `source` where they are of a condensed set, be it measured or a control.

    `form` is the name of another form of the stored labels than that of `relabel`.
    """

    images: ImagesFrom
    labels: Labels
    source: str = ""
    form: str = ""

    @property
    def name(self) -> str:
        """SOURCE_soft, SOURCE_soft_int8, SOURCE_start_soft, random_soft, real_hard, ..."""
        slug = source_slug(self.source)
        parts = {"source": [slug], "start": [slug, "start"]}.get(self.images, [self.images])
        return "_".join(filter(None, [*parts, self.labels, self.form]))

    @property
    def section(self) -> Literal["full", "hard", "fixed", "online", "soft"]:
        """Which of the parameters say how the arm is trained."""
        return "full" if self.images == "real" else self.labels


@dataclass(frozen=True)
class MeasureTeacher(Payload):
    """Test the teacher. `inputs` are digests of what is read."""

    kind: ClassVar[str] = "teacher"

    inputs: dict[str, Any]


@dataclass(frozen=True)
class TrainStudent(Payload):
    """Train and test one student on `ipc` images per class; `number` says which of its source's sets, where there are several.

    `config` is how it is trained, `inputs` are digests of what is read. `at_epochs` says when it is tested too: by the epochs that
    parameters name, the epochs of this student.
    """

    kind: ClassVar[str] = "student"

    arm: Arm
    ipc: int
    seed: int
    number: int
    network: str
    config: dict[str, Any]
    at_epochs: dict[str, int]
    inputs: dict[str, Any]

    @property
    def chance(self) -> str:
        """What its start, its order and its random images are drawn by: the same in every arm, others for every set and seed."""
        return f"{self.number}.{self.seed}" if self.number else str(self.seed)


#: What parameters call arms; those of a set are one for every source.
ARMS: dict[ArmName, Arm] = {
    "distilled_soft": Arm("source", "soft"),
    "start_soft": Arm("start", "soft"),
    "random_soft": Arm("random", "soft"),
    "distilled_online": Arm("source", "online"),
    "start_online": Arm("start", "online"),
    "random_online": Arm("random", "online"),
    "distilled_fixed": Arm("source", "fixed"),
    "random_fixed": Arm("random", "fixed"),
    "distilled_hard": Arm("source", "hard"),
    "start_hard": Arm("start", "hard"),
    "random_hard": Arm("random", "hard"),
    "real_hard": Arm("real", "hard"),
}


class Compared:
    """What is compared in a job: its arms, their subsets and their labels, as the sources and `relabel` left them."""

    def __init__(self, job: Job[DistilledParams]) -> None:
        self._job, self.params = job, job.params
        self.sets = {source: CondensedSets(job, source) for source in (*job.params.sources, *job.params.controls)}

    @property
    def without_start(self) -> list[str]:
        """The sources that do not say which real images they started from; they have no such arm."""
        return [source for source in self.params.sources if not self.sets[source].started_from_real]

    def arms(self) -> Iterator[Arm]:
        """In the order of the parameters."""
        for arm in (ARMS[name] for name in self.params.arms):
            if arm.images == "source":
                yield from (replace(arm, source=source) for source in self.sets)
                if arm.labels == "soft":
                    named = [form.name for form in self.params.label_formats]
                    yield from (replace(arm, source=one, form=name) for one in self.params.sources for name in named)
            elif arm.images == "start":
                unknown = self.without_start
                yield from (replace(arm, source=source) for source in self.params.sources if source not in unknown)
            else:
                yield arm

    def subsets(self, arm: Arm) -> list[int]:
        """Images per class to compare; `FULL` for all images."""
        if arm.images == "real":
            return [FULL]
        sources = [arm.source] if arm.source in self.params.sources else self.params.sources
        return sorted({ipc for source in sources for ipc in self._subsets[source]})

    def numbers(self, arm: Arm) -> range:
        """The sets of an arm: those of its source, for random images as many as any source has, so that each has its own draws."""
        if arm.source:
            return range(self.sets[arm.source].count)
        return range(max(self.sets[source].count for source in self.params.sources) if arm.images == "random" else 1)

    def stored(self, arm: Arm) -> bool:
        """Whether `relabel` stored the labels of an arm; those of controls are made the same way as they are needed."""
        return arm.labels == "soft" and arm.images == "source" and arm.source in self.params.sources

    def label_form(self, arm: Arm) -> LabelForm | None:
        """The other form that the stored labels of an arm have."""
        return next((form for form in self.params.label_formats if form.name == arm.form), None)

    def require_label_forms(self) -> None:
        """Raise `UserError` for a form that cannot be made of the stored labels."""
        if self.labelling is not None:
            classes = len(next(iter(self.sets.values())).dataset.classes)
            for form in self.params.label_formats:
                form.require(self.labelling, classes)

    @property
    def label_formats(self) -> dict[str, str]:
        """How stored labels are stored, in words, by the name of their form; that of `relabel` has none."""
        if self.labelling is None:
            return {}
        others = {form.name: format_words(form.of(self.labelling)) for form in self.params.label_formats}
        return {"": format_words(self.labelling)} | others

    @cached_property
    def _subsets(self) -> dict[str, list[int]]:
        return {source: self._of_source(source) for source in self.params.sources}

    def _of_source(self, source: str) -> list[int]:
        """Of a source: those that are asked for, or all that have labels, or without soft labels the whole set."""
        if self.labelling is None:
            return list(self.params.ipc or [self.sets[source].ipc])
        metrics = finished(self._job, "relabel", source_slug(source)).json(METRICS_FILE)
        labelled = sorted(int(name.removeprefix("ipc_")) for name in metrics)
        wanted = list(self.params.ipc or labelled)
        if missing := [ipc for ipc in wanted if ipc not in labelled]:
            raise UserError(
                f"evaluate.distilled.ipc: there are no labels for {missing} images per class of {source}, only for {labelled}; see "
                "relabel.ipc"
            )
        return wanted

    @cached_property
    def labelling(self) -> RelabelParams | None:
        """How soft labels are made, the same of every source so that images are all that differs; None where no arm has any."""
        if not self.params.soft_arms:
            return None
        by_source: dict[str, RelabelParams] = {}
        for source in self.params.sources:
            own = RelabelParams.model_validate(finished(self._job, "relabel", source_slug(source)).config()["relabel"])
            by_source[source] = own
            first, *_ = by_source
            if facts_of(own) != facts_of(by_source[first]):
                others = f"relabel@{source_slug(first)} and relabel@{source_slug(source)}"
                raise UserError(
                    f"{others} were made with other parameters, so their students cannot be compared; make them alike: limbeck run relabel"
                )
        return by_source[next(iter(by_source))]

    def config(self, arm: Arm, ipc: int) -> TrainConfig:
        """How students of an arm are trained; of the budget `steps` for as many epochs as come nearest to the steps of the largest set."""
        config = self._recipe(arm)
        if self.params.budget == "epochs":
            return config
        return over_steps(config, config.epochs * self._most_batches(arm, ipc), self._batches(arm, ipc))

    def at_epochs(self, arm: Arm, ipc: int) -> dict[str, int]:
        """After which of its epochs a student is tested too, by the epochs that parameters name: those of the largest set."""
        last, longer = self._recipe(arm).epochs, self._most_batches(arm, ipc) / self._batches(arm, ipc)
        return {str(epoch): round(epoch * longer) for epoch in sorted(set(self.params.at_epochs)) if epoch <= last}

    def images(self, arm: Arm, ipc: int) -> int:
        """How many images students of an arm see in an epoch: of stored tiles each."""
        if arm.images == "real":
            return len(open_part(self._job, "split", "train"))
        tiles = self.sets[arm.source].tiles if arm.images == "source" else 1
        return ipc * len(next(iter(self.sets.values())).dataset.classes) * tiles**2

    def _batches(self, arm: Arm, ipc: int) -> int:
        return math.ceil(self.images(arm, ipc) / self._recipe(arm).batch_size)

    def _most_batches(self, arm: Arm, ipc: int) -> int:
        """Batches of an epoch in the largest set that has the same labels, where students are to take as many steps."""
        if self.params.budget == "epochs" or arm.images == "real":
            return self._batches(arm, ipc)
        alike = (other for other in self.arms() if other.section == arm.section and ipc in self.subsets(other))
        return max(self._batches(other, ipc) for other in alike)

    def _recipe(self, arm: Arm) -> TrainConfig:
        """The parameters of an arm; with stored labels students see the views and batches that were labelled."""
        config: TrainConfig = getattr(self.params, arm.section)
        if arm.labels != "soft":
            return config
        assert self.labelling is not None
        return replace(config, views=self.labelling.views, batch_size=self.labelling.batch_size)


def facts_of(labelling: RelabelParams) -> dict[str, Any]:
    """The parameters of `relabel` that decide the labels of a set."""
    return labelling.model_dump(mode="json", include={"epochs", "batch_size", "views", "format", "top_k"})
