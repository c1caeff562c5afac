"""What `limbeck condense` may choose from: the sets, images per class and kinds of labels of a finished `evaluate@distilled`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipelines.artifacts.datasets import finished, open_part
from pipelines.artifacts.distilled import random_keys, source_slug, stored_image_bytes
from pipelines.artifacts.labels import labels_of
from pipelines.artifacts.teacher import TEACHER_WEIGHTS
from pipelines.config import RunParams
from pipelines.errors import UserError
from pipelines.evaluation.distilled.arms import FULL, Arm, Compared
from pipelines.evaluation.distilled.choice import Candidate
from pipelines.evaluation.distilled.frontier import REPLAYED, SHIPPED
from pipelines.evaluation.distilled.label_forms import LabelForm
from pipelines.evaluation.distilled.params import DistilledParams
from pipelines.evaluation.protocol import RESULTS_FILE
from pipelines.runtime.finished import Finished
from pipelines.runtime.job import Job

#: The students of a set that is shipped are those of its source's first set.
FIRST_SET = 0
#: Kinds of labels that can be written beside a dataset.
WRITTEN = ("hard", "fixed", "soft", "online")


def measured_run(data: str, inputs: Mapping[str, str] | None = None) -> tuple[Job[DistilledParams], Finished]:
    """The job of the finished `evaluate@distilled` under a data folder, as it ran, and its output."""
    job: Job[Any] = Job("evaluate", DistilledParams(), RunParams(), data, inputs or {}, item="distilled")
    output = finished(job, "evaluate", "distilled")
    config = output.config()
    given = _without(config["evaluate"]["distilled"], DistilledParams().model_dump(mode="json"))
    of_a_form = {name: field.default for name, field in LabelForm.model_fields.items()}
    given["label_formats"] = [_without(form, of_a_form) for form in given.get("label_formats", ())]
    params = DistilledParams.model_validate(given)
    return replace(job, params=params, run=RunParams.model_validate(config["run"])), output


def _without(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved mapping without what is as it is by default: a file may not name every option, and a default says nothing."""
    changed = {}
    for name, value in values.items():
        default = defaults.get(name)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            value = _without(value, default)
            if value:
                changed[name] = value
        elif value != default:
            changed[name] = value
    return changed


class Candidates:
    """The condensed sets and real subsets of a run with their bytes, exact for the images and labels that would be shipped."""

    def __init__(self, job: Job[DistilledParams], results: Mapping[str, Any]) -> None:
        self._job, self._results, self.compared = job, results, Compared(job)
        self._train = open_part(job, "split", "train")
        self.teacher_bytes = finished(job, "squeeze").size(TEACHER_WEIGHTS)

    def all(self) -> list[Candidate]:
        """Every one, in rising order of bytes; the full set is none."""
        found = [
            self._of(arm, ipc)
            for arm in self.compared.arms()
            for ipc in self.compared.subsets(arm)
            if arm.labels in WRITTEN and ipc != FULL
        ]
        return sorted(found, key=lambda one: one.in_order)

    def full_bytes(self) -> int:
        """Bytes of all training images."""
        return sum(self._train.rows(["bytes"])["bytes"].to_pylist())

    def keys(self, arm: Arm, ipc: int) -> list[str]:
        """The keys of the images that would be shipped, class by class, in the dataset that holds them."""
        if arm.images == "source":
            return self.compared.sets[arm.source].keys(ipc, FIRST_SET)
        if arm.images == "start":
            return self.compared.sets[arm.source].parents(ipc, FIRST_SET)
        return random_keys(self._train, ipc, self._job.run.seed, FIRST_SET)

    def _of(self, arm: Arm, ipc: int) -> Candidate:
        dataset = self.compared.sets[arm.source].dataset if arm.images == "source" else self._train
        images = stored_image_bytes(dataset, self.keys(arm, ipc))
        labels, ships = self._labels(arm, ipc), SHIPPED[arm.labels]
        if arm.labels == "online" or (arm.labels == REPLAYED and self.teacher_bytes < labels):
            labels, ships = self.teacher_bytes, SHIPPED["online"]
        return Candidate(arm, ipc, images, labels, ships)

    def _labels(self, arm: Arm, ipc: int) -> int:
        """Bytes of the labels of a set; of labels that `relabel` did not store, what they took as students were trained."""
        if self.compared.stored(arm) and not arm.form:
            stored = finished(self._job, "relabel", source_slug(arm.source))
            return sum(map(stored.size, stored.paths(f"labels/{labels_of(ipc, FIRST_SET)}")))
        try:
            return int(self._results[f"ipc_{ipc}"][arm.name]["label_bytes"])
        except KeyError:
            raise UserError(
                f"{RESULTS_FILE} of evaluate@distilled has no {arm.name} at IPC {ipc}; run again: limbeck run evaluate@distilled"
            ) from None
