"""`limbeck dvc`: dvc.yaml follows stages and parameters, by edits that leave what is the user's as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.commands.dvc_commands import unseen
from pipelines.commands.dvc_file import update
from pipelines.commands.dvc_wanted import Options
from pipelines.errors import UserError
from tests.faults.making import lay, png

HEAD = "# mine\nstages:\n"
RUN = "    cmd: limbeck run ingest\n    params: [ingest]\n"
STYLES = {
    "none": "  ingest:  # first\n    cmd: limbeck run ingest\n    params: [ingest]\n    outs: [data/ingest]\n",
    "flow": "  ingest:\n    cmd: limbeck run ingest  # go\n    params: [ingest]\n"
    "    deps: [src/a.py, 'x y']  # two\n    outs: [data/ingest]\n",
    "long flow": f"  ingest:\n{RUN}    deps: [\n      src/a.py,\n      b ]\n    outs: [data/ingest]\n",
    "block": f"  ingest:\n{RUN}    deps:  # all\n    # one\n    - src/a.py   # code\n    # two\n"
    "    - b\n    # after\n    outs: [data/ingest]\n",
    "deeper block": "  ingest:\n    cmd:\n      - echo x\n      - limbeck run ingest\n    deps:\n      - src/a.py\n"
    "      - b:\n    outs: [data/ingest]\n",
    "last": f"  ingest:\n{RUN}    outs: [data/ingest]\n    deps:\n      - src/a.py",
    "inline": "  ingest: {cmd: limbeck run ingest, params: [ingest], outs: [data/ingest]}\n",
    "null": f"  ingest:\n{RUN}    deps:\n    outs: [data/ingest]\n",
    "own meta": f"  ingest:\n{RUN}    meta:\n      owner: me  # x\n    outs: [data/ingest]\n",
    "foreach": "  ingest:\n    foreach: [a]\n    do:\n      cmd: limbeck run ingest\n      outs: [data/ingest]\n",
}  # fmt: skip
TAIL = "  other:\n    cmd: echo  # nothing\n    deps: [z]\nmetrics: [m.json]  # end\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lay(
        tmp_path,
        {f"{name}/cat/{name}.png": png(number) for number, name in enumerate(("photos", "more", "odd # name"))},
    )
    return tmp_path


def write(style: str, *paths: str) -> None:
    sources = [{"type": "folder", "path": path} for path in paths]
    Path("params.yaml").write_text(yaml.safe_dump({"ingest": {"sources": sources}}))
    ending = "" if style == "last" else TAIL
    Path("dvc.yaml").write_text(HEAD + STYLES[style] + ending)


def point_to(*paths: str) -> None:
    sources = [{"type": "folder", "path": path} for path in paths]
    Path("params.yaml").write_text(yaml.safe_dump({"ingest": {"sources": sources}}))


def stage() -> dict[str, Any]:
    body = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]["ingest"]
    return body.get("do", body)


def of_ingest(check: bool) -> list[str]:
    """What is said of the stage that these tests are about: the report is added beside it."""
    return [str(change) for change in update(check) if change.stage == "ingest"]


def deps() -> list[str]:
    return [next(iter(dep)) if isinstance(dep, dict) else dep for dep in stage().get("deps") or []]


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("style", STYLES)
def test_a_source_is_added_changed_and_taken_out_and_the_rest_stays(style: str) -> None:
    write(style, "photos")
    text = Path("dvc.yaml").read_text()
    by_hand, before = deps(), yaml.safe_load(text)
    assert of_ingest(check=True) == ["ingest: adds photos"]
    assert Path("dvc.yaml").read_text() == text
    update(check=False)
    assert deps() == [*by_hand, "photos"]
    assert update(check=True) == []
    point_to("more", "odd # name")
    assert of_ingest(check=False) == ["ingest: adds more, odd # name and drops photos"]
    assert deps() == [*by_hand, "more", "odd # name"]
    point_to("more")
    update(check=False)
    assert deps() == [*by_hand, "more"]
    now, said = yaml.safe_load(Path("dvc.yaml").read_text()), Path("dvc.yaml").read_text()
    for form in (now, before):
        body = form["stages"]["ingest"].get("do", form["stages"]["ingest"])
        body.pop("deps", None)
        body.get("meta", {}).pop("limbeck", None)
        if not body.get("meta"):
            body.pop("meta", None)
    now["stages"].pop("report")
    assert now == before
    comments = [line.partition("#")[2] for line in text.splitlines() if "#" in line]
    assert [line.partition("#")[2] for line in said.splitlines() if "#" in line] == comments


@pytest.mark.usefixtures("place")
def test_what_a_hand_wrote_stays_when_the_parameter_goes_elsewhere() -> None:
    write("flow", "photos")
    Path("dvc.yaml").write_text(Path("dvc.yaml").read_text().replace("'x y'", "photos"))
    assert of_ingest(check=True) == []
    point_to("more")
    update(check=False)
    assert deps() == ["src/a.py", "photos", "more"]


def test_paths_are_written_as_dvc_reads_them(
    place: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any
) -> None:
    home = lay(tmp_path_factory.mktemp("home"), {"pics/cat/a.png": png(7)})
    monkeypatch.setenv("HOME", str(home))
    write(
        "none",
        "./photos/",
        "~/pics",
        str(home / "pics"),
        f"file://{place}/more",
        "s3://bucket/x",
        "sample:fashion_mnist",
        "absent",
    )
    update(check=False)
    assert deps() == ["photos", str(home / "pics"), str(place / "more")]


def test_other_stages_files_and_parameter_files_are_followed(place: Path) -> None:
    lay(place, {"w.pt": b"w", "job.yaml": b""})
    Path("job.yaml").write_text(
        yaml.safe_dump({"ingest": {"sources": [{"type": "folder", "path": "more"}]}, "squeeze": {"weights": "w.pt"}})
    )
    Path("dvc.yaml").write_text(
        "stages:\n  a:\n    cmd: limbeck run ingest --params job.yaml --data out && echo x\n"
        "  b:\n    cmd: python -m pipelines run squeeze --params=job.yaml\n"
        "  c:\n    cmd: >-\n      limbeck run ingest --params job.yaml\n"
        "      --set 'ingest.sources=[{type: folder, path: photos}]'\n"
    )
    said = [str(change) for change in update(check=False, options=Options("job.yaml", (), "out"))]
    assert {"a: adds more", "b: adds w.pt", "c: adds photos"} <= set(said)
    assert "ingest: is added" not in said  # the stage a runs it into the same folder


@pytest.mark.usefixtures("place")
def test_a_hint_names_what_dvc_would_not_see_and_only_where_there_is_a_dvc_file() -> None:
    assert unseen("ingest", "data", ["photos"]) == []
    write("flow", "photos")
    assert unseen("ingest", "data", ["photos", "s3://x/y", "absent"]) == ["photos"]
    assert unseen("split", "data", ["photos"]) == []
    assert unseen("ingest", "elsewhere", ["photos"]) == []
    update(check=False)
    assert unseen("ingest", "data", ["photos", "photos/cat"]) == []
    Path("dvc.yaml").write_text("stages: [")
    assert unseen("ingest", "data", ["photos"]) == []


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("text", ["", "[]", "stages: [", "stages: {}\nx: [", "metrics: []"])
def test_a_file_that_is_no_dvc_file_is_one_sentence(text: str) -> None:
    write("flow", "photos")
    Path("dvc.yaml").write_text(text)
    with pytest.raises(UserError):
        update(check=True)
    assert Path("dvc.yaml").read_text() == text


@pytest.mark.usefixtures("place")
def test_the_repository_s_own_file_is_up_to_date(repository: Path) -> None:
    assert update(check=True, file=repository / "dvc.yaml") == []


@pytest.mark.usefixtures("place")
def test_the_command_says_it_by_its_exit_code() -> None:
    write("none", "photos")
    for words, code in (
        (["dvc", "--check"], 3),
        (["run", "ingest"], 0),
        (["dvc"], 0),
        (["dvc", "--check"], 0),
        (["run", "ingest"], 0),
    ):
        said = subprocess.run([sys.executable, "-m", "pipelines", *words], capture_output=True, text=True)
        assert said.returncode == code, said.stderr
        hinted = "dvc.yaml does not name photos" in said.stderr
        assert hinted == (words[0] == "run" and "limbeck: [photos]" not in Path("dvc.yaml").read_text())
