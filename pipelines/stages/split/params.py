"""Parameters of `split`."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pipelines.config import PLAN_ONLY, Section
from pipelines.fields import text_keys
from pipelines.loaders.corruptions import KINDS, WORST, Kind


class TailParams(Section):
    """How many images each class keeps.

    By the `law` `exponential` or `pareto` they fall from the largest class to a `factor` of it, over the classes in the order of their
    numbers or in one drawn from the run's seed; Pareto by `power`, 6 as in ImageNet-LT. `counts` names exact numbers, and other
    classes keep all.
    """

    law: Literal["exponential", "pareto", "counts"] = "exponential"
    factor: float = Field(100.0, ge=1, description="largest over smallest class")
    power: float = Field(6.0, gt=0, description="of the Pareto law; the larger, the fewer large classes")
    largest: int | None = Field(
        None, ge=1, description="images of the largest class; null: all of the largest there is"
    )
    order: Literal["index", "shuffled"] = Field("index", description="which classes are the large ones")
    counts: Annotated[dict[str, Annotated[int, Field(ge=1)]], BeforeValidator(text_keys)] = Field(
        {}, description="law counts: class name -> images"
    )

    @model_validator(mode="after")
    def _of_its_law(self) -> Self:
        asked = self.model_fields_set - {"law"}
        used = {"counts": {"counts"}, "exponential": {"factor", "largest", "order"}}.get(self.law, _PARETO)
        if ignored := sorted(asked - used):
            raise ValueError(f"{ignored[0]} would be ignored: the law is {self.law}; leave it out")
        if self.law == "counts" and not self.counts:
            raise ValueError("the law counts needs counts, class name -> images")
        return self


_PARETO = {"factor", "power", "largest", "order"}


class QualityParams(Section):
    """Which share of the images is spoilt, by which `kinds` of damage and at which `severities`, 1 to 5, as they are read."""

    share: float = Field(0.5, gt=0, le=1, description="chance of each image to be spoilt")
    kinds: tuple[Kind, ...] = Field(KINDS, min_length=1)
    severities: tuple[Annotated[int, Field(ge=1, le=WORST)], ...] = Field((1, 2, 3, 4, 5), min_length=1)


class GroupLimits(Section):
    """Classes of more than `many` training images, of fewer than `few`, and the others, `medium`: the limits of long-tail tables."""

    many: int = Field(100, ge=1)
    few: int = Field(20, ge=1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.few > self.many:
            raise ValueError(f"few ({self.few}) lies above many ({self.many}); a class would be of both groups")
        return self


class ProfileParams(Section):
    """A choice of training images: a long `tail`, low `quality`, or both; `groups` are the limits of its tables."""

    tail: TailParams | None = None
    quality: QualityParams | None = None
    groups: GroupLimits = GroupLimits()


def _file_names(profiles: dict[str, ProfileParams]) -> dict[str, ProfileParams]:
    if wrong := [name for name in profiles if not re.fullmatch(r"[a-z0-9_]+", name)]:
        raise ValueError(f"a profile is called by small letters, digits and _, not {wrong[0]!r}: files are named by it")
    return profiles


class SplitParams(Section):
    """Parameters of `split`.

    `strategy`: `source` keeps the split that the source states and draws val from train where there is none; `random` draws val and
    test from all images, whatever the source states; `auto` is `source`, and draws test from train too where the source has none.

    `shard_samples` is how many samples a shard holds at the most.
    """

    effect = PLAN_ONLY  # units copy what their rows name

    strategy: Literal["source", "random", "auto"] = Field(
        "source", description="keep the source's own split, draw one, or keep it and draw what is missing"
    )
    validation: float = Field(0.1, ge=0, lt=1, description="fraction of each training class that becomes val")
    test: float = Field(0.0, ge=0, lt=1, description="fraction of each class that becomes test (strategy random, auto)")
    few_shot: tuple[int, ...] = Field((1, 4, 16), description="shots per class of the nested manifests, from train")
    few_shot_seeds: tuple[int, ...] = Field((0,), min_length=1, description="a manifest for each of these seeds")
    few_shot_order: Literal["hash", "natural", "disef"] = Field(
        "hash", description="by a hash of the key; the first in natural order of the source's names; as DISEF draws"
    )
    imbalance: float = Field(1.0, ge=1, description="largest over smallest class of train (long tail); 1 keeps all")
    profiles: Annotated[dict[str, ProfileParams], BeforeValidator(text_keys), AfterValidator(_file_names)] = Field(
        {}, description="decision tables over train by name: a long tail, low quality; train itself stays whole"
    )
    shard_samples: int = Field(10_000, ge=1, le=100_000)

    @model_validator(mode="after")
    def _fractions(self) -> SplitParams:
        if self.strategy == "source" and self.test > 0:
            raise ValueError(
                "split.test is drawn only with strategy: random or auto; the source's own test split is used"
            )
        if self.validation + self.test >= 1:
            raise ValueError("validation + test leave nothing for train")
        return self
