"""EfficientTrain: train on low frequencies first, which costs as much as smaller images do (Wang et al. 2023).

The published steps and what was measured are in `docs/specs/augment.md`, low frequencies. Any dataset, any trainer:

    frequencies = EfficientTrain(size=224, epochs=90, multiple=32)
    for epoch in range(90):
        augmenter.progress = epoch / 90  # of the policy {"preset": "randaugment", "magnitude": [0, 9]}
        for images, keys in loader:
            train(frequencies(augmenter(images, keys).images, epoch))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from augment.errors import PolicyError

#: Until which share of the epochs images have which share of their side: 160, 192 and 224 pixels of 224.
PUBLISHED = ((0.6, 160 / 224), (0.8, 192 / 224), (1.0, 1.0))


def low_frequency_crop(images: torch.Tensor, side: int) -> torch.Tensor:
    """Crop the spectrum of `images` (n, C, H, W) float to its centre: (n, C, side, side) of the same type, differentiable.

    With X = F(x) the discrete Fourier transform, x'[m, n] = Re sum X[u, v] exp(2 pi i (u m + v n) / B) / (H W) over the B x B frequencies
    u and v from -floor(B / 2) on, B = `side` (section 4.1): the inverse transform of the cropped spectrum, B^2 / (H W) times its
    values, so that the mean stays what it was. A frequency below B / 2 is sampled anew without error; those above are gone, and
    values may leave the images' range. The whole side returns the images. PolicyError for a side that is none of theirs.
    """
    height, width = images.shape[-2:]
    if not 1 <= side <= min(height, width) or not images.is_floating_point():
        raise PolicyError(
            f"a low-frequency crop takes float images and a side from 1 to theirs, got {images.dtype} of {height}x{width} and {side}"
        )
    if side == height == width:
        return images
    exact = (
        images.float() if images.dtype in (torch.float16, torch.bfloat16) else images
    )  # no transform in half precision
    spectrum = torch.fft.fftshift(torch.fft.fft2(exact, norm="forward"), dim=(-2, -1))
    top, left = height // 2 - side // 2, width // 2 - side // 2
    centre = torch.fft.ifftshift(spectrum[..., top : top + side, left : left + side], dim=(-2, -1))
    return torch.fft.ifft2(centre, norm="forward").real.to(images.dtype)


@dataclass(frozen=True)
class EfficientTrain:
    """The curriculum of images of `size` pixels over `epochs`: `steps` are (share of the epochs, share of the side), ascending.

    A side is the nearest multiple of `multiple` pixels: 32 for networks that reduce that much. Published for 224 pixels: 160, then 192
    after 60 % of the epochs and 224 after 80 %. The last step must be the whole side, which networks are tested at. PolicyError
    for steps that are no curriculum.
    """

    size: int
    epochs: int
    steps: tuple[tuple[float, float], ...] = PUBLISHED
    multiple: int = 2

    def __post_init__(self) -> None:
        untils, shares = zip(*self.steps, strict=True) if self.steps else ((), ())
        rising = all(early < late for early, late in zip((0.0, *untils), untils, strict=False))
        if not rising or not self.steps or untils[-1] != 1 or shares[-1] != 1 or not all(0 < s <= 1 for s in shares):
            raise PolicyError(f"steps take (share of the epochs, share of the side) up to (1, 1), got {self.steps}")
        if self.size < 1 or self.epochs < 1 or not 1 <= self.multiple <= self.size:
            raise PolicyError(
                f"size and epochs take 1 or more and multiple up to size, got {self.size}, {self.epochs}, {self.multiple}"
            )

    def side(self, epoch: int) -> int:
        """Return the side of images in `epoch`, from 0. An epoch is in the step that its end is in, so the last sees whole images."""
        if not 0 <= epoch < self.epochs:
            raise PolicyError(f"there are epochs 0 to {self.epochs - 1}, got {epoch}")
        # Rounded, so that 0.6 of 5 epochs is 3 and not 2.9999.
        share = next(share for until, share in self.steps if epoch + 1 <= round(until * self.epochs, 9))
        if share == 1:
            return self.size
        return min(max(round(share * self.size / self.multiple), 1) * self.multiple, self.size)

    def cost(self) -> float:
        """Return the training's work relative to whole images, by pixels: the mean of side^2 / size^2 over the epochs."""
        return sum(self.side(epoch) ** 2 for epoch in range(self.epochs)) / (self.epochs * self.size**2)

    def __call__(self, images: torch.Tensor, epoch: int) -> torch.Tensor:
        """Crop images (n, C, size, size) float to the frequencies of `epoch`; PolicyError for another size."""
        if images.shape[-1] != self.size or images.shape[-2] != self.size:
            raise PolicyError(
                f"this curriculum is of {self.size} pixels, the images have {images.shape[-2]}x{images.shape[-1]}"
            )
        return low_frequency_crop(images, self.side(epoch))
