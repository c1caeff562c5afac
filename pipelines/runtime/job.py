"""A stage and a job: what the runners and the commands know of the work.

A stage is written against this file only. `plan` runs on the driver and is pure; `open` runs once per worker and holds
models; `run` does one unit; `finish` is the one deterministic reduce at the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar

import pyarrow as pa

from pipelines.config import RunParams, Section, deciding
from pipelines.runtime.units import Marker, Unit, UnitOutput
from pipelines.seeds import seed_for
from pipelines.storage import Storage

ParamsT = TypeVar("ParamsT", bound=Section)


@dataclass(frozen=True)
class Job(Generic[ParamsT]):
    """One run of one stage: its parameters and the folder under which every stage has its output."""

    stage: str
    params: ParamsT
    run: RunParams
    data: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    #: names one run of this job (see `guard`); given by `execute`, empty outside of a run
    token: str = ""
    #: (name, location, SHA-256 of the seal) of the inputs when the run began; given by `execute` (see `inputs`)
    pins: tuple[tuple[str, str, str], ...] = ()
    #: which of a stage's items this is (see `Stage.items`); empty for a stage that has none
    item: str = ""
    #: how the output is opened; a run that seals it names its files first (see `ownership`)
    opened: Callable[[str], Storage] = Storage

    @property
    def name(self) -> str:
        """As `limbeck run` and `dvc repro` take it: STAGE, or STAGE@ITEM."""
        return f"{self.stage}@{self.item}" if self.item else self.stage

    @property
    def output(self) -> Storage:
        return self.opened(f"{self.data}/{self.stage}/{self.item}" if self.item else f"{self.data}/{self.stage}")

    def input(self, stage: str, item: str = "") -> Storage:
        """The output folder of an earlier stage, or of one of its items."""
        storage = Storage(self.inputs.get(stage, f"{self.data}/{stage}"))
        return storage.child(item) if item else storage

    @property
    def logs(self) -> Storage:
        """What is about a run and not about its result (times, hosts); outside every stage's output."""
        return Storage(f"{self.data}/.limbeck")

    def seed(self, key: str, purpose: str) -> int:
        return seed_for(self.run.seed, self.stage, key, purpose)


@dataclass(frozen=True)
class Plan:
    """The units of a job in order, the rows that each works on, by its name, and what `Stage.finish` needs to know.

    `rows` and `tables` are written beside the plan. A unit's identity holds the content of its rows, so that its payload need not.
    """

    units: Sequence[Unit]
    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    rows: Mapping[str, pa.Table] = field(default_factory=dict)


@dataclass(frozen=True)
class Plot:
    """A table that a stage leaves for `dvc plots`: one line for each value of the columns `lines`, where they are given."""

    file: str
    x: str
    y: str
    title: str
    lines: tuple[str, ...] = ()


