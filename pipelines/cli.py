"""The command line: one command, one stage. Words and tables here; the work is elsewhere.

Exit codes: 0 done, 1 a bug, 2 a user error (one clear sentence), 3 a stage that stopped on failures, 130 interrupted.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from pipelines.commands.hints import Given
from pipelines.commands.tables import View, json_text
from pipelines.errors import LimbeckError, UserError
from pipelines.runtime.machine import MACHINE_ERRORS
from pipelines.stages import STAGES
from pipelines.terminal import ShownFormatter, format_warning, shown

app = typer.Typer(
    name="limbeck",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Turn web-scale images into small, versioned training sets.\n\n"
    "[bold]Examples[/bold]\n\n"
    "  limbeck run ingest                      bring data/ingest up to date\n\n"
    "  limbeck run all                         every stage that the parameters ask for, in order\n\n"
    "  limbeck run cda --set cda.ipc=2         with another parameter\n\n"
    "  limbeck run ingest --runner ray         on all cores, or on the cluster of RAY_ADDRESS\n\n"
    "  limbeck status                          what is done, what is left\n\n"
    "  limbeck lint data/split/train           check any WebDataset",
)
console = Console()
_given = Given()
errors = Console(stderr=True)

Params = Annotated[Path, typer.Option("--params", help="Parameter file, one section per stage.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override one parameter: section.key=value.")]
Data = Annotated[
    str,
    typer.Option(
        "--data", help="Folder (~ is your home), or URL such as s3://bucket/folder, that holds every stage's output."
    ),
]
STAGE_HELP = "A stage of the pipeline, such as ingest or squeeze; of a stage with items all of them, or STAGE@ITEM."
StageName = Annotated[str, typer.Argument(help=STAGE_HELP)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
KeepCode = Annotated[
    bool, typer.Option("--keep-code", help="Keep units that other code made of the same; stage.json says so.")
]
DEFAULT_PARAMS = Path("params.yaml")
INTERRUPTED = 130
#: A path that leads where it cannot, such as a file that stands for a folder.
FOLDER_ERRORS = frozenset({errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT})


def _version(asked: bool) -> None:
    if asked:
        from pipelines import __version__

        print(f"limbeck {__version__}")
        raise typer.Exit


@app.callback()
def every_verb(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of limbeck itself; `app` has the words that are shown."""


@app.command()
def run(
    stages: Annotated[
        list[str],
        typer.Argument(
            help=f"{STAGE_HELP} Several are run in the order of the pipeline; all: what parameters ask for."
        ),
    ],
    params: Params = DEFAULT_PARAMS,
    overrides: Overrides = None,
    data: Data = "data",
    runner: Annotated[
        str, typer.Option(help="serial, ray, or auto: ray when RAY_ADDRESS or --workers is given.")
    ] = "auto",
    workers: Annotated[int | None, typer.Option(min=1, help="Units at a time (ray).")] = None,
    verify: Annotated[bool, typer.Option(help="Hash finished files instead of trusting their sizes.")] = False,
    debug: Annotated[bool, typer.Option(help="Raise the first error with its traceback (serial).")] = False,
    keep_code: KeepCode = False,
) -> None:
    """Bring stages up to date: do the units that are not done, then publish.

    Example: limbeck run ingest split --params recipes/fashion_mnist_full.yaml --runner ray --workers 4
    """
    from pipelines.commands import asked, runs

    _remember(params, overrides, data)
    chosen = asked.choose(stages, params, overrides or [], data)
    for name in chosen.skipped:
        _say(f"{name}: skipped, {params} does not ask for it; give it a section '{name}:', or: limbeck run {name}")
    warn = partial(_say, to=errors)
    for line in runs.run_stages(chosen.jobs, runner, workers, verify, debug, say=_say, warn=warn, keep_code=keep_code):
        _say(line, errors)


