"""What dvc.yaml says of a stage, from what the stage declares and its parameters ask for.

`dvc_file` puts it into a file; here nothing is written.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipelines.commands.asked import asked_for
from pipelines.commands.jobs import checked_sections, jobs_of
from pipelines.commands.yaml_text import Item, flow
from pipelines.config import read_params
from pipelines.errors import UserError
from pipelines.locations import is_url, local_path
from pipelines.runtime.job import Job, Plot
from pipelines.stages import STAGES, get_stage

#: The packages that a stage's code lies in.
PACKAGES = ("pipelines", "synth", "distill", "augment")
#: Modules of one package that are named by themselves; of more the package is, which is more than decides the bytes: a stage that
#: has nothing to do says so in a second.
_FEW = 2
#: What DVC calls the one dimension of a stage's matrix.
DIMENSION = "name"
DEFAULT_PARAMS = "params.yaml"


@dataclass(frozen=True)
class Options:
    """How a command finds its parameters and its data folder."""

    params: str = DEFAULT_PARAMS
    overrides: tuple[str, ...] = ()
    data: str = "data"


class Pipeline:
    """The stages that parameters ask for, as a dvc.yaml in the folder `root` would run them."""

    def __init__(self, options: Options, root: Path) -> None:
        if is_url(options.data):
            raise UserError(f"--data {options.data}: DVC keeps outputs in local folders; name one")
        self.options, self.root = options, root
        self.raw = read_params(root / options.params, options.overrides)
        self.sections: Mapping[str, BaseModel] = checked_sections(self.raw, options.params)

    @cached_property
    def asked(self) -> tuple[str, ...]:
        return asked_for(self.raw, self.sections, self.options.data)

    def jobs(self, stage: str) -> list[Job[Any]]:
        return jobs_of(stage, self.sections, self.options.data)

    def output(self, name: str) -> str:
        """Where STAGE or STAGE@ITEM lies, as dvc.yaml writes it."""
        return f"{self.options.data}/{name.replace('@', '/')}"


@dataclass(frozen=True)
class Wanted:
    """The keys of a stage in dvc.yaml that are Limbeck's; `inputs` are those of `deps` that are the user's own."""

    stage: str
    item: str
    matrix: str
    params: tuple[Item, ...]
    deps: tuple[str, ...]
    inputs: tuple[str, ...]
    output: str

    def command(self, options: Options) -> str:
        words = ["limbeck run", f"{self.stage}@{self.item}" if self.item else self.stage]
        words += [f"--params {options.params}"] if options.params != DEFAULT_PARAMS else []
        words += [f"--data {options.data}"] if options.data != "data" else []
        return " ".join(words)

    def block(self, options: Options) -> str:
        """The stage's lines in a file that has none yet."""
        lines = [f"  {self.stage}:"]
        lines += ["    matrix:", f"      {DIMENSION}: {self.matrix}"] if self.item else []
        lines += [f"    cmd: {self.command(options)}", f"    params: {flow(list(self.params))}"]
        lines += [f"    deps: {flow(list(self.deps))}"] if self.deps else []
        lines += ["    outs:", f"      - {self.output}: {{persist: true}}"]
        lines += [f"    meta: {{limbeck: {flow(list(self.inputs))}}}"] if self.inputs else []
        return "\n".join(lines) + "\n"


def wanted(stage: str, pipeline: Pipeline, asked: Iterable[str], dimension: str = DIMENSION) -> Wanted:
    """What dvc.yaml is to say of a stage; `asked` are the stages whose outputs are there to be read."""
    jobs, declared = pipeline.jobs(stage), get_stage(stage)
    has_items = any(job.item for job in jobs)
    item = f"${{item.{dimension}}}" if has_items else ""
    inputs = tuple(dict.fromkeys(path for job in jobs for path in own_inputs(job, pipeline.root)))
    deps = [*_upstream(jobs, pipeline, set(asked)), *_code(jobs, pipeline.root), *inputs]
    return Wanted(
        stage,
        item,
        _matrix(stage, [job.item for job in jobs], pipeline) if has_items else "",
        _params(stage, declared.computes, pipeline),
        tuple(dict.fromkeys(deps)),
        inputs,
        pipeline.output(f"{stage}@{item}" if item else stage),
    )


def _matrix(stage: str, items: Sequence[str], pipeline: Pipeline) -> str:
    """The items, as the key of params.yaml that lists them where there is one: then DVC follows it by itself."""
    section = pipeline.raw.get(stage)
    if pipeline.options.params == DEFAULT_PARAMS and not pipeline.options.overrides and isinstance(section, dict):
        for name, value in section.items():
            if value == list(items):
                return f"${{{stage}.{name}}}"
    return flow(list(items))


def _params(stage: str, computes: bool, pipeline: Pipeline) -> tuple[Item, ...]:
    """The keys of the parameter file that a stage depends on: DVC takes none that are not there."""
    run = pipeline.raw.get("run")
    names = []
    if isinstance(run, dict):
        names.append("run.seed" if "seed" in run and not computes else "run")
    names += [stage] if stage in pipeline.raw else []
    return tuple(names) if pipeline.options.params == DEFAULT_PARAMS else ({pipeline.options.params: names},)


