"""`limbeck dvc`: dvc.yaml from what the stages declare and the parameters ask for, put into the text of the file that is there.

Of a stage that bears the name of one of ours and runs it, these are ours: `matrix`, dependencies on outputs, on our code and on
what parameters name, the parameters, and the output. All else is the user's and stays: stages of other names, comments, options of
commands and outputs, `desc`, `frozen`, dependencies of another kind. Under `meta.limbeck` stand the dependencies that parameters
name, so that the old one goes when a parameter names another folder and a hand-written one stays. A stage that nobody asks for goes,
unless the user froze it: what it made stays in the data folder and in dvc.lock, and counts when it is asked for again. It is not
frozen, since DVC stops over a frozen stage whose output is not there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.commands.dvc_commands import DVC_FILE, body_of, commands, named_in, own_command, read_text
from pipelines.commands.dvc_wanted import (
    PACKAGES,
    Options,
    Pipeline,
    Wanted,
    is_ours,
    own_inputs,
    place_of,
    plots_of,
    template_of,
    wanted,
)
from pipelines.commands.yaml_text import Item, YamlText, flow
from pipelines.errors import UserError
from pipelines.runtime.job import Plot
from pipelines.stages import STAGES, get_stage
from pipelines.storage import pretty_json

_MARK = "limbeck"
_HEAD = """# Written by `limbeck dvc` from what the stages declare and params.yaml asks for; `limbeck dvc --check` says whether it fits.
# Stages of your own, comments, options of commands and of outputs stay as you write them. persist: true keeps a stage's
# output while it runs: the ledger inside decides what is still to do.
stages:
"""
#: Where DVC looks for templates of plots.
_TEMPLATES = Path(".dvc/plots")


@dataclass
class Change:
    """What dvc.yaml lacks of a stage, or names in vain."""

    stage: str
    said: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.stage}: {' and '.join(self.said)}"


def update(check: bool, file: Path = DVC_FILE, options: Options | None = None) -> list[Change]:
    """Bring a dvc.yaml up to date with the parameters, or only look; returns what changed or would.

    A file that is not there is written. Templates of plots are written where DVC looks for them, if `dvc init` was called.
    """
    pipeline = Pipeline(options or Options(), file.parent)
    text = read_text(file)
    edited = YamlText(_HEAD + "  {}\n" if text is None else text, str(file))
    changes = _Edit(edited, pipeline).all()
    templates = {path: body for path, body in _templates(pipeline).items() if not _is(path, body)}
    changes += [Change(str(path.relative_to(file.parent)), ["a template of plots is written"]) for path in templates]
    if not check:
        if edited.text != text:
            _replace(file, edited.text)
        for path, body in templates.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path, body)
    return changes


def fresh(options: Options, root: Path) -> str:
    """The dvc.yaml of a folder that has none."""
    edited = YamlText(_HEAD + "  {}\n", "dvc.yaml")
    _Edit(edited, Pipeline(options, root)).all()
    return edited.text


def _replace(file: Path, text: str) -> None:
    temporary = file.with_name(f".{file.name}.limbeck-{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)


class _Edit:
    """One pass over a file."""

    def __init__(self, text: YamlText, pipeline: Pipeline) -> None:
        self._text, self._pipeline = text, pipeline
        self._root = pipeline.root
        if not isinstance(text.value("stages"), dict):
            raise UserError(f"{text.name} has no stages; write it anew with: limbeck dvc, in a folder without it")

    def all(self) -> list[Change]:
        text, asked = self._text, self._pipeline.asked
        changes: list[Change] = []
        for stage in STAGES:
            body = ("stages", stage)
            if text.node(*body) is None:
                if stage in asked and stage not in self._run_by_others():
                    changes.append(self._added(stage))
            elif (own := own_command(text, stage)) is not None:
                changes.append(self._edited(stage, own))
        theirs = [name for name in text.keys("stages") if name not in STAGES or own_command(text, name) is None]
        changes += [self._followed(name) for name in theirs]
        changes += [self._listed("metrics", self._metrics()), self._listed("plots", self._plots())]
        return [change for change in changes if change.said]

    def _run_by_others(self) -> set[str]:
        """The stages that stages of the user's run into this data folder: two of DVC's stages may not have one output."""
        here = place_of(self._pipeline.options.data, self._root)
        bodies = [(name, body_of(self._text, name)) for name in self._text.keys("stages")]
        ran = [one for name, body in bodies for one in commands(self._text, body) if one[0] != name]
        return {stage for stage, options in ran if place_of(options.data, self._root) == here}

    def _added(self, stage: str) -> Change:
        pipeline = self._pipeline
        block = wanted(stage, pipeline, pipeline.asked).block(pipeline.options)
        self._text.add_block(block, list(STAGES), stage, "stages")
        return Change(stage, ["is added"])

    def _edited(self, stage: str, options: Options) -> Change:
        change, text, body = Change(stage), self._text, ("stages", stage)
        if stage not in self._pipeline.asked:
            if text.value(*body, "frozen") is not True:
                text.remove(*body)
                change.said.append("goes, nobody asks for it")
            return change
        pipeline = self._pipeline if options == self._pipeline.options else Pipeline(options, self._root)
        dimensions = text.keys(*body, "matrix")
        want = wanted(stage, pipeline, self._pipeline.asked, *dimensions[:1])
        self._set_matrix(body, want, change)
        self._set_params(body, want, change)
        outs = [name for name in text.names(*body, "outs") if not _is_output(name, stage, pipeline)]
        self._set_list((*body, "outs"), [*outs, want.output], change, [*outs, {want.output: {"persist": True}}])
        self._set_deps(body, want.deps, want.inputs, change)
        return change

    def _set_matrix(self, body: tuple[str, ...], want: Wanted, change: Change) -> None:
        text, path = self._text, (*body, "matrix")
        dimension = want.item.removeprefix("${item.").removesuffix("}")
        if want.item and text.value(*path, dimension) != YamlText(f"m: {want.matrix}\n", "").value("m"):
            if text.node(*path) is None:
                text.set_value(flow_matrix(dimension, want.matrix), *path)
            else:
                text.set_value(want.matrix, *path, dimension)
            change.said.append(f"runs {want.matrix}")
        elif not want.item and text.node(*path) is not None:
            text.remove(*path)
            change.said.append("has no items")
        command = str(text.value(*body, "cmd"))
        name = f"{want.stage}@{want.item}" if want.item else want.stage
        now = named_in(command)
        if now is not None and now != name:
            text.set_value(command.replace(f"run {now}", f"run {name}", 1), *body, "cmd")
            change.said.append(f"runs limbeck run {name}")

    def _set_params(self, body: tuple[str, ...], want: Wanted, change: Change) -> None:
        now = self._text.value(*body, "params") or []
        ours = {"run", *STAGES}
        plain = [one for one in now if isinstance(one, str) and one.partition(".")[0] not in ours]
        files = {name: keys for one in now if isinstance(one, dict) for name, keys in one.items()}
        wanted_files = {name: keys for one in want.params if not isinstance(one, str) for name, keys in one.items()}
        strings = [one for one in want.params if isinstance(one, str)]
        items: list[Any] = [*strings, *plain]
        items += [{name: keys} for name, keys in (files | wanted_files).items()]
        if sorted(map(flow, items)) != sorted(map(flow, now)):
            if items:
                self._text.set_value(flow(items), *body, "params")
            else:
                self._text.remove(*body, "params")
            change.said.append(f"depends on the parameters {', '.join(map(flow, want.params)) or 'of no section'}")

    def _set_deps(
        self, body: tuple[str, ...], deps: Sequence[str], inputs: Sequence[str], change: Change, code: bool = True
    ) -> None:
        text, path = self._text, (*body, "deps")
        now, marked = text.names(*path), text.names(*body, "meta", _MARK)
        kept = [one for one in now if one in deps or not (one in marked or (code and self._is_ours(one)))]
        self._set_list(path, [*kept, *(one for one in deps if one not in kept)], change)
        mark = [one for one in inputs if one in marked or one not in now]  # hand-written ones stay the hand's
        if mark != marked:
            if mark:
                self._mark(body, _MARK, flow(mark))
            else:
                text.remove(*body, "meta", _MARK)

    def _is_ours(self, dependency: str) -> bool:
        """Whether a dependency is an output of ours, or code."""
        data = self._pipeline.options.data
        package = dependency.split("/")[0]
        output = any(f"{dependency}/".startswith(f"{data}/{stage}/") for stage in STAGES)
        return output or (package in PACKAGES and is_ours(package, self._root))

    def _set_list(
        self, path: tuple[str, ...], names: list[str], change: Change, items: Sequence[Item] | None = None
    ) -> None:
        now = self._text.names(*path)
        if sorted(now) == sorted(names):
            return
        self._text.set_list(names if items is None else items, *path)
        parts = [f"adds {', '.join(new)}"] if (new := [one for one in names if one not in now]) else []
        parts += [f"drops {', '.join(old)}"] if (old := [one for one in now if one not in names]) else []
        change.said += parts

    def _mark(self, body: tuple[str, ...], name: str, value: str) -> None:
        if self._text.keys(*body, "meta"):
            self._text.set_value(value, *body, "meta", name)
        else:
            self._text.set_value(f"{{{name}: {value}}}", *body, "meta")

    def _followed(self, name: str) -> Change:
        """A stage of the user's that runs ours: what its parameters name becomes a dependency, and no more.

        One that is frozen stays as it is: DVC asks for no dependency of it, and what lies on this machine is no matter of the file.
        """
        change = Change(name)
        body = body_of(self._text, name)
        if self._text.value(*body, "frozen") is True:
            return change
        written: list[Path] = []
        inputs: dict[str, None] = {}
        for stage, options in commands(self._text, body):
            pipeline = Pipeline(options, self._root)
            written.append(place_of(f"{options.data}/{stage}", self._root))
            for job in pipeline.jobs(stage):
                inputs |= dict.fromkeys(own_inputs(job, self._root, written))
        now, marked = self._text.names(*body, "deps"), self._text.names(*body, "meta", _MARK)
        if isinstance(self._text.value(*body), dict) and (inputs or marked):
            theirs = [one for one in now if one not in marked]
            self._set_deps(body, [*theirs, *inputs], list(inputs), change, code=False)
        return change

    def _metrics(self) -> dict[str, Item]:
        return {path: path for path, _ in self._declared()[0]}

    def _plots(self) -> dict[str, Item]:
        return {path: plots_of(plot, path, _template(stage, plot)) for path, (stage, plot) in self._declared()[1]}

    def _declared(self) -> tuple[list[tuple[str, None]], list[tuple[str, tuple[str, Plot]]]]:
        pipeline = self._pipeline
        metrics: list[tuple[str, None]] = []
        plots: list[tuple[str, tuple[str, Plot]]] = []
        for stage in pipeline.asked:
            for job in pipeline.jobs(stage):
                output, declared = pipeline.output(job.name), get_stage(stage)
                metrics += [(f"{output}/{file}", None) for file in declared.metrics]
                plots += [(f"{output}/{plot.file}", (stage, plot)) for plot in declared.plots_of(job.item)]
        return metrics, plots

    def _listed(self, key: str, items: dict[str, Item]) -> Change:
        """A list of the whole file; an entry of ours that the user wrote differently stays as it is."""
        change, text = Change(key), self._text
        now = text.names(key)
        theirs = [one for one in now if one not in items and not self._is_listed_by_us(key, one)]
        names = [one for one in now if one in items or one in theirs]
        names += [one for one in items if one not in names]
        if text.node(key) is None and names:
            lines = "".join(f"  - {_listed_item(items[name])}\n" for name in names)
            text.append(f"\n{key}:\n{lines}")
            change.said.append(f"adds {', '.join(names)}")
        else:
            self._set_list((key,), names, change, [items.get(name, name) for name in names])
        return change

    def _is_listed_by_us(self, key: str, path: str) -> bool:
        """Whether an entry is of a stage's own file, of an item that may be none any more."""
        for stage in STAGES:
            folder, _, file = path.removeprefix(f"{self._pipeline.output(stage)}/").rpartition("/")
            if path.startswith(f"{self._pipeline.output(stage)}/") and "/" not in folder:
                known = get_stage(stage)
                jobs = self._pipeline.jobs(stage)
                plots = [*known.plots, *(plot for job in jobs for plot in known.plots_of(job.item))]
                return file in (known.metrics if key == "metrics" else [plot.file for plot in plots])
        return False


