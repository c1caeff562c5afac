"""Parameters of `coreset`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from distill.coresets.config import MedoidsConfig, RdedConfig
from pipelines.config import PLAN_ONLY, Section
from pipelines.fields import CaptionTemplate
from pipelines.images.params import ImageParams

Method = Literal["random", "herding", "medoids", "rded", "random_tiles", "medoids_tiles"]
#: Methods that ask no teacher, those that ask it for features, and those that shrink whole images to tiles.
WITHOUT_TEACHER = ("random", "random_tiles")
BY_FEATURES = ("herding", "medoids", "medoids_tiles")
TILED = ("random_tiles", "medoids_tiles")


class CoresetParams(Section):
    """Parameters of `coreset`.

    `methods`, an item each: `random` draws images; `herding` takes those whose mean stays closest to the class's mean; `medoids` those
    nearest to the centres of its clusters; `rded` crops and tiles those of which the teacher is surest. The first three store images
    as they are, to the byte. `random_tiles` and `medoids_tiles` store `tiles` x `tiles` images of `random` and of `medoids` in one, as
    `dm` does: what a set of as many bytes and as many images has to beat. All but the random ones need the teacher of `squeeze`. A
    smaller IPC is the head of a larger one, and with medoids the sets of `medoids.levels` and of `ipc` are those of as many clusters,
    one for each tile. `image` is how crops and tiles are stored.
    """

    effect = PLAN_ONLY  # a larger IPC or another method leaves the features alone

    methods: tuple[Method, ...] = Field(("random", "herding", "medoids", "rded"), min_length=1)
    ipc: int = Field(10, ge=1, le=10_000, description="images per class")
    seeds: int = Field(
        1, ge=1, le=100, description="sets chosen, each from a seed of its own; herding draws nothing and has one"
    )
    features: Literal["teacher", "clip"] = Field(
        "teacher",
        description="the embedding that herding and medoids choose in: the teacher's of squeeze, or CLIP's of generator",
    )
    tiles: int = Field(2, ge=2, le=64, description="tiles to a side of a stored image, of methods that store tiles")
    medoids: MedoidsConfig = MedoidsConfig()
    rded: RdedConfig = RdedConfig()
    rows_per_unit: int = Field(5000, ge=1, description="images whose features are computed, and kept, together")
    class_chunk: int = Field(100, ge=1, description="classes of one shard")
    image: ImageParams = ImageParams(format="png")
    caption: CaptionTemplate | None = Field(
        None, description="caption of each image, such as a photo of a {label_name}; null writes none"
    )

    @model_validator(mode="after")
    def _as_the_methods_take_them(self) -> Self:
        if len(set(self.methods)) < len(self.methods):
            raise ValueError("methods names something twice")
        if self.image.format == "keep":
            raise ValueError(
                "image.format is how crops and tiles are encoded, and these have no bytes to keep; give png, jpeg or webp"
            )
        wanted = self.ipc * self.rded.factor**2
        if "rded" in self.methods and wanted > self.rded.images:
            raise ValueError(
                f"rded.images {self.rded.images} are fewer than the {wanted} crops of different images that ipc {self.ipc} and "
                f"rded.factor {self.rded.factor} take; raise rded.images or lower ipc"
            )
        return self

    def asks(self, method: str) -> Literal["squeeze", "generator"] | None:
        """The stage whose network a method asks; None where it asks none."""
        if method in WITHOUT_TEACHER:
            return None
        return "generator" if method in BY_FEATURES and self.features == "clip" else "squeeze"

    def sets_of(self, method: str) -> int:
        """How many sets are chosen by a method."""
        return 1 if method == "herding" else self.seeds

    def tiling(self, method: str) -> tuple[int, str]:
        """Tiles to a side of what a method stores, and the parameter that says so."""
        if method == "rded":
            return self.rded.factor, "rded.factor"
        return (self.tiles, "tiles") if method in TILED else (1, "")

    def different_images(self, method: str) -> int:
        """How many different images of a class its set is made of."""
        return self.ipc * self.tiling(method)[0] ** 2
