"""A small detector's checkpoint, in torchvision's layout."""

from typing import Any

import torch

from edgeres.models.resnet import build

BODY, WIDE, CLASSES = "cifar_resnet20", 8, 3
State = dict[str, Any]


def seeded(kind: str) -> State:
    """A small detector's state dict, its body a CIFAR ResNet-20 with maps of 16, 32 and 64 channels: "retinanet",
    "fasterrcnn" or "fasterrcnn_v2", which has batch norms, two convolutions before the proposals and four in the head.
    """
    with torch.random.fork_rng():
        torch.manual_seed(5)
        body = build(BODY, 1)
        for module in body.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.running_var, 0.5, 2)
                torch.nn.init.normal_(module.running_mean, 0, 0.1)
        state = {
            f"backbone.body.{name}": value
            for name, value in body.state_dict().items()
            if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
        }

        def add(name: str, inputs: int, outputs: int, kernel: int) -> None:
            state[f"{name}.weight"] = torch.randn(outputs, inputs, kernel, kernel) * (2 / (inputs * kernel**2)) ** 0.5
            state[f"{name}.bias"] = torch.randn(outputs) * 0.1

        def block(name: str, inputs: int, outputs: int, kernel: int) -> None:
            add(f"{name}.0", inputs, outputs, kernel)
            if kind.endswith("_v2"):
                del state[f"{name}.0.bias"]
                norm = {"weight": torch.rand(outputs) + 0.5, "running_var": torch.rand(outputs) + 0.5}
                norm |= {"bias": torch.randn(outputs) * 0.1, "running_mean": torch.randn(outputs) * 0.1}
                state.update({f"{name}.1.{key}": value for key, value in norm.items()})

        def linear(name: str, inputs: int, outputs: int, gain: float) -> None:
            state[f"{name}.weight"] = torch.randn(outputs, inputs) * gain * inputs**-0.5
            state[f"{name}.bias"] = torch.randn(outputs) * 0.1

        for level, channels in enumerate((16, 32, 64)):
            block(f"backbone.fpn.inner_blocks.{level}", channels, WIDE, 1)
            block(f"backbone.fpn.layer_blocks.{level}", WIDE, WIDE, 3)
        if kind == "retinanet":
            add("backbone.fpn.extra_blocks.p6", WIDE, WIDE, 3)
            add("backbone.fpn.extra_blocks.p7", WIDE, WIDE, 3)
            for head, top, outputs in (("classification", "cls_logits", 9 * CLASSES), ("regression", "bbox_reg", 36)):
                for depth in range(4):
                    add(f"head.{head}_head.conv.{depth}.0", WIDE, WIDE, 3)
                add(f"head.{head}_head.{top}", WIDE, outputs, 3)
            # Boxes near their anchors, and few of them.
            state["head.regression_head.bbox_reg.weight"] *= 0.1
            state["head.classification_head.cls_logits.bias"] -= 3
        else:
            v2 = kind.endswith("_v2")
            for depth in range(1 + v2):
                add(f"rpn.head.conv.{depth}.0", WIDE, WIDE, 3)
            add("rpn.head.cls_logits", WIDE, 3, 1)
            add("rpn.head.bbox_pred", WIDE, 12, 1)
            state["rpn.head.bbox_pred.weight"] *= 0.1
            for depth in range(4 * v2):
                block(f"roi_heads.box_head.{depth}", WIDE, WIDE, 3)
            linear("roi_heads.box_head." + ("5" if v2 else "fc6"), WIDE * 49, 16, 2**0.5)
            if not v2:
                linear("roi_heads.box_head.fc7", 16, 16, 2**0.5)
            linear("roi_heads.box_predictor.cls_score", 16, CLASSES, 2)
            linear("roi_heads.box_predictor.bbox_pred", 16, 4 * CLASSES, 1)
    return state
