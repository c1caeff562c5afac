"""A sample: a key, members in the contract's order, and its row of the sidecar. Nothing here touches a file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from pipelines.shards.keys import KEY_PATTERN

#: Extensions an image may be stored under.
IMAGE_EXTENSIONS = ("jpg", "png", "webp")

#: Place of each extension in a sample: image, json, cls, txt, array. Extensions of one place exclude each other.
MEMBER_RANK = {**dict.fromkeys(IMAGE_EXTENSIONS, 0), "json": 1, "cls": 2, "txt": 3, "npy": 4, "npz": 4}


class MemberSpan(NamedTuple):
    """Where the data of one member lies inside its shard, byte offset and byte count, and the XXH3 of its bytes.

    Other people's tars say no checksum; every span that Limbeck writes has one.
    """

    ext: str
    offset: int
    size: int
    xxh3: int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample. `members` are (extension without dot, bytes); `row` holds columns of `sidecar.SCHEMA`."""

    key: str
    members: tuple[tuple[str, bytes], ...]
    row: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert KEY_PATTERN.fullmatch(self.key), f"not a key: {self.key!r}"
        problem = member_problem(ext for ext, _ in self.members)
        assert problem is None, f"{self.key}: {problem}"

    def member(self, ext: str) -> bytes | None:
        """The bytes under `ext`, or None."""
        return next((data for name, data in self.members if name == ext), None)

    @property
    def image(self) -> tuple[str, bytes] | None:
        """(extension, encoded bytes) of the image, or None."""
        return next((pair for pair in self.members if pair[0] in IMAGE_EXTENSIONS), None)


def ordered_members(members: Iterable[tuple[str, bytes]]) -> tuple[tuple[str, bytes], ...]:
    """The same members in the contract's order; asserts that the set is a valid one."""
    pairs = list(members)
    for ext, _ in pairs:
        assert ext in MEMBER_RANK, f"no member may be called .{ext}"
    pairs.sort(key=lambda pair: MEMBER_RANK[pair[0]])
    problem = member_problem(ext for ext, _ in pairs)
    assert problem is None, problem
    return tuple(pairs)


def member_problem(exts: Iterable[str]) -> str | None:
    """What is wrong with this sequence of extensions under the contract, or None."""
    return _problem(tuple(exts))


@lru_cache(256)
def _problem(exts: tuple[str, ...]) -> str | None:
    """A dataset has a handful of sequences, and asks for every sample."""
    last, last_rank = "", -1
    for ext in exts:
        rank = MEMBER_RANK.get(ext)
        if rank is None:
            return f"no member may be called .{ext}"
        if rank == last_rank:
            return f".{ext} and .{last} exclude each other"
        if rank < last_rank:
            return f".{ext} must come before .{last}"
        last, last_rank = ext, rank
    return None