def _listed_item(item: Item) -> str:
    if isinstance(item, str):
        return flow(item)
    ((name, options),) = item.items()
    return f"{flow(name)}: {flow(options)}"


def flow_matrix(dimension: str, matrix: str) -> str:
    """A matrix of one dimension in one line; DVC's ${} needs quotes there."""
    return f'{{{dimension}: "{matrix}"}}' if matrix.startswith("${") else f"{{{dimension}: {matrix}}}"


def _is_output(name: str, stage: str, pipeline: Pipeline) -> bool:
    return f"{name}/".startswith(f"{pipeline.output(stage)}/")


def _template(stage: str, plot: Plot) -> str:
    return f"{stage}_{plot.file.rpartition('/')[2].partition('.')[0]}" if plot.lines else "linear"


def _templates(pipeline: Pipeline) -> dict[Path, str]:
    """The templates of plots that draw several lines, where DVC looks for them; none without its folder."""
    if not (pipeline.root / ".dvc").is_dir():
        return {}
    jobs = [job for stage in pipeline.asked for job in pipeline.jobs(stage)]
    plots = [(job.stage, plot) for job in jobs for plot in get_stage(job.stage).plots_of(job.item) if plot.lines]
    folder = pipeline.root / _TEMPLATES
    return {folder / f"{_template(*one)}.json": pretty_json(template_of(one[1])).decode() for one in plots}


def _is(path: Path, body: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == body
