"""The card of a distilled set: what a stranger who finds the folder has to know, as Markdown.

It claims only what was measured, with the controls, and says what was not.
"""

from __future__ import annotations

import json
import re

from pipelines.evaluation.distilled.claims import claims, headline, remarks
from pipelines.evaluation.distilled.results import PRODUCT, read_results, titles_of
from pipelines.evaluation.distilled.rows import Results
from pipelines.evaluation.distilled.table import accuracy_table
from pipelines.evaluation.outputs import output_of, results_of
from pipelines.report.reading import Outputs, StageRecord
from pipelines.report.words import human_bytes, number

_READING = """```python
import webdataset as wds

images = wds.WebDataset("shards/SHARD", shardshuffle=False).decode("rgb").to_tuple("IMAGE", "cls")
```"""


def cards(outputs: Outputs, title: str) -> dict[str, bytes]:
    """The card of every distilled set by its file's name: `distilled.md` where there is one set, else `STAGE.md`."""
    records = outputs.finished(product=PRODUCT)
    by_name = {record.name: card for record in records if (card := distilled_card(outputs, record, title)) is not None}
    if len(by_name) == 1:
        return {"distilled.md": next(iter(by_name.values()))}
    return {f"{name.replace('@', '_')}.md": card for name, card in by_name.items()}


def distilled_card(outputs: Outputs, record: StageRecord, title: str) -> bytes | None:
    """The card as UTF-8 Markdown; None while there are no images."""
    dataset = outputs.dataset(record.name)
    if dataset is None:
        return None
    stats = outputs.stats(record.name)
    results = read_results(results_of(outputs, "distilled"), titles_of(outputs))
    used = [name for name in outputs.stages if name in {*record.kind.upstream, record.name}]
    config = {name: outputs.stages[name].config.get(outputs.stages[name].stage) for name in used}
    lines = [
        f"# {_plain(title)}: {_plain(record.title)}",
        "",
        f"{len(dataset)} images in {len(dataset.classes)} classes, {human_bytes(number(stats.get('image_bytes')))} "
        f"without labels, made by `{record.name}`: {record.kind.summary}. "
        "They serve to train networks quickly; they do not stand for the real distribution.",
        "",
        "## Results",
        "",
    ]
    if results:
        lines += [_plain(" ".join([headline(results), *claims(results), *remarks(results)])), "", *_table(results), ""]
    else:
        lines += [f"Not measured yet: `limbeck run {output_of('distilled')}`.", ""]
    first = next((shard["name"] for shard in dataset.index["shards"]), "NAME.tar")
    members = dataset.rows(["members"]).slice(0, 1).to_pylist()
    member = members[0]["members"][0]["ext"] if members else "png"
    lines += ["## Reading", "", _READING.replace("SHARD", first).replace("IMAGE", member), ""]
    lines += ["## Classes", "", *(f"{label}. {_plain(name)}" for label, name in enumerate(dataset.classes)), ""]
    lines += ["## How it was made", "", "```json", _fenced(config), "```", ""]
    return "\n".join(lines).encode()


def _table(results: Results) -> list[str]:
    table = accuracy_table(results)
    lines = [f"| {table.corner} | " + " | ".join(table.head) + " |", "| --- |" + " ---: |" * len(table.head)]
    for group, rows in table.groups:
        lines += [f"| {_plain(f'{group}: {row.name}')} | " + " | ".join(map(_plain, row.cells)) + " |" for row in rows]
    return [*lines, "", table.note]


def _plain(text: str) -> str:
    """Text from data that must not become markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", " ".join(text.split()))


def _fenced(value: object) -> str:
    """JSON that cannot close its own fence."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False).replace("```", "\\u0060\\u0060\\u0060")
