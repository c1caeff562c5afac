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
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pipelines.errors import LimbeckError, UserError
from pipelines.runtime.machine import MACHINE_ERRORS
from pipelines.terminal import ShownFormatter, shown

app = typer.Typer(
    name="limbeck",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Turn web-scale images into small, versioned training sets.\n\n"
    "[bold]Examples[/bold]\n\n"
    "  limbeck run ingest                      bring data/ingest up to date\n\n"
    "  limbeck run cda --set cda.ipc=2         with another parameter\n\n"
    "  limbeck run ingest --runner ray         on all cores, or on the cluster of RAY_ADDRESS\n\n"
    "  limbeck status                          what is done, what is left\n\n"
    "  limbeck lint data/split/train           check any WebDataset",
)
console = Console()
errors = Console(stderr=True)

Params = Annotated[Path, typer.Option("--params", help="Parameter file, one section per stage.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override one parameter: section.key=value.")]
Data = Annotated[
    str,
    typer.Option(
        "--data", help="Folder (~ is your home), or URL such as s3://bucket/folder, that holds every stage's output."
    ),
]
StageName = Annotated[
    str,
    typer.Argument(
        help="A stage of the pipeline, such as ingest or squeeze; of a stage with variants all, or STAGE@VARIANT."
    ),
]
DEFAULT_PARAMS = Path("params.yaml")
INTERRUPTED = 130
#: A path that leads where it cannot, such as a file that stands for a folder.
FOLDER_ERRORS = frozenset({errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT})


@app.command()
def run(
    stage: StageName,
    params: Params = DEFAULT_PARAMS,
    overrides: Overrides = None,
    data: Data = "data",
    runner: Annotated[
        str, typer.Option(help="serial, ray, or auto: ray when RAY_ADDRESS or --workers is given.")
    ] = "auto",
    workers: Annotated[int | None, typer.Option(min=1, help="Units at a time (ray).")] = None,
    verify: Annotated[bool, typer.Option(help="Hash finished files instead of trusting their sizes.")] = False,
    debug: Annotated[bool, typer.Option(help="Raise the first error with its traceback (serial).")] = False,
) -> None:
    """Bring one stage up to date: do the units that are not done, then publish.

    Example: limbeck run cda --params recipes/fashion_mnist_full.yaml --runner ray --workers 4
    """
    from pipelines.commands import jobs, runs

    items = jobs.make_jobs(stage, params, overrides or [], data)
    runs.plan_all(items)
    for job in items:
        _say(runs.run_stage(job, runner, workers, verify, debug, say=_say))
    if hint := runs.unseen_by_dvc(items[0]):
        _say(hint, errors)


@app.command()
def plan(stage: StageName, params: Params = DEFAULT_PARAMS, overrides: Overrides = None, data: Data = "data") -> None:
    """Show the units of a stage and which of them would run. Changes nothing.

    Example: limbeck plan ingest --set ingest.shard_samples=500
    """
    from pipelines.commands import jobs, views

    console.print(views.plan_table(jobs.make_job(stage, params, overrides or [], data)))


@app.command()
def status(data: Data = "data") -> None:
    """Show every stage: units done, outcomes, size, last run.

    Example: limbeck status --data /scratch/run7
    """
    from pipelines.commands import views

    console.print(views.status_table(data))


@app.command()
def retry(
    stage: StageName,
    error_class: Annotated[str, typer.Option("--class", help="transient, permanent or policy.")] = "transient",
    params: Params = DEFAULT_PARAMS,
    overrides: Overrides = None,
    data: Data = "data",
    runner: Annotated[str, typer.Option(help="serial, ray or auto.")] = "auto",
    workers: Annotated[int | None, typer.Option(min=1, help="Units at a time (ray).")] = None,
) -> None:
    """Run again the units that hold samples which failed with an error of one class.

    Example: limbeck retry ingest --class transient
    """
    from pipelines.commands import jobs, runs

    job = jobs.make_job(stage, params, overrides or [], data)
    _say(runs.retry_stage(job, error_class, runner, workers, say=_say))


@app.command()
def lint(
    url: Annotated[str, typer.Argument(help="A dataset folder, a folder of tars, or one tar.")],
    decode: Annotated[bool, typer.Option(help="Decode every image too.")] = True,
) -> None:
    """Check anyone's WebDataset, ours included; exit code 3 if something is wrong.

    Example: limbeck lint data/split/train
    """
    from pipelines.commands import views

    table, ok = views.lint_table(url, decode)
    console.print(table)
    if not ok:
        raise typer.Exit(3)


@app.command()
def info(
    url: Annotated[str, typer.Argument(help="A dataset folder, or a stage name for data/STAGE.")],
    failed: Annotated[bool, typer.Option("--failed", help="List the samples that were lost, with reasons.")] = False,
    data: Data = "data",
) -> None:
    """Show what a dataset holds: samples, bytes, classes, outcomes.

    Example: limbeck info data/split/train
    """
    from pipelines.commands import views

    for part in views.info_tables(url, data, failed):
        console.print(part)


@app.command()
def show(
    key: Annotated[str, typer.Argument(help="A sample's key, or its first characters.")],
    data: Data = "data",
    out: Annotated[Path | None, typer.Option(help="Write the sample's members into this folder.")] = None,
) -> None:
    """Find a sample by key in every dataset under the data folder, with its sidecar row and where its bytes are.

    Example: limbeck show k3vq7 --out look
    """
    from pipelines.commands import samples

    console.print(samples.show_key(key, data, out))


@app.command()
def dvc(
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether it is up to date; exit code 3 if not.")
    ] = False,
) -> None:
    """Make your own folders and files that parameters name dependencies in dvc.yaml, so that `dvc repro` sees them change.

    Example: limbeck dvc --check
    """
    from pipelines.commands import dvc_file

    changes = dvc_file.update(check)
    for change in changes:
        _say(str(change))
    if not changes:
        _say("dvc.yaml names every input of your own")
    elif check:
        _say("dvc.yaml is not up to date; write it with: limbeck dvc")
        raise typer.Exit(3)
    else:
        _say("dvc.yaml is up to date now; dvc repro runs what has changed")


@app.command()
def results(data: Data = "data") -> None:
    """Show the accuracy table with its controls, and where the report is.

    Example: limbeck results
    """
    from pipelines.commands.results import results_table

    for part in results_table(data):
        console.print(part)


@app.command()
def doctor(data: Data = "data") -> None:
    """Check this machine: decoders, torch, Ray, DVC, disk.

    Example: limbeck doctor
    """
    from pipelines.commands import doctor as checks

    table, ok = checks.doctor_table(data)
    console.print(table)
    if not ok:
        raise typer.Exit(3)


def _say(text: str, to: Console = console) -> None:
    """Print a sentence that may hold foreign names, as one line."""
    to.print(shown(text, lines=True), markup=False, highlight=False, soft_wrap=True)


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
