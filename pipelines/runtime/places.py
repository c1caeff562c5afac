"""Where a stage may write. Checked before anything is touched, so that a slip of --data costs a sentence and not a folder."""

from __future__ import annotations

from typing import Any

from pipelines.errors import UserError
from pipelines.locations import is_url, local_path
from pipelines.runtime.job import Job, Stage
from pipelines.runtime.ownership import read_units
from pipelines.storage import Storage

ELSEWHERE = "choose another folder with --data, such as data"
#: What lies at the root of a source tree.
_PROJECT_FILES = ("pyproject.toml", "setup.py", "setup.cfg")


def require_place(stage: Stage[Any], job: Job[Any]) -> None:
    """`UserError` if the output cannot be a folder of the stage's own."""
    output = job.output
    if output.is_local:
        _require_folders(job)
        _require_no_source_code(job)
        _require_no_other_output(job)
    for parameter, place in stage.reads(job.params).items():
        _require_apart(parameter, place, job)


def _require_folders(job: Job[Any]) -> None:
    for place in (job.output.root, job.logs.root):
        for folder in (place, *place.parents):
            if folder.is_symlink() and not folder.exists():
                raise UserError(
                    f"{folder} is a link to nothing, and {job.name} writes below it; mend it or {ELSEWHERE}"
                )
            if folder.exists() and not folder.is_dir():
                raise UserError(f"{folder} is a file, and {job.name} needs a folder there; move it away or {ELSEWHERE}")


def _require_no_source_code(job: Job[Any]) -> None:
    root = job.output.root.resolve()
    for folder in (root, *root.parents):
        if (folder / "__init__.py").is_file():
            raise UserError(f"{job.output.url} lies in the Python package {folder}; {ELSEWHERE}")
    data = Storage(job.data).root
    if any((data / name).is_file() for name in _PROJECT_FILES):
        raise UserError(f"{data} is the root of a source tree, and stages would write among its folders; {ELSEWHERE}")


def _require_no_other_output(job: Job[Any]) -> None:
    """An output of another stage is cleared of what that stage did not write."""
    root = job.output.root.resolve()
    for folder in root.parents:
        if read_units(Storage(folder)) is not None:
            if job.item and folder == root.parent:
                raise UserError(
                    f"{folder} holds what an earlier release made there, when {job.stage} had no items; move it away, then: limbeck run "
                    f"{job.name}"
                )
            raise UserError(f"{job.output.url} lies in {folder}, the output of another stage; {ELSEWHERE}")


def _require_apart(parameter: str, place: str, job: Job[Any]) -> None:
    """A source inside the output would be taken for ours, an output inside a source for a part of the source."""
    output = job.output
    if is_url(place) == output.is_local:
        return
    if output.is_local:
        source, target = local_path(place).resolve(), output.root.resolve()
        inside, around = source.is_relative_to(target), source.is_dir() and target.is_relative_to(source)
    else:
        source_url, target_url = (f"{Storage(url).location}/" for url in (place, output.location))
        inside, around = source_url.startswith(target_url), target_url.startswith(source_url)
    if inside:
        raise UserError(
            f"{parameter}: {place} lies in {output.url}, where {job.name} writes; move it away or {ELSEWHERE}"
        )
    if around:
        raise UserError(f"{parameter}: {place} holds {output.url}, where {job.name} writes; {ELSEWHERE}, outside of it")
