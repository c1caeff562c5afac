"""Parameters of `d3hr`, what its variants make of them, and where its files lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from distill.d3hr.config import SelectConfig
from pipelines.config import PLAN_ONLY, Section
from pipelines.fields import CaptionTemplate, Names
from pipelines.images.params import ImageParams
from synth.settings import InversionSettings

Variant = Literal["improved", "reference"]

#: Folders of an item's output, which are also those of the units that fill them.
MOMENTS, LATENTS, GROUPS, DISTILLED, ROUND_TRIP = "moments", "latents", "groups", "distilled", "round_trip"
#: How real images fared that were inverted and made again; and figures by level.
ROUND_TRIP_TABLE, SCORES_TABLE, DIAGNOSTICS = "round_trip.csv", "scores.csv", "diagnostics"
#: What the variant `reference` has no say in, and why.
_PUBLISHED = {
    "invert": "inverts at guidance 4 in 38 evaluations, for level 600",
    "select": "searches as published, with reference.candidates draws",
    "guidance": "generates at guidance 4",
    "images_per_class": "takes reference.images_per_class",
}


class SweepParams(Section):
    """Where else, beside `invert.level` and `invert.guidance`, latents are measured: at `levels`, all of them in one pass of each of
    `guidances`. A list alone is one of levels."""

    levels: tuple[Annotated[int, Field(ge=1)], ...] = ()
    guidances: tuple[Annotated[float, Field(ge=0)], ...] = ()


def _levels_alone(value: Any) -> Any:
    """A list is one of levels."""
    return {"levels": value} if isinstance(value, list | tuple) else value


class ReferenceParams(Section):
    """The budget of the variant `reference`; all else of it is as published."""

    images_per_class: int | None = Field(None, ge=1, description="real images per class; null is all, as published")
    candidates: int | None = Field(
        None,
        ge=10_000,
        multiple_of=10_000,
        description="groups drawn for each class; null is the paper's million (the code's --m 1000)",
    )


class D3hrParams(Section):
    """Parameters of `d3hr`.

    `variants`: `improved` takes `invert`, `select`, `guidance` and `images_per_class`; `reference` takes the published values of these,
    defects included, and a budget from `reference`. `model`: the class-conditional generator, or the one of prompts
    ("a photo of a ..."); `names` is what it calls a class where that is not the class's own name. With `keep_latents` the latents of
    every real image stay in the output, clean and at each level; a mixture, a low-rank model and medoids keep them anyway.
    """

    effect = PLAN_ONLY  # another group inverts nothing again, another image format selects nothing again

    variants: tuple[Variant, ...] = Field(("improved", "reference"), min_length=1)
    ipc: int = Field(10, ge=1, le=10_000, description="distilled images per class")
    seeds: int = Field(1, ge=1, le=100, description="sets, each from a seed of its own")
    model: Literal["classes", "text"] = Field("classes", description="which of the generators")
    names: Names = Field({}, description="class name -> what the generator calls it, else its name as it is")
    images_per_class: int | None = Field(
        300, ge=1, description="real images per class that are inverted, a fixed random choice; null is all"
    )
    invert: InversionSettings = InversionSettings()
    select: SelectConfig = SelectConfig()
    guidance: float | None = Field(None, ge=0, description="of generation; null is the generator's usual scale")
    reference: ReferenceParams = ReferenceParams()
    sweep: Annotated[SweepParams, BeforeValidator(_levels_alone)] = SweepParams()
    keep_latents: bool = False
    round_trip: int = Field(
        3, ge=0, le=16, description="real images of a class that the report shows inverted and made again"
    )
    batch_size: int = Field(
        64, ge=1, description="images inverted or made together, of any classes; part of what fixes the last bits"
    )
    images_per_unit: int = Field(250, ge=1, description="images that one unit inverts, or makes")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="precision of the generator; auto is bfloat16 on CUDA"
    )
    image: ImageParams = ImageParams(format="png")
    caption: CaptionTemplate | None = Field(
        None, description="caption of each image, such as a photo of a {label_name}; null writes none"
    )

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_ignored(cls, raw: Any) -> Any:
        if isinstance(raw, Mapping) and raw.get("variants") is not None and tuple(raw["variants"]) == ("reference",):
            for name, published in _PUBLISHED.items():
                if name in raw:
                    raise ValueError(f"{name} would be ignored: the variant reference {published}; leave it out")
        return raw

    @model_validator(mode="after")
    def _variants_decide_the_mode(self) -> D3hrParams:
        for name, mode in (("invert", self.invert.mode), ("select", self.select.mode)):
            if mode == "reference":
                raise ValueError(
                    f"{name}.mode would be ignored: it is the variant's; leave it out, and run d3hr@reference"
                )
        return self

    def inversion_of(self, variant: str) -> InversionSettings:
        """How this variant inverts."""
        return self.invert if variant == "improved" else InversionSettings(mode="reference")

    def selection_of(self, variant: str) -> SelectConfig:
        """How this variant selects."""
        if variant == "improved":
            return self.select
        return SelectConfig(mode="reference", candidates=self.reference.candidates)

    def images_of(self, variant: str) -> int | None:
        """Real images per class that this variant inverts; None for all."""
        return self.images_per_class if variant == "improved" else self.reference.images_per_class

    def guidance_of(self, variant: str) -> float | None:
        """The scale at which this variant generates; None for the generator's own."""
        return self.guidance if variant == "improved" else 4.0

    def image_of(self, variant: str) -> ImageParams:
        """How this variant's images are written: `reference` shrinks them by Lanczos."""
        if variant == "improved":
            return self.image
        return self.image.model_copy(update={"interpolation": "lanczos"})

    def levels_of(self, variant: str) -> tuple[int, ...]:
        """The levels that are measured, upwards, the variant's own among them."""
        return tuple(sorted({self.inversion_of(variant).level, *self.sweep.levels}))

    def inversions_of(self, variant: str) -> tuple[InversionSettings, ...]:
        """One for each guidance that is measured, the variant's own first."""
        own = self.inversion_of(variant)
        others = dict.fromkeys(scale for scale in self.sweep.guidances if scale != own.scale)
        return (own, *(replace(own, guidance=scale) for scale in others))


def tag_of(guidance: float) -> str:
    """What an inversion is called in file names, by its guidance: `g1`, `g1p5`."""
    return f"g{guidance:g}".replace(".", "p")


def group_file(number: int, block: int) -> str:
    """Where a block of a set's latents lies."""
    return f"{GROUPS}/set{number}-{block:06d}.safetensors"


def scores_file(number: int) -> str:
    """Where the parts of the score of each class's group lie, of one set."""
    return f"{GROUPS}/set{number}.csv"


def inverted_file(unit: str) -> str:
    """Where the rows of the real images that a unit inverted lie, a sidecar without a shard."""
    return f"inverted/meta/{unit.removeprefix(f'{MOMENTS}/')}.parquet"


def round_trip_file(label: int, place: int, what: str) -> str:
    """Where the `place`-th real image of a class lies as it was `decoded`, or generated `again`."""
    return f"{ROUND_TRIP}/c{label:05d}-{place:02d}-{what}.png"
