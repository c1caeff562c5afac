"""`d3hr`: real images and a class-conditional generator -> distilled images of representative latents (D3HR, ICML 2025).

One item per variant: `improved`, and `reference` with the published arithmetic. Units come in waves: real images are inverted to a
noise level and leave the moments of their classes; from these the group of latents is chosen that stands for each class; it is
generated from there. Another group inverts nothing again, nor does another level that was in the sweep.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pipelines.artifacts.datasets import METRICS_FILE, finished
from pipelines.artifacts.generators import generator_bytes, generator_model
from pipelines.runtime.code import WRITERS
from pipelines.runtime.committed import Committed
from pipelines.runtime.device import require_synth, torch_device
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.publication import publish_datasets
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.stages.d3hr.figures import printed
from pipelines.stages.d3hr.params import DIAGNOSTICS, DISTILLED, SCORES_TABLE, D3hrParams, scores_file
from pipelines.stages.d3hr.payloads import PAYLOADS
from pipelines.stages.d3hr.planning import ItemPlan
from pipelines.storage import pretty_json


class D3hr(Stage[D3hrParams]):
    """Inverts, selects, generates."""

    name = "d3hr"
    version = 1
    summary = "real images + generator -> distilled images of representative latents (D3HR)"
    adds = "the distilled images of d3hr {item}"
    titles: ClassVar[Mapping[str, str]] = {"improved": "D3HR", "reference": "D3HR as published"}
    optional = True
    extras = ("synth", "distill")
    product = "distilled"
    Params = D3hrParams
    upstream = ("split", "generator")
    code = ("augment", "distill", "synth", "pipelines.artifacts", "pipelines.images", "pipelines.loaders", *WRITERS)
    workers = "actors"
    computes = True
    counted = DISTILLED
    metrics = (METRICS_FILE,)

    def items(self, params: D3hrParams) -> tuple[str, ...]:
        return params.variants

    def plan(self, job: Job[D3hrParams]) -> Plan:
        planned = ItemPlan(job)
        units = list(planned.units())
        return Plan(units, facts={"classes": planned.classes, "ipc": job.params.ipc}, rows=planned.rows)

    def check(self, job: Job[D3hrParams]) -> None:
        require_synth("d3hr")
        torch_device(job)
        generator_model(job, job.params.model)

    def subject(self, unit: Unit, job: Job[D3hrParams]) -> str:
        return {"invert": "d3hr.invert", "select": "d3hr.select"}.get(unit.kind, job.name)

    def open(self, job: Job[D3hrParams]) -> Any:
        from pipelines.stages.d3hr.worker import Distiller

        return Distiller(job)

    def run(self, unit: Unit, worker: Any, output: UnitOutput, job: Job[D3hrParams]) -> None:
        getattr(worker, unit.kind)(PAYLOADS[unit.kind].from_json(unit.payload), output)

    def finish(self, job: Job[D3hrParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        committed, params = Committed(job, markers), job.params
        tables = [committed.read(scores_file(number)).decode() for number in range(params.seeds)]
        header, body = tables[0].split("\n", 1)[0], "".join(table.split("\n", 1)[1] for table in tables)
        job.output.write_bytes(SCORES_TABLE, f"{header}\n{body}".encode())
        settings = params.inversion_of(job.item)
        where = (settings.level, settings.scale)
        measured = {(row["level"], row["guidance"]): row for row in committed.json(f"{DIAGNOSTICS}.json")}
        metrics = _metrics(markers, measured[where])
        metrics["generator_bytes"] = generator_bytes(job, params.model)
        job.output.write_bytes(METRICS_FILE, pretty_json(metrics))
        sets = f" of each of {params.seeds} sets" if params.seeds > 1 else ""
        described = f"distilled images by D3HR, {job.item}, {plan.facts['ipc']} per class{sets}"
        extra = {"name": f"d3hr_{job.item}", "description": described}
        return publish_datasets(job.output, markers, plan.facts["classes"], extra) | {"variant": job.item, **metrics}

    def lines(self, job: Job[D3hrParams]) -> Sequence[str]:
        """The figures of each level, where a sweep was asked for."""
        sweep = job.params.sweep
        if not (sweep.levels or sweep.guidances):
            return ()
        return printed(finished(job, job.stage, job.item).json(f"{DIAGNOSTICS}.json"))


def _metrics(markers: Sequence[Marker], own: Mapping[str, Any]) -> dict[str, Any]:
    """Few numbers: images inverted and not, how far groups are from their classes, figures of `own` level, how images came back."""
    kinds: dict[str, list[Marker]] = {kind: [] for kind in PAYLOADS}
    for marker in markers:
        kinds[marker.kind].append(marker)
    outcomes: Counter[str] = Counter()
    for marker in kinds["invert"]:
        outcomes.update(marker.counts)
    sets = [marker.summary for marker in kinds["select"]]
    metrics: dict[str, Any] = {
        "real_images": outcomes["kept"],
        "real_images_failed": outcomes["failed"],
        "black": sum(marker.summary["black"] for marker in kinds["decode"]),
        "score": {part: sum(one[part] for one in sets) / len(sets) for part in sets[0]},
        "level": own["level"],
        "guidance": own["guidance"],
        "diagnostics": {name: value for name, value in own.items() if name not in ("level", "guidance", "classes")},
    }
    if kinds["round_trip"]:
        metrics["round_trip"] = kinds["round_trip"][0].summary
    return metrics
