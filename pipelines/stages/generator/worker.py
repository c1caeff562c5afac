"""Looking at generators: contact sheets for people, and whether a teacher recognises what the class model makes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.artifacts.datasets import METRICS_FILE, finished
from pipelines.artifacts.generators import Role
from pipelines.artifacts.teacher import TEACHER_FILE, Teacher, load_teacher
from pipelines.images.encode import encode
from pipelines.images.params import ImageParams
from pipelines.runtime.committed import Committed
from pipelines.runtime.device import torch_device
from pipelines.runtime.job import Job
from pipelines.runtime.ledger import STAGE_FILE
from pipelines.runtime.method_errors import method_errors
from pipelines.runtime.units import Tick, UnitOutput
from pipelines.storage import csv_bytes

if TYPE_CHECKING:
    import torch

    from synth.backends import Backend
    from synth.requests import Request

#: Rows of a contact sheet at the most, and pixels between images.
SHEET_ROWS, GAP = 24, 2
#: Images at a time, for models that make images no larger than `SMALL`: they gain from company even on a CPU.
BATCH, SMALL = 50, 64

COLUMNS = ("label", "ordinal", "predicted")


class Looking:
    """What a worker holds: generators by role and the teacher, loaded when first asked for. Earlier waves make them."""

    def __init__(self, job: Job[Any]) -> None:
        self._job = job
        self._backends: dict[Role, Any] = {}

    @cached_property
    def device(self) -> torch.device:
        return torch_device(self._job)

    @cached_property
    def teacher(self) -> Teacher:
        return load_teacher(self._job, self.device)

    def backend(self, role: Role) -> Backend:
        """The model that plays `role`."""
        from synth.backends import GeneratorOptions, load_backend

        if role not in self._backends:
            named = getattr(self._job.params.model, role)
            model = named or str(self._job.output.child(role).root)
            with method_errors("generator"):
                self._backends[role] = load_backend(GeneratorOptions(model, device=str(self.device)))
        return self._backends[role]

    def images(self, role: Role, requests: Sequence[Request], purpose: str, tick: Tick) -> np.ndarray[Any, Any]:
        """Images (n, h, w, 3) uint8, with the settings of `role`; a broken one is black."""
        import torch

        from synth.sampling import Sampler

        backend = self.backend(role)
        batch = BATCH if max(backend.capabilities.native_size) <= SMALL else None
        images: list[torch.Tensor] = []
        sampler = Sampler(
            backend,
            getattr(self._job.params, role),
            run_seed=self._job.seed(purpose, "images"),
            batch_size=batch,
        )
        for group in sampler.generate(requests):
            pixels = torch.nan_to_num(group.images).mul(255).round().clamp(0, 255).byte()
            images.append(pixels.permute(0, 2, 3, 1).cpu())
            tick(sum(map(len, images)), len(requests), "")
        return torch.cat(images).numpy()


def look(role: Role, prompts: Sequence[str] | None, worker: Looking, output: UnitOutput, each: int) -> None:
    """Write the contact sheet of a role: a row of `each` images for a prompt of `text`, or for a number of `classes`."""
    from synth.requests import Request

    captions: list[str | int] = (
        list(prompts or []) if role == "text" else list(range(worker.backend(role).capabilities.classes))
    )
    captions = captions[:SHEET_ROWS]
    requests = [Request(prompt, f"sheet-{row}", place) for row, prompt in enumerate(captions) for place in range(each)]
    sheet = contact_sheet(worker.images(role, requests, f"sheet/{role}", output.tick), each)
    output.write(f"samples/{role}.png", encode(sheet, "png", ImageParams(format="png")))


def contact_sheet(images: np.ndarray[Any, Any], columns: int) -> np.ndarray[Any, Any]:
    """Images (rows * columns, h, w, 3) uint8 as one, with white between them."""
    count, height, width, _ = images.shape
    rows = count // columns
    sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for place, image in enumerate(images):
        top, left = place // columns * (height + GAP), place % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = image
    return sheet


def recognise(name: str, first: int, count: int, worker: Looking, output: UnitOutput) -> None:
    """Write what the teacher takes `count` images of the check for. Image i is number i // classes of class i % classes."""
    from synth.requests import Request

    teacher = worker.teacher
    asked = [(number % len(teacher.classes), number // len(teacher.classes)) for number in range(first, first + count)]
    requests = [Request(label, f"check-{label}", ordinal) for label, ordinal in asked]
    predicted = classify(worker.images("classes", requests, "check", output.tick), teacher)
    rows = [
        dict(zip(COLUMNS, (label, ordinal, guess), strict=True))
        for (label, ordinal), guess in zip(asked, predicted, strict=True)
    ]
    output.write(f"checks/{name}.csv", csv_bytes(rows, COLUMNS))


def classify(images: np.ndarray[Any, Any], teacher: Teacher) -> list[int]:
    """The classes that a teacher sees on images (n, h, w, 3) uint8, resized to its size (bilinear, antialiased)."""
    import torch
    from torch.nn.functional import interpolate

    from distill.accuracy import normalise

    predicted: list[int] = []
    size = (teacher.image_size, teacher.image_size)
    device = next(teacher.model.parameters()).device
    for at in range(0, len(images), BATCH):
        block = torch.from_numpy(images[at : at + BATCH]).permute(0, 3, 1, 2).to(device).float()
        if tuple(block.shape[2:]) != size:
            block = interpolate(block, size=size, mode="bilinear", antialias=True, align_corners=False)
        with torch.no_grad():
            logits = teacher.model(normalise(block.round().clamp(0, 255) / 255, teacher.mean, teacher.std))
        predicted += logits.argmax(1).tolist()
    return predicted


def teacher_classes(job: Job[Any]) -> list[str] | None:
    """The classes of the teacher that `squeeze` left, None when it has not run."""
    if not job.input("squeeze").exists(STAGE_FILE):
        return None
    classes: list[str] = finished(job, "squeeze").json(TEACHER_FILE)["classes"]
    return classes


def recognised(job: Job[Any], tables: Sequence[str]) -> dict[str, Any]:
    """What share of the check's images the teacher takes for what they are to be, next to its share of real test images."""
    committed = Committed(job)
    rows = [row for path in tables for row in csv.DictReader(io.StringIO(committed.read(path).decode()))]
    classes = teacher_classes(job) or []
    asked, right = [0] * len(classes), [0] * len(classes)
    for row in rows:
        label = int(row["label"])
        asked[label] += 1
        right[label] += int(row["predicted"]) == label
    real = finished(job, "squeeze").json(METRICS_FILE)["test_top1"]
    top1 = sum(right) / len(rows)
    each = {
        name: {"images": asked[label], "top1": right[label] / asked[label] if asked[label] else None}
        for label, name in enumerate(classes)
    }
    return {
        "images": len(rows),
        "top1": top1,
        "teacher_test_top1": real,
        "ratio": top1 / real if real else None,
        "classes": each,
    }