@app.command()
def plan(
    stage: StageName,
    params: Params = DEFAULT_PARAMS,
    overrides: Overrides = None,
    data: Data = "data",
    as_json: AsJson = False,
) -> None:
    """Show the units of a stage and which of them would run. Changes nothing.

    Example: limbeck plan ingest --set ingest.shard_samples=500
    """
    from pipelines.commands import jobs, views

    _remember(params, overrides, data)
    _show([views.plan_view(job) for job in jobs.make_jobs(stage, params, overrides or [], data)], as_json, "plans")


@app.command()
def status(
    data: Data = "data",
    params: Annotated[
        Path | None, typer.Option("--params", help="Compare with this file; params.yaml for the folder data.")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show every stage: running, done, stale or unfinished; units, outcomes, size, last run.

    Example: limbeck status --data /scratch/run7 --params recipes/cifar10_jpeg.yaml
    """
    from pipelines.commands import asked
    from pipelines.commands.status import status_view

    _remember(params or DEFAULT_PARAMS, overrides, data)
    if params is None and data == "data" and DEFAULT_PARAMS.exists():
        params = DEFAULT_PARAMS
    jobs = {}
    if params is not None:
        try:
            chosen = asked.choose([*STAGES], params, overrides or [], data)
            jobs = {job.name: job for items in chosen.jobs.values() for job in items}
        except UserError as error:
            _say(f"note: nothing is compared with the parameters, which are not valid: {error}", errors)
    _show([status_view(data, jobs, _given.keep)], as_json)


@app.command()
def retry(
    stage: StageName,
    error_class: Annotated[str, typer.Option("--class", help="transient, permanent or policy.")] = "transient",
    params: Params = DEFAULT_PARAMS,
    overrides: Overrides = None,
    data: Data = "data",
    runner: Annotated[str, typer.Option(help="serial, ray or auto.")] = "auto",
    workers: Annotated[int | None, typer.Option(min=1, help="Units at a time (ray).")] = None,
    keep_code: KeepCode = False,
) -> None:
    """Run again the units that hold samples which failed with an error of one class.

    Example: limbeck retry ingest --class transient
    """
    from pipelines.commands import jobs, runs

    _remember(params, overrides, data)
    job = jobs.make_job(stage, params, overrides or [], data)
    _say(runs.retry_stage(job, error_class, runner, workers, say=_say, keep_code=keep_code))


@app.command()
def lint(
    url: Annotated[str, typer.Argument(help="A dataset folder, a folder of tars, or one tar.")],
    decode: Annotated[bool, typer.Option(help="Decode every image too.")] = True,
    as_json: AsJson = False,
) -> None:
    """Check anyone's WebDataset, ours included; exit code 3 if something is wrong.

    Example: limbeck lint data/split/train
    """
    from pipelines.commands import views

    view, ok = views.lint_view(url, decode)
    _show([view], as_json)
    if not ok:
        raise typer.Exit(3)


@app.command()
def info(
    name: Annotated[
        str, typer.Argument(help="STAGE, STAGE@ITEM or STAGE/PART in the data folder, or a path or URL of a dataset.")
    ],
    failed: Annotated[bool, typer.Option("--failed", help="List the samples that were lost, with reasons.")] = False,
    data: Data = "data",
    as_json: AsJson = False,
) -> None:
    """Show what a dataset holds (samples, bytes, classes, outcomes), or the files of a stage that makes none.

    Example: limbeck info split/train
    """
    from pipelines.commands.info import info_view

    _remember(DEFAULT_PARAMS, None, data)
    _show([info_view(name, data, failed)], as_json)


@app.command()
def show(
    key: Annotated[str, typer.Argument(help="A sample's key, or its first characters.")],
    data: Data = "data",
    out: Annotated[Path | None, typer.Option(help="Write the sample's members into this folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find a sample by key in every dataset under the data folder, with its sidecar row and where its bytes are.

    Example: limbeck show k3vq7 --out look
    """
    from pipelines.commands import samples

    _show([samples.show_view(key, data, out)], as_json)


@app.command()
def export(
    name: Annotated[
        str,
        typer.Argument(
            metavar="DATASET", help="STAGE, STAGE@ITEM or STAGE/PART in the data folder, or a path or URL of a dataset."
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder, or one that this command began.")],
    data: Data = "data",
) -> None:
    """Write a dataset's images as plain files in class folders, with images.csv: key, tile, label, parents.

    Images that are stored as tiles of others are decoded, a file each. Interrupted, the same command goes on.

    Examples: limbeck export dm look

              limbeck export split/train /tmp/train --data /scratch/run7
    """
    from pipelines.commands.export import export_dataset

    _remember(DEFAULT_PARAMS, None, data)
    _say(export_dataset(name, data, out))


@app.command()
def validate(params: Params = DEFAULT_PARAMS, overrides: Overrides = None) -> None:
    """Check a parameter file: every section, value and name; exit code 2 with all mistakes at once.

    Example: limbeck validate --params recipes/cifar10_jpeg.yaml
    """
    from pipelines.commands.validate import check_file

    _remember(params, overrides, "data")
    for line in check_file(params, overrides or []):
        _say(line)


@app.command()
def explain(
    path: Annotated[str, typer.Argument(help="SECTION, or SECTION.KEY and so on; without one the sections.")] = "",
    as_json: AsJson = False,
) -> None:
    """Say what parameters are: kind, limits, default and meaning.

    Example: limbeck explain cda.recover
    """
    from pipelines.commands.explain import explain_view

    _show([explain_view(path)], as_json)


@app.command()
def schema() -> None:
    """Print the JSON Schema of params.yaml, with which editors complete and check it.

    Example: limbeck schema > params.schema.json; then a first line in params.yaml:
    # yaml-language-server: $schema=params.schema.json
    """
    from pipelines.commands.schema import params_schema

    print(json_text(params_schema()))


@app.command()
def dvc(
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether it is up to date; exit code 3 if not.")
    ] = False,
    params: Params = DEFAULT_PARAMS,
    data: Data = "data",
) -> None:
    """Write dvc.yaml: a stage for each that the parameters ask for, with what it depends on. What is your own in it stays.

    Example: limbeck dvc --check
    """
    from pipelines.commands import dvc_file
    from pipelines.commands.dvc_wanted import Options

    _remember(params, None, data)
    changes = dvc_file.update(check, options=Options(str(params), (), data))
    for change in changes:
        _say(str(change))
    if not changes:
        _say("dvc.yaml says what the parameters ask for")
    elif check:
        _say("dvc.yaml is not up to date; write it with: limbeck dvc")
        raise typer.Exit(3)
    else:
        _say("dvc.yaml is up to date now; dvc repro runs what has changed")


@app.command(context_settings={"ignore_unknown_options": True})
def ray(command: Annotated[list[str], typer.Argument(help="A command that runs stages, after --.")]) -> None:
    """Run a command whose stages share one local Ray, started before it and stopped after it.

    Where RAY_ADDRESS names a cluster that one serves; where Ray does not start the stages run without it.

    Example: limbeck ray -- dvc repro
    """
    from pipelines.commands.local_ray import run_with_ray

    if code := run_with_ray(command, _say):
        raise typer.Exit(code if code > 0 else 128 - code)


@app.command()
def results(
    data: Data = "data",
    frontier: Annotated[
        bool, typer.Option("--frontier", help="Show accuracy against the bytes that are shipped and the seconds spent.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the accuracy table with its controls, and where the report is.

    Examples: limbeck results; limbeck results --frontier --json
    """
    from pipelines.commands.results import aside_view, results_view

    _remember(DEFAULT_PARAMS, None, data)
    _show([aside_view(data, "frontier") if frontier else results_view(data)], as_json)


@app.command()
def condense(
    budget: Annotated[
        str,
        typer.Option("--budget", help="Bytes of images, labels and, where labels need it, the teacher: 200KB, 1.5MiB."),
    ],
    within: Annotated[
        float,
        typer.Option("--within", help="Points that a cheaper set may be behind the best on the validation split."),
    ] = 1.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what there is to choose from; train nothing.")
    ] = False,
    data: Data = "data",
    runner: Annotated[str, typer.Option(help="serial, ray or auto.")] = "auto",
    workers: Annotated[int | None, typer.Option(min=1, help="Units at a time (ray).")] = None,
    as_json: AsJson = False,
) -> None:
    """Choose the best condensed set of a finished evaluate@distilled within a budget of bytes, and write it with its labels.

    Students are trained again and tested on the validation split, never the test split. Chosen is the cheapest of those that are not told
    apart from the best and at most --within points behind it. The set goes to condense/BYTES in the data folder.

    Examples: limbeck condense --budget 200KB; limbeck condense --budget 20KiB --dry-run
    """
    from pipelines.commands import condense as condensing

    _remember(DEFAULT_PARAMS, None, data)
    job = condensing.condense_job(data, budget, within)
    if dry_run:
        _show([condensing.candidates_view(job)], as_json)
        return
    say = partial(_say, to=errors) if as_json else _say
    _show([condensing.condense(job, runner, workers, say)], as_json)


@app.command()
def doctor(data: Data = "data", as_json: AsJson = False) -> None:
    """Check this machine: decoders, torch, Ray, DVC, disk.

    Example: limbeck doctor
    """
    from pipelines.commands import doctor as checks

    view, ok = checks.doctor_view(data)
    _show([view], as_json)
    if not ok:
        raise typer.Exit(3)


def _remember(params: Path, overrides: list[str] | None, data: str) -> None:
    """Keep these options in the commands that sentences name, where they are not the usual ones."""
    global _given
    _given = Given(None if params == DEFAULT_PARAMS else str(params), overrides or [], None if data == "data" else data)


def _show(views: Sequence[View], as_json: bool, name: str = "") -> None:
    """Print views as tables, or as one JSON document; with `name` a list of them under it."""
    if as_json:
        print(json_text({name: [view.form for view in views]} if name else views[0].form))
        return
    for part in (part for view in views for part in view.parts):
        console.print(Text(_given.keep(part.plain), part.style, overflow="fold") if isinstance(part, Text) else part)


def _say(text: str, to: Console = console) -> None:
    """Print a sentence that may hold foreign names, as one line."""
    to.print(shown(_given.keep(text), lines=True), markup=False, highlight=False, soft_wrap=True)


def _complain(kind: str, text: str) -> None:
    errors.print(f"[bold red]{kind}:[/] ", end="", highlight=False)
    _say(text, errors)


def _interrupt(_signal: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point of the console script: turns errors into sentences and exit codes."""
    signal.signal(signal.SIGTERM, _interrupt)
    # Arrow's own allocator keeps what it was once given; tables here are small and memory is for images.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    handler = logging.StreamHandler()
    handler.setFormatter(ShownFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    warnings.formatwarning = format_warning
    try:
        code = app(standalone_mode=False)  # typer gives back the code of an Exit, and 130 for Ctrl-C
    except LimbeckError as error:
        _complain("error" if isinstance(error, UserError) else "stopped", str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        if hasattr(error, "format_message"):
            _complain("error", f"{error.format_message().rstrip('.')}; see limbeck --help")
            sys.exit(2)
        if isinstance(error, OSError) and error.errno in FOLDER_ERRORS | MACHINE_ERRORS:
            _complain("error", f"{error.strerror}: {error.filename or 'a file'}; mend it and run the command again")
            sys.exit(2)
        # A bug; not by the interpreter, which would print names and URLs as they are.
        _say("".join(traceback.format_exception(error)), errors)
        sys.exit(1)
    if code == INTERRUPTED:
        errors.print("interrupted; what was finished is kept, the same command goes on from here", highlight=False)
        sys.stderr.flush()
        os._exit(INTERRUPTED)  # threads that still decode are not waited for
    sys.exit(code if isinstance(code, int) else 0)
