"""The parameters of D3HR's class models and of the choice of a group, as a plain frozen dataclass. No torch.

A wrong value, and values that have no meaning together, raise `DistillError` when the object is made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from augment.values import require_values
from distill.errors import DistillError

ClassModelName = Literal["diagonal", "mixture", "low_rank"]
GroupName = Literal["standardised", "antithetic", "best_of", "medoids", "random"]
NoiseName = Literal["per_class", "global"]
Precision = Literal["float32", "float16"]

#: The published code draws its candidates so many at a time, each lot from a seed of its own (`docs/specs/d3hr.md`, selection).
LOT = 10_000
#: Of the parts of the score: mean, deviation, skew. The paper says 0.5 for the last; it decides nothing.
PUBLISHED_WEIGHTS = (1.0, 1.0, 0.1)


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """The settings of a class's model and of the group that is chosen from it. None takes what `mode` says.

    `class_model`: the latents of a class at one level as a `diagonal` Gaussian (published); as a `mixture` of `components` (None: as many
    as there are images per class) diagonal Gaussians, by k-means on the clean latents; or as `low_rank`, diagonal and up to `rank`
    directions in which dimensions vary together.
    `group`: `standardised`, one draw that is moved and scaled to the class's mean and variance exactly; `antithetic`, pairs of
    opposite draws, scaled; `best_of`, the best of `candidates` draws by the published score with `weights` of its three parts;
    `medoids`, the inverted latents of real images, no draw; `random`, one draw.
    `noise`: `per_class` gives each class noise of its own, `global` all of them the same. `precision` is that of the statistics.

    `mode: improved` is standardised, per class, float32, with 10 000 candidates where there is a search. `mode: reference` is
    the published search and takes nothing else: diagonal, best_of, global, float16 (scores too, whose ties the first wins),
    weights (1, 1, 0.1), and candidates in lots of 10 000, lot i from seed 12345 i. The published `--m M` is
    `candidates: 1000 M`; None is the paper's million, of which the released default is a hundredfold.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    mode: Literal["improved", "reference"] = "improved"
    class_model: ClassModelName = "diagonal"
    components: int | None = None
    rank: int = 32
    group: GroupName | None = None
    candidates: int | None = None
    weights: tuple[float, float, float] = PUBLISHED_WEIGHTS
    noise: NoiseName | None = None
    precision: Precision | None = None

    def __post_init__(self) -> None:
        require_values(self, DistillError)
        for name in ("components", "rank", "candidates"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DistillError(f"{name} takes 1 or more, got {value}")
        if min(self.weights) < 0 or max(self.weights) == 0:
            raise DistillError(f"weights take numbers from 0 on, one of them above, got {list(self.weights)}")
        if self.components is not None and self.class_model != "mixture":
            raise DistillError(f"components belong to class_model mixture, which is {self.class_model}; leave them out")
        if None in (self.group, self.candidates, self.noise, self.precision):
            self.settled()
            return
        if self.mode == "reference":
            self._require_published()
        if self.group == "best_of" and self.class_model != "diagonal":
            raise DistillError(
                f"group best_of scores draws of a diagonal Gaussian, and class_model is {self.class_model}: set class_model to "
                "diagonal or group to standardised"
            )
        if self.group == "antithetic" and self.class_model == "mixture":
            raise DistillError(
                "group antithetic draws opposite members about one centre, and a mixture has several: set it to standardised"
            )
        if self.group == "medoids" and self.class_model != "diagonal":
            raise DistillError(
                f"group medoids takes real latents and draws from no {self.class_model}: leave class_model out"
            )

    def settled(self) -> SelectConfig:
        """Return the same settings with nothing left to `mode`."""
        published = self.mode == "reference"
        return replace(
            self,
            group=self.group or ("best_of" if published else "standardised"),
            candidates=self.candidates or (100 * LOT if published else LOT),
            noise=self.noise or ("global" if published else "per_class"),
            precision=self.precision or ("float16" if published else "float32"),
        )

    def require_members(self, ipc: int) -> None:
        """Refuse a number of images per class that these settings have no group of, before any latent is measured."""
        if ipc < 1:
            raise DistillError(f"a group has one image or more, got {ipc}")
        if ipc == 1 and self.mode == "reference":
            raise DistillError(
                "mode reference has no group of one image: its deviation is not a number; take the head of a larger group, or set "
                "mode to improved"
            )
        if self.components is not None and self.components > ipc:
            raise DistillError(
                f"each of {self.components} components takes an image, and there are {ipc}; set components to {ipc} or less"
            )

    def _require_published(self) -> None:
        """Refuse what the published code does not do."""
        published = {
            "class_model": "diagonal",
            "group": "best_of",
            "noise": "global",
            "precision": "float16",
        }
        for name, value in published.items():
            if getattr(self, name) != value:
                raise DistillError(
                    f"mode reference has {name} {value}, got {getattr(self, name)}; leave it out or set mode to improved"
                )
        if tuple(self.weights) != PUBLISHED_WEIGHTS:
            raise DistillError(f"mode reference has weights {list(PUBLISHED_WEIGHTS)}, got {list(self.weights)}")
        if self.candidates is not None and self.candidates % LOT:
            raise DistillError(f"mode reference draws {LOT} candidates at a time, got {self.candidates}")
