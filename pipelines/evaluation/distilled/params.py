"""Parameters of `evaluate@distilled`. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from distill.config import TrainConfig
from pipelines.artifacts.distilled import DEFAULT_SOURCES, OtherSources, Sources, source_slug
from pipelines.config import Section
from pipelines.evaluation.distilled.label_forms import LabelForm
from pipelines.evaluation.students import require_epochs
from pipelines.fields import HARD_ONLY, SOFT_ONLY, refuse_ignored
from pipelines.networks import NetworkName

#: `distilled`: the sets of each source and of each control. `start`: the real images that a source's began from, untouched: what
#: optimisation is to beat. `random`: as many random real images. `real`: all. `soft`: labels that are stored for every view.
#: `online`: the teacher labels every view while the student trains. `fixed`: its one answer to the image as it is, for all views.
ArmName = Literal[
    "distilled_soft",
    "start_soft",
    "random_soft",
    "distilled_online",
    "start_online",
    "random_online",
    "distilled_fixed",
    "random_fixed",
    "distilled_hard",
    "start_hard",
    "random_hard",
    "real_hard",
]
#: Those that are trained where parameters name none. Online labels are asked for: they take the teacher's time once more. So are fixed
#: ones, which lie between hard and stored labels.
DEFAULT_ARMS: tuple[ArmName, ...] = tuple(
    name for name in get_args(ArmName) if not name.endswith(("_online", "_fixed"))
)

#: Options of a training that arms with stored labels do not take or take from elsewhere, and why.
_NOT_OF_SOFT = HARD_ONLY | {
    "views": "students see the views that were labelled, relabel.views",
    "batch_size": "students see the batches that were labelled, relabel.batch_size",
}


class DistilledParams(Section):
    """The students that show what distilled sets are worth, beside those of as many random real images and of all."""

    sources: Sources = Field(DEFAULT_SOURCES, description="whose condensed sets are measured, as STAGE or STAGE@ITEM")
    controls: OtherSources = Field(
        (), description="whose condensed sets every source is compared with, such as coreset@medoids"
    )
    networks: tuple[NetworkName, ...] = Field(
        ("convnet3_w128",),
        min_length=1,
        description="the students, the main one first; convnet{D}_w{W}, with _in for instance norm, resnet20, resnet56 or any timm name",
    )
    ipc: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None,
        min_length=1,
        description="subsets to compare; all that relabel labelled if not given, or without soft arms the whole set",
    )
    seeds: int = Field(3, ge=1, description="students per arm and set; fewer than 3 is said in the report")
    arms: tuple[ArmName, ...] = Field(
        DEFAULT_ARMS,
        min_length=1,
        description="condensed sets, the real images that they started from, as many random real ones, all real ones",
    )
    budget: Literal["epochs", "steps"] = Field(
        "epochs",
        description="what students of one IPC and kind of labels have in common: epochs, or optimiser steps, those of the set with the "
        "most images",
    )
    at_epochs: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (10, 30, 100, 300), description="epochs after which accuracy is measured too, where a training has as many"
    )
    label_formats: tuple[LabelForm, ...] = Field(
        (),
        description="other forms of the stored labels that students of sources are trained with too, such as [int8, {epochs: 10}]",
    )
    soft: TrainConfig = Field(
        TrainConfig(), description="arms with stored soft labels; views and batch size are those of relabel"
    )
    online: TrainConfig = Field(TrainConfig(), description="arms that the teacher labels as they train")
    fixed: TrainConfig = Field(
        TrainConfig(),
        description="arms with one soft label an image, which its views share: the teacher's of the image as it is",
    )
    hard: TrainConfig = Field(TrainConfig(), description="all other arms with hard labels")
    full: TrainConfig = Field(TrainConfig(), description="the full training set with hard labels")

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_ignored(cls, raw: Any) -> Any:
        if isinstance(raw, Mapping) and "network" in raw:
            raise ValueError(
                f"network is networks now, a list that the main student leads: networks: [{raw['network']}]"
            )
        for section in ("hard", "full"):
            refuse_ignored(raw, section, SOFT_ONLY)
        for section, not_taken in (
            ("soft", _NOT_OF_SOFT),
            ("online", HARD_ONLY),
            ("fixed", HARD_ONLY),
        ):
            ignored, own = dict(not_taken), raw.get(section) if isinstance(raw, Mapping) else None
            if isinstance(own, Mapping) and own.get("soft_loss") == "mse_gt":
                ignored |= dict.fromkeys(("temperature", "t_squared"), "soft_loss mse_gt has no temperature")
            refuse_ignored(raw, section, ignored)
        return raw

    @model_validator(mode="after")
    def _students_are_trained(self) -> DistilledParams:
        for section in ("soft", "online", "fixed", "hard", "full"):
            require_epochs(section, getattr(self, section))
        if self.label_formats and "distilled_soft" not in self.arms:
            raise ValueError("label_formats are of the labels of distilled_soft, which arms does not name")
        names = [form.name for form in self.label_formats]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"label_formats names {twice[0]} twice")
        if self.fixed.views.mix != "none":
            raise ValueError(
                f"fixed.views.mix {self.fixed.views.mix} mixes images, and a label that is fixed for an image says nothing of a mixture; "
                "set it to none"
            )
        if len(set(self.networks)) < len(self.networks):
            raise ValueError("networks names a student twice")
        slugs = {source_slug(source) for source in self.sources}
        if both := [control for control in self.controls if source_slug(control) in slugs]:
            raise ValueError(f"controls names {both[0]}, which sources names too: a set is one or the other")
        return self

    @property
    def soft_arms(self) -> bool:
        """Whether an arm has soft labels; without one nothing is read of `relabel`."""
        return any(name.endswith("_soft") for name in self.arms)


PARAMS = DistilledParams
