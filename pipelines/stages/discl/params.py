"""Parameters of `discl`, and where its files lie."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from distill.config import TrainConfig
from pipelines.config import PLAN_ONLY, Section
from pipelines.fields import SOFT_ONLY, Names, refuse_ignored
from pipelines.images.params import ImageParams
from pipelines.networks import NetworkName
from synth.discl.admission import REFERENCE_BOUNDS, Admission
from synth.discl.levels import REFERENCE, StartRule, even_levels
from synth.discl.schedules import Mode, Strategy
from synth.settings import Settings

Level = Annotated[int, Field(ge=0, lt=100)]

#: The two datasets: all that was made, and what was admitted.
GENERATED, KEPT = "generated", "kept"
#: Which training images are hard, with reasons.
HARD_FILE = "hard.json"
#: The text cosine that images of each class should reach, where it is taken from real ones.
CALIBRATION_FILE = "bounds.json"


class HardParams(Section):
    """Which training images are hard, by a `rule`.

    `tail`: those of classes with fewer than `below` images (null: the limit of the profile), or of the `share` of the classes that
    have fewest. `quality`: the `share` of all images whose class a network that has not seen them finds least likely (`measure`
    confidence) or misses by most (loss): `folds` networks, each trained on the images of the other folds. `list`: the keys in `file`, a
    YAML list or a key a line.
    """

    rule: Literal["tail", "quality", "list"] = "tail"
    below: int | None = Field(None, ge=1, description="rule tail: classes of fewer images")
    share: float | None = Field(None, gt=0, lt=1, description="rule tail: of the classes; rule quality: of the images")
    file: str | None = Field(None, description="rule list: keys of training images")
    measure: Literal["loss", "confidence"] = Field("confidence", description="rule quality: what orders images")
    folds: int = Field(3, ge=2, le=20, description="rule quality: networks, each judging the images it has not seen")
    network: NetworkName = Field("convnet3_w32", description="rule quality: what judges")
    training: TrainConfig = Field(TrainConfig(epochs=10), description="rule quality: how it is trained")

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_ignored(cls, raw: Any) -> Any:
        refuse_ignored(raw, "training", SOFT_ONLY)
        return raw

    @model_validator(mode="after")
    def _of_its_rule(self) -> Self:
        used = {"tail": {"below", "share"}, "list": {"file"}}.get(self.rule, _QUALITY)
        if ignored := sorted(self.model_fields_set - {"rule"} - used):
            raise ValueError(f"{ignored[0]} would be ignored: the rule is {self.rule}; leave it out")
        if self.below is not None and self.share is not None:
            raise ValueError("give below or share, not both: each says which classes are hard")
        if self.rule == "quality" and self.share is None:
            raise ValueError("the rule quality needs share, that of the images that are hard")
        if self.rule == "list" and self.file is None:
            raise ValueError("the rule list needs file, the keys of the hard images")
        return self


_QUALITY = {"share", "measure", "folds", "network", "training"}


class PromptParams(Section):
    """What the generator is asked for, and what images are judged by.

    `template` with the class's name at {c} is the text that images are scored against, and the prompt too unless there are others: a
    `bank`, YAML of class name -> descriptions of scenes, each after `prefix`; or `contexts`, YAML of {pose, background} by image key or
    any other name, of which each image is given one, whatever its class (BOB).
    """

    template: str = Field("a photo of a {c}", pattern=r"\{c\}")
    bank: str | None = None
    prefix: str = ""
    contexts: str | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.bank is not None and self.contexts is not None:
            raise ValueError("prompts are of a bank or of contexts: give one of the two")
        if self.prefix and self.bank is None:
            raise ValueError("prefix would be ignored: it stands before the descriptions of a bank; leave it out")
        return self


class CurriculumParams(Section):
    """Which curricula are written as tables: `strategies` over `epochs`, `curriculum_epochs` of them with synthetic images.

    `downsample` is the share of the images that are not hard that an epoch sees. `held_out` hard images are a guidance validation set
    for the strategy `adaptive`, and neither they nor what was made of them are trained on.
    """

    strategies: tuple[Strategy, ...] = ("diverse_to_specific",)
    epochs: int = Field(65, ge=1)
    curriculum_epochs: int = Field(60, ge=0)
    downsample: float = Field(0.3, gt=0, le=1)
    held_out: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.curriculum_epochs > self.epochs:
            raise ValueError("curriculum_epochs are some of the epochs, and there are more of them")
        if "fixed" in self.strategies:
            raise ValueError("fixed is a curriculum of one level: give discl.levels one, and the strategy all_levels")
        return self


class AdapterParams(Section):
    """A DataDream adapter that the generator runs with, by `variant`: `cls` that of the hard image's class, `dset` that of all.

    It has seen the few-shot images of split/train, `shots` of each class, whether or not the profile has them.
    """

    variant: Literal["cls", "dset"] = "cls"
    shots: int = Field(16, ge=1, description="one of datadream.shots")
    seed: int = Field(0, ge=0, description="one of datadream.seeds")


class DisclParams(Section):
    """Parameters of `discl`.

    `levels` are percent of guidance by the real image, 0 the prompt alone; null: four at equal ratios of noise from 0 to 50, in mode
    `reference` 0, 10, 30 and 50, which also begin at their share of the steps and not at their noise. Each hard image is made at each
    of them from `seeds` noises. An image whose text cosine is below `bound` is made again with another prompt and noise, `tries` times
    in all, and the likest to its text is stored, with its scores. `bound` null is, for each class, what all but `calibration` of its
    real images reach, in mode `reference` 0.30. `filters` decide afterwards, from the stored scores, what is admitted; null admits what
    reaches the bound.
    """

    effect = PLAN_ONLY

    mode: Mode = Field("improved", description="reference: schedules, mix and levels as published")
    profile: str = Field("tail", description="the training set, a profile of split")
    hard: HardParams = HardParams()
    levels: tuple[Level, ...] | None = Field(None, min_length=1)
    seeds: int = Field(4, ge=1, le=64, description="images of each hard image and level")
    names: Names = Field({}, description="class name -> what prompts call it, else its name as it is")
    prompts: PromptParams = PromptParams()
    generate: Settings = Settings(steps=20, guidance=2.0, scheduler="dpmpp_2m")
    adapter: AdapterParams | None = None
    refiner: str | None = Field(None, description="SDXL's refiner, folder or id, for the last of the noise")
    tries: int = Field(6, ge=1, le=20, description="images made of a cell at the most")
    bound: float | None = Field(None, ge=-1, le=1, description="text cosine that an image should reach")
    calibration: float = Field(0.1, ge=0, lt=1, description="share of a class's real images that lie below its bound")
    filters: Admission | None = None
    teacher: bool = Field(
        False, description="also score by the classifier of squeeze, which saw the whole training set"
    )
    batch_size: int = Field(32, ge=1, description="images in a call of the model; part of what fixes the last bits")
    images_per_unit: int = Field(8, ge=1, description="hard images of a unit, of one class with the rule tail")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="precision of the generator")
    curricula: CurriculumParams = CurriculumParams()
    image: ImageParams = ImageParams(format="png")

    @model_validator(mode="after")
    def _levels_differ(self) -> Self:
        if self.levels is not None and len(set(self.levels)) < len(self.levels):
            raise ValueError("levels names one twice")
        if self.adapter is not None and self.adapter.variant == "cls" and self.hard.rule == "quality":
            raise ValueError(
                "adapter.variant cls runs an adapter for the images of one class, and hard.rule quality does not say of which class a "
                "unit's images are; set adapter.variant to dset, or hard.rule to tail or list"
            )
        if "adaptive" in self.curricula.strategies and not self.curricula.held_out:
            raise ValueError(
                "the strategy adaptive needs curricula.held_out, the hard images that progress is measured on"
            )
        return self

    @property
    def made_levels(self) -> tuple[int, ...]:
        """The levels that are made, in ascending order."""
        if self.levels is not None:
            return tuple(sorted(self.levels))
        return REFERENCE["imagenet_lt"] if self.mode == "reference" else even_levels(4)

    @property
    def starts(self) -> StartRule:
        """Where a level enters the schedule: at its noise, or as published at its share of the steps."""
        return "strength" if self.mode == "reference" else "sigma"

    def name_of(self, class_name: str) -> str:
        """What prompts call a class."""
        return self.names.get(class_name, class_name)

    @property
    def fixed_bound(self) -> float | None:
        """The bound where it is a number: given, or as published."""
        return REFERENCE_BOUNDS["imagenet_lt"] if self.bound is None and self.mode == "reference" else self.bound
