"""The card of the distilled dataset: what a stranger who finds the folder has to know, as Markdown.

It claims only what was measured, with the controls, and says what was not.
"""

from __future__ import annotations

import json
import re

from pipelines.report.page import ACCURACY_HEAD, accuracy_rows
from pipelines.report.reading import Outputs
from pipelines.report.results import Results, headline, read_results, verdict
from pipelines.report.words import human_bytes, number

#: Columns of the accuracy table that a card repeats.
_COLUMNS = ("last epoch, %", "against random", "seeds", "images", "together", "of full set")

_READING = """```python
import webdataset as wds

images = wds.WebDataset("shards/SHARD", shardshuffle=False).decode("rgb").to_tuple("IMAGE", "cls")
```"""


def distilled_card(outputs: Outputs, title: str) -> bytes | None:
    """The card as UTF-8 Markdown; None while `cda` has made nothing."""
    dataset = outputs.dataset("cda")
    if dataset is None:
        return None
    stats = outputs.stats("cda")
    results = read_results(outputs.json("evaluate@distilled", "results.json"))
    made = {name: stage.config.get(name) for name, stage in outputs.stages.items() if name in ("squeeze", "cda")}
    lines = [
        f"# {_plain(title)}: distilled images",
        "",
        f"{len(dataset)} images in {len(dataset.classes)} classes, {human_bytes(number(stats.get('image_bytes')))} "
        "without labels. They were synthesised by optimisation from a teacher network and are no photographs. "
        "They serve to train networks quickly; they do not stand for the real distribution.",
        "",
        "## Results",
        "",
    ]
    if results:
        lines += [_plain(" ".join([headline(results), *verdict(results)])), "", *_table(results), ""]
    else:
        lines += ["Not measured yet: `limbeck run evaluate`.", ""]
    first = next((shard["name"] for shard in dataset.index["shards"]), "NAME.tar")
    members = dataset.rows(["members"]).slice(0, 1).to_pylist()
    member = members[0]["members"][0]["ext"] if members else "png"
    lines += ["## Reading", "", _READING.replace("SHARD", first).replace("IMAGE", member), ""]
    lines += ["## Classes", "", *(f"{label}. {_plain(name)}" for label, name in enumerate(dataset.classes)), ""]
    lines += ["## How it was made", "", "```json", _fenced(made), "```", ""]
    return "\n".join(lines).encode()


def _table(results: Results) -> list[str]:
    chosen = [ACCURACY_HEAD.index(name) for name in _COLUMNS]
    lines = ["| trained on | " + " | ".join(_COLUMNS) + " |", "| --- |" + " ---: |" * len(_COLUMNS)]
    for group, rows in accuracy_rows(results):
        for name, cells in rows:
            lines.append(f"| {_plain(f'{group}: {name}')} | " + " | ".join(cells[place] for place in chosen) + " |")
    return lines


def _plain(text: str) -> str:
    """Text from data that must not become markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", " ".join(text.split()))


def _fenced(value: object) -> str:
    """JSON that cannot close its own fence."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False).replace("```", "\\u0060\\u0060\\u0060")
