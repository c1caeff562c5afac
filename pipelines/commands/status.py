"""`limbeck status`: every stage under a data folder. Reads files only, and trips over no damaged one.

A stage is `running` while a run holds its lock; `stale` when it is done but not of what is there now: an input was made again,
the parameters are others, or the stage itself is. Whether a stale stage has work to do only its next run can tell.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from rich.text import Text

from pipelines.commands.tables import View, add_row, new_table, styled
from pipelines.errors import UserError
from pipelines.report.words import human_bytes
from pipelines.runtime.code import code_digest
from pipelines.runtime.folder import config_bytes
from pipelines.runtime.inputs import recorded_inputs, seal_of
from pipelines.runtime.job import Job, Stage
from pipelines.runtime.ledger import CONFIG_FILE, PLAN_FOLDER, STAGE_FILE, all_markers
from pipelines.runtime.locks import writer_of
from pipelines.runtime.ownership import UNITS_FILE, planning_code, read_units
from pipelines.runtime.tally import Tally
from pipelines.stages import STAGES, get_stage
from pipelines.storage import Storage

#: States that the next run of the stage ends.
_TO_RUN = frozenset({"unfinished", "damaged", "stale"})
_COLOURS = {"done": "green", "running": "cyan", "damaged": "red", "not started": "", "foreign": ""}


def status_view(data: str, jobs: Mapping[str, Job[Any]] | None = None, keep: Callable[[str], str] = str) -> View:
    """Every stage under a data folder; `jobs` are those of the parameters it is compared with, by STAGE or STAGE@ITEM.

    `keep` puts the options of this command into the ones it names.
    """
    root = Storage(data)
    if root.is_local and root.exists() and not root.root.is_dir():
        raise UserError(f"{root.url} is a file; --data takes the folder that holds every stage's output")
    stages: list[dict[str, Any]] = []
    for stage in STAGES:
        for name in _items(root, stage) or [stage]:
            stages.append(_stage_form(root, name, (jobs or {}).get(name), stages))
    table = new_table(f"stages under {root.url}")
    # Names and sizes are typed again or compared: on a narrow terminal the others wrap.
    table.add_column("stage", no_wrap=True, min_width=max(len(one["stage"]) for one in stages))
    for name in ("state", "units", "outcomes", "size", "last run"):
        table.add_column(name, overflow="fold")
    for one in stages:
        one["next"] = keep(f"limbeck run {one['stage']}") if one["state"] in _TO_RUN or one["transient"] else None
        add_row(table, one["stage"], *_cells(one))
    return View({"data": root.url, "stages": stages}, [table])


def _items(root: Storage, stage: str) -> list[str]:
    """STAGE@ITEM for every item that was begun."""
    folder = root.child(stage)
    if folder.exists(PLAN_FOLDER):
        return []
    return [f"{stage}@{item}" for item in folder.subfolders() if folder.exists(f"{item}/{UNITS_FILE}")]


def _stage_form(root: Storage, name: str, job: Job[Any] | None, before: list[dict[str, Any]]) -> dict[str, Any]:
    """What is said of one stage; `before` are those of the stages in front of it."""
    output, logs = root.child(name.replace("@", "/")), root.child(".limbeck")
    process = writer_of(logs.root / f"{name}.lock") if logs.is_local else None
    form: dict[str, Any] = {"stage": name, "state": "not started", "why": [], "units": None, "outcomes": {}}
    form |= {"bytes": 0, "transient": 0, "process": process, "last_run": _last_run(logs, name)}
    planned = read_units(output)
    if planned is None:
        if process is not None:
            form["state"] = "running"
        elif output.exists(UNITS_FILE):
            form["state"] = "damaged"
        elif output.exists() and output.list():
            form["state"] = "foreign"
        return form
    identities = {unit["id"] for unit in planned}
    markers = [marker for marker in all_markers(output) if marker.identity in identities]
    tally = Tally(counted=get_stage(name.partition("@")[0]).counted)
    for marker in markers:
        tally.add(marker)
    form["units"] = {"done": len(markers), "planned": len(planned)}
    form |= {"outcomes": dict(sorted(tally.decided.items())), "transient": tally.transient}
    form["bytes"] = sum(entry.bytes for marker in markers for entry in marker.files)
    if process is not None:
        form["state"] = "running"
    elif not output.exists(STAGE_FILE):
        form["state"] = "unfinished"
    else:
        form["why"] = _changed(root, output, name, job, {one["stage"] for one in before if one["state"] == "stale"})
        form["state"] = "stale" if form["why"] else "done"
    return form


def _changed(root: Storage, output: Storage, name: str, job: Job[Any] | None, stale: set[str]) -> list[str]:
    """Why a finished stage may not be what its command would make now."""
    stage = get_stage(name.partition("@")[0])
    why = []
    for upstream, seal in recorded_inputs(root.child(".limbeck"), name).items():
        now = seal_of(root.child(upstream.replace("@", "/")))
        if now != seal:
            why.append(f"its input {upstream} {'is not finished' if now is None else 'was made again'}")
        elif upstream in stale:
            why.append(f"its input {upstream} is stale")
    if (version := _version(output)) != stage.version:
        why.append(f"made by version {version} of the stage, which is at {stage.version}")
    why += _other_code(output, stage, name.partition("@")[2])
    if job is not None and _config(output) != config_bytes(stage, job):
        why.append("its parameters are others now")
    return why


def _other_code(output: Storage, stage: Stage[Any], item: str) -> list[str]:
    """Whether other code made what is there, unless it was kept since the code is as it is now."""
    try:
        made = set(json.loads(output.read_bytes(STAGE_FILE)).get("code", {""}))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return []
    now = code_digest(stage, item)
    if "" in made:
        return ["made by an earlier release, whose code is not recorded"]
    return ["made by other code (--keep-code keeps it)"] if made != {now} and planning_code(output) != now else []


def _version(output: Storage) -> Any:
    try:
        return json.loads(output.read_bytes(STAGE_FILE))["version"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _config(output: Storage) -> bytes:
    try:
        return output.read_bytes(CONFIG_FILE)
    except OSError:
        return b""


def _last_run(logs: Storage, stage: str) -> dict[str, Any] | None:
    """When and how long, from the run's log; nothing of a log that is absent or damaged."""
    try:
        log = json.loads(logs.read_bytes(f"{stage}.json"))
        return {"started": str(log["started"]), "seconds": float(log["seconds"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _cells(form: Mapping[str, Any]) -> tuple[Text, str, str, str, str]:
    units, last = form["units"], form["last_run"]
    return (
        _state(form),
        f"{units['done']}/{units['planned']}" if units else "",
        ", ".join(f"{name} {count:,}" for name, count in form["outcomes"].items()),
        human_bytes(form["bytes"]) if units else "",
        f"{last['started'][:16].replace('T', ' ')}, {last['seconds']:.0f} s" if last else "",
    )


def _state(form: Mapping[str, Any]) -> Text:
    """The state in words, with the next command where there is one."""
    state, command = form["state"], form["next"]
    words = {
        "running": f"running (process {form['process']})",
        "unfinished": f"unfinished: {command}",
        "damaged": f"damaged plan: {command}",
        "foreign": "files that are not Limbeck's",
        "stale": f"stale, {'; '.join(form['why'])}: {command}",
    }.get(state, state)
    if state == "done" and form["transient"]:
        return styled(f"done, {form['transient']:,} failed for a time: {command}", "yellow")
    return styled(words, _COLOURS.get(state, "yellow"))
