"""`limbeck dvc` writes dvc.yaml from declarations and parameters, and leaves what is the user's; DVC runs what it wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.commands.dvc_file import fresh, update
from pipelines.commands.dvc_wanted import Options, template_of
from pipelines.evaluation.protocol import CURVE_COLUMNS
from pipelines.runtime.job import Plot
from tests.commands.conftest import PARAMS, Limbeck, write_params

pytestmark = pytest.mark.usefixtures("project")


def stages() -> dict[str, Any]:
    return yaml.safe_load(Path("dvc.yaml").read_text())["stages"]


def said(**options: Any) -> list[str]:
    return [str(change) for change in update(check=False, **options)]


def replace(old: str, new: str) -> None:
    text = Path("dvc.yaml").read_text()
    assert old in text
    Path("dvc.yaml").write_text(text.replace(old, new, 1))


def dvc(*words: str) -> str:
    """What a command of DVC prints; it finds this checkout's limbeck."""
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": paths, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    ran = subprocess.run([sys.executable, "-m", "dvc", *words], capture_output=True, text=True, env=env)
    assert ran.returncode == 0, ran.stderr + ran.stdout
    return ran.stdout


def test_a_new_file_has_the_stages_that_parameters_ask_for(limbeck: Limbeck) -> None:
    assert limbeck("dvc", "--check").code == 3
    assert not Path("dvc.yaml").exists()
    assert limbeck("dvc").code == 0
    assert list(stages()) == ["ingest", "split", "report"]
    assert stages()["ingest"] == {
        "cmd": "limbeck run ingest",
        "params": ["run", "ingest"],
        "deps": ["photos"],
        "outs": [{"data/ingest": {"persist": True}}],
        "meta": {"limbeck": ["photos"]},
    }
    assert stages()["report"]["deps"] == ["data/ingest", "data/split"]
    assert limbeck("dvc", "--check").code == 0


def test_a_stage_that_is_asked_for_later_comes_to_its_place_and_into_the_report() -> None:
    said()
    write_params({**PARAMS, "squeeze": {"network": "resnet20"}})
    assert said() == [
        "squeeze: is added",
        "report: adds data/squeeze",
        "metrics: adds data/squeeze/metrics.json",
        "plots: adds data/squeeze/history.csv",
    ]
    assert list(stages()) == ["ingest", "split", "squeeze", "report"]


def test_a_stage_that_nobody_asks_for_any_more_goes_and_comes_again() -> None:
    write_params({**PARAMS, "squeeze": {}, "cda": {}})
    said()
    before = Path("dvc.yaml").read_text()
    write_params({**PARAMS, "squeeze": {}})
    assert "cda: goes, nobody asks for it" in said()
    assert list(stages()) == ["ingest", "split", "squeeze", "report"]
    assert "data/cda" not in stages()["report"]["deps"]
    write_params({**PARAMS, "squeeze": {}, "cda": {}})
    assert "cda: is added" in said()
    assert Path("dvc.yaml").read_text() == before


def test_a_stage_that_the_user_froze_stays_frozen() -> None:
    write_params({**PARAMS, "squeeze": {}})
    said()
    replace("    cmd: limbeck run squeeze\n", "    frozen: true\n    cmd: limbeck run squeeze\n")
    assert said() == []
    write_params(PARAMS)
    said()
    assert stages()["squeeze"]["frozen"] is True


def test_items_follow_the_parameter_that_lists_them() -> None:
    write_params({**PARAMS, "squeeze": {}, "generator": {}, "datadream": {"variants": ["cls", "dset"]}})
    said()
    body = stages()["datadream"]
    assert body["matrix"] == {"name": "${datadream.variants}"}
    assert body["cmd"] == "limbeck run datadream@${item.name}"
    assert body["outs"] == [{"data/datadream/${item.name}": {"persist": True}}]
    assert "data/datadream" in stages()["report"]["deps"]  # whatever items there are
    write_params({**PARAMS, "squeeze": {}, "generator": {}, "datadream": {}})
    assert "datadream: runs [zero_shot, cls, dset]" in said()  # nothing in the file lists the defaults
    write_params({**PARAMS, "squeeze": {}, "generator": {}, "datadream": {"variants": ["cls", "dset", "loft"]}})
    assert "datadream: runs ${datadream.variants}" in said()


def test_what_the_user_wrote_stays() -> None:
    write_params({**PARAMS, "squeeze": {}})
    said()
    replace(
        "  split:\n    cmd: limbeck run split\n",
        "  # mine\n  split:\n    desc: halves\n    cmd: limbeck run split --runner ray --workers 4  # all cores\n",
    )
    replace("deps: [data/ingest]", "deps: [labels.csv, data/ingest]")
    replace("- data/split: {persist: true}", "- data/split: {persist: true, cache: false}")
    replace("  report:\n", "  publish:\n    cmd: echo done\n    deps: [data/report]\n  report:\n")
    replace("plots:\n", "plots:\n  - mine.csv: {x: a, y: b}\n")
    replace("{x: epoch, y: val_top1", "{x: epoch, y: train_loss")
    before = Path("dvc.yaml").read_text()
    assert said() == []
    Path("more").mkdir()
    sources = [{"type": "folder", "path": "more"}]
    write_params({**PARAMS, "squeeze": {}, "ingest": {"sources": sources}})
    assert said() == ["ingest: adds more and drops photos"]
    after = Path("dvc.yaml").read_text()
    changed = [line for line in after.splitlines() if line not in before.splitlines()]
    assert changed == ["    deps: [more]", "    meta: {limbeck: [more]}"]


