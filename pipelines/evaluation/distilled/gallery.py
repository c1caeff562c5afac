"""Distilled images beside real ones, a class a row: the very images that the first control was trained on, once there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipelines.artifacts.distilled import shuffled_keys
from pipelines.evaluation.distilled.results import read_results
from pipelines.evaluation.outputs import results_of, run_seed
from pipelines.report.blocks import ClassStrip, ClassStrips
from pipelines.report.pictures import (
    CLASSES,
    first_by_key,
    left_out,
    name_of,
    pictures_of,
    side_by_side,
    within_budget,
)
from pipelines.report.reading import Outputs
from pipelines.seeds import seed_for
from pipelines.shards.dataset import Dataset

#: The kind of product whose outputs are distilled sets.
PRODUCT = "distilled"


#: Images of a class that stand in one line at the most.
MOST = side_by_side(1)


@dataclass(frozen=True)
class _Source:
    """A column: its title, and which images of a dataset it shows of each class."""

    title: str
    dataset: Dataset
    keys: Mapping[int, Sequence[str]]


def gallery(outputs: Outputs, asked: int | None = None) -> ClassStrips | None:
    """Up to `asked` real images of each class, and as many of every distilled set; None where there are no images."""
    count = asked or MOST
    part = "split/train" if outputs.dataset("split", "train") is not None else "ingest"
    real = outputs.dataset("split", "train") or outputs.dataset("ingest")
    sets = [
        (record.name, dataset)
        for record in outputs.finished(product=PRODUCT)
        if (dataset := outputs.dataset(record.name)) is not None
    ]
    seed = run_seed(outputs, "distilled")
    sources: list[_Source] = []
    if real is not None:
        drawn = {} if seed is None else _control_keys(real, seed, count)
        sources.append(_Source("random real" if drawn else "real", real, drawn or first_by_key(real, count)))
    for name, dataset in sets:
        alone = len(sets) == 1
        keys = first_by_key(dataset, count)
        if real is not None and seed is not None and (start := _start_keys(outputs, dataset, keys)):
            sources.append(_Source("its start" if alone else f"start of {name}", real, start))
        sources.append(_Source("distilled" if alone else name, dataset, keys))
    labels = sorted(set().union(*(source.keys for source in sources)))
    names = next((source.dataset.classes for source in sources if source.dataset.classes), [])
    shown = labels[:CLASSES]
    if not shown:
        return None
    each = asked or side_by_side(len(sources))
    columns = [
        replace(source, keys={label: source.keys.get(label, [])[:each] for label in shown}) for source in sources
    ]
    pictures = [pictures_of(source.dataset, source.keys, shown, names) for source in columns]
    rows = [ClassStrip(name_of(names, label), [by_label[label] for by_label in pictures]) for label in shown]
    chosen = sum(len(keys) for source in columns for keys in source.keys.values())
    lost = chosen - sum(len(strip) for row in rows for strip in row.sources)
    rows, light = within_budget(rows, each)
    notes = [_of_real(part, seed is not None)] if real is not None else []
    notes += ["Distilled ones are in order of their slot."] if sets else []
    notes += ["Small images are shown pixel by pixel."]
    if lost:
        notes.append(f"{lost} of the chosen images could not be decoded and are missing here: run limbeck lint.")
    notes.append(left_out(len(labels), len(shown), light, each))
    return ClassStrips("", [source.title for source in sources], rows, " ".join(filter(None, notes)))


def _start_keys(outputs: Outputs, dataset: Dataset, keys: Mapping[int, Sequence[str]]) -> dict[int, list[str]]:
    """The real images that those of `keys` started from, where students were trained on such; empty where nothing says so."""
    arms = read_results(results_of(outputs, "distilled")).arms
    if not any(arm.images_of == "start" for arm in arms):
        return {}
    rows = dataset.rows(["key", "parents"]).to_pylist()
    parents = {row["key"]: row["parents"][0] for row in rows if row["parents"]}
    return {label: [parents[key] for key in own if key in parents] for label, own in keys.items()}


def _of_real(part: str, drawn: bool) -> str:
    if drawn:
        return f"Random real images are those of {part} that the control of seed 0 was trained on."
    return f"Real images are from {part}, the first by key: a fixed random draw, nobody chose them."


def _control_keys(real: Dataset, run_seed: int, count: int) -> dict[int, list[str]]:
    """The images of the control of seed 0, as `random_real` draws them."""
    by_class = shuffled_keys(real, seed_for(run_seed, "evaluate", "random", "0"))
    return {label: keys[:count] for label, keys in enumerate(by_class) if keys}
