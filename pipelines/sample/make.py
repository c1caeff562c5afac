"""Makes the embedded Fashion-MNIST sample from the originals: balanced, drawn by a fixed seed, byte-stable.

    python -m pipelines.sample.make --source FOLDER --out FOLDER

FOLDER holds the four original IDX files; Debian's package `dataset-fashion-mnist` carries them. Images keep the order
of the originals. Running this again gives the same bytes (same zlib), which a test holds.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import struct
from pathlib import Path

import numpy as np

from pipelines.sources.idx import IdxArray, read_idx
from pipelines.storage import Storage

SEED = 20170828
PER_CLASS = {"t10k": 200, "train": 1000}
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
#: The originals, so that a sample made from anything else is noticed.
ORIGINALS = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}

LICENCE = """\
MIT License

Copyright (c) 2017 Zalando SE, https://tech.zalando.com

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""

README = f"""\
# Fashion-MNIST, a balanced subset

{PER_CLASS["train"] * len(CLASSES)} training and {PER_CLASS["t10k"] * len(CLASSES)} test images, 28 x 28 grey,
{len(CLASSES)} classes, each class equally often; IDX files, gzipped; class names by label in `classes.json`.

- Data: Fashion-MNIST by Zalando Research (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747), MIT licence (`LICENSE`).
- From: the four original files, as in Debian's package `dataset-fashion-mnist`.
- Made by `python -m pipelines.sample.make --source ORIGINALS --out HERE`: for every class {PER_CLASS["train"]} training
  and {PER_CLASS["t10k"]} test images are drawn without replacement (seed {SEED}); the order of the originals is kept.
- `SHA256SUMS` holds the checksums of the IDX files.

Figures measured on this subset are not Fashion-MNIST results.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--source", type=Path, required=True, help="folder with the four original IDX files")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args()
    make(arguments.source, arguments.out)


def make(source: Path, out: Path) -> None:
    """Write the sample into `out`. `UserError` when a file in `source` is not the original."""
    storage = Storage(source)
    originals = {name: read_idx(storage, name, sha256) for name, sha256 in ORIGINALS.items()}
    out.mkdir(parents=True, exist_ok=True)
    generator = np.random.Generator(np.random.PCG64(SEED))
    sums = []
    for part in PER_CLASS:
        images = as_array(originals[f"{part}-images-idx3-ubyte.gz"])
        labels = as_array(originals[f"{part}-labels-idx1-ubyte.gz"])
        drawn = [
            generator.choice(np.flatnonzero(labels == label), PER_CLASS[part], replace=False)
            for label in range(len(CLASSES))
        ]
        rows = np.sort(np.concatenate(drawn))
        for name, values in ((f"{part}-images-idx3-ubyte.gz", images), (f"{part}-labels-idx1-ubyte.gz", labels)):
            data = _packed(values[rows])
            (out / name).write_bytes(data)
            sums.append(f"{hashlib.sha256(data).hexdigest()}  {name}\n")
    (out / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    (out / "classes.json").write_text(json.dumps(CLASSES, indent=2) + "\n", encoding="utf-8")
    (out / "LICENSE").write_text(LICENCE, encoding="utf-8")
    (out / "README.md").write_text(README, encoding="utf-8")


def as_array(array: IdxArray) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The values as a read-only uint8 array of the file's shape."""
    return np.frombuffer(array.data, np.uint8, offset=array.start).reshape(array.shape)


def _packed(values: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    """An IDX file of unsigned bytes, gzipped without name and time."""
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, compresslevel=9, mtime=0) as stream:
        stream.write(head + values.tobytes())
    return packed.getvalue()


if __name__ == "__main__":
    main()
