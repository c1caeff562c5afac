"""The seconds that a condensed set took to make: wall-clock, of the last run of every stage that its images and labels come from.

They are read from the logs of the runs, which lie beside the outputs and decide nothing. What a stage read of others is what its
declared inputs were when it ran. `ingest` and `split` are left out: real images take them too. A stage that made several sets counts for
one of them with its share; a head of a set counts as the whole, of which it was cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pipelines.artifacts.distilled import source_slug
from pipelines.evaluation.distilled.frontier import Spent
from pipelines.evaluation.distilled.rows import Arm
from pipelines.report.reading import Outputs
from pipelines.report.words import number

#: Stages that real images take too.
FREE = ("ingest", "split")
TEACHER = "squeeze"
#: Nothing is recorded of it.
UNRECORDED = Spent(None)


def spent_on(outputs: Outputs, product: str) -> Callable[[Arm], Spent]:
    """What says of an arm which seconds were spent on its images and labels; condensed sets are the outputs of `product`."""
    sources = {source_slug(record.name): record.name for record in outputs.finished(product=product)}

    def of(arm: Arm) -> Spent:
        roots: dict[str, int] = {}
        part = False
        if arm.images_of == "source":
            if arm.source not in sources:
                return UNRECORDED
            roots[sources[arm.source]] = arm.sets or 1
        elif arm.images_of == "start":
            return UNRECORDED  # chosen in the course of the source's own run
        labelling = f"relabel@{arm.source}"
        if arm.labels == "soft" and arm.is_measured and outputs.done(labelling):
            roots[labelling] = arm.sets or 1
        elif arm.labels != "hard":
            roots[TEACHER] = 1
            part = arm.labels != "online"  # labels are made while the student is trained
        return _summed(outputs, roots, part)

    return of


def _summed(outputs: Outputs, roots: Mapping[str, int], part: bool) -> Spent:
    """Seconds of `roots`, each divided by the number of its sets, and of all that they read, each once."""
    needed = dict(roots)
    waiting = list(roots)
    while waiting:
        for name in outputs.inputs(waiting.pop()):
            if name not in needed and name.partition("@")[0] not in FREE:
                needed[name] = 1
                waiting.append(name)
    total = 0.0
    for name, sets in needed.items():
        log = outputs.stages[name].log if outputs.done(name) else {}
        seconds, ran, units = (number(log.get(key)) for key in ("seconds", "ran", "units"))
        if seconds is None:
            return UNRECORDED
        total += seconds / sets
        part = part or ran != units
    return Spent(total, tuple(sorted(needed)), part)
