"""The arms of `evaluate@discl`: what each shows its students, by which loss, and which arm it has to be better than."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from distill.config import LossName

ArmName = Literal[
    "ce",
    "bs",
    "ce_text_only",
    "ce_all_levels",
    "ce_discl",
    "bs_discl",
    "crt",
    "logit_adjustment",
    "repeat_factor",
    "tail_repeated",
    "strong_augmentation",
    "no_curriculum",
    "separate_norm",
    "own_generator",
    "full_real",
]
#: `real`: real images as they come; `repeated`: those of rare classes more often; `tail`: those of the tail as often as the mix has images
#: of it; `text`: the tail filled up with images of level 0;
#: `levels`: with images of all levels; `curriculum`: as the strategy has it; `unordered`: the curriculum's images in no order; `full`:
#: all of train.
Shows = Literal["real", "repeated", "tail", "text", "levels", "curriculum", "unordered", "full"]
#: Whose synthetic images: those of stage `discl` here, or of a generator that was trained on the long tail alone.
Images = Literal["", "family", "own"]


@dataclass(frozen=True)
class ArmKind:
    """`title` is what tables call it, `baseline` the arm that it has to be better than, without one a reference."""

    title: str
    baseline: ArmName | None = "ce"
    shows: Shows = "real"
    loss: LossName = "cross_entropy"
    images: Images = ""


ARMS: dict[ArmName, ArmKind] = {
    "ce": ArmKind("cross-entropy", None),
    "bs": ArmKind("balanced softmax", loss="balanced_softmax"),
    "ce_text_only": ArmKind("CE + text-only images", shows="text", images="family"),
    "ce_all_levels": ArmKind("CE + all levels", shows="levels", images="family"),
    "ce_discl": ArmKind("CE + DisCL", shows="curriculum", images="family"),
    "bs_discl": ArmKind("BS + DisCL", "bs", "curriculum", "balanced_softmax", "family"),
    "crt": ArmKind("cRT"),
    "logit_adjustment": ArmKind("logit adjustment"),
    "repeat_factor": ArmKind("repeat factors", shows="repeated"),
    "tail_repeated": ArmKind("tail repeated", shows="tail"),
    "strong_augmentation": ArmKind("strong augmentation"),
    "no_curriculum": ArmKind("CE + DisCL, unordered", shows="unordered", images="family"),
    "separate_norm": ArmKind("CE + DisCL, own norms", shows="curriculum", images="family"),
    "own_generator": ArmKind("CE + DisCL, own generator", shows="curriculum", images="own"),
    "full_real": ArmKind("all of train", None, "full"),
}
#: What DisCL proper is, and the controls that cost less than a generator, or say what its order does: each is compared with its own by
#: few-shot accuracy, cross-entropy with cross-entropy, and balanced classifiers with balanced softmax.
OURS: tuple[ArmName, ...] = ("ce_discl", "bs_discl")
CONTROLS_OF: dict[ArmName, tuple[ArmName, ...]] = {
    "ce_discl": ("crt", "logit_adjustment", "repeat_factor", "tail_repeated", "strong_augmentation", "no_curriculum"),
    "bs_discl": ("crt", "logit_adjustment"),
}
#: Those that are trained where parameters name none: all but the one that needs another data folder.
DEFAULT_ARMS: tuple[ArmName, ...] = tuple(name for name in get_args(ArmName) if name != "own_generator")
