"""Writes a chosen condensed set: its images as a shard, its labels or the teacher beside them, and the words that go with it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.artifacts.datasets import finished, open_part
from pipelines.artifacts.distilled import source_slug
from pipelines.artifacts.labels import labels_of, view_seed
from pipelines.artifacts.teacher import TEACHER_FILE, TEACHER_WEIGHTS
from pipelines.evaluation.distilled.arms import TrainStudent
from pipelines.evaluation.distilled.candidates import FIRST_SET, Candidates
from pipelines.evaluation.distilled.choice import Candidate, Choice
from pipelines.evaluation.distilled.frontier import SHIPPED
from pipelines.evaluation.distilled.params import DistilledParams
from pipelines.evaluation.distilled.worker import DistilledStudents
from pipelines.images.made import EncodedImage, training_sample
from pipelines.report.words import human_bytes
from pipelines.runtime.job import Job
from pipelines.runtime.units import UnitOutput
from pipelines.shards.dataset import Dataset
from pipelines.shards.sample import IMAGE_EXTENSIONS, Sample
from pipelines.storage import canonical_json, pretty_json

#: Sidecar columns of a stored image that are not of its copy, or are written anew.
_PLACE = ("key", "members", "shard", "outcome", "reason", "error_class", "detail")
#: Those that stay true of a real image's copy.
_PIXELS = ("width", "height", "bytes", "pixel_sha256", "phash")
LABELS_FILE = "labels.json"
#: One label an image: (images, classes) float16 logits, in the order of the shard, stored tiles decoded.
FIXED_FILE = "labels/fixed.npy"


def ship(
    choice: Choice, candidates: Candidates, job: Job[DistilledParams], worker: DistilledStudents, output: UnitOutput
) -> None:
    """Write the chosen set; the unit's summary has the choice, the bytes and the card."""
    candidate = choice.chosen.candidate
    with output.shard() as shard:
        for sample in _samples(candidate, candidates, job):
            shard.keep(sample)
    size = candidate.image_bytes + _labels(candidate, candidates, job, worker, output)
    output.summary = {"choice": choice.to_json(), "bytes": size, "card": _card(choice, size, candidates)}


def _samples(candidate: Candidate, candidates: Candidates, job: Job[DistilledParams]) -> list[Sample]:
    """Those of a condensed set as they are, the heads of their classes; real images with a slot each."""
    arm, keys = candidate.arm, candidates.keys(candidate.arm, candidate.ipc)
    if arm.images == "source":
        dataset = candidates.compared.sets[arm.source].dataset
        return [
            Sample(row["key"], tuple(_members(dataset, row)), {n: v for n, v in row.items() if n not in _PLACE})
            for row in _rows(dataset, keys)
        ]
    train, samples = open_part(job, "split", "train"), []
    names = candidates.compared.sets[arm.source].keys(candidate.ipc, FIRST_SET) if arm.images == "start" else keys
    for place, (key, row) in enumerate(zip(names, _rows(train, keys), strict=True)):
        at = {"slot": place % candidate.ipc}
        image = next(member for member in _members(train, row) if member[0] in IMAGE_EXTENSIONS)
        beside = {"source": f"slot {at['slot']}", "parents": [row["key"]], "op": "condense", "licence": row["licence"]}
        encoded = EncodedImage(image, {name: row[name] for name in _PIXELS})
        described = at | {"parent": row["key"]}
        beside |= {"params": canonical_json(at).decode()}
        samples.append(training_sample(key, encoded, (row["label"], row["label_name"]), beside, described))
    return samples


def _rows(dataset: Dataset, keys: list[str]) -> list[dict[str, Any]]:
    rows = dataset.rows()
    taken: list[dict[str, Any]] = rows.take(pc.index_in(pa.array(keys, pa.string()), rows["key"])).to_pylist()
    return taken


def _members(dataset: Dataset, row: dict[str, Any]) -> list[tuple[str, bytes]]:
    return list(dataset.read(row["shard"], row["key"], row["members"]).items())


