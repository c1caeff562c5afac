"""What is not ours is never removed: files in the output, sources in it or around it, packages, paths that look like chains."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest
import yaml

from pipelines.config import RunParams
from pipelines.errors import StageStopped, UserError
from pipelines.runtime import guard, inputs
from pipelines.runtime.execute import execute, prepare
from pipelines.runtime.finished import Finished
from pipelines.runtime.job import Job, Plan
from pipelines.runtime.serial import SerialRunner
from pipelines.stages.ingest.params import IngestParams
from pipelines.stages.ingest.stage import Ingest
from pipelines.storage import Storage, open_url
from tests.contract.folders import Workplace, assert_same, tree
from tests.contract.pictures import ingest_job, picture, write_pictures
from tests.contract.toy import Toy, ToyParams


def photos(folder: Path, count: int = 3) -> Path:
    for number in range(count):
        path = folder / "cat" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", picture(number))[1].tobytes())
    return folder


def refused(job: Job[IngestParams], sentence: str, kept: Path) -> None:
    """Both the plan and the run refuse, and nothing below `kept` has changed."""
    before = tree(kept)
    for attempt in (lambda: prepare(Ingest(), job), lambda: execute(Ingest(), job, SerialRunner)):
        with pytest.raises(UserError, match=sentence):
            attempt()
    assert_same(tree(kept), before)


def test_photos_in_the_output_stay_where_they_are(tmp_path: Path) -> None:
    source = photos(tmp_path / "data" / "ingest" / "photos")
    refused(ingest_job(source, tmp_path / "data"), r"ingest.sources.0.path: .* lies in .*/data/ingest", tmp_path)


def test_photos_that_are_the_output_stay_where_they_are(tmp_path: Path) -> None:
    source = photos(tmp_path / "data" / "ingest")
    refused(ingest_job(source, tmp_path / "data"), r"ingest.sources.0.path: .* lies in", tmp_path)


def test_photos_behind_a_link_into_the_output_stay_where_they_are(tmp_path: Path) -> None:
    photos(tmp_path / "data" / "ingest" / "photos")
    (tmp_path / "link").symlink_to(tmp_path / "data" / "ingest" / "photos")
    refused(ingest_job(tmp_path / "link", tmp_path / "data"), r"ingest.sources.0.path: .* lies in", tmp_path)


def test_an_output_inside_a_source_is_refused(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos")
    refused(ingest_job(source, source / "data"), r"ingest.sources.0.path: .*photos holds .*/data/ingest", tmp_path)


def test_a_folder_of_somebody_else_where_the_output_would_be_is_refused(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos")
    for name in ("a.py", "notes/b.txt", "stage.json", "shards/ingest-000000.tar"):
        path = tmp_path / "data" / "ingest" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"files": [{"path": "a.py"}]}')
    refused(ingest_job(source, tmp_path / "data"), r"holds 4 files \(a.py, notes/b.txt, shards/.*, \.\.\.\)", tmp_path)


@pytest.mark.parametrize("place", ["pkg", "pkg/deep/er"])
def test_an_output_in_a_package_is_refused(tmp_path: Path, place: str) -> None:
    source = photos(tmp_path / "photos")
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").touch()
    refused(ingest_job(source, tmp_path / place), r"lies in the Python package .*/pkg", tmp_path)


@pytest.mark.parametrize("name", ["pyproject.toml", "setup.py"])
def test_a_clone_is_no_data_folder(tmp_path: Path, name: str) -> None:
    source = photos(tmp_path / "photos")
    (tmp_path / "clone").mkdir()
    (tmp_path / "clone" / name).touch()
    refused(ingest_job(source, tmp_path / "clone"), "is the root of a source tree", tmp_path)
    execute(Ingest(), ingest_job(source, tmp_path / "clone" / "data"), SerialRunner)


def test_the_output_of_another_stage_is_no_data_folder(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos")
    execute(Ingest(), ingest_job(source, tmp_path / "data"), SerialRunner)
    refused(ingest_job(source, tmp_path / "data" / "ingest"), "the output of another stage", tmp_path)


@pytest.mark.parametrize("name", ["data", "data/ingest", "data/.limbeck"])
def test_a_file_where_a_folder_is_needed_is_one_sentence(tmp_path: Path, name: str) -> None:
    source = photos(tmp_path / "photos")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    refused(ingest_job(source, tmp_path / "data"), "is a file, and ingest needs a folder there", tmp_path)


def test_a_source_may_be_another_limbeck_dataset(tmp_path: Path) -> None:
    execute(Ingest(), ingest_job(photos(tmp_path / "photos"), tmp_path / "x"), SerialRunner)
    before = tree(tmp_path / "x")
    sources = [{"type": "tar", "path": str(tmp_path / "x" / "ingest" / "shards")}]
    params = IngestParams.model_validate({"sources": sources})
    execute(Ingest(), Job("ingest", params, RunParams(), str(tmp_path / "y")), SerialRunner)
    assert_same(tree(tmp_path / "x"), before)


@pytest.mark.parametrize("name", ["a::b", "zip:", "a::file:", "s3:x::y", "memory:::x", "file:", "a b::c"])
def test_a_local_path_is_never_read_as_a_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """`a::b` would be the folder b for fsspec, and clearing the one clears the other."""
    neighbour = photos(tmp_path / "b" / "ingest")
    before = tree(neighbour)
    for place in (str(tmp_path / name), name, f"file://{tmp_path}/{name}"):
        monkeypatch.chdir(tmp_path)
        storage = Storage(place)
        assert (storage.is_local, storage.root) == (True, tmp_path / name)
        storage.child("in::side").write_bytes("x::y.txt", b"1")
        assert (tmp_path / name / "in::side" / "x::y.txt").read_bytes() == b"1"
        assert open_url(f"{place}/in::side/x::y.txt").read() == b"1"
        assert storage.list() == ["in::side/x::y.txt"]
        storage.child("in::side").remove("x::y.txt")
    source = photos(tmp_path / "photos::1")
    execute(Ingest(), ingest_job(source, tmp_path / name), SerialRunner)
    execute(Ingest(), ingest_job(photos(source, 4), tmp_path / name), SerialRunner)
    assert_same(tree(neighbour), before)
    assert (tmp_path / name / "ingest" / "stage.json").exists()


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Storage("~/x").root == tmp_path / "x"
    (tmp_path / "f").write_bytes(b"1")
    assert open_url("~/f").read() == b"1"
    with pytest.raises(
        UserError, match=r"there is no user 'nobody-at-all'; a folder called ~nobody-at-all is written \./~"
    ):
        Storage("~nobody-at-all/x")
    monkeypatch.chdir(tmp_path)
    assert Storage("./~nobody-at-all").root == tmp_path / "~nobody-at-all"


def test_the_command_refuses_with_a_sentence_and_keeps_everything(tmp_path: Path) -> None:
    source = photos(tmp_path / "data" / "ingest" / "photos")
    parameters = tmp_path / "params.yaml"
    parameters.write_text(yaml.safe_dump({"ingest": {"sources": [{"type": "folder", "path": str(source)}]}}))
    before = tree(tmp_path)
    for word in ("plan", "run"):
        command = [sys.executable, "-m", "pipelines", word, "ingest", "--params", str(parameters)]
        said = subprocess.run([*command, "--data", str(tmp_path / "data")], capture_output=True, text=True)
        assert (said.returncode, said.stderr.count("\n")) == (2, 1), said.stderr
        assert "lies in" in said.stderr
    assert_same(tree(tmp_path), before)


class Visited(Toy):
    """Somebody puts a file into the output while the stage runs."""

    def finish(self, job: Job[ToyParams], plan: Plan, markers: Any) -> dict[str, Any]:
        facts = super().finish(job, plan, markers)
        (job.output.root / "shards" / "mine.tar").write_bytes(b"mine")
        return facts


def test_a_file_that_appears_while_a_stage_seals_is_neither_removed_nor_published(workplace: Workplace) -> None:
    with pytest.raises(StageStopped, match=r"1 file \(shards/mine.tar\) appeared"):
        workplace.run(stage=Visited())
    assert (workplace.output / "shards" / "mine.tar").read_bytes() == b"mine"
    assert not (workplace.output / "index.json").exists()
    assert not (workplace.output / "stage.json").exists()
    (workplace.output / "shards" / "mine.tar").rename(workplace.root / "mine.tar")
    workplace.run()
    assert "shards/mine.tar" not in workplace.tree()


@pytest.mark.parametrize("lost", ["plan/names.txt", "stage.json", "plan/units.json", "ledger/toy-000003.json"])
@pytest.mark.parametrize("how", ["removed", "emptied", "cut"])
def test_a_folder_with_one_damaged_record_is_ours_still(
    done: Workplace, clean: dict[str, bytes], lost: str, how: str
) -> None:
    path = done.output / lost
    content = path.read_bytes()
    path.unlink()
    if how != "removed":
        path.write_bytes(b"" if how == "emptied" else content[: len(content) // 2])
    done.run()
    assert_same(done.tree(), clean)


def test_a_folder_that_was_copied_alone_is_ours(done: Workplace, tmp_path: Path, clean: dict[str, bytes]) -> None:
    """As `dvc checkout` leaves it: without the logs beside it."""
    other = Workplace(tmp_path / "elsewhere")
    done.output.rename(other.output)
    assert other.run()["ran"] == 0
    other.run(job=other.job(size=200))
    other.run()
    assert_same(other.tree(), clean)


def test_a_folder_of_an_earlier_release_is_ours_and_sealed_anew_without_work(
    done: Workplace, clean: dict[str, bytes]
) -> None:
    (done.output / "plan" / "names.txt").unlink()
    form = json.loads((done.output / "stage.json").read_text())
    form["files"] = [entry for entry in form["files"] if entry["path"] != "plan/names.txt"]
    del form["content"], form["checksum"]
    (done.output / "stage.json").write_text(json.dumps(form))
    with pytest.raises(UserError, match=r"no checksum of itself, as those of earlier releases\); .* limbeck run toy"):
        Finished(Storage(done.output), "toy")
    assert done.run()["ran"] == 0
    assert_same(done.tree(), clean)


def test_a_tar_that_vanishes_before_the_seal_is_never_a_sealed_hole(
    workplace: Workplace, clean: dict[str, bytes]
) -> None:
    class Robbed(Toy):
        __module__ = Toy.__module__  # what it writes is what the toy writes

        def finish(self, job: Job[ToyParams], plan: Plan, markers: Any) -> dict[str, Any]:
            facts = super().finish(job, plan, markers)
            (job.output.root / "shards" / "toy-000002.tar").unlink()
            return facts

    with pytest.raises(StageStopped, match=r"1 file \(shards/toy-000002.tar\) of finished units are gone"):
        workplace.run(stage=Robbed())
    assert not (workplace.output / "index.json").exists()
    assert not (workplace.output / "stage.json").exists()
    workplace.ran()
    workplace.run()
    assert workplace.ran() == ["toy-000002"]
    assert_same(workplace.tree(), clean)


def test_a_tar_that_vanishes_while_other_units_run_is_found(workplace: Workplace, clean: dict[str, bytes]) -> None:
    class Robbed(Toy):
        __module__ = Toy.__module__  # what it writes is what the toy writes

        def run(self, unit: Any, worker: Any, output: Any, job: Job[ToyParams]) -> None:
            super().run(unit, worker, output, job)
            if unit.name == "toy-000007":
                (job.output.root / "shards" / "toy-000002.tar").write_bytes(b"cut")

    with pytest.raises(StageStopped, match=r"1 file \(shards/toy-000002.tar\) of finished units"):
        workplace.run(stage=Robbed())
    workplace.run()
    assert_same(workplace.tree(), clean)


def test_pictures_may_lie_beside_the_outputs(tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "data" / "photos", count=12)
    before = tree(source)
    params = {"sources": [{"type": "folder", "path": str(source)}], "image": {"resize": "pad", "size": 32}}
    job = Job("ingest", IngestParams.model_validate(params), RunParams(), str(tmp_path / "data"))
    execute(Ingest(), job, SerialRunner)
    assert_same(tree(source), before)


@pytest.mark.parametrize("place", [f".partial/mine-{'a' * 32}/precious.bin", ".partial/claims/mine.txt"])
@pytest.mark.parametrize("finished", [True, False])
def test_what_looks_like_a_unit_s_own_state_is_ours_only_if_a_record_says_so(
    workplace: Workplace, place: str, finished: bool
) -> None:
    if finished:
        workplace.run()
    path = workplace.output / place
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"holds 1 file \(\.partial/"):
        workplace.run(job=workplace.job(size=200))
    assert path.read_bytes() == b"mine"


def test_a_folder_that_two_data_folders_share_is_written_and_read_by_one_run_at_a_time(
    done: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "PATIENCE", 0.0)
    monkeypatch.setattr(inputs, "PATIENCE", 0.0)
    other = Workplace(tmp_path / "elsewhere")
    other.output.symlink_to(done.output)
    upstream = {"toy": Storage(str(other.output))}
    with guard.only_run(done.job()):
        with pytest.raises(UserError, match="for another data folder that shares it"):
            other.run()
        reading = inputs.reading(other.job(), upstream)
        with pytest.raises(UserError, match="toy, an input of toy, is being written by another run"), reading:
            pass
    reading = inputs.reading(other.job(), upstream)
    with reading, pytest.raises(UserError, match="another data folder that shares it"):
        done.run()
    assert other.run()["ran"] == 0


def test_notes_beside_the_tracebacks_of_a_stage_stay_and_its_tracebacks_go(tmp_path: Path) -> None:
    place = Workplace(tmp_path / "data")
    place.edit(5, "keep", "raise")
    with pytest.raises(StageStopped, match="raised"):
        place.run()
    folder = tmp_path / "data/.limbeck/errors/toy"
    assert "no such sample" in (folder / "toy-000005.txt").read_text()
    notes = {folder / "notes.txt": "mine", folder / "toy-000004.txt": "mine too"}
    for path, text in notes.items():
        path.write_text(text)
    place.edit(5, "raise", "keep")
    place.run()
    assert {path: path.read_text() for path in folder.iterdir()} == notes
