"""Builds a data folder as the stages leave it, with the real writers and numbers made by hand."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipelines.outcomes import dropped, failed
from pipelines.runtime.publication import publish_datasets
from pipelines.runtime.units import Unit, UnitOutput
from pipelines.shards.checksum import signed_bytes
from pipelines.shards.keys import content_key, derived_key, slot_key
from pipelines.shards.sample import Sample, ordered_members
from pipelines.storage import Storage, canonical_json, pretty_json
from tests.sealing import seal

CLASSES = ("cat", "dog", "eel")
#: (class, number) -> RGB pixels.
Pictures = Callable[[int, int], Image.Image]

NOTE = "Toy data: a small subset, quote nothing from it."


def noise(label: int, number: int) -> Image.Image:
    """A smooth picture of noise, 32 x 32."""
    generator = np.random.default_rng((label, number))
    return Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((32, 32))


def arm(mean: float, std: float = 0.001, seeds: int = 3, **sizes: Any) -> dict[str, Any]:
    """One arm of metrics.json."""
    sizes = {"images": 30, "image_bytes": 60_000, "label_bytes": 0} | sizes
    return {"last_mean": mean, "last_std": std, "best_mean": mean + 0.01, "seeds": seeds, **sizes}


def metrics() -> dict[str, Any]:
    """results.json of `evaluate@distilled`: distilled loses at IPC 1 and wins at IPC 10."""
    from tests.report.judging import judged

    form = {
        "teacher": {"network": "resnet18_stem3", "test_top1": 0.912},
        "protocol": {"network": "convnet3_w64", "epochs": 300, "batch_size": 50, "seeds": [0, 1, 2], "note": NOTE},
        "ipc_1": {
            "distilled_soft": arm(0.402, images=3, image_bytes=6_000, label_bytes=14_336),
            "random_soft": arm(0.455, images=3, image_bytes=5_000, label_bytes=14_336),
        },
        "ipc_10": {
            "distilled_soft": arm(0.841, label_bytes=1_048_576),
            "random_soft": arm(0.830, label_bytes=1_048_576),
            "distilled_hard": arm(0.600),
            "random_hard": arm(0.662),
        },
        "full": {"real_hard": arm(0.9, images=9_000, image_bytes=4_194_304)},
    }
    return judged(form)


class DataFolder:
    """A data folder that stages are added to one by one."""

    def __init__(self, root: Path, classes: Sequence[str] = CLASSES, pictures: Pictures = noise) -> None:
        self.root = root
        self.classes = list(classes)
        self.pictures = pictures

    def everything(self) -> DataFolder:
        """All stages, with the numbers of this file."""
        self.ingest()
        self.split()
        self.augment()
        self.squeeze()
        self.cda()
        self.relabel()
        self.evaluate(metrics())
        return self

    def ingest(self, per_class: int = 4) -> None:
        rows = self._samples(per_class)
        storage, output = self._begin("ingest")
        with output.shard() as shard:
            for sample in rows:
                shard.keep(sample)
            for number in range(2):
                shard.reject(failed("unsupported_format", detail="svg"), _lost(number))
            shard.reject(dropped("duplicate", "same bytes"), _lost(2))
        markers = [output.commit()]
        publish_datasets(storage, markers, self.classes, {"name": "ingest"})
        self.finish("ingest", 1, {"sources": [{"type": "folder", "path": "photos"}]})

    def split(self, per_class: int = 4) -> None:
        storage = Storage(self.root / "split")
        markers = []
        for part, count in {"train": per_class, "val": 1, "test": 2}.items():
            output = UnitOutput(storage, Unit(f"{part}/split-000000", {}), "0" * 32)
            with output.shard(part) as shard:
                for sample in self._samples(count):
                    shard.keep(sample)
            markers.append(output.commit())
        publish_datasets(storage, markers, self.classes, {"name": "split"}, ["train", "val", "test"])
        self.finish("split", 3, {"validation": 0.1})

    def augment(self, policy: Any = ({"rotate": {"degrees": 20}}, "horizontal_flip")) -> None:
        """Two views of every training image, moved by their number, with one box each."""
        storage = Storage(self.root / "augment")
        output = UnitOutput(storage, Unit("boxed/augment-000000-000", {}), "0" * 32)
        parents = self._samples(2)
        with output.shard("boxed") as shard:
            for parent in parents:
                for view in range(2):
                    draws = {"horizontal_flip": {}} | ({"rotate": {"degrees": -3.25 * view}} if view else {})
                    box = {"id": 1, "category_id": 1, "bbox": [4 + view, 5, 20, 10.5], "area": 210, "iscrowd": 0}
                    row = {name: parent.row[name] for name in ("label", "label_name")}
                    row |= {"parents": [parent.key], "op": "augment"}
                    row |= {"params": canonical_json({"view": view, "draws": draws}).decode()}
                    key = derived_key(parent.key, "a", view)
                    one = sample_of(key, self.pictures(row["label"], 50 + view), row)
                    members = ordered_members([*one.members, ("json", canonical_json({"annotations": [box]}))])
                    shard.keep(Sample(key, members, one.row))
        publish_datasets(storage, [output.commit()], self.classes, {"name": "augment_boxed"}, ["boxed"])
        count = len(parents)
        boxes = {"annotations": 2 * count, "dropped": 1234, "left_out:crowd": 3}
        facts = {"samples": 2 * count, "images": count, "views": 2, "boxes": boxes}
        self.write("augment/metrics.json", pretty_json({"boxed": facts}))
        settings = {"policy": policy, "boxes": "foreground", "threshold": 1}
        self.finish("augment", 1, {"source": "split/train", "sets": {"boxed": settings}})

    def squeeze(self) -> None:
        form = {"val_top1": 0.92, "test_top1": 0.912, "parameters": 11_173_962, "epochs": 20}
        self.write("squeeze/metrics.json", pretty_json(form))
        self.write("squeeze/teacher.json", pretty_json({"network": "resnet18_stem3", "classes": self.classes}))
        epochs = range(1, 21)
        lines = [[e, 0.1, 2.3 / e, 2.4 / e + 0.1, 0.92 - 0.5 / e] for e in epochs]
        self.csv("squeeze/history.csv", ["epoch", "learning_rate", "train_loss", "val_loss", "val_top1"], lines)
        self.finish("squeeze", 1, {"network": "resnet18_stem3"})

    def cda(self, per_class: int = 4) -> None:
        self._condensed("cda", per_class)
        lines = [[f"cda-{u:06d}", s, 40 / (1 + s / 20) + u] for u in range(3) for s in range(0, 1000, 10)]
        self.csv("cda/losses.csv", ["unit", "step", "loss"], lines)
        self.finish("cda", 1, {"ipc": per_class, "iterations": 1000})

    def coreset(self, method: str, per_class: int = 4) -> None:
        self._condensed(f"coreset@{method}", per_class)
        self.finish(f"coreset@{method}", 1, {"ipc": per_class})

    def _condensed(self, name: str, per_class: int) -> None:
        slug = name.replace("@", "_")
        storage, output = self._begin(name.replace("@", "/"))
        with output.shard() as shard:
            for label, label_name in enumerate(self.classes):
                for slot in range(per_class):
                    row = {"label": label, "label_name": label_name, "op": slug, "params": f'{{"slot": {slot}}}'}
                    shard.keep(sample_of(slot_key(slug, label, slot), self.pictures(label, 100 + slot), row))
        publish_datasets(storage, [output.commit()], self.classes, {"name": slug})

    def relabel(self) -> None:
        form = {"ipc_10": {"bytes": 1_048_576, "epochs": 300, "samples": 30, "format": "int8"}}
        self.write("relabel/metrics.json", pretty_json(form))
        self.finish("relabel", 1, {"format": "int8"})

    def evaluate(self, form: dict[str, Any]) -> None:
        self.write("evaluate/distilled/results.json", pretty_json(form))
        lines: list[list[Any]] = []
        for group, arms in form.items():
            if group.startswith("ipc_") or group == "full":
                for name, numbers in arms.items():
                    for seed in range(numbers["seeds"]):
                        for epoch in range(10, 301, 10):
                            top1 = numbers["last_mean"] * (1 - 1 / (1 + epoch / 15)) / 0.952 + 0.004 * (seed - 1)
                            lines.append([name, group.removeprefix("ipc_"), seed, epoch, 3 / epoch, top1])
        self.csv("evaluate/distilled/students.csv", ["arm", "ipc", "seed", "epoch", "train_loss", "test_top1"], lines)
        self.finish("evaluate@distilled", 14, {"epochs": 300})

    def finish(self, stage: str, units: int, params: dict[str, Any]) -> None:
        """What the driver writes last, and its log."""
        plan = hashlib.sha256(canonical_json([stage, params])).hexdigest()[:32]
        where, name = stage.replace("@", "/"), stage.partition("@")[0]
        self.write(f"{where}/plan/units.json", pretty_json({"stage": name, "units": []}))
        self.write(f"{where}/config.resolved.json", signed_bytes({"stage": name, name: params, "run": {"seed": 0}}))
        seal(Storage(self.root / where), stage, plan=plan)
        log = {"stage": stage, "started": "2026-03-01T10:00:00Z", "seconds": 83.4, "units": units, "ran": units}
        log |= {"limbeck": "0.1.0", "python": "3.11.2", "machine": "x86_64, 2 cores"}
        self.write(f".limbeck/{stage}.json", pretty_json(log))

    def write(self, path: str, data: bytes) -> None:
        Storage(self.root).write_bytes(path, data)

    def csv(self, path: str, head: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([head, *lines])
        self.write(path, text.getvalue().encode())

    def _begin(self, stage: str) -> tuple[Storage, UnitOutput]:
        storage = Storage(self.root / stage)
        return storage, UnitOutput(storage, Unit(f"{stage.replace('/', '_')}-000000", {}), "0" * 32)

    def _samples(self, per_class: int) -> list[Sample]:
        made = []
        for number in range(per_class):
            for label, name in enumerate(self.classes):
                image = self.pictures(label, number)
                key = content_key(hashlib.sha256(image.tobytes()).digest())
                made.append(sample_of(key, image, {"label": label, "label_name": name, "split": "train"}))
        return made


def sample_of(key: str, image: Image.Image, row: dict[str, Any]) -> Sample:
    """A labelled PNG with its row."""
    out = io.BytesIO()
    image.save(out, "PNG")
    data = out.getvalue()
    members = ordered_members([("png", data), ("cls", str(row["label"]).encode())])
    return Sample(key, members, row | {"width": image.width, "height": image.height, "bytes": len(data)})


def _lost(number: int) -> dict[str, Any]:
    return {"key": content_key(hashlib.sha256(b"lost %d" % number).digest()), "source": f"lost-{number}.svg"}
