"""The images of a job that arms are trained on: the long tail, all of train, and synthetic ones of the tail. Reads no pixels, no torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from pipelines.artifacts.datasets import finished, open_part
from pipelines.artifacts.profiles import Profile, load_profile
from pipelines.artifacts.spectra import Spectra, SpectrumImage
from pipelines.errors import UserError
from pipelines.evaluation.discl.arms import ARMS, ArmName
from pipelines.evaluation.discl.params import DisclParams
from pipelines.evaluation.discl.pool import TEXT, Pool
from pipelines.runtime.finished import Finished
from pipelines.runtime.job import Job
from pipelines.shards.dataset import Dataset
from pipelines.storage import Storage, canonical_json

#: The score that `min_text_cosine` is about.
SCORE = "text_cosine"


@dataclass(frozen=True, eq=False)
class Synthetic:
    """Synthetic images of the tail, some of those that `spectra` has."""

    spectra: Spectra
    images: tuple[SpectrumImage, ...]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over what they are and show, and what they were made of."""
        form = [self.spectra.digest(self.images), [image.parent for image in self.images]]
        return hashlib.sha256(canonical_json(form)).hexdigest()

    @property
    def columns(self) -> tuple[list[int], list[int], list[str]]:
        """Levels, labels and keys of the real images that they were made of."""
        return (
            [image.level for image in self.images],
            [image.label for image in self.images],
            [image.parent for image in self.images],
        )


class TailImages:
    """What the arms of a job may be shown; everything is read when it is asked for. `UserError` names what is not there."""

    def __init__(self, job: Job[DisclParams]) -> None:
        self._job = job
        self._synthetic: dict[tuple[ArmName, float | None], Synthetic] = {}

    @cached_property
    def profile(self) -> Profile:
        """The long tail."""
        profile = load_profile(self._job, self._job.params.profile)
        if not {"many", "medium"} & set(profile.group) or "few" not in profile.group:
            sizes = f"its classes have {profile.counts.min()} to {profile.counts.max()} images"
            raise UserError(
                f"the profile {profile.name!r} has {'no other' if 'few' in profile.group else 'no'} classes than those with fewer than "
                f"{profile.limits[1]} images ({sizes}), so there is no tail to fill up; see split.profiles.{profile.name}"
            )
        return profile

    @cached_property
    def train(self) -> Dataset:
        return open_part(self._job, "split", "train")

    @property
    def classes(self) -> list[str]:
        return self.train.classes

    def pool(self, arm: ArmName, least: float | None = None) -> Pool:
        """Labels and levels of what an arm may be shown; `least` is the score that synthetic images have at least."""
        levels, labels, keys = self.synthetic(arm, least).columns if ARMS[arm].images else ([], [], [])
        profile, places = self.profile, {key: place for place, key in enumerate(self.profile.keys)}
        columns = (levels, labels, [places.get(key, -1) for key in keys])
        arrays = [np.asarray(values, np.int64) for values in columns]
        return Pool(profile.labels, profile.group, profile.limits[1], *arrays)

    def synthetic(self, arm: ArmName, least: float | None = None) -> Synthetic:
        """The synthetic images of an arm: those that `discl` admitted, or of all that it made those with a score of `least` or more."""
        if (arm, least) not in self._synthetic:
            self._synthetic[arm, least] = self._select(arm, least)
        return self._synthetic[arm, least]

    def _select(self, arm: ArmName, least: float | None) -> Synthetic:
        output, levels = finished(self._job_of(arm), "discl"), self._job.params.levels
        made_of = output.facts.get("profile", self.profile.name)
        if made_of != self.profile.name:
            raise UserError(
                f"{output.storage.url} has images of the profile {made_of!r}, and evaluate.discl.profile is {self.profile.name!r}; name "
                "the same, then: limbeck run discl"
            )
        spectra = Spectra(self._job_of(arm), "kept" if least is None else "generated")
        if spectra.dataset.classes != self.classes:
            raise UserError(
                f"the classes of {spectra.dataset.storage.url} are not those of split/train, or not in its order; run again: limbeck "
                "run discl"
            )
        few = {label for label, group in enumerate(self.profile.group) if group == "few"}
        chosen = tuple(
            image
            for image in spectra.images
            if image.label in few
            and (levels is None or image.level in levels)
            and (least is None or (image.scores.get(SCORE) or -math.inf) >= least)
        )
        self._require_levels(arm, least, {image.level for image in chosen})
        return Synthetic(spectra, chosen)

    def _require_levels(self, arm: ArmName, least: float | None, have: set[int]) -> None:
        of = "" if least is None else f" with a {SCORE} of {least:g} or more"
        if not have:
            raise UserError(
                f"evaluate.discl: discl left no image of a class with few images{of}; lower its filters or min_text_cosine, or see "
                "that its profile is evaluate.discl.profile"
            )
        if arm == "ce_text_only" and TEXT not in have:
            raise UserError(
                f"evaluate.discl: the arm ce_text_only takes images of guidance level 0{of}, discl left those of {_listed(have)}; add 0 to "
                "the levels of discl, or leave the arm out"
            )
        if missing := set(self._job.params.levels or ()) - have:
            raise UserError(
                f"evaluate.discl.levels names {_listed(missing)}, and discl left images of {_listed(have)}{of}; see discl.levels"
            )

    def _job_of(self, arm: ArmName) -> Job[Any]:
        """The job in whose data folder the `discl` of an arm's images lies."""
        return self._own if ARMS[arm].images == "own" else self._job

    @cached_property
    def _own(self) -> Job[Any]:
        """The job of the data folder whose generator has seen this long tail alone."""
        folder = Storage(str(self._job.params.own_generator))
        what = f"evaluate.discl.own_generator: {folder.url}"
        for stage in ("split", "generator", "discl"):
            if not folder.child(stage).exists("stage.json"):
                raise UserError(
                    f"{what} has no finished {stage}; make there a generator of the long tail's images alone (generator.source: train) and "
                    "images of it (limbeck run discl), or leave the arm own_generator out"
                )
        source = Finished(folder.child("generator"), "generator").facts.get("source")
        if source != "train":
            raise UserError(
                f"{what}: its generator is {source}, and the arm is about one that was trained on the long tail alone; set "
                "generator.source: train there"
            )
        train = Finished(folder.child("split"), "split").dataset("train")
        keys = set() if train is None else set(train.rows(["key"])["key"].to_pylist())
        if more := keys - set(self.profile.keys):
            raise UserError(
                f"{what}: its generator learnt from {len(more)} images that are not in the profile {self.profile.name!r}, such as "
                f"{min(more)}; its split/train has to be the long tail alone"
            )
        return replace(self._job, data=str(self._job.params.own_generator), inputs={})

    def outside_data(self, arm: ArmName) -> str:
        """What a generator of an arm's images has seen beside the long tail; empty for an arm without images of one, or of its own."""
        if ARMS[arm].images != "family":
            return ""
        facts: Mapping[str, Any] = finished(self._job, "generator").facts
        source = str(facts.get("source") or "")
        words = {
            "embedded": "the embedded generators",
            "model": "pretrained generators",
            "train": "generators of this job",
        }
        return f"{words.get(source, 'generators')}, whose weights have seen more images than the long tail"


def _listed(levels: set[int]) -> str:
    return ", ".join(map(str, sorted(levels)))
