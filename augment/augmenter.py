"""`Augmenter`: a policy as a plain module, for a trainer's loop, for `distill` and for the stage `augment`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import nn

from augment import draws as drawing
from augment.draws import Draws
from augment.errors import PolicyError
from augment.operations.filters import Kornia
from augment.policy import Policy, load
from augment.program import Segment
from augment.seeds import Keys
from augment.values import require_spread

Backend = Literal["auto", "torch", "cv2", "kornia"]
Output = Literal["same", "uint8", "float", "normalised"]
Boxes = Sequence[np.ndarray]
CV2_CHANNELS = 4


class Augmented(NamedTuple):
    """Augmented images with their targets, and the draws that say what was done.

    `images` (n, C, h, w); `boxes` per image (k, 4) float64 x1, y1, x2, y2 in pixels of the new image, of those that are left,
    and `kept` per image (k,) int64, their places among that image's boxes before; `masks` (n, M, h, w); `keypoints` per image
    (k, 3) float64 x, y and visibility, 0 outside. Targets that were not handed in are None.
    """

    images: torch.Tensor
    draws: Draws
    boxes: list[np.ndarray] | None = None
    kept: list[np.ndarray] | None = None
    masks: torch.Tensor | None = None
    keypoints: list[np.ndarray] | None = None


class Augmenter(nn.Module):
    """Draws a policy's parameters for each sample from its key, and applies them to images, boxes, masks and points.

    `policy` is what `augment.policy.load` takes. `output`: `same` as came in, `uint8` 0..255, `float` in [0, 1], or
    `normalised` with `mean` and `std`, in `dtype` (float32). `backend`: `torch` for any device, batched, fused and
    differentiable; `cv2` for uint8 of up to four channels on the CPU; `kornia`, the reference, one operation of Kornia's after
    the other; `auto` takes cv2 where it can and torch for all others. A box is clipped to its image, and dropped when less
    than `min_visible` of it is left or a side is shorter than `min_side` pixels, whether anything moved or not. There are no
    parameters and no state but `epoch` and `progress`, set from outside; they lie in shared memory, so that worker processes which
    live longer than an epoch see them too. Settings that cannot be used raise `PolicyError`.

        augmenter = Augmenter({"preset": "imagenet", "size": 160}, seed=1, output="normalised", mean=MEAN, std=STD)
        for epoch in range(90):
            augmenter.epoch, augmenter.progress = epoch, epoch / 90
            for images, keys in loader:
                train(augmenter(images, keys).images)
    """

    def __init__(
        self,
        policy: Any,
        *,
        seed: int = 0,
        output: Output = "same",
        backend: Backend = "auto",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        dtype: torch.dtype = torch.float32,
        threads: int = 1,
        min_visible: float = 0.5,
        min_side: float = 1.0,
    ) -> None:
        super().__init__()
        for name, value, words in (("output", output, Output), ("backend", backend, Backend)):
            if value not in get_args(words):
                raise PolicyError(f"{name} takes {' | '.join(get_args(words))}, got {value!r}")
        if (output == "normalised") != (mean is not None and std is not None):
            raise PolicyError("mean and std belong to output: normalised, and it to them")
        if mean is not None and std is not None:
            require_spread(mean, std, PolicyError)
        if not (0 <= min_visible <= 1 and 0 <= min_side < math.inf):
            raise PolicyError(
                f"min_visible takes 0 to 1 and min_side pixels from 0 on, got {min_visible} and {min_side}"
            )
        self.policy: Policy = load(policy)
        self.seed, self.output, self.backend, self.dtype, self.threads = seed, output, backend, dtype, threads
        self.mean, self.std = mean, std
        self.min_visible, self.min_side = min_visible, min_side
        self._shared = torch.tensor([0.0, 1.0], dtype=torch.float64).share_memory_()
        for leaf in self.policy.leaves:
            if isinstance(leaf.operation, Kornia):  # here, and not where it is first drawn
                from augment.filters import kornia_operation

                kornia_operation(leaf.operation.operation, dict(leaf.operation.arguments))

    @property
    def epoch(self) -> int:
        """The epoch that draws belong to."""
        return int(self._shared[0])

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._shared[0] = epoch

    @property
    def progress(self) -> float:
        """How far the training is, in [0, 1], for ranges that move with it."""
        return float(self._shared[1])

    @progress.setter
    def progress(self, progress: float) -> None:
        self._shared[1] = progress

    def draw(
        self,
        keys: Keys,
        size: tuple[int, int],
        *,
        epoch: int | None = None,
        progress: float | None = None,
        view: int = 0,
    ) -> Draws:
        """Draw what is done to images of `size` (height, width) with these keys; nothing else decides it."""
        return drawing.draw(
            self.policy,
            keys,
            size,
            seed=self.seed,
            epoch=self.epoch if epoch is None else epoch,
            view=view,
            progress=self.progress if progress is None else progress,
        )

    def forward(self, images: torch.Tensor, keys: Keys, *, view: int = 0, **targets: Any) -> Augmented:
        """Draw for images (n, C, H, W), uint8 or float in [0, 1] with a key each, and carry it out; targets as in `replay`."""
        if images.ndim != 4:
            _check_images(images, self.policy)
        return self.replay(images, self.draw(keys, (images.shape[2], images.shape[3]), view=view), **targets)

    def replay(
        self,
        images: torch.Tensor,
        draws: Draws,
        *,
        boxes: Boxes | None = None,
        masks: torch.Tensor | None = None,
        keypoints: Sequence[np.ndarray] | None = None,
    ) -> Augmented:
        """Carry out `draws` on images (n, C, H, W), boxes (k, 4) x1, y1, x2, y2 in pixels, masks (n, M, H, W), points (k, 2 or 3).

        The same draws give the same bits on the same device. Raises `PolicyError` for images that do not fit the draws,
        channels the policy cannot take, or boxes that do not lie in their image.
        """
        _check_images(images, self.policy)
        if self.mean is not None and len(self.mean) not in (1, images.shape[1]):
            raise PolicyError(f"mean has {len(self.mean)} numbers for images of {images.shape[1]} channels")
        if (len(images), tuple(images.shape[2:])) != (len(draws), draws.size):
            raise PolicyError(
                f"these draws are for {len(draws)} images of {draws.size}, got {len(images)} of {tuple(images.shape[2:])}"
            )
        # Whether colours and normalisation become one is the policy's affair, not that of what was drawn.
        segments = drawing.program(draws, self.mean is not None and self.policy.ends_in_colour)
        if boxes is None and masks is None and keypoints is None:
            return Augmented(self._images(images, segments), draws)
        from augment.targets import course_of, move_boxes, move_masks, move_points

        _check_targets(self.policy, boxes is not None)
        course, size = course_of(segments, draws.size, len(draws)), draws.size
        moved_boxes, kept = None, None
        if boxes is not None:
            moved_boxes, kept = move_boxes(boxes, course, size, len(draws), self.min_visible, self.min_side)
        return Augmented(
            self._images(images, segments),
            draws,
            moved_boxes,
            kept,
            None if masks is None else move_masks(masks, course, size, len(draws)),
            None if keypoints is None else move_points(keypoints, course, len(draws)),
        )

    def _images(self, images: torch.Tensor, segments: Sequence[Segment]) -> torch.Tensor:
        """Carry out a program on images by the backend that is to do it, and convert them to the output wanted."""
        backend = self.backend
        if backend == "auto":
            small = images.dtype == torch.uint8 and images.device.type == "cpu" and images.shape[1] <= CV2_CHANNELS
            backend = "cv2" if small else "torch"
        if backend == "cv2":
            if images.shape[1] > CV2_CHANNELS:
                raise PolicyError(
                    f"the cv2 backend takes up to {CV2_CHANNELS} channels, got {images.shape[1]}: take torch"
                )
            if images.dtype != torch.uint8 or images.device.type != "cpu":
                raise PolicyError(
                    f"the cv2 backend takes uint8 images on the cpu, got {images.dtype} on {images.device}"
                )
            from augment.cpu import run_cpu

            pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
            augmented = torch.from_numpy(run_cpu(pixels, segments, threads=self.threads)).permute(0, 3, 1, 2)
            return self._finish(augmented, images.dtype)
        floats = images.float() / 255 if images.dtype == torch.uint8 else images
        if backend == "kornia":
            from augment.kornia_chain import run_kornia

            return self._finish(run_kornia(floats, segments), images.dtype)
        from augment.torch_chain import run_torch

        if self.mean is not None and self.std is not None and self.policy.ends_in_colour:
            return run_torch(floats, segments, (self.mean, self.std)).to(self.dtype)
        return self._finish(run_torch(floats, segments), images.dtype)

    def _finish(self, images: torch.Tensor, dtype_in: torch.dtype) -> torch.Tensor:
        """Convert images, uint8 or float in [0, 1], to the output wanted; `dtype_in` is what was handed in."""
        wanted = ("uint8" if dtype_in == torch.uint8 else "float") if self.output == "same" else self.output
        if wanted == "uint8":
            return images if images.dtype == torch.uint8 else (images * 255).round().clamp(0, 255).to(torch.uint8)
        levels = 255.0 if images.dtype == torch.uint8 else 1.0
        images = images.float() if images.dtype == torch.uint8 else images
        if self.mean is not None and self.std is not None:
            mean, std = (torch.tensor(list(values)).to(images)[:, None, None] for values in (self.mean, self.std))
            images = torch.addcmul(-mean / std, images, 1 / (levels * std))
        elif levels != 1:
            images = images / levels
        return images.to(dtype_in if self.output == "same" and dtype_in.is_floating_point else self.dtype)


def _check_images(images: torch.Tensor, policy: Policy) -> None:
    """Refuse images of a shape or type that nothing takes, or without the colours that the policy changes."""
    if images.ndim != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise PolicyError(f"images take (n, C, H, W) uint8 or float, got {tuple(images.shape)} {images.dtype}")
    if images.numel() == 0:
        raise PolicyError(f"the batch is empty, {tuple(images.shape)}: there is nothing to augment")
    if policy.needs_colour and images.shape[1] != 3:
        raise PolicyError(f"the policy {policy.name} changes colours and takes RGB, got {images.shape[1]} channels")


def _check_targets(policy: Policy, boxes: bool) -> None:
    """Refuse a policy that targets cannot follow for what it is, whatever was drawn."""
    if policy.blends_geometry:
        raise PolicyError("augmix blends images that moved differently: boxes, masks and points cannot follow it")
    if boxes and policy.rolls:
        raise PolicyError("a roll cuts boxes in two: leave roll out of a policy for boxes")
