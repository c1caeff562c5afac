"""Soft labels on disk: what was written is read, byte for byte the same, from the map and an epoch at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import torch

from distill.compression import LabelFormat, pack, unpack
from distill.config import ViewConfig
from distill.views import Views, draw_views
from pipelines.errors import UserError
from pipelines.loaders.soft_labels import Epoch, LabelFiles, read_soft_labels, write_soft_labels
from pipelines.storage import Storage

KEYS = [f"image{place:02d}" for place in range(11)]
CLASSES = 7
CONFIG = ViewConfig(crop="resized", mix="cutmix")


def made(epoch: int, form: LabelFormat = "fp16") -> Epoch:
    views = draw_views(len(KEYS), 16, CONFIG, seed=1, epoch=epoch, batch_size=4)
    logits = torch.randn(len(KEYS), CLASSES, generator=torch.Generator().manual_seed(epoch)) * 5
    return epoch, views, pack(logits, form, 3)


def write(folder: Path, name: str, epochs: range, form: LabelFormat = "fp16", **facts: object) -> str:
    about = {"format": form, "classes": CLASSES, "teacher": "resnet18", "image_size": 16} | facts
    write_soft_labels(folder / name, (made(epoch, form) for epoch in epochs), KEYS, about)
    return name


def same_views(one: Views, other: Views) -> bool:
    return one.same_as(other)


@pytest.mark.parametrize("form", ["fp16", "int8", "top_k"])
def test_views_and_logits_come_back_as_they_were(tmp_path: Path, form: LabelFormat) -> None:
    paths = [write(tmp_path, "a.arrow", range(0, 3), form), write(tmp_path, "b.arrow", range(3, 5), form)]
    stored = read_soft_labels(Storage(tmp_path), paths, KEYS)
    assert list(stored) == [0, 1, 2, 3, 4]
    for epoch in (4, 0, 2):
        _, views, packed = made(epoch, form)
        known, logits = stored[epoch]
        assert same_views(known, views)
        assert torch.equal(logits, unpack(packed))


def test_images_are_found_by_key_and_not_by_place(tmp_path: Path) -> None:
    write(tmp_path, "a.arrow", range(1))
    turned = KEYS[::-1]
    views, _ = read_soft_labels(Storage(tmp_path), ["a.arrow"], turned)[0]
    expected = made(0)[1]
    assert [turned[place] for place in views.order.tolist()] == [KEYS[place] for place in expected.order.tolist()]
    assert [turned[place] for place in views.partner.tolist()] == [KEYS[place] for place in expected.partner.tolist()]


def test_the_same_labels_are_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path, "a.arrow", range(3))
    # Another process, so that nothing of this one's state gets into a file.
    program = (
        "import sys; from pathlib import Path; from tests.loaders.test_soft_labels import write; "
        "write(Path(sys.argv[1]), 'b.arrow', range(3))"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    assert (tmp_path / "a.arrow").read_bytes() == (tmp_path / "b.arrow").read_bytes()


def test_reading_maps_the_file_and_copies_no_logits(tmp_path: Path) -> None:
    classes, count = 1000, 512
    keys = [f"image{place}" for place in range(count)]
    views = draw_views(count, 16, CONFIG, seed=1, epoch=0, batch_size=64)
    packed = pack(torch.zeros(count, classes), "fp16")
    epochs = ((epoch, views, packed) for epoch in range(8))
    size = write_soft_labels(tmp_path / "a.arrow", epochs, keys, {"format": "fp16", "classes": classes})
    before = pa.total_allocated_bytes()
    files = LabelFiles(Storage(tmp_path), ["a.arrow"])
    arrays = [files.epoch(epoch) for epoch in files.epochs]
    assert pa.total_allocated_bytes() - before < size / 20
    assert all(not epoch["logits"].flags.owndata and not epoch["logits"].flags.writeable for epoch in arrays)
    assert files.bytes == size
    assert size < 1.05 * 8 * count * (2 * classes + 64)


def test_numpy_readers_need_no_torch(tmp_path: Path) -> None:
    write(tmp_path, "a.arrow", range(2), "int8")
    program = (
        "import sys; from pipelines.loaders.soft_labels import LabelFiles; from pipelines.storage import Storage; "
        "epoch = LabelFiles(Storage(sys.argv[1]), ['a.arrow']).epoch(1); "
        "print(*sorted((name, str(array.dtype), array.shape) for name, array in epoch.items()), sep='\\n'); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "('crop', 'float32', (11, 4))",
        "('flip', 'bool', (11,))",
        "('image', 'int32', (11,))",
        "('logits', 'int8', (11, 7))",
        "('mix_box', 'int16', (11, 4))",
        "('partner', 'int32', (11,))",
        "('scale', 'float32', (11, 2))",
        "('share', 'float32', (11,))",
    ]


def test_any_arrow_reader_reads_them(tmp_path: Path) -> None:
    write(tmp_path, "a.arrow", range(2))
    with pa.memory_map(str(tmp_path / "a.arrow")) as source:
        table = pa.ipc.open_file(source).read_all()
    order = made(0)[1].order.tolist() + made(1)[1].order.tolist()
    assert table["key"].to_pylist() == [KEYS[place] for place in order]
    assert table["epoch"].to_pylist() == [0] * 11 + [1] * 11
    assert np.array(table["logits"].to_pylist()).shape == (22, CLASSES)


def test_remote_labels_are_read_too(tmp_path: Path) -> None:
    write(tmp_path, "a.arrow", range(2))
    fsspec.filesystem("memory").pipe_file("/labels/a.arrow", (tmp_path / "a.arrow").read_bytes())
    remote = read_soft_labels(Storage("memory://labels"), ["a.arrow"], KEYS)
    assert same_views(remote[1][0], made(1)[1])


def test_labels_of_another_set_are_refused(tmp_path: Path) -> None:
    storage, first = Storage(tmp_path), write(tmp_path, "a.arrow", range(2))
    with pytest.raises(UserError, match="image10, which is not in the set"):
        read_soft_labels(storage, [first], KEYS[:10])
    with pytest.raises(UserError, match="epoch 1, which another file has too"):
        read_soft_labels(storage, [first, write(tmp_path, "b.arrow", range(1, 3))], KEYS)
    with pytest.raises(UserError, match="another set or teacher"):
        read_soft_labels(storage, [first, write(tmp_path, "c.arrow", range(2, 3), teacher="vit")], KEYS)
    with pytest.raises(UserError, match="run relabel"):
        read_soft_labels(storage, [], KEYS)
    with pytest.raises(UserError, match="no soft labels at"):
        read_soft_labels(storage, ["none.arrow"], KEYS)
    (tmp_path / "d.arrow").write_bytes((tmp_path / "a.arrow").read_bytes()[:-300])
    with pytest.raises(UserError, match="not a file of soft labels"):
        read_soft_labels(storage, ["d.arrow"], KEYS)
