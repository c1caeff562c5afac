"""From the members of a tar to its samples: which images there are, what describes each, and what nobody claims.

A sample is what shares a key inside one archive, wherever its members lie in it; joined archives (`cat a.tar b.tar`) are
archives of their own, so equal keys in two of them never meet. What a tar holds is known only at its end, so the runs of
members wait in a temporary file: one pass over the bytes, however large the tar is.
"""

from __future__ import annotations

import pickle
import posixpath
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import BinaryIO, cast

from pipelines.outcomes import Outcome, failed
from pipelines.shards.members import image_ending, is_litter, split_name
from pipelines.shards.walker import TarDamage, TarMember, TarWalker
from pipelines.sources.base import too_many_bytes
from pipelines.sources.folder_walk import readable
from pipelines.workspace import workspace

#: Members that describe an image.
SIDES = ("cls", "txt", "json")
#: Runs of a tar are kept in memory up to so many bytes.
_SPOOL = 32 << 20
#: Links to links that are followed.
_MOST_LINKS = 40
#: Endings that are counted one by one; those beyond are counted together.
_MOST_ENDINGS = 20


@dataclass(slots=True)
class TarImage:
    """An image member: where its bytes lie and their SHA-256, or the `problem` for which there are none."""

    name: str
    offset: int
    size: int
    sha256: bytes | None = None
    problem: Outcome | None = None
    target: str | None = None  # of a link that is not resolved yet


@dataclass(slots=True)
class TarSide:
    """A member that describes an image: its bytes, or why there are none."""

    name: str
    data: bytes = b""
    problem: Outcome | None = None
    target: str | None = None


@dataclass(slots=True)
class TarSample:
    """What shares a key: images in their order, descriptions by ending. `archive` counts joined archives from 0."""

    archive: int
    key: str
    images: list[TarImage] = field(default_factory=list)
    sides: dict[str, TarSide] = field(default_factory=dict)
    repeat: int = 0  # how many samples of this key and archive come before it


class SamplesOfTar:
    """The samples of one tar. Iterate once; then `damage` says where the tar breaks off and `passed` what was passed over.

    Members above `max_bytes` are not read, nor are descriptions above `max_side`.
    """

    def __init__(self, stream: BinaryIO, max_bytes: int | None, max_side: int) -> None:
        self._walker = TarWalker(stream)
        self._max_bytes = max_bytes
        self._max_side = max_side
        self._seen: set[int] = set()  # hashes of (archive, key); one that clashes costs time only
        self._apart: set[tuple[int, str]] = set()
        self._wanted: set[str] = set()  # where links lead
        self._last: TarMember | None = None
        self.last_key: tuple[int, str] | None = None
        self.members = 0
        self.damage: TarDamage | None = None
        self.passed: Counter[str] = Counter()

    @property
    def last(self) -> TarMember | None:
        """The last member with data."""
        return self._last

    def __iter__(self) -> Iterator[TarSample]:
        with tempfile.SpooledTemporaryFile(_SPOOL, dir=str(workspace())) as spool:
            file = cast(BinaryIO, spool)
            for run in self._runs():
                pickle.dump(run, file, pickle.HIGHEST_PROTOCOL)
            targets = self._targets(_replayed(file)) if self._wanted else {}
            waiting: dict[tuple[int, str], list[TarSample]] = {}
            for run in _replayed(file):
                if self._wanted:
                    _resolve(run, targets)
                if (run.archive, run.key) in self._apart:
                    waiting.setdefault((run.archive, run.key), []).append(run)
                else:
                    yield from self._whole(run)
            for runs in waiting.values():
                for sample in _joined(runs):
                    yield from self._whole(sample)

    def _whole(self, sample: TarSample) -> Iterator[TarSample]:
        if sample.images:
            yield sample
        elif sample.sides:
            self.passed["no_image"] += 1

    def _runs(self) -> Iterator[TarSample]:
        """The members of a key that follow one another, with their images' hashes."""
        archive, run = 0, TarSample(0, "")
        try:
            while True:
                for member in self._walker:
                    key = self._key(member)
                    if key is None:
                        continue
                    if key != run.key or any(image.name == member.name for image in run.images):
                        yield from self._ended(run)
                        run = TarSample(archive, key)
                    self._add(run, member)
                yield from self._ended(run)
                if not self._walker.next_archive():
                    if not self.members:
                        self.passed["empty_archive"] += 1
                    return
                archive += 1
                run = TarSample(archive, "")
        except TarDamage as error:
            self.damage = error
            self.last_key = (run.archive, run.key)
            yield from self._ended(run)

    def _ended(self, run: TarSample) -> Iterator[TarSample]:
        if run.images or run.sides:
            place = hash((run.archive, run.key))
            if place in self._seen:
                self._apart.add((run.archive, run.key))
            self._seen.add(place)
            yield run

    def _key(self, member: TarMember) -> str | None:
        """The key of a member that belongs to a sample; others are counted."""
        self.members += 1
        if member.kind == "directory":
            return None
        if member.size:
            self._last = member
        if is_litter(member.name):
            self.passed["litter"] += 1
            return None
        named = split_name(member.name)
        if named is None:
            hidden = member.name.rpartition("/")[2].startswith(".")
            self.passed["hidden" if hidden else "name_without_ending"] += 1
            return None
        key, ext = named
        if member.kind in ("device", "other"):
            self.passed[f"{member.kind}_entry"] += 1
            return None
        if image_ending(member.name) is None and ext not in SIDES:
            ending = f"ending_{readable(ext)[:20]}"
            if ending not in self.passed and len(self.passed) >= _MOST_ENDINGS:
                ending = "ending_other"
            self.passed[ending] += 1
            return None
        return key

    def _add(self, run: TarSample, member: TarMember) -> None:
        target = _target(member)
        if target:
            self._wanted.add(target)
        problem = None
        if member.kind == "sparse":
            problem = failed("sparse_member", detail="stored with holes; write the tar again without --sparse")
        if image_ending(member.name) is None:
            self._add_side(run, member, target, problem)
            return
        if self._max_bytes is not None and member.size > self._max_bytes:
            problem = too_many_bytes(member.size, self._max_bytes)
        sha256 = None if problem or target is not None else self._walker.digest()
        run.images.append(TarImage(member.name, member.offset, member.size, sha256, problem, target))

    def _add_side(self, run: TarSample, member: TarMember, target: str | None, problem: Outcome | None) -> None:
        ext = member.name.rpartition(".")[2].lower()
        if member.size > self._max_side:
            reason = f"its {ext} member has {member.size} bytes, the limit is {self._max_side}"
            problem = failed({"cls": "bad_label", "txt": "bad_caption", "json": "bad_json"}[ext], "policy", reason)
        data = b"" if problem or target is not None else self._walker.read()
        side = TarSide(member.name, data, problem, target)
        earlier = run.sides.get(ext)
        run.sides[ext] = side if earlier is None else _either(earlier, side, ext)

    def _targets(self, runs: Iterator[TarSample]) -> dict[str, TarImage | TarSide]:
        """What links lead to, by name; of two members of a name the later, as a tar that is unpacked has it."""
        targets: dict[str, TarImage | TarSide] = {}
        links: dict[str, str] = {}
        for run in runs:
            members: list[TarImage | TarSide] = [*run.images, *run.sides.values()]
            for member in members:
                name = _plain(member.name)
                if name in self._wanted and member.target is None:
                    targets[name] = member
                elif name in self._wanted and member.target:
                    links[name] = member.target
        for name in links:  # a link to a link
            end, steps = name, 0
            while end in links and end not in targets and steps < _MOST_LINKS:
                end, steps = links[end], steps + 1
            if end in targets:
                targets.setdefault(name, targets[end])
        return targets


