"""The parameters of the reference family, and the description of a finished one. No torch: parameter files need it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from augment.values import require_values
from synth.errors import SynthError

#: A family's models; each has weights of its own.
PARTS = ("vae", "clip", "unet", "dit")
#: Those that need no captions.
CLASS_PARTS = ("vae", "dit")

#: Stable Diffusion's noise (Rombach et al. 2022), for both denoisers.
NOISE: Mapping[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}


@dataclass(frozen=True)
class Shape:
    """Widths and depths of the four models. The default is the committed family: 64 px images, latents (8, 8, 8), 32 tokens of text.

    `size` pixels; the autoencoder halves its input `len(vae) - 1` times, to `latents` channels. `vae`: width at each of its scales.
    `tokens` of a text at the most. `unet`: width at each scale.
    `text`, `image`: (width, layers) of the CLIP towers, heads of 32; `patch` pixels of an image token; `joint` width of the
    space both towers meet in. `dit`: (width, layers), heads of 32, patches of 2 x 2 latents.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    size: int = 64
    latents: int = 8
    vae: tuple[int, ...] = (16, 32, 64, 96)
    unet: tuple[int, ...] = (128, 160)
    text: tuple[int, int] = (128, 4)
    image: tuple[int, int] = (128, 4)
    patch: int = 8
    joint: int = 128
    tokens: int = 32
    dit: tuple[int, int] = (192, 6)

    def __post_init__(self) -> None:
        require_values(self, SynthError)
        for name, value in vars(self).items():
            if not value or min(value if isinstance(value, tuple) else (value,)) < 1:
                raise SynthError(f"{name} takes whole numbers from 1, got {value}")

    @property
    def side(self) -> int:
        """Height and width of a latent."""
        return self.size // 2 ** (len(self.vae) - 1)


@dataclass(frozen=True)
class Budget:
    """How long a part trains, and how fast.

    It takes `steps` of `batch` samples. The learning `rate` is at its highest after `warmup` steps; `decay` is AdamW's. The weights that
    are kept are a moving average with the decay `averaged`. With `low_precision` it computes in bfloat16.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    steps: int
    batch: int
    rate: float
    warmup: int = 200
    decay: float = 0.01
    averaged: float = 0.999
    low_precision: bool = True

    def __post_init__(self) -> None:
        require_values(self, SynthError)
        for name, value in vars(self).items():
            if name in ("steps", "batch", "rate") and value <= 0:
                raise SynthError(f"{name} takes a number above 0, got {value}")
            if value < 0:
                raise SynthError(f"{name} takes a number from 0 on, got {value}")
        if self.averaged >= 1:
            raise SynthError(f"averaged takes 0 <= value < 1, got {self.averaged}")


@dataclass(frozen=True)
class AutoencoderBudget(Budget):
    """The autoencoder's budget. `kl` weighs the divergence of its latents; after `encoder_steps` only the decoder goes on."""

    steps: int = 6500
    batch: int = 16
    rate: float = 2e-3
    kl: float = 5e-4
    encoder_steps: int = 4500


@dataclass(frozen=True)
class ClipBudget(Budget):
    """CLIP's budget. After `text_steps` only the image tower goes on."""

    steps: int = 3500
    batch: int = 128
    rate: float = 1e-3
    warmup: int = 100
    decay: float = 0.05
    text_steps: int = 700


@dataclass(frozen=True)
class DenoiserBudget(Budget):
    """The budget of the UNet and of the DiT."""

    steps: int = 7500
    batch: int = 64
    rate: float = 8e-4


@dataclass(frozen=True)
class Family:
    """The content of a `family.json`: all that its weights and its tokenizer do not say.

    `classes` by label, `nouns` what prompts call them; `scaling` what a latent is multiplied with; `vocabulary` tokens; `schedules`
    the noise and what is predicted, for `text` (the UNet) and `classes` (the DiT); `facts` what it was trained on, for people.
    A family that was trained without captions has no vocabulary, and of the four models the autoencoder and the DiT alone.
    """

    shape: Shape
    classes: tuple[str, ...]
    nouns: tuple[str, ...]
    scaling: float
    vocabulary: int
    schedules: Mapping[str, Mapping[str, Any]]
    facts: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return plain values, which `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, form: Any) -> Family:
        """Read what `to_json` gave; SynthError, one sentence, when `form` is something else."""
        try:
            shape = Shape(**{name: _frozen(value) for name, value in form["shape"].items()})
            return cls(
                shape=shape,
                classes=tuple(form["classes"]),
                nouns=tuple(form["nouns"]),
                scaling=float(form["scaling"]),
                vocabulary=int(form["vocabulary"]),
                schedules={role: dict(form["schedules"][role]) for role in ("text", "classes")},
                facts=dict(form.get("facts", {})),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SynthError(f"the family's description is not one: {type(error).__name__} {error}") from error

    @property
    def parts(self) -> tuple[str, ...]:
        """The models whose weights it has."""
        return PARTS if self.vocabulary else CLASS_PARTS

    @property
    def roles(self) -> tuple[str, ...]:
        """What it can do: `classes` always, `text` and `clip` where it has words."""
        return ("text", "classes", "clip") if self.vocabulary else ("classes",)

    @property
    def prompts(self) -> list[str]:
        """A prompt for each class, by label."""
        return [class_prompt(noun) for noun in self.nouns]


def schedules() -> dict[str, dict[str, Any]]:
    """Return the schedules a family is trained under: the UNet's on velocities (Salimans and Ho 2022), the DiT's on noise."""
    kinds = {"text": "v_prediction", "classes": "epsilon"}
    return {role: {**NOISE, "prediction_type": kind} for role, kind in kinds.items()}


def class_prompt(noun: str) -> str:
    """Return the prompt of a class from its noun, the caption that `composed` gives a scene with one thing."""
    return f"a photo of {'an' if noun[:1] in 'aeiou' else 'a'} {noun}"


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
