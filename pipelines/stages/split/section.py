"""What the report shows of the data: what became of the samples, the datasets, and how many images of each class `split` dealt out.

While nothing is split the classes are those of `ingest`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.report.blocks import Bar, Bars, Beside, Block, Charts, Table
from pipelines.report.facts import dataset_table, outcome_tables
from pipelines.report.reading import Outputs, inner, inner_list
from pipelines.report.section import Options, Section
from pipelines.report.svg import Series, line_chart
from pipelines.report.words import grouped, number

#: Bars of the class balance at the most; more classes are drawn as a line over their rank.
BARS = 40
#: Of the lines of profiles.
COLOURS = ("distilled", "random", "full", "other", "second", "third")


def section(outputs: Outputs, options: Options) -> Section | None:
    """Outcomes, class balance and datasets; None while there is no sample."""
    parts = {name: outputs.stats("split", name) for name in ("train", "val", "test")}
    if not any(parts.values()):
        parts = {"kept": outputs.stats("ingest")}
    outcomes, balance = outcome_tables(outputs), class_balance(parts)
    left: list[Block] = [*outcomes[:1], *([balance] if balance is not None else [])]
    right: list[Block] = [*dataset_table(outputs)]
    profiles = inner(inner(outputs.stages["split"].form, "facts"), "profiles") if outputs.done("split") else {}
    if profiles:
        right += profile_blocks(profiles)
    if not left and not right:
        return None
    return Section("data", "Data", 30, blocks=[Beside([column for column in (left, right) if column]), *outcomes[1:]])


def class_balance(parts: Mapping[str, Mapping[str, Any]]) -> Block | None:
    """Counts per class and part from the `stats.json` of the parts: bars for few classes, a line over the rank for many."""
    counts: dict[str, dict[str, int]] = {}
    for part, stats in parts.items():
        for place, form in enumerate(inner_list(stats, "classes")):
            if isinstance(form, Mapping):
                name = str(form.get("name", place))
                counts.setdefault(name, {})[part] = int(number(form.get("kept")) or 0)
    named = [part for part, stats in parts.items() if stats]
    totals = {name: sum(by_part.values()) for name, by_part in counts.items()}
    largest = max(totals.values(), default=0)
    if not largest:
        return None
    if len(counts) > BARS:
        ranked = sorted(totals.values(), reverse=True)
        line = [(float(rank), float(count)) for rank, count in enumerate(ranked, 1)]
        title = "Images per class, largest first"
        figure = line_chart(title, [Series("images", line, "other")], "rank of class", zero=True, log=False)
        return Charts([figure]) if figure is not None else None
    rows = [
        Bar(
            name,
            [(part, round(100 * by_part.get(part, 0) / largest, 2), by_part.get(part, 0)) for part in named],
            grouped(totals[name]),
        )
        for name, by_part in counts.items()
    ]
    return Bars("Images per class", named, rows)


def profile_blocks(profiles: Mapping[str, Any]) -> list[Block]:
    """What each profile keeps of the training images, as `split` says in its seal: sizes and groups, and the classes by size."""
    rows, lines = [], []
    for place, (name, form) in enumerate(profiles.items()):
        counts = sorted((int(number(count) or 0) for count in inner_list(form, "counts")), reverse=True)
        if not counts:
            continue
        groups = inner(form, "groups")
        rows.append(
            [
                name,
                grouped(sum(counts)),
                f"{grouped(counts[0])} to {grouped(counts[-1])}",
                " / ".join(grouped(number(groups.get(group))) for group in ("many", "medium", "few")),
                grouped(number(form.get("corrupted"))),
            ]
        )
        ranked = [(float(rank), float(count)) for rank, count in enumerate(counts, 1)]
        lines.append(Series(name, ranked, COLOURS[place % len(COLOURS)], dashed=place >= len(COLOURS)))
    head = ("profile", "images", "per class", "classes: many / medium / few", "spoilt")
    note = "A profile chooses from the training images, which stay as they are."
    figure = line_chart("Images per class by profile, largest first", lines, "rank of class", zero=True, log=False)
    return [Table("Profiles", head, rows, note=note), *([Charts([figure])] if figure is not None else [])]
