"""`samples`: a class-conditional generator -> as many of its images per class, as they come or pulled to the modes of the class (MGD3).

One item per method. `plain` is the control of every method that makes its images with the same generator. Units come in waves: for
`modes` real images are encoded, and the latents of a class clustered; then images are made. A unit of images is a block of the list of
all slots, classes of a slot together: more images per class leave the blocks that are full as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pipelines.artifacts.datasets import METRICS_FILE
from pipelines.artifacts.generators import generator_bytes, generator_model
from pipelines.runtime.code import WRITERS
from pipelines.runtime.device import require_synth, torch_device
from pipelines.runtime.job import Job, Plan, Stage
from pipelines.runtime.publication import publish_datasets
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.stages.samples.params import MADE, SamplesParams
from pipelines.stages.samples.payloads import PAYLOADS
from pipelines.stages.samples.planning import ItemPlan
from pipelines.storage import pretty_json


class Samples(Stage[SamplesParams]):
    """Asks the generator."""

    name = "samples"
    version = 1
    summary = "generator -> plain samples, and samples pulled to modes (MGD3), as condensed sets"
    adds = "the generator's images, {item}"
    titles: ClassVar[Mapping[str, str]] = {"plain": "generator samples", "modes": "mode guidance"}
    optional = True
    extras = ("synth", "distill")
    product = "distilled"
    Params = SamplesParams
    upstream = ("split", "generator")
    code = ("augment", "distill", "synth", "pipelines.artifacts", "pipelines.images", "pipelines.loaders", *WRITERS)
    workers = "actors"
    computes = True
    metrics = (METRICS_FILE,)
    counted = MADE

    def items(self, params: SamplesParams) -> tuple[str, ...]:
        return params.methods

    def plan(self, job: Job[SamplesParams]) -> Plan:
        planned = ItemPlan(job)
        units = list(planned.units())
        return Plan(units, facts={"classes": planned.classes}, rows=planned.rows)

    def check(self, job: Job[SamplesParams]) -> None:
        require_synth("samples")
        torch_device(job)
        generator_model(job, "classes")

    def subject(self, unit: Unit, job: Job[SamplesParams]) -> str:
        return {"cluster": "samples.ipc", "generate": "samples.generate"}.get(unit.kind, job.name)

    def open(self, job: Job[SamplesParams]) -> Any:
        from pipelines.stages.samples.worker import Sampling

        return Sampling(job)

    def run(self, unit: Unit, worker: Any, output: UnitOutput, job: Job[SamplesParams]) -> None:
        getattr(worker, unit.kind)(PAYLOADS[unit.kind].from_json(unit.payload), output)

    def finish(self, job: Job[SamplesParams], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        metrics = _metrics(markers) | {"generator_bytes": generator_bytes(job, "classes")}
        job.output.write_bytes(METRICS_FILE, pretty_json(metrics))
        sets = f" of each of {job.params.seeds} sets" if job.params.seeds > 1 else ""
        described = f"{self.titles[job.item]}, {job.params.ipc} per class{sets}"
        extra = {"name": f"samples_{job.item}", "description": described}
        return publish_datasets(job.output, markers, plan.facts["classes"], extra) | {"method": job.item} | metrics


def _metrics(markers: Sequence[Marker]) -> dict[str, Any]:
    """Few numbers: images made, those of them that are black or no numbers, and what share of a class's variance its modes explain."""
    made = [marker for marker in markers if marker.kind == "generate"]
    metrics: dict[str, Any] = {
        "images": sum(marker.counts.get("kept", 0) for marker in made),
        "failed": sum(marker.counts.get("failed", 0) for marker in made),
        "black": sum(marker.summary["black"] for marker in made),
    }
    encoded = [marker for marker in markers if marker.kind == "encode"]
    if encoded:
        explained = [value for marker in markers if marker.kind == "cluster" for value in marker.summary["explained"]]
        metrics |= {
            "real_images": sum(marker.counts.get("kept", 0) for marker in encoded),
            "real_images_failed": sum(marker.counts.get("failed", 0) for marker in encoded),
            "explained": round(sum(explained) / len(explained), 6),
        }
    return metrics
