"""Parameters of `augment`."""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from augment.policy import load
from pipelines.config import PLAN_ONLY, Section
from pipelines.fields import PolicySpec

#: What a set may be called, and what the stage's own folders are called.
SET_NAME, RESERVED = re.compile(r"[a-z0-9_]{1,40}"), ("ledger", "plan")


class ViewSet(Section):
    """One set of views: a dataset of its own under the stage's output.

    `boxes`: `annotations` takes along what the samples' `json` has; `foreground` makes one box round the pixels brighter than
    `threshold`, for pictures of one thing on a dark background; `drop` leaves annotations behind. Arrays of a parent (`npy`,
    `npz`) belong to its own pixels and are not carried. `format` and `quality` (of JPEG and WebP) are those of the files. `backend` is
    what computes a view: `auto` takes cv2 on a CPU and torch elsewhere, `kornia` is the slow reference.
    """

    policy: PolicySpec = Field(description="a preset's name, a list of operations, or a mapping: see augment.policy")
    views: int = Field(1, ge=1, le=10_000, description="views of each image")
    samples: int | None = Field(None, ge=1, description="images to view, drawn by a hash of their keys; all by default")
    tag: str = Field("a", pattern=r"^[a-z]{1,4}$", description="the letters in a view's key: KEY-a0003")
    progress: float = Field(1.0, ge=0, le=1, description="where magnitude schedules stand")
    boxes: Literal["annotations", "foreground", "drop"] = "annotations"
    threshold: int = Field(16, ge=0, le=254, description="levels of 255 that are background still (boxes: foreground)")
    min_visible: float = Field(0.5, ge=0, le=1, description="a box is dropped when less of it is left")
    min_side: float = Field(1.0, ge=0, description="a box is dropped when a side has fewer pixels")
    format: Literal["jpeg", "png", "webp"] = "jpeg"
    quality: int = Field(95, ge=1, le=100)
    backend: Literal["auto", "torch", "cv2", "kornia"] = "auto"

    @field_validator("policy")
    @classmethod
    def _policy_is_one(cls, spec: Any) -> Any:
        load(spec)
        return spec

    @model_validator(mode="after")
    def _boxes_can_follow(self) -> ViewSet:
        policy = load(self.policy)
        if self.boxes == "foreground" and (policy.rolls or policy.blends_geometry):
            what = "rolls images" if policy.rolls else "blends images that moved differently"
            raise ValueError(
                f"the policy {policy.name} {what}, which boxes cannot follow: take another, or boxes: drop"
            )
        return self


class AugmentParams(Section):
    """Parameters of `augment`."""

    source: str = Field("split/train", description="the dataset to view: STAGE, or STAGE/PART")
    sets: Annotated[dict[str, ViewSet], PLAN_ONLY] = Field(default_factory=dict, description="sets of views by name")
    shard_samples: Annotated[int, PLAN_ONLY] = Field(
        10_000, ge=1, le=100_000, description="views a shard holds at the most, about"
    )

    @field_validator("source")
    @classmethod
    def _source_is_another_stage(cls, source: str) -> str:
        if source.split("/")[0] in ("", "augment"):
            raise ValueError("source takes an earlier stage, such as ingest or split/train")
        return source

    @model_validator(mode="after")
    def _sets_go_together(self) -> AugmentParams:
        for name in self.sets:
            if not SET_NAME.fullmatch(name) or name in RESERVED:
                raise ValueError(
                    f"a set is called by up to 40 lower-case letters, digits and underscores, and not "
                    f"{' or '.join(RESERVED)}; got {name!r}"
                )
        tags = Counter(views.tag for views in self.sets.values())
        shared = [tag for tag, count in tags.items() if count > 1]
        if shared:
            raise ValueError(f"two sets have the tag {shared[0]}, so their keys would be equal; give each its own tag")
        return self
