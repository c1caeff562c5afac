"""`Request`, one image to make, the random numbers that belong to it, and `Generated`, a batch of images with its faults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from augment.seeds import operation_seed
from synth.errors import SynthError
from synth.settings import SeedMode


@dataclass(frozen=True, eq=False)
class Request:
    """One image to make: what shows on it, and its identity.

    `prompt` is text, or a class number for a class-conditional model. (`key`, `ordinal`) is the image's identity: a class or a
    parent sample, and the number of this image of it. `image` (3, h, w) float in [0, 1] starts image-to-image at `strength` percent
    of the noise; `mask` (1, h, w), 1 where it is painted anew. `boxes` (k, 4) x1, y1, x2, y2 in [0, 1], and a phrase for each, for
    layouts. `mode` (c, h', w') float is the latent that mode guidance pulls the image to. `latents` (c, h', w') are sampled on from the
    noise level `level` that they stand at, by DDIM without noise.
    """

    prompt: str | int
    key: str
    ordinal: int = 0
    image: torch.Tensor | None = None
    strength: int = 100
    mask: torch.Tensor | None = None
    boxes: torch.Tensor | None = None
    phrases: tuple[str, ...] = ()
    mode: torch.Tensor | None = None
    latents: torch.Tensor | None = None
    level: int | None = None

    def __post_init__(self) -> None:
        if (self.latents is None) != (self.level is None):
            raise SynthError("latents and the level they stand at belong together: give both or neither")
        if self.latents is not None and self.image is not None:
            raise SynthError("a request starts from an image or from latents, and got both")
        if self.mask is not None and self.image is None:
            raise SynthError("a mask says what to paint anew in an image, and no image was given")
        if (0 if self.boxes is None else len(self.boxes)) != len(self.phrases):
            count = 0 if self.boxes is None else len(self.boxes)
            raise SynthError(f"{count} boxes came with {len(self.phrases)} phrases: give a phrase for each box")

    @property
    def kind(self) -> tuple[bool, bool, int, int | None]:
        """What requests of one batch must share: whether they have an image, whether a mask, the strength, and the latents' level."""
        has_image = self.image is not None
        return has_image, self.mask is not None, self.strength if has_image else 100, self.level


def torch_generators(
    run_seed: int, requests: Sequence[Request], purpose: str, mode: SeedMode = "sample"
) -> list[torch.Generator]:
    """Seed a torch.Generator on the CPU for each request: the same numbers on any device, at any batch size, in any order.

    Each `purpose` (start noise, solver noise, CADS, posterior) has its own, so that switching one on moves no other's numbers.
    """
    sources = []
    for request in requests:
        key = request.key if mode == "sample" else ""
        seed = operation_seed(run_seed, key, f"synth/{purpose}/{request.ordinal}")
        sources.append(torch.Generator().manual_seed(seed))
    return sources


def noise(sources: Sequence[torch.Generator], shape: Sequence[int], device: torch.device) -> torch.Tensor:
    """Draw standard normal noise (n, *shape) float32 on the CPU, a row from each generator, and move it to `device`."""
    return torch.stack([torch.randn(tuple(shape), generator=source) for source in sources]).to(device)


def stacked_latents(
    latents: Sequence[torch.Tensor] | torch.Tensor, requests: Sequence[Request], shape: Sequence[int]
) -> torch.Tensor:
    """Stack the `latents` of n requests to (n, *shape); SynthError for the first that has another shape or is not all finite."""
    for one in latents:
        if tuple(one.shape) != tuple(shape):
            came, wanted = ("x".join(map(str, sizes)) for sizes in (one.shape, shape))
            raise SynthError(f"latents of {came} came where this model has {wanted}")
    stacked = latents if isinstance(latents, torch.Tensor) else torch.stack(list(latents))
    broken = ~torch.isfinite(stacked).flatten(1).all(1)
    if bool(broken.any()):
        request = requests[int(broken.int().argmax())]
        raise SynthError(
            f"the latents of {request.key}, number {request.ordinal}, hold a value that is no finite number"
        )
    return stacked


@dataclass(frozen=True, eq=False)
class Generated:
    """A batch that was made. `images` (n, 3, h, w) float32 in [0, 1], not yet encoded; `black` (n,) bool, images with no light at all;
    `broken` (n,) bool, images with a value that is not a number; `latents` (n, c, h', w') where the model has them.
    """

    requests: tuple[Request, ...]
    images: torch.Tensor
    black: torch.Tensor
    broken: torch.Tensor
    latents: torch.Tensor | None = None


def checked(requests: Sequence[Request], images: torch.Tensor, latents: torch.Tensor | None) -> Generated:
    """Wrap `images` (n, 3, h, w) unchanged, and mark those that a safety checker blackened or an overflow broke."""
    broken = ~torch.isfinite(images).flatten(1).all(1)
    black = torch.nan_to_num(images, nan=1.0).flatten(1).amax(1) < 1 / 255
    return Generated(tuple(requests), images, black, broken, latents)