class Stage(ABC, Generic[ParamsT]):
    """One stage. `version` is raised by hand when the bytes it writes change; a golden test makes one notice."""

    name: ClassVar[str]
    version: ClassVar[int]
    summary: ClassVar[str]
    Params: type[Section]
    upstream: tuple[str, ...] = ()
    workers: ClassVar[Literal["tasks", "actors"]] = "tasks"
    #: float arithmetic runs on a number of threads and that number decides the last bits
    computes: ClassVar[bool] = False
    #: units draw random numbers of their own; where only the plan does, another seed makes nothing anew that it leaves as it was
    draws: ClassVar[bool] = True
    #: packages and modules, with dots, that decide what units write beside the stage's own folder; see `code` for what counts
    code: ClassVar[tuple[str, ...]] = ()
    #: modules of these that only `finish` uses: where they are others the folder is sealed anew and no unit is made again
    reduces: tuple[str, ...] = ()
    #: packages and modules beside its folder that decide what it plans, and show in no other code: `dvc repro` watches them too
    plan_code: ClassVar[tuple[str, ...]] = ()
    #: files of few numbers, and of curves, that its output (or each of its items') leaves for `dvc metrics` and `dvc plots`: what
    #: holds texts or a table by class is shown by the report
    metrics: ClassVar[tuple[str, ...]] = ()
    plots: ClassVar[tuple[Plot, ...]] = ()
    #: folder of the units that decide last on samples which others of the stage made; a sample is counted there
    counted: ClassVar[str] = ""
    #: what its outputs add to a report; `{item}` stands for the item
    adds: ClassVar[str] = ""
    #: what its outputs are called in tables and beside pictures, by item and by "" for the stage's own; without one by their name
    titles: ClassVar[Mapping[str, str]] = {}
    #: many jobs do without it, so a report does not ask for it
    optional: ClassVar[bool] = False
    #: the extras of the installation that bring what it imports
    extras: ClassVar[tuple[str, ...]] = ()
    #: the kind of product that its dataset is, by which evaluations and the report know it: `distilled`
    product: ClassVar[str] = ""

    def items(self, params: ParamsT) -> tuple[str, ...]:
        """Variants of the stage that are run, and kept, apart: DVC's matrix. Each has an output folder of its own."""
        return ()

    def of_item(self, params: ParamsT, item: str) -> ParamsT:
        """The parameters as an item's job has them: those of others may be left out, so that they are none of its own."""
        return params

    def code_of(self, item: str) -> tuple[str, ...]:
        """`code` of one of the stage's items; all have the same unless they run different methods."""
        return self.code

    def plots_of(self, item: str) -> tuple[Plot, ...]:
        """`plots` of one of the stage's items."""
        return self.plots

    def inputs(self, job: Job[ParamsT]) -> Sequence[str]:
        """The outputs of other stages that may be read, as STAGE or STAGE@ITEM."""
        return self.upstream

    def needs(self, job: Job[ParamsT]) -> Sequence[str]:
        """Those of `inputs` that have to be there: `limbeck run all` makes them first, asked for or not."""
        return self.inputs(job)

    def reads(self, params: ParamsT) -> dict[str, str]:
        """The user's own files and folders that the stage reads, by the parameter that names them: paths or URLs."""
        return {}

    def embedded(self, params: ParamsT) -> tuple[str, ...]:
        """The folders of `pipelines/sample` that these parameters read."""
        return ()

    @abstractmethod
    def plan(self, job: Job[ParamsT]) -> Plan:
        """The units, decided from the inputs and the parameters alone."""

    def check(self, job: Job[ParamsT]) -> None:
        """Raise `UserError` for what would stop every unit and costs an import to find out; before anything is touched."""
        return

    def open(self, job: Job[ParamsT]) -> Any:
        """Whatever a worker keeps between units: readers, models."""
        return None

    @abstractmethod
    def run(self, unit: Unit, worker: Any, output: UnitOutput, job: Job[ParamsT]) -> None:
        """Do one unit; write through `output` only."""

    def subject(self, unit: Unit, job: Job[ParamsT]) -> str:
        """What an error of a method in this unit is about: the parameters that decide the unit, as a user writes them."""
        return job.name

    def finish(self, job: Job[ParamsT], plan: Plan, markers: Sequence[Marker]) -> dict[str, Any]:
        """Write whole-set files (index, metrics); returns the facts for stage.json.

        Deterministic, from the job, the plan and the units' files alone. Everything else in the output was removed
        before, so what is not written here is not there afterwards.
        """
        return {}

    def lines(self, job: Job[ParamsT]) -> Sequence[str]:
        """What a run says of its finished output besides what became of samples, a line each."""
        return ()

    def identity_params(self, job: Job[ParamsT]) -> dict[str, Any]:
        """The parameters that every unit is made of, as JSON: see `config.SPEED_ONLY` and `config.PLAN_ONLY` for the others."""
        seed = {"seed": job.run.seed} if self.draws else {}
        return {"own": deciding(job.params)} | seed | ({"threads": job.run.threads} if self.computes else {})
