"""Images inside tar archives, read in sequence once to find and hash them, then by offset. Nothing is unpacked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipelines.errors import UserError
from pipelines.outcomes import Outcome
from pipelines.shards.members import split_name
from pipelines.shards.walker import TarDamage, TarMember, TarWalker
from pipelines.sources.base import (
    IMAGE_ENDINGS,
    MAX_SIDE_BYTES,
    Record,
    caption_from,
    digest,
    escapes,
    handed_over,
    hash_in_order,
    open_files,
    read_object,
)
from pipelines.sources.labels import Label, Names, StatedNames, bad_label, label_from
from pipelines.sources.params import TarParams


@dataclass(slots=True)
class _Group:
    """The members of one sample that matter: its first image, and the bytes of small members by extension."""

    file: str
    key: str
    image: TarMember | None = None
    data: bytes = b""
    sides: dict[str, bytes] = field(default_factory=dict)


class TarSource:
    """See `TarParams`. A sample's image is its first member with an image ending; without one it is passed over."""

    def __init__(self, params: TarParams) -> None:
        self._params = params
        self._storage, self._files = open_files(params.path, (".tar",), "tar archive")
        self._names = StatedNames(self._storage, params.classes)

    def scan(self) -> Iterator[Record]:
        """Tars by name, samples in file order."""
        for group, length, sha256, unread in hash_in_order(self._groups(), lambda group: digest(group.data), window=16):
            image = group.image
            assert image is not None
            place = (f"{group.file}::{image.name}", group.file, image.offset, length, -1)
            said, caption, document, problem = self._described(group, self._names.of(group.file))
            problem = unread or problem
            yield Record(*place, said.index, said.name, self._params.split, caption, sha256, document, problem=problem)

    def read(self, record: Record) -> bytes:
        return self._storage.pread(record.file, record.offset, record.length)

    def classes(self) -> list[str]:
        return self._names.merged(self._files)

    def passed_over(self) -> Counter[str]:
        return Counter()

    def _groups(self) -> Iterator[_Group]:
        for file in self._files:
            with self._storage.open(file) as stream:
                try:
                    yield from self._groups_of(file, TarWalker(stream))
                except TarDamage as error:
                    raise UserError(f"{file} in {self._storage.url}: {error}; replace it") from error

    def _groups_of(self, file: str, walker: TarWalker) -> Iterator[_Group]:
        group = _Group(file, "")
        for member in walker:
            if member.kind != "file":
                continue
            if escapes(member.name.removeprefix("./")):
                raise UserError(f"{file}: the member {member.name!r} points out of the archive; do not trust this file")
            named = split_name(member.name)
            if named is None:
                continue
            key, ext = named
            if key != group.key:
                if group.image is not None:
                    yield group
                group = _Group(file, key)
            if ext.rsplit(".", 1)[-1] in IMAGE_ENDINGS:
                if group.image is None:
                    group.image, group.data = member, walker.read()
            elif ext in ("cls", "txt", "json"):
                if member.size > MAX_SIDE_BYTES:
                    raise UserError(f"{file}: {member.name} has {member.size} bytes, too many for a label or caption")
                group.sides[ext] = walker.read()
        if group.image is not None:
            yield group

    def _described(self, group: _Group, names: Names) -> tuple[Label, str | None, str | None, Outcome | None]:
        """(label, caption, document, problem) from the small members."""
        facts = read_object(group.sides.get("json", b"{}"), "its json member")
        if isinstance(facts, Outcome):
            return Label(), None, None, facts
        label = self._label(group, facts, names)
        given = group.sides.get("txt", facts.get(self._params.caption_key))
        caption = caption_from(given) if isinstance(given, bytes | str) else None
        if isinstance(caption, Outcome):
            return label, None, None, label.problem or caption
        return label, caption, handed_over(facts), label.problem

    def _label(self, group: _Group, facts: dict[str, Any], names: Names) -> Label:
        """From `.cls`, else from `.json`; a `label_name` beside an index names it where no names are stated."""
        raw = group.sides.get("cls")
        if raw is None:
            label = label_from(facts.get(self._params.label_key), names)
        else:
            try:
                label = label_from(raw.decode(), names, member=True)
            except UnicodeDecodeError:
                return bad_label("its cls member is no text in UTF-8")
        name = facts.get("label_name")
        if names or label.index is None or not isinstance(name, str):
            return label
        return Label(label.index, label_from(name, names).name)
