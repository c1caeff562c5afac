"""Checks one tar, ours or anyone's, in a single pass over its bytes. Which files to check is `lint`'s affair.

Our shards are held to the contract; other people's to what makes a WebDataset readable and safe, with warnings for what
is only unusual.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickletools
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from pipelines.shards.checksum import member_checksum
from pipelines.shards.findings import Findings
from pipelines.shards.index import escapes
from pipelines.shards.keys import KEY_PATTERN
from pipelines.shards.members import FOREIGN_IMAGE_ENDINGS, image_ending, split_name
from pipelines.shards.sample import MEMBER_RANK, MemberSpan, member_problem
from pipelines.shards.walker import TarDamage, TarMember, TarWalker

#: Takes encoded image bytes, and whether a dataset of ours holds them; raises when they are not a sound image.
Decode = Callable[[bytes, bool], None]

_PICKLED = {"pickle", "pkl", "pyd", "pth", "pt", "ckpt", "joblib"}
_MAGIC = {
    "jpg": (b"\xff\xd8\xff",),
    "jpeg": (b"\xff\xd8\xff",),
    "jpe": (b"\xff\xd8\xff",),
    "jfif": (b"\xff\xd8\xff",),
    "png": (b"\x89PNG\r\n\x1a\n",),
    "webp": (b"RIFF",),
    "gif": (b"GIF87a", b"GIF89a"),
    "bmp": (b"BM",),
    "tif": (b"II*\0", b"MM\0*"),
    "tiff": (b"II*\0", b"MM\0*"),
    "ppm": (b"P3", b"P6"),
    "pgm": (b"P2", b"P5"),
}
#: Members larger than this are not looked into: no trainer holds them in memory either.
_MAX_CONTENT = 1 << 28
#: Where the type of a NumPy array stands.
_ARRAY_HEADER = 4096


@dataclass(slots=True)
class SeenSample:
    """One sample as it lies in the tar; `label` is the content of its `cls` member."""

    key: str
    spans: list[MemberSpan] = field(default_factory=list)
    label: int | None = None


@dataclass(slots=True)
class ShardFacts:
    """What a pass over a tar found; `sound` is False when it could not be read to its end."""

    samples: int = 0
    bytes: int = 0
    sha256: str = ""
    sound: bool = True


class HashingStream(io.RawIOBase):
    """Counts and hashes what is read through it. It cannot seek, so every byte passes."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._digest.update(data)
        self.count += len(data)
        return data

    def seekable(self) -> bool:
        return False

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


