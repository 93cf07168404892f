"""Networks of the table with seeded random weights that compute something: their batch norms have seen images."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgeres.data import ImageSet, batches
from edgeres.models.architectures import ARCHITECTURES
from edgeres.models.resnet import Block, ResNet, build
from edgeres.types import Preprocess

SEED = 152
TOGETHER = 16
BRANCH = 0.3
"""A block adds that much of its convolutions to its shortcut: in trained networks the image gets through, too."""


def seen(name: str, images: ImageSet) -> Tensor:
    """Images (N, 3, H, W) at the input size of a row."""
    side = ARCHITECTURES[name].size
    preprocess = Preprocess() if side == 224 else Preprocess(side, side)
    return torch.from_numpy(np.concatenate([batch.images for batch in batches(images, preprocess, TOGETHER)]))


def alive(name: str, classes: int, images: Tensor) -> ResNet:
    """The network of a row, in evaluation mode: activations neither vanish nor explode on images (N, 3, H, W), and the
    mean of each logit over them is 0, so that every class is sometimes the first."""
    torch.manual_seed(SEED)
    model = build(name, classes)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.2)
                nn.init.normal_(module.bias, 0.0, 0.2)
                module.momentum = None  # the plain average of what it sees
        for module in model.modules():
            if isinstance(module, Block):
                last = f"{'conv' if module.pre else 'bn'}{module.convolutions}"
                module.get_submodule(last).get_parameter("weight").mul_(BRANCH)
        model.train()
        for batch in images.split(TOGETHER):
            model(batch)
        model.eval()
        model.fc.bias -= torch.cat([model(batch) for batch in images.split(TOGETHER)]).mean(0)
    return model


def save(name: str, classes: int, images: ImageSet, out: Path) -> None:
    """Write its checkpoint."""
    torch.set_num_threads(2)
    torch.save(alive(name, classes, seen(name, images)).state_dict(), out)
