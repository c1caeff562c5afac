"""Parameters of `generator`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipelines.artifacts.generators import ROLES
from pipelines.config import PLAN_ONLY, Section
from synth.family.config import AutoencoderBudget, ClipBudget, DenoiserBudget, Shape
from synth.settings import Settings


class ModelParams(Section):
    """Pretrained models, each a folder that `save_pretrained` wrote or an id on the Hub. They are not copied."""

    text: str | None = Field(None, description="a text-to-image pipeline")
    classes: str | None = Field(None, description="a DiTPipeline")
    clip: str | None = Field(None, description="a CLIPModel with its tokenizer")


class TrainParams(Section):
    """How the reference family is trained.

    Without scenes it is the class model alone: an autoencoder and a DiT, from split/train. Images of another size than `shape.size` are
    resized to it, both sides, bilinearly (antialiased where they shrink); scenes have to have that size.
    """

    scenes: str | None = Field(
        None,
        description="dataset of scenes with captions and annotations: STAGE or a folder; null trains no text model",
    )
    shape: Shape = Shape()
    vae: AutoencoderBudget = AutoencoderBudget()
    clip: ClipBudget = ClipBudget()
    unet: DenoiserBudget = DenoiserBudget()
    dit: DenoiserBudget = DenoiserBudget()


class GeneratorParams(Section):
    """Parameters of `generator`.

    `source`: `embedded` unpacks the small family of this package, `train` trains one like it, or its class model only, `model` names
    pretrained models.
    """

    effect = PLAN_ONLY  # a longer check trains nothing anew

    source: Literal["embedded", "train", "model"] = "embedded"
    folder: str | None = Field(None, description="a family's folder instead of the embedded one (source embedded)")
    dtype: Literal["float32", "float16"] = Field("float32", description="of the folders' weights")
    model: ModelParams = ModelParams()
    train: TrainParams = TrainParams()
    sheet_images: int = Field(6, ge=0, le=64, description="images of each class on the contact sheets; 0 makes none")
    check_images: int = Field(1000, ge=0, description="images of the class model that the teacher looks at; 0 for none")
    text: Settings = Settings(steps=20, guidance=5.0, scheduler="dpmpp_2m")
    classes: Settings = Settings(steps=20, guidance=2.0, scheduler="dpmpp_2m")

    @model_validator(mode="after")
    def _source_is_named(self) -> GeneratorParams:
        named = [role for role in ROLES if getattr(self.model, role) is not None]
        if self.source == "model" and not named:
            raise ValueError("source model takes at least one of generator.model.text, .classes and .clip")
        if self.source != "model" and named:
            raise ValueError(f"model.{named[0]} is given, and source is {self.source}; set source: model")
        texts = [part for part in ("clip", "unet") if part in self.train.model_fields_set]
        if self.source == "train" and self.train.scenes is None and texts:
            raise ValueError(
                f"train.{texts[0]} is given and generator.train.scenes is not: models of texts learn from scenes, a dataset such as "
                "ingest makes of {type: composed}; name one, or leave it out"
            )
        if self.source != "embedded" and self.folder is not None:
            raise ValueError(f"folder is given, and source is {self.source}; set source: embedded")
        return self
