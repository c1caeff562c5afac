"""What the report shows of `discl`: spectra of several images with their scores, the yields by level and class, the curricula as charts.

What the images are worth is measured by `evaluate@discl`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.report.blocks import Block, BoxGrid, Charts, Folded, Shown, Table
from pipelines.report.pictures import BUDGET, name_of, picture_of
from pipelines.report.reading import Outputs, inner, inner_list, object_of
from pipelines.report.section import Options, Section
from pipelines.report.svg import Figure, drawing
from pipelines.report.words import UNKNOWN, grouped, number, share
from pipelines.shards.dataset import Dataset
from pipelines.stages.discl.params import GENERATED, KEPT

#: Real images whose spectra are shown, and the longest side of a picture on the page, pixels.
IMAGES, SIDE = 6, 96
#: Sides of the curricula's charts, and room at the left and below.
WIDTH, LEFT, ROW, BELOW = 360, 38, 18, 34

Row = Mapping[str, Any]


def section(outputs: Outputs, options: Options) -> Section | None:
    """The spectra that were made; None while the stage is not finished."""
    if not outputs.done("discl"):
        return None
    grid = spectra(outputs, options.samples_per_class or IMAGES)
    metrics = outputs.json("discl", "metrics.json")
    charts = curriculum_charts(outputs)
    tables = yield_tables(metrics)
    blocks: list[Block] = [*([grid] if grid is not None else [])]
    blocks += [*tables[:1], *([Charts(charts)] if charts else [])]
    blocks += [Folded("Yields by class", tables[1:])] if len(tables) > 1 else []
    return Section("discl", "DisCL: spectra and curricula", 23, blocks=blocks)


def spectra(outputs: Outputs, count: int) -> BoxGrid | None:
    """One real image of each hard class, then more of them, each beside what was made of it at every level from 0 up."""
    generated, kept, train = (
        outputs.dataset("discl", GENERATED),
        outputs.dataset("discl", KEPT),
        outputs.dataset("split", "train"),
    )
    if generated is None:
        return None
    columns = ["key", "label", "width", "height", "members", "params", "parents"]
    by_parent: dict[str, list[Row]] = {}
    for row in generated.rows(columns).to_pylist():
        facts = object_of(row["params"])
        if number(facts.get("ordinal")) == 0 and row["parents"]:
            by_parent.setdefault(row["parents"][0], []).append({**row, "facts": facts})
    chosen = _one_of_each_class(by_parent, count)
    admitted = set() if kept is None else set(kept.rows(["key"])["key"].to_pylist())
    real = _real_rows(train, chosen)
    names = generated.classes
    rows: list[list[Shown]] = []
    spent = 0
    for parent in chosen:
        own = sorted(by_parent[parent], key=lambda row: number(row["facts"].get("level")) or 0)
        name = name_of(names, own[0]["label"])
        shown = []
        if train is not None and parent in real and (source := _shown(train, real[parent], name, "real image", [])):
            shown.append(source)
        for row in own:
            state = "kept" if row["key"] in admitted else "dropped"
            title = f"level {row['facts'].get('level', UNKNOWN)} · {state}"
            if one := _shown(generated, row, name, title, _told(row["facts"])):
                shown.append(one)
        spent += sum(len(one.picture.uri) for one in shown)
        if spent > BUDGET and rows:
            break
        rows.append(shown)
    if not rows:
        return None
    summary = (
        "Each row is a hard training image and the first image that was made of it at every guidance level, from text alone (0) up. Under "
        "each: the cosine to the text of its class, to its real image, and which try it is. Nobody chose them."
    )
    return BoxGrid("Spectra", "", summary, rows, open=len(rows), narrow=True)


def _one_of_each_class(by_parent: Mapping[str, Sequence[Row]], count: int) -> list[str]:
    """The first real images by key, class after class in turn."""
    by_label: dict[int, list[str]] = {}
    for parent in sorted(by_parent):
        by_label.setdefault(by_parent[parent][0]["label"], []).append(parent)
    turns = max((len(own) for own in by_label.values()), default=0)
    ordered = [
        by_label[label][turn] for turn in range(turns) for label in sorted(by_label) if turn < len(by_label[label])
    ]
    return ordered[:count]


def _real_rows(train: Dataset | None, keys: Sequence[str]) -> dict[str, Row]:
    if train is None:
        return {}
    wanted = set(keys)
    rows = train.rows(["key", "width", "height", "members"])
    places = [place for place, key in enumerate(rows["key"].to_pylist()) if key in wanted]
    return {row["key"]: row for row in rows.take(places).to_pylist()}


def _shown(dataset: Dataset, row: Row, name: str, title: str, told: Sequence[tuple[str, str]]) -> Shown | None:
    picture = picture_of(dataset, row, f"{name}, {title}", SIDE, SIDE)
    if picture is None:
        return None
    return Shown(title if told else f"{name}, {title}", picture, picture.width, picture.height, (), told)


def _told(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    scores = inner(facts, "scores")
    cosines = [("text", scores.get("text_cosine")), ("source", scores.get("source_cosine"))]
    told = [(name, _cosine(value)) for name, value in cosines]
    attempt = number(facts.get("attempt"))
    return [*told, ("try", UNKNOWN if attempt is None else f"{int(attempt) + 1} of {facts.get('tries', UNKNOWN)}")]


def _cosine(value: Any) -> str:
    figure = number(value)
    return UNKNOWN if figure is None else f"{figure:.3f}".replace("-", "−")


def yield_tables(metrics: Mapping[str, Any]) -> list[Table]:
    """What became of the cells, by level, and by class beside the bound of its text cosine."""
    head = ("cells", "images tried", "tries a cell", "kept", "share", "text cosine", "source cosine")
    levels = [[f"level {level}", *_cells(form)] for level, form in inner(metrics, "levels").items()]
    bounds = inner(metrics, "bounds")
    classes = [
        [name, *_cells(form), _cosine(bounds.get(name))] for name, form in sorted(inner(metrics, "classes").items())
    ]
    note = f"Of {grouped(number(metrics.get('hard')))} hard images. Cosines are means of the best tries."
    tables = [Table("Yields by level", ("", *head), levels, note=note)] if levels else []
    return tables + ([Table("Yields by class", ("", *head, "bound"), classes)] if classes else [])


def _cells(form: Any) -> list[str]:
    if not isinstance(form, Mapping):
        return [UNKNOWN] * 7
    images, tries, kept = (number(form.get(name)) for name in ("images", "tries", "kept"))
    each = UNKNOWN if not images or tries is None else f"{tries / images:.2f}"
    counts = [grouped(images), grouped(tries), each, grouped(kept), share(kept, images)]
    return [*counts, _cosine(form.get("text_cosine")), _cosine(form.get("source_cosine"))]


def curriculum_charts(outputs: Outputs) -> list[Figure]:
    """A chart of each curriculum: which levels are trained on in which epoch."""
    charts = []
    for path in outputs.files("discl", "curriculum"):
        form = outputs.json("discl", path)
        epochs = [row for row in inner_list(form, "epochs") if isinstance(row, Mapping)]
        if epochs:
            charts.append(_chart(str(form.get("strategy", path)).replace("_", " "), epochs))
    return charts


def _chart(strategy: str, epochs: Sequence[Mapping[str, Any]]) -> Figure:
    """Epochs from left to right, levels from below up, a box where a level is trained on: hollow where it is one to choose from."""
    levels = sorted({int(level) for row in epochs for level in inner_list(row, "levels")} | {100})
    height = 8 + ROW * len(levels)
    step = (WIDTH - LEFT - 10) / len(epochs)
    parts = []
    for place, level in enumerate(reversed(levels)):
        top = 8 + ROW * place
        name = "real" if level == 100 else str(level)
        parts.append(f'<text class="t" x="{LEFT - 5}" y="{top + 12}" text-anchor="end">{name}</text>')
        for number_of, row in enumerate(epochs):
            if level in inner_list(row, "levels") or level == 100:
                colour = "full" if level == 100 else "distilled"
                hollow = level != 100 and row.get("adaptive")
                style = f"fill:{'none' if hollow else f'var(--{colour})'};stroke:var(--{colour})"
                parts.append(
                    f'<rect style="{style}" stroke-width="0.5" x="{LEFT + step * number_of:.2f}" y="{top + 3}" '
                    f'width="{max(step - 0.6, 0.4):.2f}" height="{ROW - 6}"/>'
                )
    parts += [
        f'<text class="t" x="{LEFT + step * (at + 0.5):.1f}" y="{height + 14}" text-anchor="middle">{at}</text>'
        for at in sorted({0, len(epochs) // 2, len(epochs) - 1})
    ]
    parts.append(f'<text class="t" x="{WIDTH - 10}" y="{height + 29}" text-anchor="end">epoch</text>')
    first, last = epochs[0], epochs[-1]
    note = (
        f"An epoch has {grouped(number(first.get('real')))} other real images, {grouped(number(first.get('tail')))} hard ones and "
        f"{grouped(number(first.get('synthetic')))} synthetic; the last, {grouped(number(last.get('tail')))} hard and "
        f"{grouped(number(last.get('synthetic')))} synthetic"
    )
    if any(row.get("adaptive") for row in epochs):
        note += "; hollow: levels of which progress chooses one"
    return Figure(f"Levels by epoch, {strategy}", drawing(parts, height + BELOW, strategy), (), note)
