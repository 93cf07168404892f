"""What torchvision's import asks for where its compiled part does not load: built for another torch than the one here.

Import it before torchvision. `nms` is computed here, in torch, for detectors; `qnms` nothing needs.
"""

import contextlib

import torch
from torch import Tensor

LIBRARY = torch.library.Library("torchvision", "FRAGMENT")


def nms(boxes: Tensor, scores: Tensor, overlap: float) -> Tensor:
    """Indices of the boxes (K, 4) that no better one overlaps more, best first."""
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    alive = torch.ones(len(boxes), dtype=torch.bool)
    for index in range(len(boxes)):
        if alive[index]:
            rest = boxes[index + 1 :]
            sides = torch.minimum(boxes[index, 2:], rest[:, 2:]) - torch.maximum(boxes[index, :2], rest[:, :2])
            shared = sides.clamp(min=0).prod(1)
            alive[index + 1 :] &= shared / (area[index] + area[index + 1 :] - shared) <= overlap
    return order[alive]


with contextlib.suppress(RuntimeError):  # declared already
    for name in ("nms", "qnms"):
        LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    LIBRARY.impl("nms", nms, "CPU")
