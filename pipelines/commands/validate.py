"""`limbeck validate`: a parameter file checked without running anything. Other verbs that read one check the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipelines.commands.asked import choose
from pipelines.locations import is_url, local_path
from pipelines.sources.base import SAMPLE_PREFIX
from pipelines.stages import get_stage


def check_file(params: Path | str, overrides: Sequence[str] = ()) -> list[str]:
    """What to say of a file that is valid: what it asks for, and which paths in it are not there yet.

    `UserError` names everything that is wrong in it.
    """
    chosen = choose(["all"], params, overrides)
    lines = [f"{params} is valid; it asks for {', '.join(chosen.jobs) or 'no stage'}"]
    absent: dict[str, str] = {}
    for stage, jobs in chosen.jobs.items():
        for job in jobs:
            absent |= {
                name: path for name, path in get_stage(stage).reads(job.params).items() if not _may_be_there(path)
            }
    return lines + [f"note: {name}: {path} is not there now" for name, path in absent.items()]


def _may_be_there(path: str) -> bool:
    """Whether a place is there, or is none of this machine's folders and files: an id on a hub, or a pattern."""
    elsewhere = is_url(path) or path.startswith(SAMPLE_PREFIX) or any(char in path for char in "*?[{")
    return elsewhere or local_path(path).exists() or (path[0] not in "/.~" and path.count("/") == 1)
