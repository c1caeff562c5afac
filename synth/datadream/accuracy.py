"""A CLIP classifier's accuracy on labelled images, over all and class by class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy, interpolate

from synth.datadream.classifier import ClipHead
from synth.datadream.pooled import Examples
from synth.errors import SynthError


@dataclass(frozen=True)
class ClassifierAccuracy:
    """Top-1 accuracy in [0, 1], over all images and for each class (NaN where there is none), and the mean cross-entropy."""

    accuracy: float
    per_class: tuple[float, ...]
    loss: float
    count: int


@torch.no_grad()
def classifier_accuracy(classifier: ClipHead, examples: Examples, batch_size: int = 512) -> ClassifierAccuracy:
    """Test `classifier` on `examples`, each through `center_resize`; the texts are encoded once.

    Puts the classifier to eval mode and its mode back. SynthError for no image, or for answers that are not finite.
    """
    was_training = classifier.training
    classifier.eval()
    device = next(classifier.parameters()).device
    texts = classifier.text_features()
    logits = []
    for start in range(0, len(examples.keys), batch_size):
        rows = range(start, min(start + batch_size, len(examples.keys)))
        images = center_resize(examples.images(rows).to(device), classifier.size)
        with half_precision(device):
            logits.append(classifier(images, texts).cpu())
    classifier.train(was_training)
    if not logits:
        raise SynthError("there is no image to evaluate the classifier on")
    answers, labels = torch.cat(logits), examples.labels.cpu()
    if not bool(answers.isfinite().all()):
        raise SynthError("the classifier's answers are not finite numbers")
    right = (answers.argmax(1) == labels).double()
    hits = torch.zeros(classifier.classes, dtype=torch.float64).index_add_(0, labels, right)
    counts = torch.bincount(labels, minlength=classifier.classes)
    loss = float(cross_entropy(answers.double(), labels))
    return ClassifierAccuracy(float(right.mean()), tuple((hits / counts).tolist()), loss, len(labels))


def center_resize(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize images (n, 3, any, any) in [0, 1] until they cover `size` (h, w), bicubic, and cut the centre out, as CLIP is tested."""
    height, width = images.shape[2:]
    if (height, width) == tuple(size):
        return images
    scale = max(size[0] / height, size[1] / width)
    shape = (max(size[0], int(height * scale)), max(size[1], int(width * scale)))
    resized = interpolate(images, shape, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    top, left = (round((have - want) / 2) for have, want in zip(shape, size, strict=True))
    return resized[:, :, top : top + size[0], left : left + size[1]]


def half_precision(device: torch.device) -> torch.autocast:
    """Return a context that computes in bfloat16 on a GPU and changes nothing elsewhere (published: float16 with a scaler)."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
