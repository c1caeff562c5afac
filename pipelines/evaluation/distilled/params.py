"""Parameters of `evaluate@distilled`. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from distill.config import TrainConfig
from pipelines.artifacts.distilled import DEFAULT_SOURCES, Sources
from pipelines.config import Section
from pipelines.evaluation.students import require_epochs
from pipelines.fields import SOFT_ONLY, refuse_ignored
from pipelines.networks import NetworkName

#: `distilled`: the sets of each source. `start`: the real images that those began from, untouched: what optimisation is to beat.
#: `random`: as many random real images. `real`: all.
ArmName = Literal[
    "distilled_soft", "start_soft", "random_soft", "distilled_hard", "start_hard", "random_hard", "real_hard"
]

#: Options of a training that soft arms take from elsewhere, or not at all, and why.
_NOT_OF_SOFT = {
    "views": "students see the views that were labelled, relabel.views",
    "batch_size": "students see the batches that were labelled, relabel.batch_size",
    "label_smoothing": "soft labels are not smoothed",
}


class DistilledParams(Section):
    """The students that show what distilled sets are worth, beside those of as many random real images and of all."""

    sources: Sources = Field(DEFAULT_SOURCES, description="stages whose distilled sets are measured")
    network: NetworkName = Field(
        "convnet3_w128", description="the student; convnet{D}_w{W}, resnet20, resnet56 or any timm name"
    )
    ipc: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None,
        min_length=1,
        description="subsets to compare; all that relabel labelled if not given, or without soft arms the whole set",
    )
    seeds: int = Field(3, ge=1, description="students per arm; fewer than 3 is said in the report")
    arms: tuple[ArmName, ...] = Field(
        get_args(ArmName),
        min_length=1,
        description="distilled sets, the real images that they started from, as many random real ones, all real ones",
    )
    soft: TrainConfig = Field(
        TrainConfig(), description="arms with soft labels; views and batch size are those of relabel"
    )
    hard: TrainConfig = Field(TrainConfig(), description="all other arms with hard labels")
    full: TrainConfig = Field(TrainConfig(), description="the full training set with hard labels")

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_ignored(cls, raw: Any) -> Any:
        for section in ("hard", "full"):
            refuse_ignored(raw, section, SOFT_ONLY)
        ignored, soft = dict(_NOT_OF_SOFT), raw.get("soft") if isinstance(raw, Mapping) else None
        if isinstance(soft, Mapping) and soft.get("soft_loss") == "mse_gt":
            ignored |= dict.fromkeys(("temperature", "t_squared"), "soft_loss mse_gt has no temperature")
        refuse_ignored(raw, "soft", ignored)
        return raw

    @model_validator(mode="after")
    def _students_are_trained(self) -> DistilledParams:
        for section in ("soft", "hard", "full"):
            require_epochs(section, getattr(self, section))
        return self

    @property
    def soft_arms(self) -> bool:
        """Whether an arm has soft labels; without one nothing is read of `relabel`."""
        return any(name.endswith("_soft") for name in self.arms)


PARAMS = DistilledParams
