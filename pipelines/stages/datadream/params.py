"""Parameters of `datadream`, and where its files lie."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipelines.config import PLAN_ONLY, Section
from pipelines.fields import Names
from pipelines.images.params import ImageParams
from synth.datadream.config import AdaptConfig
from synth.filtering.deciding import Thresholds
from synth.settings import Settings

Variant = Literal["zero_shot", "cls", "dset", "loft"]


#: The two datasets of an item: all that was made, and what was admitted.
GENERATED, KEPT = "generated", "kept"


class DatadreamParams(Section):
    """Parameters of `datadream`.

    `variants`: `zero_shot` asks the generator as it is, `cls` adapts it to each class, `dset` to all classes at once, `loft` to each
    image. `images_per_unit` is how many images one shard holds, `dtype` the precision of the generator, `auto` being bfloat16 on CUDA.
    `adapt` is for cls and dset (with `dset` over it where that is given), `loft` for loft. `generate` says how images are made: 20
    steps of DPM-Solver++ 2M at guidance 2 by default, 50 steps of the model's own scheduler as published. With `teacher` images are
    also scored by the classifier that `squeeze` left; it has seen the whole training set, so a few-shot claim must not filter by it.
    """

    effect = PLAN_ONLY  # another threshold or more images leave adapters alone

    variants: tuple[Variant, ...] = Field(("zero_shot", "cls", "dset"), min_length=1)
    shots: tuple[Annotated[int, Field(ge=1)], ...] = Field((16,), min_length=1, description="real images per class")
    loft_shots: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None, min_length=1, description="those of loft, which trains an adapter for every real image; null: as shots"
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1, description="few-shot seeds")
    images: int = Field(100, ge=1, description="images per class")
    names: Names = Field({}, description="class name -> what prompts call it, else its name as it is")
    domain: str = Field("", description="the word before `photo` in prompts, such as satellite or pet")
    context: str | None = Field(None, description="YAML of contexts by image key ({pose, background}), as BOB has them")
    captioner: str | None = Field(
        None,
        description="a vision-language model, folder or id, that tells the contexts of the few-shot images instead",
    )
    adapt: AdaptConfig = AdaptConfig()
    dset: AdaptConfig | None = None
    loft: AdaptConfig = AdaptConfig.loft()
    generate: Settings = Settings(steps=20, guidance=2.0, scheduler="dpmpp_2m")
    batch_size: int = Field(16, ge=1, description="images made together; part of what fixes the last bits")
    images_per_unit: int = Field(200, ge=1)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    filters: Thresholds = Thresholds()
    teacher: bool = False
    reference: Literal["train", "val"] | None = Field(
        "val", description="what quality figures compare with; null is off"
    )
    inception: str | None = Field(
        None, description="torchvision's inception_v3 weights, a local file: figures by its features instead of CLIP's"
    )
    image: ImageParams = ImageParams(format="png")
    captions: bool = Field(
        False, description="store each image's prompt as its caption too (.txt), as open_clip reads it"
    )

    @model_validator(mode="after")
    def _one_source_of_contexts(self) -> Self:
        if self.context is not None and self.captioner is not None:
            raise ValueError("give context or captioner, not both: an image has one context")
        return self

    def config_of(self, variant: str) -> AdaptConfig:
        """How this variant's adapters are trained."""
        return self.loft if variant == "loft" else (self.dset or self.adapt) if variant == "dset" else self.adapt

    def shots_of(self, variant: str) -> tuple[int, ...]:
        """Real images per class that this variant is made for."""
        return self.loft_shots if variant == "loft" and self.loft_shots else self.shots

    def name_of(self, class_name: str) -> str:
        """What prompts call a class."""
        return self.names.get(class_name, class_name)


def contexts_file(tag: str) -> str:
    """Where the contexts that a model told lie in an item's output."""
    return f"contexts/{tag}.json"
