"""Images of condensed sets beside real ones: the very images that the first control was trained on, once there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipelines.artifacts.distilled import shuffled_keys, source_slug
from pipelines.evaluation.distilled.results import PRODUCT, read_results
from pipelines.evaluation.distilled.rows import Arm
from pipelines.evaluation.outputs import results_of, run_seed
from pipelines.report.blocks import ClassStrip, ClassStrips, Picture, SourceStrips
from pipelines.report.pictures import (
    CLASSES,
    first_by_key,
    left_out,
    name_of,
    pictures_of,
    side_by_side,
    within_budget,
)
from pipelines.report.reading import Outputs, StageRecord
from pipelines.seeds import seed_for
from pipelines.shards.dataset import Dataset

#: Images of a class that stand in one line at the most.
MOST = side_by_side(1)
#: Sources that stand beside one another; more stand one under another, with so many images in a line.
BESIDE, IN_LINE = 4, 12


@dataclass(frozen=True)
class _Source:
    """A column or a row: its title, and which images of a dataset it shows of each class."""

    title: str
    dataset: Dataset
    keys: Mapping[int, Sequence[str]]


def gallery(outputs: Outputs, asked: int | None = None) -> ClassStrips | SourceStrips | None:
    """Up to `asked` real images of each class, and as many of every condensed set; None where there are no images.

    A class a row while the sets fit beside one another; more of them stand a row each, with fewer images of each class.
    """
    part = "split/train" if outputs.dataset("split", "train") is not None else "ingest"
    real = outputs.dataset("split", "train") or outputs.dataset("ingest")
    sets = [
        (record, dataset)
        for record in outputs.finished(product=PRODUCT)
        if (dataset := outputs.dataset(record.name)) is not None
    ]
    seed = run_seed(outputs, "distilled")
    sources = _sources(outputs, real, sets, seed, asked or MOST)
    labels = sorted(set().union(*(source.keys for source in sources)))
    names = next((source.dataset.classes for source in sources if source.dataset.classes), [])
    if not labels:
        return None
    notes = [_of_real(part, seed is not None)] if real is not None else []
    notes += ["Images of a set are in order of their slot."] if sets else []
    notes += ["Small images are shown pixel by pixel."]
    if len(sources) > BESIDE:
        return _by_source(sources, labels, names, asked, notes)
    return _by_class(sources, labels, names, asked, notes)


def _sources(
    outputs: Outputs, real: Dataset | None, sets: Sequence[tuple[StageRecord, Dataset]], seed: int | None, count: int
) -> list[_Source]:
    """Real images, measured sets, each after what it started from where students were trained on that, and sets that are controls."""
    sources: list[_Source] = []
    if real is not None:
        drawn = {} if seed is None else _control_keys(real, seed, count)
        sources.append(_Source("random real" if drawn else "real", real, drawn or first_by_key(real, count)))
    arms = read_results(results_of(outputs, "distilled")).arms
    started, controls = ({arm.source for arm in arms if kind(arm)} for kind in (_is_start, _is_control))
    alone = len(sets) == 1
    for record, dataset in sorted(sets, key=lambda one: source_slug(one[0].name) in controls):
        keys = first_by_key(dataset, count)
        if real is not None and source_slug(record.name) in started and (start := _start_keys(dataset, keys)):
            sources.append(_Source("its start" if alone else f"start of {record.title}", real, start))
        sources.append(_Source("distilled" if alone else record.title, dataset, keys))
    return sources


def _by_class(
    sources: Sequence[_Source], labels: Sequence[int], names: Sequence[str], asked: int | None, notes: list[str]
) -> ClassStrips:
    shown, each = labels[:CLASSES], asked or side_by_side(len(sources))
    pictures, lost = _pictures(sources, shown, names, each)
    rows = [ClassStrip(name_of(names, label), [by_label[label] for by_label in pictures]) for label in shown]
    rows, light = within_budget(rows, each)
    notes += [*_missing(lost), left_out(len(labels), len(shown), light, each)]
    return ClassStrips("", [source.title for source in sources], rows, " ".join(filter(None, notes)))


def _by_source(
    sources: Sequence[_Source], labels: Sequence[int], names: Sequence[str], asked: int | None, notes: list[str]
) -> SourceStrips:
    shown = labels[:IN_LINE]
    each = min(asked or MOST, max(1, IN_LINE // len(shown)))
    pictures, lost = _pictures(sources, shown, names, each)
    rows = [
        ClassStrip(source.title, [by_label[label] for label in shown])
        for source, by_label in zip(sources, pictures, strict=True)
    ]
    rows, light = within_budget(rows, each)
    notes += [*_missing(lost), left_out(len(labels), len(shown), light, each)]
    return SourceStrips("", [name_of(names, label) for label in shown], rows, " ".join(filter(None, notes)))


def _pictures(
    sources: Sequence[_Source], labels: Sequence[int], names: Sequence[str], each: int
) -> tuple[list[dict[int, list[Picture]]], int]:
    """The pictures of each source by class, `each` of them at the most, and how many do not decode."""
    columns = [
        replace(source, keys={label: source.keys.get(label, [])[:each] for label in labels}) for source in sources
    ]
    pictures = [pictures_of(source.dataset, source.keys, labels, names) for source in columns]
    chosen = sum(len(keys) for source in columns for keys in source.keys.values())
    return pictures, chosen - sum(len(strip) for by_label in pictures for strip in by_label.values())


def _missing(lost: int) -> list[str]:
    if not lost:
        return []
    return [f"{lost} of the chosen images could not be decoded and are missing here: run limbeck lint."]


def _is_start(arm: Arm) -> bool:
    return arm.images_of == "start"


def _is_control(arm: Arm) -> bool:
    return arm.is_distilled and not arm.is_measured


def _start_keys(dataset: Dataset, keys: Mapping[int, Sequence[str]]) -> dict[int, list[str]]:
    """The real images that those of `keys` started from; empty where nothing says so."""
    rows = dataset.rows(["key", "parents"]).to_pylist()
    parents = {row["key"]: row["parents"][0] for row in rows if row["parents"]}
    return {label: [parents[key] for key in own if key in parents] for label, own in keys.items()} if parents else {}


def _of_real(part: str, drawn: bool) -> str:
    if drawn:
        return f"Random real images are those of {part} that the control of seed 0 was trained on."
    return f"Real images are from {part}, the first by key: a fixed random draw, nobody chose them."


def _control_keys(real: Dataset, run_seed: int, count: int) -> dict[int, list[str]]:
    """The images of the control of seed 0, as `random_real` draws them."""
    by_class = shuffled_keys(real, seed_for(run_seed, "evaluate", "random", "0"))
    return {label: keys[:count] for label, keys in enumerate(by_class) if keys}
