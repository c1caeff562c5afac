"""The bytes of a stage are pinned next to its version, so that a change of the one without the other is noticed.

Encoders of other releases pack the same pixels otherwise. What a stage decides (members, pixels, rows) is therefore
pinned by itself, and the folder to the byte only for the releases that the suite was pinned with.
"""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from pipelines.config import RunParams
from pipelines.runtime.execute import execute
from pipelines.runtime.job import Job
from pipelines.runtime.ledger import CONFIG_FILE
from pipelines.runtime.serial import SerialRunner
from pipelines.shards.sidecar import SCHEMA, read_sidecar
from pipelines.stages.augment import Augment, AugmentParams
from pipelines.stages.ingest import Ingest
from pipelines.stages.split import Split, SplitParams
from pipelines.storage import Storage, canonical_json
from tests.contract.folders import tree
from tests.contract.pictures import ingest_job, write_pictures

#: (version, SHA-256 of what was decided, SHA-256 of the folder). When a test here fails and the change is wanted, raise
#: the stage's version and pin what the test prints.
GOLDEN = {
    "ingest": (
        2,
        "5f94c289768f15a0fc1235336714153e277f529fc00c7ba3236e73c1c23bd05d",
        "5c06a89f94c851403cddbb9b04f5eae34eed8d67632542bf94c84e70f8ae6498",
    ),
    "augment": (
        2,
        "b71450af84bd00854bad31047b107d3d45c10ab7dad95183fdcbf9d29ace8db1",
        "34981c0a5da13447b0ae2162ff1b3dea2857c3f54afe06f191a98056f048ceb4",
    ),
    "split": (
        3,
        "048da1f84fd8d1b0668953f456d7c898799d60e41f8455b930be9c3d1d43a50b",
        "bd8a597ccf3734295c41dda504cc4faf53f2ac4d264f1a568f509d8868f5592f",
    ),
}
PINNED_WITH = ("5.0.0", "26.0.1")

#: Pixels are moved and mapped here, not computed: no release of torch or OpenCV rounds them otherwise.
POLICY = [{"random_crop": {"size": 8, "padding": 2}}, "horizontal_flip", "invert", {"posterize": {"bits": [2, 6]}}]

#: Columns that depend on how an encoder packs pixels or a decoder words its trouble.
PACKING = {"members", "bytes", "detail"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with ingest, split and augment finished, from pictures that need no lossy decoder."""
    root = tmp_path_factory.mktemp("golden")
    source = write_pictures(root / "source", count=30)
    for path in source.rglob("*.jpg"):
        path.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        execute(Ingest(), ingest_job(Path("source"), root / "data"), SerialRunner)
        run = RunParams(device="cpu")
        execute(Split(), Job("split", SplitParams(validation=0.25), run, str(root / "data")), SerialRunner)
        sets = {"views": {"policy": POLICY, "views": 2, "format": "png", "boxes": "foreground", "threshold": 128}}
        params = AugmentParams.model_validate({"sets": sets})
        execute(Augment(), Job("augment", params, run, str(root / "data")), SerialRunner)
    return root / "data"


def decided(folder: Path) -> str:
    """SHA-256 over every member of every shard (images as pixels), every row and every class name."""
    digest = hashlib.sha256()
    storage = Storage(folder)
    columns = [name for name in SCHEMA.names if name not in PACKING]
    for path in storage.list():
        if path.endswith(".tar"):
            with tarfile.open(folder / path) as shard:
                for member in shard:
                    body = shard.extractfile(member)
                    assert body is not None
                    raw = body.read()
                    if member.name.endswith(".png"):
                        pixels = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
                        raw = repr(pixels.shape).encode() + pixels.tobytes()
                    digest.update(canonical_json([path, member.name, hashlib.sha256(raw).hexdigest()]))
        elif "meta/" in path:
            digest.update(canonical_json([path, read_sidecar(storage, path, columns).to_pylist()]))
        elif path.rsplit("/", 1)[-1] in ("classes.json", "sizes.json", "few_shot.json"):
            digest.update(canonical_json([path, storage.read_bytes(path).decode()]))
    return digest.hexdigest()


def whole(folder: Path) -> str:
    """SHA-256 over every file but the resolved parameters, which gain keys that decide nothing."""
    digest = hashlib.sha256()
    for name, content in tree(folder).items():
        if name != CONFIG_FILE:
            digest.update(canonical_json([name, hashlib.sha256(content).hexdigest()]))
    return digest.hexdigest()


@pytest.mark.parametrize("stage", [Ingest, Split, Augment], ids=lambda stage: stage.name)
def test_what_a_stage_decides_changes_with_its_version_only(data: Path, stage: type[Ingest | Split | Augment]) -> None:
    version, decisions, _ = GOLDEN[stage.name]
    assert (stage.version, decided(data / stage.name)) == (version, decisions)


@pytest.mark.parametrize("stage", [Ingest, Split, Augment], ids=lambda stage: stage.name)
def test_the_bytes_of_a_stage_change_with_its_version_only(data: Path, stage: type[Ingest | Split | Augment]) -> None:
    if (cv2.__version__, pa.__version__) != PINNED_WITH:
        pytest.skip(f"pinned with OpenCV and pyarrow {PINNED_WITH}, here are {(cv2.__version__, pa.__version__)}")
    version, _, folder = GOLDEN[stage.name]
    assert (stage.version, whole(data / stage.name)) == (version, folder)
