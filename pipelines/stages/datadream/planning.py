"""Which units an item of `datadream` has: for every few-shot set captions, adapters, images, admissions, figures, wave by wave."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Literal, cast

from pipelines.artifacts.adapters import tag_of
from pipelines.artifacts.datasets import dataset_digest, open_part, stage_digest
from pipelines.artifacts.few_shot import load_few_shot
from pipelines.artifacts.generators import folder_digest, generator_digest
from pipelines.errors import UserError
from pipelines.runtime.job import Job
from pipelines.runtime.units import Unit
from pipelines.stages.datadream.params import DatadreamParams
from pipelines.stages.datadream.payloads import Adapt, Admit, Caption, Generate, Making, Quality
from pipelines.storage import canonical_json

#: Waves: each reads what the ones before it committed.
CAPTIONS, ADAPTERS, IMAGES, ADMISSIONS, FIGURES = range(5)


class ItemPlan:
    """Plans one item. Opening reads the training set's rows."""

    def __init__(self, job: Job[DatadreamParams]) -> None:
        self.job, self.params, self.variant = job, job.params, job.item
        train = open_part(job, "split", "train")
        self.classes = train.classes
        self._require_names()
        rows = train.rows(["key", "pixel_sha256"])
        self._pixels = dict(zip(rows["key"].to_pylist(), rows["pixel_sha256"].to_pylist(), strict=True))

    def _require_names(self) -> None:
        if unknown := sorted(set(self.params.names) - set(self.classes)):
            raise UserError(
                f"datadream.names has {unknown[0]!r}, which is no class; there is {', '.join(self.classes)}"
            )
        names = [self.params.name_of(name) for name in self.classes]
        if twice := sorted(name for name in set(names) if names.count(name) > 1):
            raise UserError(f"two classes are called {twice[0]!r} in prompts; give each its own in datadream.names")

    @property
    def sets(self) -> list[tuple[int, int]]:
        """(shots, few-shot seed) of every set; (0, 0) where no real image is seen."""
        if self.variant == "zero_shot":
            return [(0, 0)]
        return [(shots, seed) for shots in self.params.shots_of(self.variant) for seed in self.params.seeds]

    def units(self, shots: int, seed: int) -> Iterator[Unit]:
        """All units of a few-shot set."""
        tag = tag_of(shots, seed)
        few_shot = load_few_shot(self.job, shots, seed) if shots else {}
        caption = self._caption(tag, few_shot)
        if caption is not None:
            yield caption.unit(f"contexts/{tag}", CAPTIONS)
        contexts = caption.digest if caption is not None else self._given_contexts
        adapters: dict[int, str] = {}
        for name, adapt in self._adapters(tag, few_shot, contexts):
            yield adapt.unit(f"adapters/{tag}-{name}", ADAPTERS)
            adapters |= dict.fromkeys(adapt.images, adapt.digest)
        generated: dict[str, Generate] = {}
        admitted: dict[str, Admit] = {}
        for label, class_name in enumerate(self.classes):
            of_class = {
                f"generated/{tag}-c{label:05d}-{first:06d}": Generate(
                    tag=tag,
                    label=label,
                    class_name=class_name,
                    prompt_name=self.params.name_of(class_name),
                    shots=shots,
                    few_shot_seed=seed,
                    first=first,
                    count=min(self.params.images_per_unit, self.params.images - first),
                    few_shot=tuple(few_shot.get(label, ())),
                    contexts=contexts,
                    adapter=adapters.get(label),
                    making=self._making,
                )
                for first in range(0, self.params.images, self.params.images_per_unit)
            }
            yield from (generate.unit(name, IMAGES) for name, generate in of_class.items())
            of = tuple(generate.digest for generate in of_class.values())
            admit = Admit(tag, label, asdict(self.params.filters), tuple(of_class), of)
            admitted[f"kept/{tag}-c{label:05d}"] = admit
            yield admit.unit(f"kept/{tag}-c{label:05d}", ADMISSIONS)
            generated |= of_class
        if self.params.reference:
            yield self._quality(tag, generated, admitted).unit(f"quality/{tag}", FIGURES)

    @cached_property
    def _making(self) -> Making:
        params = self.params
        return Making(
            text=generator_digest(self.job, "text"),
            clip=generator_digest(self.job, "clip"),
            teacher=stage_digest(self.job, "squeeze") if params.teacher else None,
            settings=asdict(params.generate),
            batch_size=params.batch_size,
            dtype=params.dtype,
            domain=params.domain,
            image=params.image.model_dump(mode="json"),
            captions=params.captions,
        )

    @cached_property
    def _given_contexts(self) -> str | None:
        """The digest of the user's file of contexts."""
        return None if self.params.context is None else file_of_user_digest(self.params.context, "context")

    def _caption(self, tag: str, few_shot: dict[int, list[str]]) -> Caption | None:
        model = self.params.captioner
        if model is None or not few_shot:
            return None
        keys = tuple(key for label in sorted(few_shot) for key in few_shot[label])
        folder = Path(model).expanduser()
        return Caption(tag, keys, self._shown(keys), folder_digest(folder) if folder.is_dir() else model)

    def _adapters(self, tag: str, few_shot: dict[int, list[str]], contexts: str | None) -> Iterator[tuple[str, Adapt]]:
        """One for every class, or one for all, and what it is called."""
        whole = self.variant == "dset"
        groups = {"dset": sorted(few_shot)} if whole else {f"c{label:05d}": [label] for label in sorted(few_shot)}
        for name, labels in groups.items() if few_shot else ():
            yield (
                name,
                Adapt(
                    tag=tag,
                    variant=cast(Literal["cls", "dset", "loft"], self.variant),
                    config=asdict(self.params.config_of(self.variant)),
                    images={label: tuple(few_shot[label]) for label in labels},
                    names={label: self.params.name_of(self.classes[label]) for label in labels},
                    pixels=self._shown([key for label in labels for key in few_shot[label]]),
                    text=generator_digest(self.job, "text"),
                    dtype=self.params.dtype,
                    domain=self.params.domain,
                    contexts=contexts,
                ),
            )

    def _quality(self, tag: str, generated: dict[str, Generate], admitted: dict[str, Admit]) -> Quality:
        reference, inception = self.params.reference, self.params.inception
        assert reference is not None
        return Quality(
            tag=tag,
            reference=reference,
            images=dataset_digest(open_part(self.job, "split", reference)),
            inception=None if inception is None else file_of_user_digest(inception, "inception"),
            clip=self._making.clip,
            generated=tuple(generated),
            kept=tuple(admitted),
            of=tuple(one.digest for one in (*generated.values(), *admitted.values())),
        )

    def _shown(self, keys: Sequence[str]) -> str:
        """A digest of the pixels of these images."""
        return hashlib.sha256(canonical_json([self._pixels[key] for key in keys])).hexdigest()


def file_of_user_digest(path: str, key: str) -> str:
    """SHA-256 (hex) of the file that the parameter `key` names; `UserError` when there is none."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"datadream.{key}: no file {path}; give one that is there, or leave it out")
    return hashlib.sha256(file.read_bytes()).hexdigest()
