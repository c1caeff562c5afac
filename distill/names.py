"""Names of the networks that are written here. No torch: parameter files are checked with it, `networks` builds what it reads.

`convnet{D}_w{W}`, with `_in` instance norm instead of batch norm; `resnet20`, `resnet32`, `resnet44`, `resnet56` and `resnet110`,
with `_w{W}` of another width. Every other name is timm's affair.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from distill.errors import DistillError

#: What is proposed for a name that nobody knows.
EXAMPLES = ("convnet3_w128", "resnet20", "resnet56")
_CONVNET = re.compile(r"convnet([1-6])_w(\d{1,4})(_in)?")
_CIFAR_RESNET = re.compile(r"resnet(20|32|44|56|110)(?:_w(\d{1,3}))?")


@dataclass(frozen=True)
class ConvNetName:
    """`depth` blocks of `width` channels."""

    depth: int
    width: int
    instance_norm: bool


@dataclass(frozen=True)
class CifarResNetName:
    """A ResNet for 32 px of `depth` layers; the first group has `width` channels."""

    depth: int
    width: int


def read_name(name: str) -> ConvNetName | CifarResNetName | None:
    """Read what a name of ours stands for; None for a name that is not one. `DistillError` for a width of no channels."""
    if match := _CONVNET.fullmatch(name):
        return _wide(name, ConvNetName(int(match[1]), int(match[2]), bool(match[3])))
    if match := _CIFAR_RESNET.fullmatch(name):
        return _wide(name, CifarResNetName(int(match[1]), int(match[2] or 16)))
    return None


def _wide(name: str, read: ConvNetName | CifarResNetName) -> ConvNetName | CifarResNetName:
    if read.width < 1:
        raise DistillError(f"network {name!r} has no channels; give a width from 1, such as {EXAMPLES[0]}")
    return read