def _upstream(jobs: Sequence[Job[Any]], pipeline: Pipeline, asked: set[str]) -> list[str]:
    """The outputs of other stages: the folder of all items where all are read, so that another item needs no other line."""
    read = dict.fromkeys(name for job in jobs for name in get_stage(job.stage).inputs(job))
    outputs: dict[str, None] = {}
    for name in read:
        stage, _, item = name.partition("@")
        if stage not in asked or stage == jobs[0].stage:
            continue
        there = {job.item for job in pipeline.jobs(stage)}
        every = not item or {f"{stage}@{one}" for one in there} <= set(read)
        if every or item in there:
            outputs[pipeline.output(stage if every else name)] = None
    return list(outputs)


def _code(jobs: Sequence[Job[Any]], root: Path) -> list[str]:
    """The packages and modules that decide a stage's bytes, and embedded data, where they lie beside dvc.yaml."""
    stage = get_stage(jobs[0].stage)
    package, _, last = type(stage).__module__.rpartition(".")
    own = package if last == "stage" else type(stage).__module__
    modules = dict.fromkeys([own, *stage.plan_code, *(name for job in jobs for name in stage.code_of(job.item))])
    within = Counter(name.rpartition(".")[0] for name in modules)
    parents = {name: name.rpartition(".")[0] for name in modules}
    names = dict.fromkeys(up if "." in up and within[up] > _FEW else name for name, up in parents.items())
    paths = [path for name in names if (path := _beside(name, root)) is not None]
    paths += [f"pipelines/sample/{name}" for name in stage.embedded(jobs[0].params) if is_ours("pipelines", root)]
    return [path for path in paths if not any(path.startswith(f"{other}/") for other in paths)]


def _beside(module: str, root: Path) -> str | None:
    path = module.replace(".", "/")
    if not is_ours(path.split("/")[0], root):
        return None
    return path if (root / path).is_dir() else f"{path}.py" if (root / f"{path}.py").is_file() else None


def is_ours(package: str, root: Path) -> bool:
    """Whether a folder beside dvc.yaml is a package of Limbeck: the one that runs, and no other of its name."""
    spec = find_spec(package) if package in PACKAGES else None
    return spec is not None and spec.origin is not None and Path(spec.origin).parent == (root / package).resolve()


def own_inputs(job: Job[Any], root: Path, written: Sequence[Path] = ()) -> list[str]:
    """The local files and folders that a stage's parameters name, as dvc.yaml writes them; none that a stage writes, or
    another command of the same stage of dvc.yaml (`written`)."""
    inputs: dict[str, None] = {}
    outputs = [*written, *(place_of(f"{job.data}/{stage}", root) for stage in STAGES)]
    for path in get_stage(job.stage).reads(job.params).values():
        place = place_of(path, root)
        if not is_url(path) and place.exists() and not any(place.is_relative_to(other) for other in outputs):
            inputs[_as_written(path, place, root)] = None
    return list(inputs)


def _as_written(path: str, place: Path, root: Path) -> str:
    """Relative to dvc.yaml where the parameter is; absolute where it leads out by itself."""
    if Path(path).is_absolute() or path.startswith(("~", "file:", "local:")):
        return str(place)
    return Path(os.path.relpath(place, root.absolute())).as_posix()


def place_of(path: str, root: Path) -> Path:
    """Where a path of a parameter leads, for a command that runs in the folder `root`."""
    written = local_path(path) if path.startswith(("~", "file:", "local:")) else root.absolute() / path
    return Path(os.path.normpath(written))


def plots_of(plot: Plot, path: str, template: str) -> Item:
    """The entry of a plot in dvc.yaml."""
    return {path: {"x": plot.x, "y": plot.y, "title": plot.title, "template": template}}


def template_of(plot: Plot) -> dict[str, Any]:
    """A Vega-Lite template for DVC with a line for each value of the plot's columns `lines`: the mean where they hold several."""
    name = " + ' ' + ".join(f"datum['{column}']" for column in plot.lines)
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "data": {"values": "<DVC_METRIC_DATA>", "format": {"parse": {plot.x: "number", plot.y: "number"}}},
        "title": {"text": "<DVC_METRIC_TITLE>", "anchor": "middle"},
        "width": 400,
        "height": 300,
        "transform": [{"filter": f"isValid(datum['{plot.y}'])"}, {"calculate": name, "as": "line"}],
        "mark": {"type": "line", "point": True},
        "encoding": {
            "x": {"field": plot.x, "type": "quantitative", "title": "<DVC_METRIC_X_LABEL>"},
            "y": {
                "aggregate": "mean",
                "field": plot.y,
                "type": "quantitative",
                "title": "<DVC_METRIC_Y_LABEL>",
                "scale": {"zero": False},
            },
            "color": {"field": "line", "type": "nominal", "title": ", ".join(plot.lines)},
            "strokeDash": {"field": "rev", "type": "nominal", "title": "revision"},
        },
    }
