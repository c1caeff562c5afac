"""A record that ends whoever reads it is left out after two deaths; a process that is killed for other reasons blames none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import yaml

from pipelines.runtime.in_hand import InHand
from pipelines.shards.sidecar import read_sidecar
from pipelines.storage import Storage
from tests.contract.folders import assert_same, tree
from tests.faults.making import png

#: What a damaged file can do to a library in C: reading one picture ends the process, each time or (with a file) once.
FATAL_READ = """
import os, signal, sys, threading
if any(name in " ".join(sys.orig_argv) for name in ("pipelines", "limbeck")):
    from pipelines.sources import folder
    plain, seen = folder.FolderSource.read, os.environ["SEEN"]
    def read(self, record):
        if record.source.endswith("fatal.png") and not os.path.exists(seen):
            if os.environ["ONCE"]:
                open(seen, "w").close()
            signal.pthread_kill(threading.get_ident(), int(os.environ["DEATH"]))
        return plain(self, record)
    folder.FolderSource.read = read
"""


def prepared(folder: Path) -> Path:
    for number in range(12):
        path = folder / "source" / "cat" / ("fatal.png" if number == 7 else f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(FATAL_READ)
    section = {"sources": [{"type": "folder", "path": str(folder / "source")}], "image": {"format": "png"}}
    (folder / "params.yaml").write_text(yaml.safe_dump({"ingest": section}))
    return folder


def run(folder: Path, data: str, fatal: bool, death: int = signal.SIGSEGV, once: bool = False) -> int:
    root = str(Path(__file__).resolve().parents[2])
    paths = ([str(folder / "site")] if fatal else []) + [root]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "SEEN": str(folder / "seen")}
    environment |= {"ONCE": "1" if once else "", "DEATH": str(int(death))}
    command = [sys.executable, "-P", "-m", "pipelines", "run", "ingest"]
    command += ["--params", str(folder / "params.yaml"), "--data", str(folder / data), "--runner", "serial"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    return done.returncode


def reasons(dataset: Path) -> dict[str, str]:
    storage, found = Storage(dataset), {}
    for path in storage.list("meta"):
        for row in read_sidecar(storage, path, ["source", "outcome", "reason", "detail"]).to_pylist():
            if row["outcome"] == "failed":
                found[row["source"]] = f"{row['reason']}: {row['detail']}"
    return found


def test_a_record_that_ends_every_process_is_left_out_after_two_deaths(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    codes = [run(folder, "data", fatal=True) for _ in range(3)]
    assert codes == [-signal.SIGSEGV, -signal.SIGSEGV, 0]
    (told,) = reasons(folder / "data" / "ingest").values()
    assert told.startswith("quarantined: ")
    assert "SIGSEGV" in told


def test_kills_that_happen_to_meet_one_record_blame_nobody(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    for _ in range(2):
        (folder / "seen").unlink(missing_ok=True)
        assert run(folder, "data", fatal=True, death=signal.SIGKILL, once=True) == -signal.SIGKILL
    (folder / "seen").unlink()  # so that the one who tries it apart is killed as well, once
    assert run(folder, "data", fatal=True, death=signal.SIGKILL, once=True) == 0
    assert (folder / "seen").exists()
    assert run(folder, "undisturbed", fatal=False) == 0
    assert not reasons(folder / "data" / "ingest")
    assert_same(tree(folder / "data" / "ingest"), tree(folder / "undisturbed" / "ingest"))


def test_only_a_death_leaves_a_suspicion(tmp_path: Path) -> None:
    scratch = Storage(tmp_path / "scratch")
    for _ in range(3):
        try:
            with InHand(scratch, 2) as in_hand, in_hand.holding(5):
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
    assert not InHand(scratch, 2).suspects
    script = (
        "import os, sys\n"
        "from pipelines.runtime.in_hand import InHand\n"
        "from pipelines.storage import Storage\n"
        "with InHand(Storage(sys.argv[1]), 2) as held, held.holding(int(sys.argv[2])), held.holding(9):\n"
        "    os._exit(1)\n"
    )
    for place in (5, 6):
        subprocess.run([sys.executable, "-c", script, str(tmp_path / "scratch"), str(place)], check=False)
    assert InHand(scratch, 2).suspects == {9}
