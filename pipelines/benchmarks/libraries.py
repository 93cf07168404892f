"""torchvision, timm and transformers, whose networks and transforms edgeres is held against.

Where torchvision was built for another torch than the one installed, its compiled part does not load, and its import
fails on the operators which that part would have declared. They are declared here first, without an implementation: the
networks and the transforms need none of them.
"""

import contextlib

import torch

OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
for name in ("nms", "qnms"):
    with contextlib.suppress(RuntimeError):  # declared already
        OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm  # noqa: E402
import timm.data  # noqa: E402
import timm.models  # noqa: E402
import torchvision  # noqa: E402
import torchvision.datasets.folder  # noqa: E402
import torchvision.transforms  # noqa: E402
import transformers  # noqa: E402

__all__ = ["timm", "torchvision", "transformers"]
