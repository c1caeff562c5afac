"""Other forms of a set's stored labels that students are trained with too: fewer bytes a label, or fewer epochs of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipelines.artifacts.labels import RelabelParams
from pipelines.config import Section
from pipelines.errors import UserError


class LabelForm(Section):
    """A form of the stored labels of a set, made of those that `relabel` stored: `int8`, `top_k`, or a mapping of what follows."""

    format: Literal["int8", "top_k"] | None = Field(None, description="how logits are stored; null as relabel does")
    top_k: int = Field(5, ge=1, description="how many logits of each view top_k keeps")
    epochs: int | None = Field(
        None, ge=1, description="epochs of labels, which students go through in turn, views and all; null takes all"
    )

    @model_validator(mode="before")
    @classmethod
    def _by_its_format(cls, raw: Any) -> Any:
        if isinstance(raw, Mapping) and "top_k" in raw and raw.get("format") != "top_k":
            raise ValueError("top_k would be ignored: format is not top_k")
        return {"format": raw} if isinstance(raw, str) else raw

    @model_validator(mode="after")
    def _is_another(self) -> Self:
        if self.format is None and self.epochs is None:
            raise ValueError("a form of labels has a format, or epochs, that are not those of relabel")
        return self

    @property
    def name(self) -> str:
        """What it is called in names of arms: `int8`, `top5`, `epochs10`, `int8_epochs10`."""
        kinds = {"int8": ["int8"], "top_k": [f"top{self.top_k}"], None: []}[self.format]
        return "_".join([*kinds, *([] if self.epochs is None else [f"epochs{self.epochs}"])])

    def of(self, labelling: RelabelParams) -> RelabelParams:
        """The parameters with which `relabel` would store labels of this form."""
        changes = {"format": self.format, "top_k": self.top_k} if self.format else {}
        return labelling.model_copy(update=changes | ({"epochs": self.epochs} if self.epochs else {}))

    def require(self, labelling: RelabelParams, classes: int) -> None:
        """Raise `UserError` where the stored labels are not more than this form keeps of them."""
        if self.format is not None and labelling.format != "fp16":
            raise UserError(
                f"evaluate.distilled.label_formats: {self.format} is made of labels in fp16, and relabel.format is {labelling.format}; set "
                "it to fp16"
            )
        if self.format == "top_k" and self.top_k >= classes:
            raise UserError(
                f"evaluate.distilled.label_formats: top_k keeps fewer than all {classes} classes, got {self.top_k}; lower it"
            )
        if self.epochs is not None and self.epochs >= labelling.epochs:
            raise UserError(
                f"evaluate.distilled.label_formats: {self.epochs} epochs are not fewer than the {labelling.epochs} that relabel stored; "
                "lower them, or raise relabel.epochs"
            )


def format_words(labelling: RelabelParams) -> str:
    """`fp16, 40 epochs`, `top 5, 40 epochs`: how labels are stored."""
    kept = f"top {labelling.top_k}" if labelling.format == "top_k" else labelling.format
    return f"{kept}, {labelling.epochs} epoch{'' if labelling.epochs == 1 else 's'}"
