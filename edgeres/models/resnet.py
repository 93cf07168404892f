"""Residual networks of He et al., one definition driven by a table.

Parameter names are torchvision's, so a torchvision-layout state dict loads as it is.

Sources: "Deep Residual Learning for Image Recognition" (arXiv:1512.03385); the stride of a bottleneck stands on
its 3x3 convolution ("v1.5"), as in torchvision; "Wide Residual Networks" (arXiv:1605.07146); "Aggregated
Residual Transformations" (arXiv:1611.05431); the CIFAR networks are section 4.2 of the first paper.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Architecture:
    """One row of the family's table.

    `depths` counts the blocks of each stage; `base_width` and `groups` size the 3x3 convolution of a bottleneck
    (torchvision's `width_per_group` and `groups`); `stem` is the ImageNet one (7x7 stride 2 and max-pool) or the
    CIFAR one (3x3 stride 1); `shortcut` is what a block uses where the shape changes: a 1x1 projection (option B)
    or strided subsampling with zero-padded channels (option A). `size` is the input side in pixels that the
    network was designed for.
    """

    block: Literal["basic", "bottleneck"]
    depths: tuple[int, ...]
    groups: int = 1
    base_width: int = 64
    stem: Literal["imagenet", "cifar"] = "imagenet"
    shortcut: Literal["projection", "pad"] = "projection"
    size: int = 224


def _cifar(blocks: int) -> Architecture:
    return Architecture("basic", (blocks,) * 3, base_width=16, stem="cifar", shortcut="pad", size=32)


ARCHITECTURES: dict[str, Architecture] = {
    "resnet18": Architecture("basic", (2, 2, 2, 2)),
    "resnet34": Architecture("basic", (3, 4, 6, 3)),
    "resnet50": Architecture("bottleneck", (3, 4, 6, 3)),
    "resnet101": Architecture("bottleneck", (3, 4, 23, 3)),
    "resnet152": Architecture("bottleneck", (3, 8, 36, 3)),
    "wide_resnet50_2": Architecture("bottleneck", (3, 4, 6, 3), base_width=128),
    "wide_resnet101_2": Architecture("bottleneck", (3, 4, 23, 3), base_width=128),
    "resnext50_32x4d": Architecture("bottleneck", (3, 4, 6, 3), groups=32, base_width=4),
    "resnext101_32x8d": Architecture("bottleneck", (3, 4, 23, 3), groups=32, base_width=8),
    "resnext101_64x4d": Architecture("bottleneck", (3, 4, 23, 3), groups=64, base_width=4),
    **{f"cifar_resnet{6 * n + 2}": _cifar(n) for n in (3, 5, 7, 9, 18)},
}


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


class PadShortcut(nn.Module):
    """The parameter-free shortcut (option A): every second pixel, new channels filled with zeros on both sides."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.pad = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C + 2 * pad, H / stride, W / stride)."""
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))


class Block(nn.Module):
    """One residual block: two 3x3 convolutions (basic) or 1x1, 3x3, 1x1 (bottleneck), around a shortcut."""

    def __init__(self, arch: Architecture, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        if arch.block == "basic":
            outputs = planes
            shapes = [(inputs, planes, 3, stride, 1), (planes, planes, 3, 1, 1)]
        else:
            outputs = planes * 4
            width = planes * arch.base_width // 64 * arch.groups
            shapes = [(inputs, width, 1, 1, 1), (width, width, 3, stride, arch.groups), (width, outputs, 1, 1, 1)]
        self.convolutions = len(shapes)
        for index, (in_, out, kernel, step, groups) in enumerate(shapes, start=1):
            self.add_module(f"conv{index}", _conv(in_, out, kernel, step, groups))
            self.add_module(f"bn{index}", nn.BatchNorm2d(out))
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = (
                PadShortcut(inputs, outputs, stride)
                if arch.shortcut == "pad"
                else nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        for index in range(1, self.convolutions + 1):
            x = self.get_submodule(f"bn{index}")(self.get_submodule(f"conv{index}")(x))
            if index < self.convolutions:
                x = self.relu(x)
        out: Tensor = self.relu(x + shortcut)
        return out


class ResNet(nn.Module):
    """A residual classifier: (N, 3, H, W) float32 -> (N, classes) logits."""

    def __init__(self, arch: Architecture, classes: int) -> None:
        super().__init__()
        cifar = arch.stem == "cifar"
        width = 16 if cifar else 64
        self.conv1 = _conv(3, width, 3) if cifar else _conv(3, width, 7, 2)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if cifar else nn.MaxPool2d(3, 2, 1)
        expansion = 1 if arch.block == "basic" else 4
        self.stages = len(arch.depths)
        inputs = width
        for stage, depth in enumerate(arch.depths):
            planes = width * 2**stage
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(Block(arch, inputs, planes, stride))
                inputs = planes * expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) float32 -> (N, classes) logits."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


def build(name: str, classes: int) -> ResNet:
    """Make the network of row `name` of `ARCHITECTURES` with random weights; KeyError where there is no such row."""
    return ResNet(ARCHITECTURES[name], classes)
