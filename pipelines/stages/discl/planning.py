"""Which units `discl` has: judges of images and their ranking, where networks say what is hard; spectra, a block of hard images each;
their admission."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from itertools import groupby
from pathlib import Path

from pipelines.artifacts.adapters import StoredAdapter, stored_adapter
from pipelines.artifacts.datasets import open_part, stage_digest
from pipelines.artifacts.generators import folder_digest, generator_digest
from pipelines.artifacts.profiles import load_profile
from pipelines.errors import UserError
from pipelines.runtime.job import Job
from pipelines.runtime.units import Unit
from pipelines.stages.discl.hard import HardImage, listed, of_small_classes
from pipelines.stages.discl.params import GENERATED, KEPT, DisclParams
from pipelines.stages.discl.payloads import Admit, Calibrate, Judge, Making, Rank, Spread
from pipelines.stages.discl.prompting import load_prompts
from pipelines.storage import canonical_json

#: Waves: each reads what the ones before it committed.
JUDGES, RANKING, SPECTRA, ADMISSIONS = range(4)
CALIBRATION, RANK = "calibration", "ranking"


class DisclPlan:
    """Plans a job. Opening reads the profile and the files that prompts are from."""

    def __init__(self, job: Job[DisclParams]) -> None:
        self.job, self.params = job, job.params
        self.profile = load_profile(job, job.params.profile)
        self.classes = list(self.profile.classes)
        self.hard = self._hard()
        self.hard_labels = sorted({one.label for one in self.hard}) or list(range(len(self.classes)))
        self.prompts = load_prompts(job.params, self.classes, [self.classes[label] for label in self.hard_labels])

    def _hard(self) -> list[HardImage]:
        """The hard images that are known before anything is trained; none where networks decide."""
        rule = self.params.hard
        if rule.rule == "tail":
            return of_small_classes(self.profile, rule)
        return listed(self.profile, str(rule.file)) if rule.rule == "list" else []

    @property
    def hard_count(self) -> int:
        """How many images are hard."""
        rule = self.params.hard
        return max(1, round((rule.share or 0) * len(self.profile.keys))) if rule.rule == "quality" else len(self.hard)

    def units(self) -> Iterator[Unit]:
        """All units, in order."""
        rank: Rank | None = None
        if self.params.hard.rule == "quality":
            judges = {f"judged/fold-{number:02d}": judge for number, judge in enumerate(self._judges())}
            yield from (judge.unit(name, JUDGES) for name, judge in judges.items())
            of = tuple(judge.digest for judge in judges.values())
            rank = Rank(self.profile.digest, self.params.hard.measure, self.hard_count, tuple(judges), of)
            yield rank.unit(RANK, RANKING)
        if self._calibrate is not None:
            yield self._calibrate.unit(CALIBRATION, JUDGES)
        spectra = dict(self._spectra(rank))
        yield from (spread.unit(f"{GENERATED}/{stem}", SPECTRA) for stem, spread in spectra.items())
        filters = None if self.params.filters is None else asdict(self.params.filters)
        for stem, spread in spectra.items():
            admit = Admit(filters, self.params.fixed_bound, f"{GENERATED}/{stem}", spread.digest)
            yield admit.unit(f"{KEPT}/{stem}", ADMISSIONS)

    def _judges(self) -> Iterator[Judge]:
        rule = self.params.hard
        for number in range(rule.folds):
            yield Judge(number, rule.folds, self.profile.digest, rule.network, asdict(rule.training))

    def _spectra(self, rank: Rank | None) -> Iterator[tuple[str, Spread]]:
        """The blocks of hard images, and what the unit of each is called."""
        size = self.params.images_per_unit
        if rank is not None:
            everything = self._shown(self.profile.keys)
            labels = range(len(self.classes))
            for first in range(0, self.hard_count, size):
                count = min(size, self.hard_count - first)
                yield f"h{first:06d}", self._spread((), first, count, rank.digest, everything, labels)
            return
        for label, own in groupby(self.hard, key=lambda one: one.label):
            keys = [one.key for one in own]
            for first in range(0, len(keys), size):
                block = tuple(keys[first : first + size])
                yield (
                    f"c{label:05d}-{first:06d}",
                    self._spread(block, first, len(block), None, self._shown(block), [label]),
                )

    def _spread(
        self, keys: tuple[str, ...], first: int, count: int, of: str | None, pixels: str, labels: Sequence[int]
    ) -> Spread:
        prompts = {label: tuple(self.prompts.candidates(self._called(label))) for label in labels}
        calibration = None if self._calibrate is None else self._calibrate.digest
        adapter = self._adapter(labels[0] if len(labels) == 1 else None)
        return Spread(keys, first, count, of, pixels, prompts, calibration, self._making, adapter)

    def _adapter(self, label: int | None) -> StoredAdapter | None:
        """What the generator runs with for images of a class, None for those of any."""
        asked = self.params.adapter
        if asked is None:
            return None
        class_name = None if label is None else self.classes[label]
        return stored_adapter(self.job, asked.variant, asked.shots, asked.seed, class_name)

    def _called(self, label: int) -> str:
        """What prompts call a class."""
        return self.params.name_of(self.classes[label])

    @cached_property
    def _texts(self) -> tuple[str, ...]:
        """The text of every class, which images are scored against."""
        return tuple(self.prompts.class_text(self._called(label)) for label in range(len(self.classes)))

    @cached_property
    def _calibrate(self) -> Calibrate | None:
        if self.params.fixed_bound is not None:
            return None
        clip = generator_digest(self.job, "clip")
        return Calibrate(tuple(self.hard_labels), self._texts, self.params.calibration, self.profile.digest, clip)

    @cached_property
    def _making(self) -> Making:
        params = self.params
        return Making(
            text=generator_digest(self.job, "text"),
            clip=generator_digest(self.job, "clip"),
            texts=self._texts,
            teacher=stage_digest(self.job, "squeeze") if params.teacher else None,
            refiner=None if params.refiner is None else _model_digest(params.refiner),
            levels=params.made_levels,
            starts=params.starts,
            seeds=params.seeds,
            tries=params.tries,
            bound=params.fixed_bound,
            settings=asdict(params.generate),
            batch_size=params.batch_size,
            dtype=params.dtype,
            image=params.image.model_dump(mode="json"),
        )

    @cached_property
    def _pixels(self) -> dict[str, str]:
        rows = open_part(self.job, "split", "train").rows(["key", "pixel_sha256"])
        return dict(zip(rows["key"].to_pylist(), rows["pixel_sha256"].to_pylist(), strict=True))

    def _shown(self, keys: Sequence[str]) -> str:
        """A digest of the images of `keys` as they are read."""
        spoilt = self.profile.corruptions
        form = [[self._pixels[key], asdict(spoilt[key]) if key in spoilt else None] for key in keys]
        return hashlib.sha256(canonical_json(form)).hexdigest()


def _model_digest(model: str) -> str:
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder_digest(folder)
    if folder.exists() or model.startswith((".", "/", "~")):
        raise UserError(f"discl.refiner: {model} is no folder; give one that save_pretrained wrote, or an id")
    return model