class ShardCheck:
    """Checks one tar. `on_sample` gets each sample, in order; `classes` is how many classes there are, if known."""

    def __init__(
        self,
        where: str,
        findings: Findings,
        on_sample: Callable[[SeenSample], None],
        *,
        ours: bool,
        classes: int | None = None,
        decode: Decode | None = None,
    ) -> None:
        self._where = where
        self._findings = findings
        self._on_sample = on_sample
        self._ours = ours
        self._classes = classes
        self._decode = decode
        self._seen: set[str] = set()
        self._current: SeenSample | None = None
        self._facts = ShardFacts()

    def run(self, stream: BinaryIO) -> ShardFacts:
        """Read the stream to its end and report what is wrong with it."""
        hashing = HashingStream(stream)
        walker = TarWalker(cast(BinaryIO, hashing))
        try:
            for member in walker:
                self._member(member, walker)
            self._finish_sample()
            self._check_rest(walker)
        except TarDamage as damage:
            self._facts.sound = False
            self._findings.error("tar_damaged", self._where, f"{damage.reason} (byte {damage.offset})")
        while hashing.read(1 << 20):
            pass
        self._facts.bytes, self._facts.sha256 = hashing.count, hashing.hexdigest()
        return self._facts

    def _error(self, code: str, member: str, message: str) -> None:
        self._findings.error(code, self._where, message, member)

    def _warning(self, code: str, member: str, message: str) -> None:
        self._findings.warning(code, self._where, message, member)

    def _breach(self, code: str, member: str, message: str) -> None:
        """Ours promises it, others may do as they like."""
        (self._error if self._ours else self._warning)(code, member, message)

    def _check_rest(self, walker: TarWalker) -> None:
        """Readers stop at the end marker: samples of a second archive glued on would be lost in silence."""
        try:
            rest = "another archive, which WebDataset readers do not see" if walker.next_archive() else ""
        except TarDamage as damage:
            rest = damage.reason
        if rest:
            self._breach("data_after_end", "", f"after the end of the archive: {rest}")

    def _member(self, member: TarMember, walker: TarWalker) -> None:
        name = member.name
        if escapes(name.removesuffix("/")) and name not in (".", "./"):
            self._error("path_escape", name, "unpacking this name could write outside the target folder")
        if member.kind in ("link", "hardlink", "device"):
            kind = "device" if member.kind == "device" else "link"
            self._error(f"{kind}_member", name, f"a {kind} has no place in a dataset and can attack readers")
            return
        if member.kind == "sparse":
            self._error("sparse_member", name, "stored with holes, which WebDataset readers do not fill")
            return
        if member.kind == "other":
            self._breach("skipped_member", name, "an entry that is no file; readers skip it")
            return
        if member.kind == "directory":
            self._breach("directory_member", name, "a directory entry; readers skip it")
            return
        named = split_name(name)
        if named is None:
            self._breach("skipped_member", name, "WebDataset readers skip this name: it has no key and extension")
            return
        key, ext = named
        data = None if member.size > _MAX_CONTENT else walker.read()
        self._place(key, ext, member, None if data is None or not self._ours else member_checksum(data))
        if data is None:
            self._warning("huge_member", name, f"{member.size} bytes were not looked into")
        else:
            self._content(name, ext, data)

    def _place(self, key: str, ext: str, member: TarMember, checksum: int | None) -> None:
        """Put the member into its sample and check that samples are whole and unmixed."""
        if self._current is None or self._current.key != key:
            self._finish_sample()
            if key in self._seen:
                self._error("key_not_contiguous", member.name, "members of this key lie apart: readers see two samples")
            self._seen.add(key)
            self._current = SeenSample(key)
            if self._ours and not KEY_PATTERN.fullmatch(key):
                self._error("key_form", member.name, "not a key as the contract has it")
        if any(span.ext == ext for span in self._current.spans):
            self._error("duplicate_member", member.name, "the sample has this member already")
        self._current.spans.append(MemberSpan(ext, member.offset, member.size, checksum))

    def _finish_sample(self) -> None:
        sample, self._current = self._current, None
        if sample is None:
            return
        self._facts.samples += 1
        exts = list(dict.fromkeys(span.ext for span in sample.spans))  # repeats have a finding of their own
        problem = member_problem(exts)
        if self._ours and problem:
            self._error("member_order", sample.key, problem)
        elif problem and all(ext in MEMBER_RANK for ext in exts):
            self._warning("member_order", sample.key, f"Limbeck would not write it so: {problem}")
        if not any(image_ending(f"x.{ext}") for ext in exts):
            self._warning("no_image", sample.key, f"no image among {', '.join(exts)}")
        self._on_sample(sample)

    def _content(self, name: str, ext: str, data: bytes) -> None:
        kind = ext.rsplit(".", 1)[-1]  # `left.jpg` holds a JPEG
        if image_ending(name):
            self._image(name, kind, data)
        elif kind in _PICKLED or _is_pickle(data):
            self._error("pickle_member", name, "a pickle runs code when it is read")
        elif kind in ("npy", "npz"):
            self._array(name, kind, data)
        elif kind == "json":
            try:
                json.loads(data)
            except (ValueError, RecursionError) as error:
                self._error("bad_json", name, f"not JSON: {error}")
        elif kind == "txt":
            try:
                data.decode()
            except UnicodeDecodeError as error:
                self._breach("bad_text", name, f"not UTF-8: {error}")
        elif ext == "cls":
            self._label(name, data)

    def _array(self, name: str, kind: str, data: bytes) -> None:
        try:
            arrays = [data] if kind == "npy" else list(_zipped(data))
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # the last: encrypted, odd methods
            self._error("bad_array", name, f"not an .npz: {error}")
            return
        if any(not array.startswith(b"\x93NUMPY") for array in arrays):
            self._error("bad_array", name, "not a NumPy array")
        elif any(b"'|O'" in array[:_ARRAY_HEADER].partition(b"\n")[0] for array in arrays):
            self._error("pickle_member", name, "the array holds Python objects, which are stored as a pickle")

    def _image(self, name: str, kind: str, data: bytes) -> None:
        if not data:
            self._error("undecodable_image", name, "the image is empty")
            return
        if kind in FOREIGN_IMAGE_ENDINGS:
            self._breach("foreign_image", name, f"images called .{kind} are not read here; convert them")
            return
        if kind in _MAGIC and not data.startswith(_MAGIC[kind]):
            self._breach("misnamed_image", name, f"the bytes do not begin as .{kind} does")
        if self._decode is not None:
            try:
                self._decode(data, self._ours)
            except MemoryError:
                raise
            except Exception as error:  # whatever a decoder raises is a finding about the data
                self._error("undecodable_image", name, f"{type(error).__name__}: {error}")

    def _label(self, name: str, data: bytes) -> None:
        text = data.strip()
        if not (text.removeprefix(b"-").isdigit() and len(text) < 20):
            self._breach("bad_label", name, f"{data[:40]!r} is not a whole number")
            return
        label = int(text)
        if label < 0 or (self._classes is not None and label >= self._classes):
            classes = "" if self._classes is None else f"; classes.json has {self._classes}"
            self._error("label_out_of_range", name, f"label {label} names no class{classes}")
        if self._current is not None:
            self._current.label = label


def _is_pickle(data: bytes) -> bool:
    """Whether the bytes are a protocol 2+ pickle: its magic, its end, and opcodes that parse up to the end."""
    if len(data) < 3 or data[0] != 0x80 or not 2 <= data[1] <= 5 or data[-1:] != b".":
        return False
    try:
        for _ in pickletools.genops(io.BytesIO(data)):
            pass
    except ValueError:
        return False
    return True


def _zipped(data: bytes) -> Iterator[bytes]:
    """The beginnings of the arrays in an .npz; never the whole of what a bomb would unpack to."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as stream:
                yield stream.read(_ARRAY_HEADER)
