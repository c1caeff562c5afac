"""Mean features of the classes of a batch: what networks are asked for in distribution matching, thousands of times.

On a CPU a class goes through at a time, so that its feature maps stay near the processor, and without a gradient a block's instance norm,
ReLU and pooling are one threshold and one pooling: with scale s > 0, relu(s (y - t)) = s (max(y, t) - t), and both factors pass the mean.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from distill.networks import ConvNet

#: Images that go through together on a CPU at most.
CHUNK = 64


def mean_features(network: nn.Module, images: torch.Tensor, classes: int) -> torch.Tensor:
    """Compute the mean feature map (classes, d) of normalised images (classes * n, C, S, S), n of each class in a row.

    A class's means do not depend on the others of the batch but for rounding on a GPU.
    """
    assert isinstance(network, ConvNet)
    if images.is_cuda:
        return network.features(images).flatten(1).view(classes, len(images) // classes, -1).mean(1)
    means = []
    for of_class in images.chunk(classes):
        maps = [feature_maps(network, part).flatten(1) for part in of_class.split(CHUNK)]
        means.append(torch.cat(maps).mean(0))
    return torch.stack(means)


def feature_maps(network: ConvNet, images: torch.Tensor) -> torch.Tensor:
    """Compute the last pooled map of images (n, C, S, S), (n, width, s, s): `network.features` up to rounding, sooner on a CPU."""
    norms = [layer for layer in network.features if isinstance(layer, nn.GroupNorm)]
    short = bool(norms) and not images.is_cuda and not (torch.is_grad_enabled() and images.requires_grad)
    if not short or any(bool((norm.weight <= 0).any()) for norm in norms):
        maps: torch.Tensor = network.features(images)
        return maps
    convolutions = [layer for layer in network.features if isinstance(layer, nn.Conv2d)]
    maps = images
    with torch.no_grad():
        for convolution, norm in zip(convolutions, norms, strict=True):
            maps = _norm_relu_pool(convolution(maps), norm)
    return maps


def _norm_relu_pool(maps: torch.Tensor, norm: nn.GroupNorm) -> torch.Tensor:
    """Norm each channel of each image, cut below 0 and pool by 2; writes to `maps`, which is to be channels_last."""
    count, channels, height, width = maps.shape
    rows = maps.permute(0, 2, 3, 1).reshape(count, height * width, channels)
    # Sums as products with a row of ones: sums over a middle axis are not vectorised.
    share = rows.new_full((1, height * width), 1 / (height * width)).expand(count, 1, -1)
    mean = torch.bmm(share, rows)[:, 0]
    variance = (torch.bmm(share, rows.square())[:, 0] - mean.square()).clamp_min(0)
    scale = norm.weight * (variance + norm.eps).rsqrt()
    threshold = (mean - norm.bias / scale)[:, :, None, None]
    pooled = F.avg_pool2d(torch.maximum(maps, threshold, out=maps), 2)
    return pooled.sub_(threshold).mul_(scale[:, :, None, None])
