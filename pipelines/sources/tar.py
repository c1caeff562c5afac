"""Images inside tar archives, read in sequence once to find and hash them, then by offset. Nothing is unpacked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from pipelines.errors import UserError
from pipelines.outcomes import Outcome, dropped, failed
from pipelines.shards.walker import TarDamage, TarWalker
from pipelines.sources.base import MAX_SIDE_BYTES, Record, caption_from, handed_over, read_object, unreadable
from pipelines.sources.files import open_files
from pipelines.sources.folder_walk import native_name, readable, stored_name
from pipelines.sources.labels import Label, Names, StatedNames, bad_label, label_from
from pipelines.sources.params import TarParams
from pipelines.sources.tar_samples import SamplesOfTar, TarSample

#: Files of these formats do not end in zeros unless something filled them up; so many, and this far back, are looked at.
_NEVER_ZERO_AT_END = ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "json", "txt", "cls")
_ZEROS = 16
_END = 1 << 20
#: Damaged tars that are named in full.
_SHOWN = 20


class TarSource:
    """See `TarParams`. In a `Record`, `offset` and `length` are those of the member's bytes."""

    def __init__(self, params: TarParams) -> None:
        self._params = params
        self._storage, self._files, self._beside = open_files(params.path, (".tar",), "tar archive")
        self._names = StatedNames(self._storage, params.classes)
        self._passed: Counter[str] = Counter()

    def scan(self, max_bytes: int | None = None) -> Iterator[Record]:
        """Tars by name, samples in file order, those whose members lie apart after the others of their tar."""
        self._passed = self._beside.copy()
        damaged: list[str] = []
        for file in self._files:
            try:
                yield from self._scan_file(file, max_bytes, damaged)
            except OSError as error:
                damaged.append(f"{readable(file)} (cannot be read: {unreadable(error).detail})")
        if damaged:
            raise UserError(self._refusal(damaged))

    def _scan_file(self, file: str, max_bytes: int | None, damaged: list[str]) -> Iterator[Record]:
        """The records of one tar; what is damaged is added to the list and not taken, unless the head is wished."""
        head = self._params.damaged == "head"
        with self._storage.open(file) as stream:
            if damaged:  # nothing will come of this scan: only look which others are damaged
                damaged += _damage_of(file, stream)
                return
            samples = SamplesOfTar(stream, max_bytes, MAX_SIDE_BYTES)
            for sample in samples:
                if samples.damage is not None and not head:
                    break
                broken = samples.damage is not None and (sample.archive, sample.key) == samples.last_key
                yield from self._records(file, sample, broken)
        damage = samples.damage or self._zeroed_tail(file, samples)
        if damage is not None and not head:
            damaged.append(_told(file, damage))
        elif damage is not None:
            yield self._lost(file, damage)
        self._passed.update(samples.passed)

    def read(self, record: Record) -> bytes:
        return self._storage.pread(native_name(record.file), record.offset, record.length)

    def classes(self) -> list[str]:
        return self._names.merged(self._files)

    def passed_over(self) -> Counter[str]:
        return self._passed.copy()

    def _records(self, file: str, sample: TarSample, broken: bool) -> Iterator[Record]:
        said, caption, document, problem = self._described(sample, self._names.of(file))
        if broken:
            problem = failed("damaged_archive", detail="the archive breaks off in this sample")
        first = sample.images[0]
        for image in sample.images:
            where = f"{readable(file)}::{readable(image.name)}"
            if sample.archive or sample.repeat:  # the name says it no more
                where += f"@{image.offset}"
            trouble = image.problem or problem
            if image is not first and trouble is None and self._params.images == "first":
                reason = f"{readable(first.name)} is the image of this sample; images: all keeps every one"
                trouble = dropped("further_image", reason)
            yield Record(
                source=where,
                file=stored_name(file),
                offset=image.offset,
                length=image.size if image.sha256 else 0,
                row=-1,
                label=said.index,
                label_name=said.name,
                split=self._params.split,
                caption=caption,
                sha256=image.sha256,
                document=document if image is first else None,  # boxes are of one picture
                problem=trouble,
            )

    def _described(self, sample: TarSample, names: Names) -> tuple[Label, str | None, str | None, Outcome | None]:
        """(label, caption, document, problem) from the members beside the images."""
        for side in sample.sides.values():
            if side.problem is not None:
                return Label(), None, None, side.problem
        raw = {ext: side.data for ext, side in sample.sides.items()}
        facts = read_object(raw.get("json", b"{}"), "its json member")
        if isinstance(facts, Outcome):
            return Label(), None, None, facts
        label = self._label(raw.get("cls"), facts, names)
        stated = raw.get("txt", facts.get(self._params.caption_key))
        caption = caption_from(stated) if isinstance(stated, bytes | str) else None
        if isinstance(caption, Outcome):
            return label, None, None, label.problem or caption
        return label, caption, handed_over(facts), label.problem

    def _label(self, raw: bytes | None, facts: dict[str, Any], names: Names) -> Label:
        """From `.cls`, else from `.json`; a `label_name` beside an index names it where no names are stated."""
        if raw is None:
            label = label_from(facts.get(self._params.label_key), names)
        else:
            try:
                label = label_from(raw.decode("utf-8-sig"), names, member=True)  # Windows writes a mark first
            except UnicodeDecodeError:
                return bad_label("its cls member is no text in UTF-8")
        name = facts.get("label_name")
        if names or label.index is None or not isinstance(name, str):
            return label
        return Label(label.index, name)

    def _lost(self, file: str, damage: TarDamage) -> Record:
        """The row for all that is not to be had of a damaged tar."""
        problem = failed("damaged_archive", detail=f"from byte {damage.offset} on nothing can be read: {damage.reason}")
        place = (readable(file), stored_name(file), damage.offset, 0, -1)
        return Record(*place, None, None, self._params.split, None, None, problem=problem)

    def _zeroed_tail(self, file: str, samples: SamplesOfTar) -> TarDamage | None:
        """The damage of a tar that reads to its end, but only because a copy that broke off was filled up with zeros."""
        last = samples.last
        if last is None or last.name.rpartition(".")[2].lower() not in _NEVER_ZERO_AT_END:
            return None
        count = min(last.size, _END)
        end = self._storage.pread(file, last.offset + last.size - count, count)
        zeros = len(end) - len(end.rstrip(b"\0"))
        if zeros < min(last.size, _ZEROS) or end.rstrip(b"\0").endswith((b"\xff\xd9", b"IEND\xaeB`\x82", b"\x3b")):
            return None
        return TarDamage(
            last.offset + last.size - zeros, f"zeros to the end of the file, from inside {readable(last.name)!r} on"
        )

    def _refusal(self, damaged: list[str]) -> str:
        count = len(damaged)
        more = f"; and {count - _SHOWN} more" if count > _SHOWN else ""
        head = "" if self._params.damaged == "head" else ", or set damaged: head in this source to take what is sound"
        return (
            f"{count} of {len(self._files)} tars at {self._storage.url} cannot be read to their end: "
            f"{'; '.join(damaged[:_SHOWN])}{more}. Fetch them again or move them away{head}"
        )


def _told(file: str, damage: TarDamage) -> str:
    return f"{readable(file)} (byte {damage.offset}: {damage.reason})"


def _damage_of(file: str, stream: Any) -> list[str]:
    """What is told of a tar that breaks off; nothing of a sound one. Only headers are read."""
    walker = TarWalker(stream)
    try:
        for _ in walker:
            pass
        while walker.next_archive():
            for _ in walker:
                pass
    except TarDamage as damage:
        return [_told(file, damage)]
    return []
