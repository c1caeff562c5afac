"""EfficientTrain's curriculum in a loader: batches of any dataset that are augmented more, and hold more frequencies, from epoch to epoch.

Imports torch; `import pipelines` does not reach it. The crop and its steps are `augment.frequencies`'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils import data

from augment.augmenter import Augmenter
from augment.frequencies import EfficientTrain
from augment.presets import randaugment
from pipelines.errors import UserError

#: RandAugment's magnitude in the first epoch and in the last (Wang et al. 2023).
MAGNITUDES = (0.0, 9.0)


class LowFrequencyBatches:
    """Collates the samples of `StreamDataset` or `CurriculumDataset` to a batch of the frequencies that their epoch has.

    Images become float32 in [0, 1] or `mean` and `std` normalised, (n, 3, side, side), through `policy`, any of `augment`: RandAugment 0 to
    9 after a random crop to the curriculum's size and a flip unless given. Ranges that move with progress reach their end in the last
    epoch. Draws follow from a sample's seed, so that batches are the same for any number of workers and after a resume; everything
    else of a sample is collated as torch does. It is done in the workers, so that fewer pixels reach the trainer.

        batches = LowFrequencyBatches(EfficientTrain(size=224, epochs=90, multiple=32))
        loader = StreamLoader(StreamDataset(folder, batch_size=256, collate=batches), num_workers=4)
    """

    def __init__(
        self,
        curriculum: EfficientTrain,
        policy: Any = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        self.curriculum = curriculum
        policy = randaugment(magnitude=list(MAGNITUDES), size=curriculum.size) if policy is None else policy
        output = "float" if mean is None else "normalised"
        self._augmenter = Augmenter(policy, output=output, mean=mean, std=std)  # type: ignore[arg-type]

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Make a batch of samples of one epoch; `UserError` where the policy leaves images of another size than the curriculum's."""
        epoch = samples[0]["epoch"]
        if epoch >= self.curriculum.epochs:
            raise UserError(
                f"the curriculum of low frequencies has {self.curriculum.epochs} epochs, this is epoch {epoch}"
            )
        progress = epoch / max(self.curriculum.epochs - 1, 1)
        images = [self._augmented(sample["image"], sample["seed"], epoch, progress) for sample in samples]
        others = [{name: value for name, value in sample.items() if name != "image"} for sample in samples]
        return {**data.default_collate(others), "image": self.curriculum(torch.stack(images), epoch)}

    def _augmented(self, image: torch.Tensor, seed: int, epoch: int, progress: float) -> torch.Tensor:
        """One image at a time: in a dataset they are of many sizes."""
        draws = self._augmenter.draw([seed], (image.shape[1], image.shape[2]), epoch=epoch, progress=progress)
        augmented: torch.Tensor = self._augmenter.replay(image[None], draws).images[0]
        if tuple(augmented.shape[1:]) != (self.curriculum.size,) * 2:
            raise UserError(
                f"the policy leaves images of {augmented.shape[1]}x{augmented.shape[2]}, the curriculum is of "
                f"{self.curriculum.size} pixels: crop to that size"
            )
        return augmented
