"""Networks as functions from images (n, 3, h, w), float in [0, 1], to features (n, d) float32 on the images' device.

Any callable of that kind serves the figures and the filters; these are the usual three. Each runs its network in eval mode without
gradients, puts its modes back, and sees `batch` images at a time: features do not depend on it but for rounding. Values that are
not finite give features that are not: score `non_finite` first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize
from transformers import CLIPModel

from synth.datadream.classifier import MEAN, STD, token_rows
from synth.datadream.texts import Reader, require_distinct
from synth.errors import SynthError
from synth.quality.arrays import resized

Features = Callable[[torch.Tensor], torch.Tensor]


class ClipFeatures:
    """Features (n, d) of a CLIP's image tower after its projection, rows of length 1; with `texts`, of its text tower.

    Images are resized by their shorter side (bicubic, antialiased) and cut at the centre, as CLIP's own transforms do.
    """

    def __init__(self, model: CLIPModel, batch: int = 64) -> None:
        self.model, self.batch = model, batch
        config: Any = model.config
        side = config.vision_config.image_size
        self.size: tuple[int, int] = (side, side) if isinstance(side, int) else (side[0], side[1])
        self.longest: int = config.text_config.max_position_embeddings

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        def of(batch: torch.Tensor) -> torch.Tensor:
            pixels = normalised(cover_and_cut(batch, self.size), MEAN, STD).to(self.model.dtype)
            return normalize(pooled(self.model.get_image_features(pixel_values=pixels)).float(), dim=1)

        return in_batches(self.model, of, images, self.batch)

    def texts(self, tokenizer: Any, prompts: Sequence[str]) -> torch.Tensor:
        """Embed one prompt for each class to (prompts, d) float32, rows of length 1.

        SynthError for none, or where two are the same to the tower.
        """
        if not prompts:
            raise SynthError("texts to compare with are none: give one prompt for each class")
        config: Any = self.model.config
        require_distinct(prompts, prompts, [Reader.of_clip(tokenizer, config.text_config)], "their prompts")
        tokens = token_rows(tokenizer, prompts, self.longest).to(self.model.device)
        with measuring(self.model):
            return normalize(pooled(self.model.get_text_features(input_ids=tokens)).float(), dim=1)


class NetworkFeatures:
    """Features (n, d) of a classifier, `module`: what `features` computes with it, such as its penultimate layer.

    teacher = timm.create_model(...)
    NetworkFeatures(teacher, lambda x: teacher.forward_head(teacher.forward_features(x), pre_logits=True))

    `features` maps images normalised by `mean` and `std` to (n, d); None is the module itself, so an identity for a head will do,
    and logits come out where it has one. `size` (h, w) None leaves images at theirs; else they are resized (bilinear, antialiased).
    """

    def __init__(
        self,
        module: nn.Module,
        features: Features | None = None,
        *,
        size: tuple[int, int] | None = None,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        batch: int = 64,
    ) -> None:
        self.module, self.features = module, module if features is None else features
        self.size, self.mean, self.std, self.batch = size, tuple(mean), tuple(std), batch

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        def of(batch: torch.Tensor) -> torch.Tensor:
            rows = self.features(normalised(resized(batch, self.size or batch.shape[2:]), self.mean, self.std))
            if rows.ndim != 2:
                raise SynthError(
                    f"features take one row for each image, the network gave shape {tuple(rows.shape)}: pool it first"
                )
            return rows.float()

        return in_batches(self.module, of, images, self.batch)


class InceptionFeatures(NetworkFeatures):
    """The 2048 pooled features of *torchvision's* Inception v3, images resized to 299 x 299 (bilinear, antialiased).

    Not the network of the FID paper: that is a TensorFlow graph of 2015 with other weights, pooling and resizing, so a FID with
    these features does not compare with published ones, only with others made here.
    """

    def __init__(self, weights: str | Path, device: str | torch.device = "cpu", batch: int = 32) -> None:
        """Read `weights`, a file of torchvision's state dict, with weights_only; SynthError where it is not one."""
        try:
            from torchvision.models import inception_v3  # type: ignore[import-untyped]
        except ImportError as missing:
            raise SynthError(
                "Inception features need torchvision, which is not installed: pip install torchvision"
            ) from missing
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)
        except OSError as missing:
            raise SynthError(f"no weights of Inception at {weights}: give torchvision's inception_v3 file") from missing
        except Exception as wrong:  # bytes of no kind fail in the unpickler as they will
            raise SynthError(
                f"{weights} is not a file of weights alone: give torchvision's inception_v3 file"
            ) from wrong
        with torch.device("meta"):
            network = inception_v3(weights=None, aux_logits=False, transform_input=False, init_weights=False)
        network.fc = nn.Identity()
        own = network.state_dict().keys()
        if not isinstance(state, dict) or not own <= state.keys() | {k for k in own if k.endswith("batches_tracked")}:
            raise SynthError(f"{weights} does not hold torchvision's inception_v3: give its state dict")
        network.load_state_dict({k: state.get(k, torch.tensor(0)) for k in own}, assign=True)
        super().__init__(
            network.to(device, torch.float32), size=(299, 299), mean=(0.5,) * 3, std=(0.5,) * 3, batch=batch
        )


def in_batches(module: nn.Module, features: Features, images: torch.Tensor, batch: int) -> torch.Tensor:
    """Call `features` on images (n, 3, h, w), `batch` at a time on the device of `module`; returns (n, d) on that of the images.

    `module` is in eval mode and without gradients meanwhile. SynthError for images of another kind, or none.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point() or not len(images):
        raise SynthError(
            f"features are of images (n, 3, h, w), float in [0, 1], one or more, got {tuple(images.shape)} {images.dtype}"
        )
    device = next((weight.device for weight in module.parameters()), images.device)
    with measuring(module):
        parts = [features(part.float().to(device)).to(images.device) for part in images.split(batch)]
    return torch.cat(parts)


@contextmanager
def measuring(module: nn.Module) -> Iterator[None]:
    """Put `module` to eval mode and switch gradients off; each part's own mode is put back afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def cover_and_cut(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize images (bicubic) until they just cover `size` (h, w), and cut the centre out."""
    scale = max(want / have for want, have in zip(size, images.shape[2:], strict=True))
    larger = [max(want, round(have * scale)) for want, have in zip(size, images.shape[2:], strict=True)]
    top, left = (larger[0] - size[0]) // 2, (larger[1] - size[1]) // 2
    return resized(images, larger, "bicubic")[:, :, top : top + size[0], left : left + size[1]]


def normalised(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Normalise images (n, 3, h, w) to (images - mean) / std per channel."""
    return (images - images.new_tensor(mean)[:, None, None]) / images.new_tensor(std)[:, None, None]


def pooled(output: Any) -> torch.Tensor:
    """Take the tensor out of what CLIP's towers return: transformers 5 gives an object where 4 gave the tensor."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output
