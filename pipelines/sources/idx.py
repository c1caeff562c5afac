"""IDX files, the format of the MNIST family (magic, sizes, raw values), plain or gzipped.

Pixels are presented as binary PGM or PPM bytes, so that they pass the same safe image path as any other file.
"""

from __future__ import annotations

import hashlib
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.errors import UserError
from pipelines.sources.base import Record, bad_record, resolve, too_many_bytes, unreadable
from pipelines.sources.base import digest as digest_of
from pipelines.sources.folder_walk import read_file
from pipelines.sources.labels import StatedNames, label_from
from pipelines.sources.params import IdxParams
from pipelines.storage import Storage

_UNSIGNED_BYTE = 0x08
_MAX_BYTES = 8 << 30
#: Packed files that claim to be longer than this by more than this factor are bombs; images pack by 10 or so.
_UNPACKED_FREELY = 256 << 20
_MAX_RATIO = 200


@dataclass(frozen=True, slots=True)
class IdxArray:
    """The uint8 values of one IDX file: `shape`, and `values` in C order starting at `start` of `data`."""

    shape: tuple[int, ...]
    data: bytes
    start: int


class IdxSource:
    """See `IdxParams`. Files are decompressed once per source object, at the first need."""

    def __init__(self, params: IdxParams) -> None:
        self._params = params
        self._storage = Storage(resolve(params.path))
        unknown = sorted(set(params.sha256) - {params.images, params.labels})
        if unknown:
            raise UserError(f"sha256 names {unknown[0]!r}, which is neither `images` nor `labels` of this source")
        self._names = StatedNames(self._storage, params.classes)
        self._arrays: dict[str, IdxArray] = {}
        self._lock = threading.Lock()

    def scan(self, max_bytes: int | None = None) -> Iterator[Record]:
        """Images in file order; the row is the position."""
        images, labels = self._images(), self._labels()
        names = self._names.of(self._params.labels or "")
        head = _netpbm_header(images.shape)
        size = _size(images.shape[1:])
        name = self._params.images
        for row in range(images.shape[0]):
            if max_bytes is not None and len(head) + size > max_bytes:
                problem = too_many_bytes(len(head) + size, max_bytes)
                yield bad_record(f"{name}#{row}", problem, self._params.split, row)
                continue
            length, sha256 = digest_of(self._image(row))  # here: a thread costs more than the hash of a small image
            where = f"{name}#{row}"
            said = label_from(None if labels is None else labels[row], names)
            offset = images.start + row * size
            assert length == len(head) + size
            place = (where, name, offset, length, row)
            yield Record(*place, said.index, said.name, self._params.split, None, sha256, problem=said.problem)

    def read(self, record: Record) -> bytes:
        return self._image(record.row)

    def classes(self) -> list[str]:
        return self._names.merged([self._params.labels or ""])

    def passed_over(self) -> Counter[str]:
        return Counter()

    def _image(self, row: int) -> bytes:
        images = self._images()
        size = _size(images.shape[1:])
        start = images.start + row * size
        return _netpbm_header(images.shape) + images.data[start : start + size]

    def _images(self) -> IdxArray:
        array = self._load(self._params.images)
        if len(array.shape) != 3 and not (len(array.shape) == 4 and array.shape[3] == 3):
            raise UserError(
                f"{self._params.images} holds values of shape {array.shape}; images are (count, height, width), with "
                "3 at the end for colour; check `images` and `labels`"
            )
        if not _size(array.shape[1:]):
            raise UserError(f"{self._params.images} holds images of no pixels, {array.shape}; fetch the file again")
        return array

    def _labels(self) -> bytes | None:
        """One byte per image, or None without a label file."""
        name = self._params.labels
        if name is None:
            return None
        array, count = self._load(name), self._images().shape[0]
        if array.shape != (count,):
            raise UserError(
                f"{name} holds values of shape {array.shape}, but {self._params.images} has {count} images: they are not "
                "of one set; check `images` and `labels`"
            )
        return array.data[array.start :]

    def _load(self, name: str) -> IdxArray:
        with self._lock:
            array = self._arrays.get(name)
            if array is None:
                array = self._arrays[name] = read_idx(self._storage, name, self._params.sha256.get(name))
            return array


def read_idx(storage: Storage, name: str, sha256: str | None = None) -> IdxArray:
    """Read and check one IDX file of unsigned bytes. `UserError` when it is not what it says it is."""
    try:
        raw = read_file(storage, name)
    except FileNotFoundError:
        raise UserError(f"no file {name} in {storage.url}; check the path of this source") from None
    except OSError as error:
        raise UserError(f"{name} in {storage.url} cannot be read ({unreadable(error).detail})") from None
    if sha256 is not None and (actual := hashlib.sha256(raw).hexdigest()) != sha256:
        raise UserError(f"{name} in {storage.url} has sha256 {actual}, expected {sha256}; fetch the file again")
    where = f"{name} in {storage.url}"
    inflate = zlib.decompressobj(wbits=31) if raw[:2] == b"\x1f\x8b" else None
    head = _unpacked(inflate, raw, 4 + 4 * 255, where) if inflate else raw
    if len(head) < 4 or head[:2] != b"\0\0":
        raise UserError(f"{where} is not an IDX file: it starts with {head[:4].hex() or 'nothing'}, not with 0000")
    kind, dimensions = head[2], head[3]
    if kind != _UNSIGNED_BYTE:
        raise UserError(f"{where} holds values of type 0x{kind:02x}; only unsigned bytes (0x08) are images or labels")
    start = 4 + 4 * dimensions
    if not dimensions or len(head) < start:
        raise UserError(f"{where} ends inside its header of {dimensions} sizes; fetch the file again")
    shape = struct.unpack_from(f">{dimensions}I", head, 4)
    expected = start + _size(shape)
    if expected > _MAX_BYTES:
        raise UserError(f"{where} claims values {shape}, more than {_MAX_BYTES} bytes; fetch the file again")
    if inflate and expected > _UNPACKED_FREELY and expected > _MAX_RATIO * len(raw):
        raise UserError(
            f"{where} claims {expected} bytes, more than {_MAX_RATIO} times what is packed; unpack it with gunzip if you "
            "trust it"
        )
    # One byte more than expected is asked for, so that a longer file is noticed and a gzip bomb is not unpacked.
    data = head
    if inflate and len(head) <= expected:
        data += _unpacked(inflate, inflate.unconsumed_tail, expected + 1 - len(head), where)
        if len(data) == expected and not inflate.eof:
            _unpacked(inflate, inflate.unconsumed_tail, 1, where)  # the gzip checksum is only looked at here
    if len(data) != expected or (inflate and not inflate.eof):
        more = "more" if len(data) > expected else f"only {len(data)}"
        raise UserError(f"{where} should have {expected} bytes for values {shape} but has {more}; fetch the file again")
    return IdxArray(shape, data, start)


def _unpacked(inflate: zlib._Decompress, raw: bytes, most: int, where: str) -> bytes:
    try:
        return inflate.decompress(raw, most)
    except zlib.error as error:
        raise UserError(f"{where} is damaged gzip ({error}); fetch the file again") from error


def _netpbm_header(shape: tuple[int, ...]) -> bytes:
    return b"P%d\n%d %d\n255\n" % (5 if len(shape) == 3 else 6, shape[2], shape[1])


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size