def _labels(
    candidate: Candidate,
    candidates: Candidates,
    job: Job[DistilledParams],
    worker: DistilledStudents,
    output: UnitOutput,
) -> int:
    """Write what the labels are, beside the class numbers in the shard; returns their bytes, or the teacher's."""
    arm, ipc, compared = candidate.arm, candidate.ipc, candidates.compared
    config = compared.config(arm, ipc)
    about: dict[str, Any] = {"labels": arm.labels, "ships": candidate.ships, "training": asdict(config)}
    about |= {"mean": worker.teacher.mean, "std": worker.teacher.std}
    size = candidate.label_bytes
    if arm.labels == "soft":
        assert compared.labelling is not None
        form = compared.label_form(arm)
        stored = compared.labelling if form is None else form.of(compared.labelling)
        about |= {"stored": stored.model_dump(mode="json"), "view_seed": view_seed(job, ipc)}
    if candidate.ships == SHIPPED["online"]:
        squeeze = finished(job, "squeeze")
        for name in (TEACHER_WEIGHTS, TEACHER_FILE):
            output.write(f"teacher/{name}", squeeze.read(name))
    elif arm.labels == "soft":
        size = _stored(candidate, candidates, job, worker, output)
    elif arm.labels == "fixed":
        logits = worker.fixed_labels(_student(candidate))
        with output.file(FIXED_FILE) as path, path.open("wb") as file:
            np.save(file, logits)
        size = logits.nbytes
    output.write(LABELS_FILE, pretty_json(about))
    return size


def _stored(
    candidate: Candidate,
    candidates: Candidates,
    job: Job[DistilledParams],
    worker: DistilledStudents,
    output: UnitOutput,
) -> int:
    """Copy the labels of `relabel`, or make those of a control as its students had them."""
    arm, ipc = candidate.arm, candidate.ipc
    files: dict[str, bytes] = {}
    if candidates.compared.stored(arm) and not arm.form:
        relabel, folder = finished(job, "relabel", source_slug(arm.source)), f"labels/{labels_of(ipc, FIRST_SET)}"
        files = {path.rpartition("/")[2]: relabel.read(path) for path in relabel.paths(folder)}
    else:
        scratch = output.scratch()
        worker.labels_into(_student(candidate), scratch)
        files = {path: scratch.read_bytes(path) for path in sorted(scratch.list()) if path.endswith(".arrow")}
    for name, data in files.items():
        output.write(f"labels/{name}", data)
    return sum(map(len, files.values()))


def _student(candidate: Candidate) -> TrainStudent:
    """One that is trained on what is shipped: the first set, the first draw."""
    return TrainStudent(candidate.arm, candidate.ipc, 0, FIRST_SET, "", {}, {}, {})


def _card(choice: Choice, size: int, candidates: Candidates) -> str:
    """What a stranger who finds the folder has to know, as Markdown."""
    one = choice.chosen.candidate
    tiles = candidates.compared.sets[one.arm.source].tiles if one.arm.images == "source" else 1
    lines = [
        "# A condensed training set",
        "",
        f"{one.name}: {human_bytes(size)} to be shipped, {human_bytes(one.image_bytes)} of them images; labels: {one.ships}. Chosen on the "
        "validation split among what a run of `evaluate@distilled` measured:",
        "",
        f"{choice.words()}.",
        "",
        "| candidate | bytes | validation, % | best minus this | |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for row, judged in choice.rows:
        mark = "chosen" if row is choice.chosen else "best" if row is choice.best else ""
        accuracy = f"{100 * row.mean:.1f} ± {100 * row.spread:.1f}"
        lines.append(f"| {row.candidate.name} | {row.candidate.bytes} | {accuracy} | {judged['gap']:.1f} | {mark} |")
    lines += ["", f"`{LABELS_FILE}` says how students were trained. `shards/` is a WebDataset (image, `json`, `cls`)."]
    if tiles > 1:
        lines.append(
            f"Each stored image holds {tiles} x {tiles} smaller ones, row by row: cut it, and enlarge each to the whole size (bilinear) "
            "before anything else."
        )
    if one.ships == SHIPPED["online"]:
        lines.append("`teacher/` gives the labels of every view, by the views and seed that `labels.json` names.")
    return "\n".join([*lines, ""])
