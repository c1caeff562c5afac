"""What the report shows of `datadream`: real next to generated images of every class, what the filters did, and how good the images are.

What they are worth is measured by `evaluate@datadream`. The variants of a class show the same ordinals, which start from the same
noise; nobody chose them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.evaluation.datadream.section import VARIANTS
from pipelines.report.blocks import Block, ClassStrip, ClassStrips, Folded, Picture, Table
from pipelines.report.pictures import CLASSES, left_out, name_of, picture_of, within_budget
from pipelines.report.reading import Outputs, inner, inner_list, object_of
from pipelines.report.section import Options, Section
from pipelines.report.words import UNKNOWN, grouped, number, share
from pipelines.shards.dataset import Dataset

#: Images of each source and class where nobody asked for more, and the longest side of one on the page, pixels.
IMAGES, SIDE = 4, 64

#: Quality figures in the order of the table: name in metrics.json -> column.
FIGURES = {
    "fid": "FID",
    "kid": "KID",
    "cmmd": "CMMD",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "vendi": "Vendi",
    "vendi_real": "Vendi of real",
    "nearest_mean": "nearest real, mean",
    "nearest_max": "nearest real, largest",
}

#: Rows of a variant's images by (shots, few-shot seed) and label.
Sets = dict[tuple[int, int], dict[int, list[dict[str, Any]]]]


def section(outputs: Outputs, options: Options) -> Section | None:
    """The images of the variants that are finished; None when none is."""
    variants = [variant for variant in VARIANTS if outputs.done(f"datadream@{variant}")]
    if not variants:
        return None
    strips = class_strips(outputs, variants, options.samples_per_class or IMAGES)
    metrics = {variant: outputs.json(f"datadream@{variant}", "metrics.json") for variant in variants}
    tables = [table for table in (filter_table(metrics), quality_table(metrics)) if table is not None]
    blocks: list[Block] = [*([strips] if strips is not None else [])]
    blocks += [Folded("What the filters did, and figures of quality", tables)] if tables else []
    return Section("datadream-images", "DataDream: images", 21, blocks=blocks)


def class_strips(outputs: Outputs, variants: Sequence[str], count: int) -> ClassStrips | None:
    """Real few-shot images beside the first ordinals of every variant, a class a row, and which set they are of."""
    sets = {variant: _sets(outputs, variant) for variant in variants}
    adapted = [where for by_set in sets.values() for where in by_set if where[0]]
    shots, seed = max(adapted, key=lambda where: (where[0], -where[1]), default=(0, 0))
    chosen = {variant: by_set.get((shots, seed)) or by_set.get((0, 0), {}) for variant, by_set in sets.items()}
    every = sorted({label for by_label in chosen.values() for label in by_label})
    labels = every[:CLASSES]
    if not labels:
        return None
    train, real = _few_shot(outputs, shots, seed, count)
    names = next((d.classes for v in variants if (d := _generated(outputs, v)) is not None), [])
    rows = []
    for label in labels:
        name = name_of(names, label)
        sources = [_shown(train, real.get(label, []), name)] if train is not None else []
        sources += [
            _shown(_generated(outputs, variant), chosen[variant].get(label, [])[:count], name) for variant in variants
        ]
        rows.append(ClassStrip(name, sources))
    rows, shown = within_budget(rows, count)
    columns = [*(["real"] if train is not None else []), *(VARIANTS[variant] for variant in variants)]
    of_set = f"{shots} shots, few-shot seed {seed}. " if shots else ""
    # The start noise follows from the few-shot seed, and that of zero-shot images is 0.
    same = " The first image of every variant starts from the same noise, and so on." if seed == 0 else ""
    limits = left_out(len(every), len(rows), shown, count)
    note = f"{of_set}The first by number, before any filter; nobody chose them.{same} {limits}".rstrip()
    return ClassStrips("Real and generated images", columns, rows, note)


def _generated(outputs: Outputs, variant: str) -> Dataset | None:
    """All that a variant generated, before any filter, or what was kept if only that is there."""
    stage = f"datadream@{variant}"
    return outputs.dataset(stage, "generated") or outputs.dataset(stage, "kept")


def _sets(outputs: Outputs, variant: str) -> Sets:
    """Rows in order of their ordinal."""
    dataset = _generated(outputs, variant)
    sets: Sets = {}
    if dataset is None:
        return sets
    rows = dataset.rows(["key", "label", "width", "height", "members", "params"]).to_pylist()
    labelled = [(object_of(row["params"]), row) for row in rows if row["label"] is not None]
    for params, row in sorted(labelled, key=lambda one: (number(one[0].get("ordinal")) or 0, one[1]["key"])):
        where = (int(number(params.get("shots")) or 0), int(number(params.get("few_shot_seed")) or 0))
        sets.setdefault(where, {}).setdefault(row["label"], []).append(row)
    return sets


def _few_shot(
    outputs: Outputs, shots: int, seed: int, count: int
) -> tuple[Dataset | None, dict[int, list[dict[str, Any]]]]:
    """The first real images that adapters of this set were trained on; without a set, the first of the manifest."""
    train = outputs.dataset("split", "train")
    seeds = inner(outputs.json("split", "few_shot.json"), "seeds")
    manifest = seeds.get(str(seed)) or next(iter(seeds.values()), None)
    if train is None or not isinstance(manifest, dict):
        return None, {}
    by_label = {
        int(label): inner_list(manifest, label)[: min(shots or count, count)] for label in manifest if label.isdecimal()
    }
    keys = {str(key) for chosen in by_label.values() for key in chosen}
    rows = train.rows(["key", "label", "width", "height", "members"]).to_pylist()
    by_key = {row["key"]: row for row in rows if row["key"] in keys}
    return train, {label: [by_key[key] for key in chosen if key in by_key] for label, chosen in by_label.items()}


def _shown(dataset: Dataset | None, rows: Sequence[Mapping[str, Any]], name: str) -> list[Picture]:
    if dataset is None:
        return []
    pictures = (picture_of(dataset, row, name, 2 * SIDE, SIDE) for row in rows)
    return [picture for picture in pictures if picture is not None]


def filter_table(metrics: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """What the filters dropped and why, by variant and few-shot set."""
    sets = [(f"{VARIANTS[v]}, {_tag(tag)}", form) for v, tags in metrics.items() for tag, form in _forms(tags)]
    if not sets:
        return None
    reasons = sorted({reason for _, form in sets for reason in inner(form, "dropped")})
    rows = []
    for name, form in sets:
        images, kept = number(form.get("images")), number(form.get("kept"))
        counts = [grouped(number(inner(form, "dropped").get(reason, 0))) for reason in reasons]
        adapters = number(inner(form, "adapters").get("adapters"))
        rows.append([name, grouped(adapters), grouped(images), grouped(kept), share(kept, images), *counts])
    head = ("images", "adapters", "made", "kept", "share", *(reason.replace("_", " ") for reason in reasons))
    note = "" if reasons else "No image was dropped."
    return Table("What the filters did", head, rows, note=note)


def quality_table(metrics: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """Figures of what was generated and of what was kept; None where no set has any."""
    rows: list[tuple[str, Mapping[str, Any]]] = []
    against: set[str] = set()
    for variant, tags in metrics.items():
        for tag, form in _forms(tags):
            quality = inner(form, "quality")
            for part in ("generated", "kept"):
                overall = inner(inner(quality, part), "overall")
                if overall:
                    rows.append((f"{VARIANTS[variant]}, {_tag(tag)}, {part}", overall))
                    against.add(f"{quality.get('against', UNKNOWN)} by {quality.get('features', UNKNOWN)} features")
    shown = [name for name in FIGURES if any(number(figures.get(name)) is not None for _, figures in rows)]
    if not shown:
        return None
    cells = [
        [name, grouped(number(figures.get("generated"))), *(_figure(figures.get(one)) for one in shown)]
        for name, figures in rows
    ]
    note = f"Against split/{', '.join(sorted(against))}. Distances: lower is nearer; compare at equal numbers of images only."
    return Table("Quality of the images", ("images", "count", *(FIGURES[name] for name in shown)), cells, note=note)


def _forms(tags: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(tag, tags[tag]) for tag in sorted(tags) if isinstance(tags[tag], dict)]


def _tag(tag: str) -> str:
    """`shots04-seed0` -> `4 shots, seed 0`; zero-shot images know no real ones."""
    shots, _, seed = tag.partition("-")
    count = shots.removeprefix("shots").lstrip("0")
    return f"{count} shots, seed {seed.removeprefix('seed')}" if count else "no real images"


def _figure(value: Any) -> str:
    figure = number(value)
    return UNKNOWN if figure is None else f"{figure:.3g}".replace("-", "−")
