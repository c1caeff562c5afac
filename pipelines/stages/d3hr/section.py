"""What the report shows of `d3hr`: whether real images survive the way up and down, and how Gaussian their classes are up there.

The distilled images themselves stand beside real ones where all condensed sets do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.images.probe import probe
from pipelines.outcomes import Outcome
from pipelines.report.blocks import Block, Charts, ClassStrip, ClassStrips, Folded, Picture, Sentences, Table
from pipelines.report.pictures import encoded_picture, left_out, name_of, picture_of, side_by_side, within_budget
from pipelines.report.reading import Outputs, inner
from pipelines.report.section import Options, Section
from pipelines.report.series import Rows, points_of
from pipelines.report.svg import Figure, Series, line_chart
from pipelines.report.words import grouped, number
from pipelines.shards.dataset import Dataset
from pipelines.stages.d3hr.figures import HEAD, cells, verdict
from pipelines.stages.d3hr.params import DIAGNOSTICS, ROUND_TRIP_TABLE, round_trip_file

#: Variants, and what they are called here.
VARIANTS = {"improved": "D3HR", "reference": "as published"}
#: Charts over levels: column, and the title.
_CHARTS = {
    "cosine": "Class mean and clean mean: cosine",
    "variance": "Variance within classes",
    "kurtosis": "Excess kurtosis (Gaussian: 0)",
    "correlation": "Correlation of two dimensions",
}
_COLOURS = ("distilled", "random", "other", "second")


def section(outputs: Outputs, options: Options) -> Section | None:
    """The variants that are finished; None when none is."""
    variants = [variant for variant in VARIANTS if outputs.done(f"d3hr@{variant}")]
    if not variants:
        return None
    rows = {variant: outputs.csv(f"d3hr@{variant}", f"{DIAGNOSTICS}.csv") for variant in variants}
    metrics = {variant: outputs.json(f"d3hr@{variant}", "metrics.json") for variant in variants}
    sentences = [sentence for variant in variants for sentence in _sentences(VARIANTS[variant], metrics[variant])]
    strips = round_trip(outputs, variants, options.samples_per_class)
    blocks: list[Block] = [Sentences(sentences)] if sentences else []
    blocks += [strips] if strips is not None else []
    if table := level_table(rows):
        figures = level_figures(rows)
        blocks.append(Folded("Classes by level", [table, *([Charts(figures)] if figures else [])]))
    return Section("d3hr", "D3HR: representative latents", 52, blocks=blocks)


def _sentences(name: str, metrics: Mapping[str, Any]) -> list[str]:
    """What was inverted, what that amounts to, and how real images came back."""
    images, failed = (number(metrics.get(part)) for part in ("real_images", "real_images_failed"))
    if not images:
        return []
    left = f"; {grouped(failed)} more gave latents that are no numbers and are left out" if failed else ""
    row = inner(metrics, "diagnostics") | {part: metrics.get(part) for part in ("level", "guidance")}
    sentences = [f"{name}: {grouped(images)} real images were inverted{left}. {verdict(row)}"]
    error = number(inner(metrics, "round_trip").get("latent_error"))
    if error is not None:
        sentences.append(
            f"{name}: a real image that is inverted and generated again comes back {error:.0%} off, as latents."
        )
    return sentences


def round_trip(outputs: Outputs, variants: Sequence[str], asked: int | None) -> ClassStrips | None:
    """Real images, what the autoencoder alone makes of them, and what inversion and generation do, of the first classes."""
    tables = {variant: outputs.csv(f"d3hr@{variant}", ROUND_TRIP_TABLE) for variant in variants}
    first = next((variant for variant in variants if tables[variant]), None)
    train = outputs.dataset("split", "train")
    if first is None or train is None:
        return None
    # A variant has inverted others where it takes other images: shown are those of the first, and of others the same ones.
    shown = [(row["key"], int(row["label"]), int(row["place"])) for row in tables[first]]
    places = {
        variant: {row["key"]: (int(row["label"]), int(row["place"])) for row in rows}
        for variant, rows in tables.items()
    }
    columns = ["real", "autoencoder", *(f"{VARIANTS[variant]}, again" for variant in variants)]
    count = asked or side_by_side(len(columns))
    stored = _stored(train, [key for key, *_ in shown])
    rows = []
    for label in sorted({label for _, label, _ in shown}):
        name = name_of(train.classes, label)
        keys = [key for key, of, place in shown if of == label and place < count]
        real = [picture_of(train, stored[key], name) for key in keys if key in stored]
        decoded = [_written(outputs, first, places[first][key], "decoded", name) for key in keys]
        again = [
            [_written(outputs, variant, places[variant][key], "again", name) for key in keys if key in places[variant]]
            for variant in variants
        ]
        rows.append(ClassStrip(name, [_there(one) for one in (real, decoded, *again)]))
    rows, light = within_budget(rows, count)
    limits = left_out(len(train.classes), len(rows), light, count)
    note = f"The first real images in the order in which they are inverted; nobody chose them. {limits}".rstrip()
    return ClassStrips("Real images, inverted and generated again", columns, rows, note)


def _stored(train: Dataset, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    wanted = set(keys)
    rows = train.rows(["key", "width", "height", "members"])
    places = [place for place, key in enumerate(rows["key"].to_pylist()) if key in wanted]
    return {row["key"]: row for row in rows.take(places).to_pylist()}


def _written(outputs: Outputs, variant: str, place: tuple[int, int], what: str, name: str) -> Picture | None:
    """A picture that the unit of the round trip left."""
    raw = outputs.raw(f"d3hr@{variant}", round_trip_file(*place, what))
    header = None if raw is None else probe(raw)
    if raw is None or header is None or isinstance(header, Outcome):
        return None
    return encoded_picture(raw, "png", (header.width, header.height), f"{name}, {what}")


def _there(pictures: Sequence[Picture | None]) -> list[Picture]:
    return [picture for picture in pictures if picture is not None]


def level_table(rows: Mapping[str, Rows]) -> Table | None:
    """The figures of every level, by variant; None without any."""
    lines = [[VARIANTS[variant], *cells(row)] for variant, own in rows.items() for row in own]
    note = (
        "Means over classes. Cosine: between a class's mean at the level and that of its clean latents; mean: its root mean square over "
        "dimensions; noised: what noising forward to the level gives; correlation: mean absolute of two dimensions of a class, and what "
        "chance gives for as many images."
    )
    return Table("Classes by level", ("variant", *HEAD), lines, note=note) if lines else None


def level_figures(rows: Mapping[str, Rows]) -> list[Figure]:
    """Lines over levels, one for each variant and guidance that was measured at several."""
    lines: dict[str, list[Mapping[str, str]]] = {}
    for variant, own in rows.items():
        for row in own:
            lines.setdefault(f"{VARIANTS[variant]}, guidance {row.get('guidance', '')}", []).append(row)
    several = {name: own for name, own in lines.items() if len(own) > 1}
    figures = []
    for column, title in _CHARTS.items():
        series = [
            Series(
                name, points_of(own, "level", column), _COLOURS[place % len(_COLOURS)], dashed=place >= len(_COLOURS)
            )
            for place, (name, own) in enumerate(several.items())
        ]
        figure = line_chart(title, series, "level")
        figures += [figure] if figure is not None else []
    return figures
