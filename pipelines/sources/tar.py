"""Images inside tar archives, read in sequence once to find and hash them, then by offset. Nothing is unpacked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pipelines.errors import UserError
from pipelines.shards.members import split_name
from pipelines.shards.walker import TarDamage, TarMember, TarWalker
from pipelines.sources.base import (
    IMAGE_ENDINGS,
    Record,
    classes_beside,
    digest,
    escapes,
    handed_over,
    hash_in_order,
    label_from,
    open_files,
    read_object,
)
from pipelines.sources.params import TarParams

#: A label or caption larger than this is no label or caption.
_MAX_SIDE_BYTES = 1 << 20


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

    def scan(self) -> Iterator[Record]:
        """Tars by name, samples in file order."""
        classes = self.classes()
        for group, length, sha256 in hash_in_order(self._groups(), lambda group: digest(group.data), window=16):
            image = group.image
            assert image is not None
            where = f"{group.file}::{image.name}"
            label, name, caption, document = self._described(group, classes, where)
            place = (where, group.file, image.offset, length, -1)
            yield Record(*place, label, name, self._params.split, caption, sha256, document)

    def read(self, record: Record) -> bytes:
        return self._storage.pread(record.file, record.offset, record.length)

    def classes(self) -> list[str]:
        return list(self._params.classes or classes_beside(self._storage))

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
                if member.size > _MAX_SIDE_BYTES:
                    raise UserError(f"{file}: {member.name} has {member.size} bytes, too many for a label or caption")
                group.sides[ext] = walker.read()
        if group.image is not None:
            yield group

    def _described(
        self, group: _Group, classes: list[str], where: str
    ) -> tuple[int | None, str | None, str | None, str | None]:
        """(label, class name, caption, document) from the small members."""
        try:
            text = {ext: raw.decode() for ext, raw in group.sides.items() if ext != "json"}
        except ValueError as error:
            raise UserError(f"{where}: its cls or txt member cannot be read ({error}); repair or remove it") from None
        facts = read_object(group.sides.get("json", b"{}"), f"{where}: its json member")
        label, name = label_from(text.get("cls", facts.get(self._params.label_key)), classes, where)
        caption = text.get("txt", facts.get(self._params.caption_key))
        return label, name, caption if isinstance(caption, str) else None, handed_over(facts)
