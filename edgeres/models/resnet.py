"""Residual networks of He et al. and what became of them: one definition, driven by the table of `architectures`.

Parameter names are torchvision's, with timm's for what torchvision has not: `conv1.0` ... `conv1.6` of a deep stem,
`downsample.1` behind an average-pool, `se.fc1` and `se.fc2`, and the `norm` that ends a pre-activation network. A state
dict of torchvision, or of timm's `ResNet`, loads as it is.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeres.models.architectures import ARCHITECTURES, Architecture

__all__ = ["ARCHITECTURES", "Architecture", "Block", "ResNet", "Size", "build", "size"]

EXPANSION = {"basic": 1, "bottleneck": 4}
REDUCTION, DIVISOR = 16, 8
"""Of squeeze-and-excitation; the reduced channels are a multiple of the divisor, as in timm."""


class SameConv2d(nn.Conv2d):
    """A 3x3 convolution of stride 2 on even sides with TensorFlow's "same" padding: one pixel at the far ends."""

    pads = (0, 0, 1, 1)
    """Top, left, bottom, right: ONNX's order."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H / 2, W / 2)."""
        return super().forward(functional.pad(x, (0, 1, 0, 1)))


class PadShortcut(nn.Module):
    """The parameter-free shortcut (option A): every second pixel, new channels filled with zeros on both sides."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.pad = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C + 2 * pad, H / stride, W / stride)."""
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))


class SqueezeExcitation(nn.Module):
    """A gate of each channel, computed from the means of all: sigmoid(fc2(relu(fc1(mean)))) (arXiv:1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        reduced = max(DIVISOR, int(channels / REDUCTION + DIVISOR / 2) // DIVISOR * DIVISOR)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, reduced, 1)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(reduced, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        made: Tensor = x * self.gate(self.fc2(self.act(self.fc1(self.pool(x)))))
        return made


def _conv(arch: Architecture, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    if arch.padding == "same" and kernel > stride > 1:
        return SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=arch.bias)
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=arch.bias)


def _shortcut(arch: Architecture, inputs: int, outputs: int, stride: int) -> nn.Module:
    """What makes a block's input fit the sum."""
    if arch.shortcut == "pad":
        return PadShortcut(inputs, outputs, stride)
    layers: list[nn.Module] = [_conv(arch, inputs, outputs, 1, stride)]
    if arch.shortcut == "pool":
        pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
        layers = [pool, _conv(arch, inputs, outputs, 1)]
    if arch.order == "post" and not arch.bias:
        layers.append(nn.BatchNorm2d(outputs))
    return nn.Sequential(*layers)


def _stem(arch: Architecture) -> tuple[nn.Module, nn.Module]:
    """What gives the first `arch.width` channels, and the pool after it."""
    width = arch.width
    if arch.stem == "cifar":
        return _conv(arch, 3, width, 3), nn.Identity()
    if arch.stem in ("imagenet", "caffe"):
        pool = nn.MaxPool2d(3, 2, 1) if arch.stem == "imagenet" else nn.MaxPool2d(3, 2, ceil_mode=True)
        return _conv(arch, 3, width, 7, 2), pool
    first, second = 3 * width // 8 if arch.stem == "tiered" else width // 2, width // 2
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, first, 2), (first, second, 1)):
        layers += [_conv(arch, inputs, outputs, 3, stride), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, _conv(arch, second, width, 3)), nn.MaxPool2d(3, 2, 1)


