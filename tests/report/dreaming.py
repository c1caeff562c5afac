"""DataDream's stages in a data folder, with numbers made by hand."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from pipelines.outcomes import dropped
from pipelines.runtime.publication import publish_datasets
from pipelines.runtime.units import Unit, UnitOutput
from pipelines.shards.dataset import Dataset
from pipelines.shards.keys import slot_key
from pipelines.storage import Storage, canonical_json, pretty_json
from tests.report.folders import CLASSES, NOTE, DataFolder, sample_of
from tests.sealing import seal

VARIANTS = ("zero_shot", "cls", "dset", "loft")
SETS = ((4, 0), (16, 1), (16, 0))


def control(mean: float, std: float = 0.01, **more: Any) -> dict[str, Any]:
    """One arm of the control table."""
    sizes = {"real_bytes": 1024, "synthetic_bytes": 2048, "adapter_bytes": 512, "label_bytes": 24, "together": 3608}
    form = {"mean": mean, "std": std, "seeds": 3, "few_shot_seeds": [0, 1, 2], "val": mean + 0.02, "steps": 1000}
    form |= {"images": {"real": 48, "synthetic": 300}, "bytes": sizes, "per_class": [mean, mean - 0.1, None]}
    return form | more


def win(arm: str, against: str, gap: float, outcome: str, shots: int = 16, error: float | None = 0.5) -> dict[str, Any]:
    told = {"shots": shots, "classifier": "clip", "arm": arm, "against": against, "gap": gap, "standard_error": error}
    if error is not None:
        told |= {"low": gap - 2 * error, "high": gap + 2 * error}
    return told | {
        "errors": None,
        "seeds": 3,
        "outcome": outcome,
        "sentence": f"Sentence of {arm} and {against} at {shots}.",
    }


def dream_metrics() -> dict[str, Any]:
    """The part `datadream` of `evaluate`'s metrics: cls wins at 16 shots and is level at 4, dset loses."""
    arms = {"real": control(0.70), "pooled_zero_shot": control(0.71), "synthetic_cls": control(0.65)}
    arms |= {"pooled_cls": control(0.75), "pooled_dset": control(0.66)}
    return {
        "classes": list(CLASSES),
        "protocol": {"classifier": "CLIP with LoRA", "steps": 1000, "few_shot_seeds": [0, 1, 2], "note": NOTE}
        | {"generator_bytes": {"text": 2048}, "student": None},
        "reference": {"clip": {"zero_shot_clip": control(0.41, seeds=1)}},
        "shots_16": {"clip": arms},
        "shots_4": {"clip": {"real": control(0.5), "pooled_cls": control(0.51)}},
        "wins": [
            win("pooled_cls", "real", 0.9, "level", shots=4),
            win("pooled_zero_shot", "real", 1.0, "level"),
            win("pooled_cls", "real", 5.04, "win"),
            win("pooled_cls", "pooled_zero_shot", 4.0, "win"),
            win("pooled_dset", "real", -4.0, "loss"),
        ],
    }


def generator(folder: DataFolder, sheet: tuple[int, int] = (30, 20)) -> None:
    """Models, a contact sheet, and what the teacher said."""
    clip = {"kind": "reference", "model": "/home/someone/clips/small", "family": "clip", "native_size": [64, 64]}
    text = {"kind": "folder", "model": "text", "family": "sd", "native_size": [64, 64], "digest": "ab" * 32}
    form = {"text": text, "classes": None, "clip": clip | {"digest": "cd" * 32}}
    folder.write("generator/generator.json", pretty_json(form))
    each = {name: {"images": 100, "top1": 0.5 + 0.1 * place} for place, name in enumerate(CLASSES)}
    metrics = {"images": 300, "top1": 0.6, "teacher_test_top1": 0.8, "ratio": 0.75, "classes": each}
    folder.write("generator/metrics.json", pretty_json(metrics))
    out = io.BytesIO()
    Image.effect_noise(sheet, 90).convert("RGB").save(out, "PNG")
    folder.write("generator/samples/text.png", out.getvalue())
    folder.finish("generator", 1, {"source": "embedded"})


def dreams(
    folder: DataFolder, variant: str, sets: Sequence[tuple[int, int]] = SETS, quality: bool = True, per_class: int = 3
) -> None:
    """An item of `datadream`; the last image of every class is dropped."""
    item = f"datadream/{variant}"
    storage, markers, metrics = Storage(folder.root / item), [], dict[str, Any]()
    for shots, seed in [(0, 0)] if variant == "zero_shot" else sets:
        tag = f"shots{shots:02d}-seed{seed}"
        samples = []
        for label, name in enumerate(folder.classes):
            for ordinal in reversed(range(per_class)):
                told = {"variant": variant, "shots": shots, "few_shot_seed": seed, "ordinal": ordinal}
                row = {"label": label, "label_name": name, "params": canonical_json(told).decode(), "op": "datadream"}
                image = folder.pictures(label, number_of(variant, shots, seed, ordinal))
                samples.append(sample_of(slot_key(f"{variant}_k{shots}_s{seed}", label, ordinal), image, row))
        for part in ("generated", "kept"):
            output = UnitOutput(storage, Unit(f"{part}/{tag}", {}), "0" * 32)
            with output.shard(part) as shard:
                for sample in samples:
                    if part == "kept" and sample.key.endswith(f"{per_class - 1:05d}"):
                        shard.reject(dropped("clip_low"), {**sample.row, "key": sample.key})
                    else:
                        shard.keep(sample)
            markers.append(output.commit())
        classes = len(folder.classes)
        form: dict[str, Any] = {"images": per_class * classes, "kept": (per_class - 1) * classes}
        form |= {"dropped": {"clip_low": classes}, "adapters": {"adapters": classes if shots else 0, "bytes": 9}}
        if quality:
            figures = {"generated": 9, "real": 30, "kid": -0.0123, "fid": None, "precision": 0.75, "cmmd": 1.5}
            form["quality"] = {"against": "val", "features": "clip", "generated": {"overall": figures}}
        metrics[tag] = form
    publish_datasets(storage, markers, folder.classes, {"name": f"datadream_{variant}"}, ["generated", "kept"])
    folder.write(f"{item}/metrics.json", pretty_json(metrics))
    folder.finish(f"datadream@{variant}", 1, {"variants": [variant]})


def number_of(variant: str, shots: int, seed: int, ordinal: int) -> int:
    """The number of a picture: no two alike."""
    return 1000 + 10_000 * VARIANTS.index(variant) + 100 * shots + 10 * seed + ordinal


def few_shot(folder: DataFolder) -> Mapping[str, Any]:
    """A manifest over what `split` has: for seed 1 the other way round."""
    rows = Dataset.open(str(folder.root / "split/train")).rows(["key", "label"]).to_pylist()
    keys = {str(c): [row["key"] for row in rows if row["label"] == c] for c in range(len(folder.classes))}
    form = {"order": "hash", "shots": [4, 16], "seeds": {"0": keys, "1": {c: own[::-1] for c, own in keys.items()}}}
    folder.write("split/few_shot.json", pretty_json(form))
    seal(folder.root / "split", "split")
    return form


def dream_folder(folder: DataFolder) -> DataFolder:
    """Everything that DataDream leaves, and no distillation."""
    folder.ingest()
    folder.split()
    few_shot(folder)
    generator(folder)
    for variant in VARIANTS:
        dreams(folder, variant)
    folder.write("evaluate/datadream/results.json", pretty_json(dream_metrics()))
    folder.finish("evaluate@datadream", 14, {})
    return folder