def test_a_stage_with_other_parameters_depends_on_their_file() -> None:
    write_params(PARAMS, "job.yaml")
    said(options=Options("job.yaml", (), "out"))
    assert stages()["split"]["cmd"] == "limbeck run split --params job.yaml --data out"
    assert stages()["split"]["params"] == [{"job.yaml": ["run", "split"]}]
    assert stages()["split"]["deps"] == ["out/ingest"]
    assert said(options=Options("job.yaml", (), "out")) == []


def test_a_stage_of_the_user_s_that_runs_ours_is_not_run_twice() -> None:
    Path("dvc.yaml").write_text("stages:\n  bring:\n    cmd: limbeck run ingest\n    outs: [data/ingest]\n")
    assert "bring: adds photos" in said()
    assert list(stages()) == ["bring", "split", "report"]
    Path("dvc.yaml").write_text("stages:\n  job:\n    cmd: limbeck ray -- limbeck run ingest split --workers 2\n")
    assert "job: adds photos" in said()
    assert list(stages()) == ["job", "report"]
    Path("dvc.yaml").write_text("stages:\n  job:\n    cmd: limbeck run all\n")
    said()
    assert list(stages()) == ["job"]


def test_a_frozen_stage_of_the_user_s_does_not_depend_on_what_lies_on_this_machine() -> None:
    stage = "  bring:\n    frozen: true\n    cmd: limbeck run ingest\n    outs: [data/ingest]\n"
    Path("dvc.yaml").write_text(f"stages:\n{stage}")
    assert not any("bring" in line for line in said())
    assert stage in Path("dvc.yaml").read_text()


def test_curves_have_a_template_with_a_line_for_each_arm() -> None:
    Path(".dvc").mkdir()
    write_params({**PARAMS, "evaluate": {"distilled": {}}})
    assert ".dvc/plots/evaluate_curves.json: a template of plots is written" in said()
    form = json.loads(Path(".dvc/plots/evaluate_curves.json").read_text())
    assert form["transform"][1] == {"calculate": "datum['line']", "as": "line"}
    assert form["encoding"]["color"]["field"] == "line"
    assert said() == []
    Path(".dvc/plots/evaluate_curves.json").write_text("{}")
    assert [str(change) for change in update(check=True)] == [
        ".dvc/plots/evaluate_curves.json: a template of plots is written"
    ]


def test_dvc_runs_what_was_written_and_sees_other_photos() -> None:
    pytest.importorskip("dvc", reason="DVC is not installed: limbeck[dvc]")
    write_params({**PARAMS, "generator": {}, "datadream": {"variants": ["cls", "dset"]}, "evaluate": {"distilled": {}}})
    dvc("init", "--no-scm", "--quiet")
    said()
    names = dvc("stage", "list", "--name-only").split()
    assert names[:2] == ["ingest", "split"]
    assert {"datadream@cls", "datadream@dset", "report"} <= set(names)
    write_params(PARAMS)
    said()
    dvc("repro", "ingest")
    assert Path("data/ingest/index.json").is_file()
    assert "up to date" in dvc("status", "ingest")
    Path("photos/cat/1.png").unlink()
    assert "changed" in dvc("status", "ingest")
    Path("data/evaluate").mkdir(parents=True)
    rows = [f"{arm},{epoch},0.{epoch},1" for arm in ("a", "b") for epoch in (1, 2)]
    Path("data/evaluate/curves.csv").write_text("\n".join([",".join(CURVE_COLUMNS), *rows]))
    Path("dvc.yaml").write_text(
        "plots:\n  - data/evaluate/curves.csv: {x: epoch, y: test_top1, template: evaluate_curves}\n"
    )
    shown = json.loads(dvc("plots", "show", "--json"))["data"]["data/evaluate/curves.csv"][0]["content"]
    shown = json.loads(shown) if isinstance(shown, str) else shown
    assert shown["encoding"]["color"]["field"] == "line"
    assert len(shown["data"]["values"]) == 4


def test_a_template_names_the_columns_that_tell_lines_apart() -> None:
    form = template_of(Plot("x.csv", "step", "loss", "Loss", ("arm", "ipc")))
    assert form["transform"][1]["calculate"] == "datum['arm'] + ' ' + datum['ipc']"
    assert form["data"]["format"]["parse"] == {"step": "number", "loss": "number"}


def test_the_repository_s_file_is_what_is_written_anew_but_for_what_is_its_own(repository: Path) -> None:
    ours = yaml.safe_load(fresh(Options(), repository))
    there = yaml.safe_load((repository / "dvc.yaml").read_text())
    family = there["stages"].pop("reference_family")
    assert family["frozen"]  # `dvc repro` trains no generators unless it is asked to
    assert there == ours, "run `limbeck dvc`"
    assert update(check=True, file=repository / "dvc.yaml") == []