class Block(nn.Module):
    """One residual block: two 3x3 convolutions (basic) or 1x1, 3x3, 1x1 (bottleneck), around a shortcut."""

    def __init__(self, arch: Architecture, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        outputs = planes * EXPANSION[arch.block]
        if arch.block == "basic":
            shapes = [(inputs, planes, 3, stride, 1), (planes, planes, 3, 1, 1)]
        else:
            width = planes * arch.base_width // 64 * arch.groups
            first, second = (stride, 1) if arch.stride == "1x1" else (1, stride)
            shapes = [
                (inputs, width, 1, first, 1),
                (width, width, 3, second, arch.groups),
                (width, outputs, 1, 1, 1),
            ]
        self.convolutions = len(shapes)
        self.pre = arch.order == "pre"
        for index, (in_, out, kernel, step, groups) in enumerate(shapes, start=1):
            layers = {f"conv{index}": _conv(arch, in_, out, kernel, step, groups)}
            norm = {f"bn{index}": nn.BatchNorm2d(in_ if self.pre else out)}
            for name, module in ({**norm, **layers} if self.pre else {**layers, **norm}).items():
                self.add_module(name, module)
        self.se = SqueezeExcitation(outputs) if arch.attention == "se" else None
        self.relu = nn.ReLU(inplace=True)
        changes = stride != 1 or inputs != outputs
        self.downsample = _shortcut(arch, inputs, outputs, stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H / stride, W / stride)."""
        out = self.relu(self._norm(1, x)) if self.pre else x
        shortcut = x if self.downsample is None else self.downsample(out)
        out = self._conv(1, out)
        for index in range(2, self.convolutions + 1):
            out = self._conv(index, self.relu(self._norm(index if self.pre else index - 1, out)))
        if not self.pre:
            out = self._norm(self.convolutions, out)
        if self.se is not None:
            out = self.se(out)
        out = out + shortcut
        return out if self.pre else self.relu(out)

    def _conv(self, index: int, x: Tensor) -> Tensor:
        made: Tensor = self.get_submodule(f"conv{index}")(x)
        return made

    def _norm(self, index: int, x: Tensor) -> Tensor:
        made: Tensor = self.get_submodule(f"bn{index}")(x)
        return made


class ResNet(nn.Module):
    """A residual classifier: (N, 3, H, W) float32 -> (N, classes) logits."""

    def __init__(self, arch: Architecture, classes: int) -> None:
        super().__init__()
        self.pre = arch.order == "pre"
        self.conv1, maxpool = _stem(arch)
        self.bn1 = nn.Identity() if self.pre else nn.BatchNorm2d(arch.width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = maxpool
        self.stages = len(arch.depths)
        inputs = arch.width
        for stage, depth in enumerate(arch.depths):
            planes = arch.width * 2**stage
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(Block(arch, inputs, planes, stride))
                inputs = planes * EXPANSION[arch.block]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.norm = nn.BatchNorm2d(inputs) if self.pre else None
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.width = inputs
        """Of the pooled features."""
        self.fc = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> what each stage gives, (N, C, H', W'): C2, C3, C4, C5 of an ImageNet network."""
        x = self.conv1(x)
        x = self.maxpool(x if self.pre else self.relu(self.bn1(x)))
        found = []
        for stage in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
            found.append(x)
        return found

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """What the last stage gives -> logits (N, classes), or with `pre_logits` the pooled features (N, C)."""
        if self.norm is not None:
            x = self.relu(self.norm(x))
        x = torch.flatten(self.avgpool(x), 1)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) float32 -> (N, classes) logits."""
        return self.forward_head(self.features(x)[-1])


def build(name: str, classes: int) -> ResNet:
    """Make the network of row `name` of `ARCHITECTURES` with random weights; KeyError where there is no such row."""
    return ResNet(ARCHITECTURES[name], classes)


@dataclass(frozen=True)
class Size:
    """How large a network is: layers along its longest way (convolutions and the classifier, without shortcuts and
    gates), input side in pixels, parameters, and multiply-accumulates of one image."""

    layers: int
    input: int
    parameters: int
    macs: int


def size(name: str) -> Size:
    """Of row `name` with ImageNet's 1,000 classes or CIFAR-10's 10; KeyError where there is no such row.

    Measured on two blocks a stage, without memory for their weights: all others of a stage are as its second.
    """
    row = ARCHITECTURES[name]
    layers = macs = parameters = 0

    def count(path: str, repeats: int) -> None:
        def hook(module: nn.Module, _: object, made: Tensor) -> None:
            nonlocal layers, macs
            layers += repeats * (".downsample." not in path and ".se." not in path)
            macs += repeats * made.shape[1:].numel() * module.get_parameter("weight")[0].numel()

        model.get_submodule(path).register_forward_hook(hook)

    with torch.device("meta"), torch.inference_mode():
        short = replace(row, depths=tuple(min(depth, 2) for depth in row.depths))
        model = ResNet(short, 10 if row.size == 32 else 1000).eval()
        for path, module in model.named_modules():
            second = path.startswith("layer") and path.split(".")[1:2] == ["1"]
            repeats = row.depths[int(path.split(".")[0][5:]) - 1] - 1 if second else 1
            parameters += repeats * sum(one.numel() for one in module.parameters(recurse=False))
            if isinstance(module, nn.Conv2d | nn.Linear):
                count(path, repeats)
        model(torch.empty(1, 3, row.size, row.size))
    return Size(layers, row.size, parameters, macs)
