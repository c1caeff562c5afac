"""Networks of teachers and students, by the names the field uses.

`convnet{D}_w{W}`: D blocks of conv 3x3, batch norm, ReLU, average pool 2 (the ConvNet-D of dataset distillation, with the
batch norm that statistics matching needs); `convnet{D}_w{W}_in` has instance norm instead, as most students of the field.
`resnet20`, `resnet56`: CIFAR networks with parameter-free shortcuts (He et al. 2016, option A). Everything else is a timm
name; ResNets get a 3x3 stride-1 stem without max pool up to 64 px (SRe2L).
"""

from __future__ import annotations

import difflib

import torch
from torch import nn
from torch.nn import functional as F

from distill.errors import DistillError
from distill.names import EXAMPLES, CifarResNetName, ConvNetName, read_name

#: Up to this side ResNets keep full resolution in the stem.
SMALL_IMAGE = 64


def build(name: str, classes: int, image_size: int, seed: int = 0, in_channels: int = 3) -> nn.Module:
    """Build a freshly initialised network; the same seed gives the same weights. `DistillError` for an unknown name or a size too small."""
    if classes < 1 or image_size < 4:
        raise DistillError(f"a network needs at least one class and 4 px, got {classes} classes at {image_size} px")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % (1 << 63))
        match read_name(name):
            case ConvNetName(depth, width, instance_norm):
                return ConvNet(depth, width, classes, image_size, in_channels, instance_norm)
            case CifarResNetName(depth, width):
                return CifarResNet(depth, width, classes, in_channels)
        return _timm(name, classes, image_size, in_channels)


def _timm(name: str, classes: int, image_size: int, in_channels: int) -> nn.Module:
    import timm

    if not timm.is_model(name):
        names = [*EXAMPLES, *timm.list_models()]
        close = ", ".join(difflib.get_close_matches(name, names, n=3)) or "convnet3_w128, resnet20, resnet18"
        raise DistillError(f"no network {name!r}; near it: {close}")
    model: nn.Module = timm.create_model(name, num_classes=classes, in_chans=in_channels, pretrained=False)
    stem = getattr(model, "conv1", None)
    if image_size <= SMALL_IMAGE and hasattr(model, "maxpool") and isinstance(stem, nn.Conv2d):
        width = stem.out_channels
        model.conv1 = nn.Conv2d(in_channels, width, 3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return model


def head_names(model: nn.Module) -> tuple[str, ...]:
    """List the modules that turn features into one logit per class, by their names in the state dict (a timm network's from timm)."""
    if isinstance(model, ConvNet):
        return ("classifier",)
    if isinstance(model, CifarResNet):
        return ("linear",)
    named = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    return (named,) if isinstance(named, str) else tuple(named)


class ConvNet(nn.Module):
    """ConvNet-D. Input (B, C, H, W) float, output (B, classes).

    `instance_norm` is one group per channel with learnt scale and shift, as Zhao et al. 2021 have it.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        classes: int,
        image_size: int,
        in_channels: int = 3,
        instance_norm: bool = False,
    ) -> None:
        super().__init__()
        if image_size >> depth < 1:
            raise DistillError(f"{image_size} px cannot be halved {depth} times; choose a shallower convnet")
        blocks: list[nn.Module] = []
        channels = in_channels
        for _ in range(depth):
            blocks += [
                nn.Conv2d(channels, width, 3, padding=1, bias=False),
                nn.GroupNorm(width, width) if instance_norm else nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
                nn.AvgPool2d(2),
            ]
            channels = width
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(width * (image_size >> depth) ** 2, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(images).flatten(1))
        return logits


class _BasicBlock(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self._stride, self._added = stride, width - channels

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(images)))
        out = self.bn2(self.conv2(out))
        shortcut = images
        if self._stride != 1 or self._added:  # option A: subsample and pad channels with zeros
            half = self._added // 2
            shortcut = F.pad(images[:, :, :: self._stride, :: self._stride], (0, 0, 0, 0, half, self._added - half))
        return F.relu(out + shortcut)


class CifarResNet(nn.Module):
    """ResNet-(6n+2) for 32 px. State dict keys are those of the commonly shared CIFAR weights (`layer1.0.conv1.weight`)."""

    def __init__(self, depth: int, width: int, classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        blocks = (depth - 2) // 6
        self.layer1 = self._layer(width, width, blocks, 1)
        self.layer2 = self._layer(width, 2 * width, blocks, 2)
        self.layer3 = self._layer(2 * width, 4 * width, blocks, 2)
        self.linear = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _layer(channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
        first = _BasicBlock(channels, width, stride)
        return nn.Sequential(first, *(_BasicBlock(width, width, 1) for _ in range(blocks - 1)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(images)))
        out = self.layer3(self.layer2(self.layer1(out)))
        logits: torch.Tensor = self.linear(out.mean((2, 3)))
        return logits