def _replayed(file: BinaryIO) -> Iterator[TarSample]:
    end = file.seek(0, 2)
    file.seek(0)
    while file.tell() < end:
        yield pickle.load(file)  # written a moment ago by this very process


def _plain(name: str) -> str:
    return posixpath.normpath(name)


def _target(member: TarMember) -> str | None:
    """The name inside the archive where a link leads; "" where that is outside; None for what is no link."""
    if member.kind == "hardlink":
        return _plain(member.target)
    if member.kind != "link":
        return None
    inside = posixpath.join(posixpath.dirname(member.name), member.target)
    return "" if member.target.startswith("/") or _plain(inside).startswith("..") else _plain(inside)


def _resolve(run: TarSample, targets: dict[str, TarImage | TarSide]) -> None:
    """Put the bytes of its target behind every link of a run; a link that leads nowhere is a problem."""
    for place, image in enumerate(run.images):
        if image.target is not None:
            target = targets.get(image.target)
            if isinstance(target, TarImage):
                run.images[place] = replace(target, name=image.name)
            else:
                image.problem, image.target = _nowhere(), None
    for ext, side in run.sides.items():
        if side.target is not None:
            target = targets.get(side.target)
            if isinstance(target, TarSide):
                run.sides[ext] = replace(target, name=side.name)
            else:
                side.problem, side.target = _nowhere(), None


def _nowhere() -> Outcome:
    return failed("link_not_followed", detail="a link to what is no such member of the archive")


def _either(first: TarSide, second: TarSide, ext: str) -> TarSide:
    """Of two members that describe the same image: they may only say the same."""
    if (first.data, first.problem, first.target) == (second.data, second.problem, second.target):
        return second
    return TarSide(second.name, problem=failed("ambiguous_sample", detail=f"two {ext} members that differ"))


def _joined(runs: list[TarSample]) -> list[TarSample]:
    """The samples that runs of one key make: one, or as many as there are images of one name."""
    samples: list[TarSample] = []
    for run in runs:
        names = {image.name for image in samples[-1].images} if samples else set()
        if not samples or any(image.name in names for image in run.images):
            samples.append(replace(run, repeat=len(samples)))
            continue
        samples[-1].images += run.images
        for ext, side in run.sides.items():
            earlier = samples[-1].sides.get(ext)
            samples[-1].sides[ext] = side if earlier is None else _either(earlier, side, ext)
    if len({frozenset(sample.sides) for sample in samples}) > 1:
        problem = (
            "members of one name occur again in this archive, and which descriptions belong to which cannot be told"
        )
        for image in (image for sample in samples for image in sample.images):
            image.problem = image.problem or failed("ambiguous_sample", detail=problem)
    return samples
