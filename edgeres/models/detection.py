"""What detectors are made of: the maps of a residual network, a feature pyramid on them, heads on that.

Parameter names are torchvision's (`retinanet_resnet50_fpn`, `fasterrcnn_resnet50_fpn` and its `_v2`). Sources: Lin et
al., "Feature Pyramid Networks for Object Detection" (arXiv:1612.03144) and "Focal Loss for Dense Object Detection"
(RetinaNet, arXiv:1708.02002); Ren et al., "Faster R-CNN" (arXiv:1506.01497); for `_v2` Li et al., "Benchmarking
Detection Transfer Learning with Vision Transformers" (arXiv:2111.11429).
"""

import math
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from edgeres.errors import InputError, UsageError
from edgeres.models import checkpoint
from edgeres.models.checkpoint import Checkpoint
from edgeres.models.layouts import COUNTERS
from edgeres.models.resnet import ResNet
from edgeres.types import Task

STRIDE = 32
"""Of the body's coarsest map: where sides are multiples of it, as torchvision pads them, a pyramid doubles exactly."""
SIDE = 800
"""To which torchvision resizes the shorter side of a detector's image."""
ROI, OTHERS = "roi_heads.", ("roi_heads.mask_", "roi_heads.keypoint_")
"""Where Faster R-CNN keeps its box head, and Mask and Keypoint R-CNN what else they compute on regions."""
_OLDER = (
    (re.compile(r"(fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
    (re.compile(r"(rpn\.head\.conv)\.(weight|bias)$"), r"\1.0.0.\2"),
    (
        re.compile(r"(head\.(?:classification|regression)_head\.conv)\.(\d+)\.(weight|bias)$"),
        lambda found: f"{found[1]}.{int(found[2]) // 2}.0.{found[3]}",
    ),
)
"""How torchvision spelled parameters before 0.13, and how it does since."""
EPSILON = (
    "assumed: batch norms of the body add 1e-5 to the variance; weights fine-tuned from torchvision's COCO_V1 may "
    "have been trained with 0, which nothing in the file tells"
)
NO_EPSILON = "assumed: batch norms of the body add 0 to the variance, as the parameters have their names before 0.13"
"""What is said of the epsilon, which no checkpoint holds."""


class Maps(nn.Module):
    """A network with several outputs, `names` in their order: (N, 3, H, W) float32 -> as many (N, C, H', W')."""

    names: tuple[str, ...]
    task: Task = "detection"
    outputs: int
    """What `ModelInfo` counts: classes of a detector, maps of a backbone."""
    notes: tuple[str, ...] = ()
    """What the user must know of it."""


class Backbone(Maps):
    """The maps of a residual network: C2 is what `layer1` gives, C5 what `layer4` gives."""

    task = "features"

    def __init__(self, body: ResNet, names: Sequence[str]) -> None:
        """UsageError where the body has no such map."""
        super().__init__()
        known = [f"C{stage + 2}" for stage in range(body.stages)]
        if unknown := [name for name in names if name not in known]:
            raise UsageError(f"there is no map {unknown[0]!r} of this network; there are {', '.join(known)}.")
        self.body = body
        self.names = tuple(name for name in known if name in names)
        self.outputs = len(self.names)
        self.chosen = [known.index(name) for name in self.names]
        body.stages = 1 + max(self.chosen)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = self.body.features(x)
        return tuple(maps[index] for index in self.chosen)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=bias)


def _block(inputs: int, outputs: int, kernel: int, normed: bool) -> nn.Sequential:
    """A convolution alone, or with a batch norm in place of its bias."""
    made = nn.Sequential(_conv(inputs, outputs, kernel, bias=not normed))
    return made.append(nn.BatchNorm2d(outputs)) if normed else made


class P6P7(nn.Module):
    """Two more levels: convolutions with stride 2 on C5, or on P5 where `inputs` is as wide as the pyramid."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.p6, self.p7 = _conv(inputs, outputs, 3, 2), _conv(outputs, outputs, 3, 2)
        self.on_p5 = inputs == outputs
        self.relu = nn.ReLU()

    def forward(self, p5: Tensor, c5: Tensor) -> list[Tensor]:
        p6 = self.p6(p5 if self.on_p5 else c5)
        return [p6, self.p7(self.relu(p6))]


class Pooled(nn.Module):
    """One more level: every second position of P5."""

    def __init__(self) -> None:
        super().__init__()
        self.halved = nn.MaxPool2d(1, 2)

    def forward(self, p5: Tensor, c5: Tensor) -> list[Tensor]:
        return [self.halved(p5)]


class Pyramid(nn.Module):
    """A feature pyramid: 1x1 convolutions on the maps, each sum doubled and added to the next finer, then 3x3; `normed`
    where batch norms follow them."""

    def __init__(self, inputs: Sequence[int], outputs: int, extra: nn.Module, normed: bool) -> None:
        super().__init__()
        self.doubled = nn.Upsample(scale_factor=2, mode="nearest")
        self.inner_blocks = nn.ModuleList(_block(channels, outputs, 1, normed) for channels in inputs)
        self.layer_blocks = nn.ModuleList(_block(outputs, outputs, 3, normed) for _ in inputs)
        self.extra_blocks = extra

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        sums = [block(one) for block, one in zip(self.inner_blocks, maps, strict=True)]
        for finer in reversed(range(len(sums) - 1)):
            sums[finer] = sums[finer] + self.doubled(sums[finer + 1])
        levels = [block(one) for block, one in zip(self.layer_blocks, sums, strict=True)]
        return [*levels, *self.extra_blocks(levels[-1], maps[-1])]


class _Body(nn.Module):
    """`backbone` of torchvision's detectors: a residual network and a pyramid on its last `maps` stages."""

    def __init__(self, body: ResNet, fpn: Pyramid) -> None:
        super().__init__()
        self.body, self.fpn = body, fpn

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.fpn(self.body.features(x)[-len(self.fpn.inner_blocks) :])  # type: ignore[no-any-return]


class _Head(nn.Module):
    """Convolutions with ReLU, and one or two without on top of them; the same weights on every level."""

    def __init__(self, channels: int, depth: int, tops: Mapping[str, nn.Conv2d]) -> None:
        super().__init__()
        self.conv = nn.Sequential(*(nn.Sequential(_conv(channels, channels, 3), nn.ReLU()) for _ in range(depth)))
        self.tops = tuple(tops)
        for name, top in tops.items():
            self.add_module(name, top)

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What the first top gives at each level, then the second."""
        hidden = [self.conv(level) for level in levels]
        return tuple(self.get_submodule(name)(one) for name in self.tops for one in hidden)


class RetinaNet(Maps):
    """Body, pyramid P3 ... P7 and two heads: `cls_logits.P3` (N, anchors * classes, H, W) ... and
    `bbox_regression.P3` (N, anchors * 4, H, W) ...; boxes are made of them by `edgeres.boxes.retinanet`."""

    LEVELS = ("P3", "P4", "P5", "P6", "P7")

    def __init__(self, body: ResNet, state: Mapping[str, Tensor]) -> None:
        """Sized by a state dict in torchvision's layout."""
        super().__init__()
        p6 = state["backbone.fpn.extra_blocks.p6.weight"]
        self.backbone = _Body(body, _pyramid(state, P6P7(p6.shape[1], p6.shape[0])))
        logits, boxes = (
            state[f"head.{name}.weight"] for name in ("classification_head.cls_logits", "regression_head.bbox_reg")
        )
        channels = logits.shape[1]
        self.head = nn.ModuleDict()
        self.head["classification_head"] = _Head(
            channels, _depth(state, "head.classification_head"), {"cls_logits": _conv(channels, len(logits), 3)}
        )
        self.head["regression_head"] = _Head(
            channels, _depth(state, "head.regression_head"), {"bbox_reg": _conv(channels, len(boxes), 3)}
        )
        self.outputs = len(logits) // (len(boxes) // 4)
        self.names = tuple(f"{kind}.{level}" for kind in ("cls_logits", "bbox_regression") for level in self.LEVELS)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        levels = self.backbone(x)
        return (*self.head["classification_head"](levels), *self.head["regression_head"](levels))


class BoxHead(Maps):
    """The second network of Faster R-CNN: regions (K, *shape) cut out of P2 ... P5 -> `cls_score` (K, classes), the
    first of them background, and `bbox_pred` (K, classes * 4); `edgeres.regions` makes both ends of it."""

    task = "features"
    names = ("cls_score", "bbox_pred")
    outputs = len(names)

    def __init__(self, state: Mapping[str, Tensor], channels: int) -> None:
        """Sized by what a state dict has below `roi_heads.`: two linear layers, or convolutions and one."""
        super().__init__()

        def linear(name: str) -> nn.Linear:
            outputs, inputs = state[f"{name}.weight"].shape
            return nn.Linear(inputs, outputs)

        if "box_head.fc6.weight" in state:
            fc6, fc7 = linear("box_head.fc6"), linear("box_head.fc7")
            layers = {"flatten": nn.Flatten(), "fc6": fc6, "relu6": nn.ReLU(), "fc7": fc7, "relu7": nn.ReLU()}
            self.box_head = nn.Sequential(OrderedDict(layers))
        else:
            depth = _depth(state, "box_head", inside="")
            convolutions = [_block(channels, channels, 3, True).append(nn.ReLU()) for _ in range(depth)]
            fc6 = linear(f"box_head.{depth + 1}")
            self.box_head = nn.Sequential(*convolutions, nn.Flatten(), fc6, nn.ReLU())
        side = math.isqrt(fc6.in_features // channels)
        self.shape = (channels, side, side)
        self.box_predictor = nn.ModuleDict({name: linear(f"box_predictor.{name}") for name in self.names})

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        hidden = self.box_head(x)
        return tuple(self.box_predictor[name](hidden) for name in self.names)


class FasterRCNN(Maps):
    """The dense part: body, pyramid P2 ... P6 and the head of the region proposal network.

    Gives `P2` ... `P5` (N, C, H, W), of which boxes are cut, `objectness.P2` (N, anchors, H, W) ... and
    `bbox_pred.P2` (N, anchors * 4, H, W) ... What is cut goes to `roi_heads`, which `forward` leaves out.
    """

    notes = ("the box head (roi_heads) is a file of its own, as it computes on cut-out regions: `--box-head`",)

    def __init__(self, body: ResNet, state: Mapping[str, Tensor]) -> None:
        """Sized by a state dict in torchvision's layout."""
        super().__init__()
        self.backbone = _Body(body, _pyramid(state, Pooled()))
        logits = state["rpn.head.cls_logits.weight"]
        anchors, channels = logits.shape[:2]
        tops = {"cls_logits": _conv(channels, anchors, 1), "bbox_pred": _conv(channels, anchors * 4, 1)}
        self.rpn = nn.ModuleDict()
        self.rpn["head"] = _Head(channels, _depth(state, "rpn.head"), tops)
        self.roi_heads = BoxHead(
            {name.removeprefix(ROI): value for name, value in state.items() if name.startswith(ROI)}, channels
        )
        self.outputs = len(state["roi_heads.box_predictor.cls_score.weight"])
        levels = [f"P{level + 2}" for level in range(len(self.backbone.fpn.inner_blocks) + 1)]
        heads = (f"{kind}.{level}" for kind in ("objectness", "bbox_pred") for level in levels)
        self.names = (*levels[:-1], *heads)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        levels = self.backbone(x)
        return (*levels[:-1], *self.rpn["head"](levels))


DETECTORS: Mapping[str, tuple[str, type[RetinaNet] | type[FasterRCNN]]] = {
    "retinanet": ("head.classification_head.cls_logits.weight", RetinaNet),
    "fasterrcnn": ("rpn.head.cls_logits.weight", FasterRCNN),
}
"""Detector -> a parameter that no other has, and its network."""


def _pyramid(state: Mapping[str, Tensor], extra: nn.Module) -> Pyramid:
    found = [
        value for name, value in state.items() if re.fullmatch(r"backbone\.fpn\.inner_blocks\.\d+\.0\.weight", name)
    ]
    normed = "backbone.fpn.inner_blocks.0.1.weight" in state
    return Pyramid([value.shape[1] for value in found], found[0].shape[0], extra, normed)


def _depth(state: Mapping[str, Tensor], head: str, inside: str = ".conv") -> int:
    return sum(re.fullmatch(rf"{re.escape(head + inside)}\.\d+\.0\.weight", name) is not None for name in state)


def load(arch: str | None, loaded: Checkpoint, features: Sequence[str] = ()) -> tuple[str, Maps]:
    """The network with its weights, in evaluation mode: a detector, or the maps `features` of a residual network.

    The residual network may be a classifier, with its head or without, or the body of a detector; `arch` names it,
    None to recognise it. UsageError for an unknown name or map, InputError where weights do not fit.
    """
    name, body = checkpoint.load(arch, loaded, head=False)
    around = {_newer(key): value for key, value in loaded.detector.items()}
    notes: tuple[str, ...] = (EPSILON,) if around else ()
    if around.keys() != loaded.detector.keys():
        # Until 0.13 frozen batch norm divided by the root of the variance alone.
        notes = (NO_EPSILON,)
        for module in body.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0
    if features:
        backbone = Backbone(body, features)
        backbone.notes = notes
        return name, backbone.eval()
    kind = next((kind for kind, (parameter, _) in DETECTORS.items() if parameter in around), None)
    if kind is None:
        raise InputError(
            f"{loaded.path} has neither the head of torchvision's RetinaNet nor that of its Faster R-CNN; "
            "give maps of its backbone with --features."
        )
    try:
        model = DETECTORS[kind][1](body, around)
        wanted = {key for key in model.state_dict() if not key.startswith("backbone.body.")}
        mine = {key: value for key, value in around.items() if not key.startswith(OTHERS)}
        if odd := sorted(key for key in mine.keys() ^ wanted if not key.endswith(COUNTERS)):
            raise KeyError(odd[0])
        model.load_state_dict(mine, strict=False)
    except (KeyError, IndexError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"{loaded.path} does not fit torchvision's {kind}: {reason} is odd; save it again.") from None
    model.notes = (*model.notes, *notes)
    return f"{kind}_{name}_fpn", model.eval()


def _newer(name: str) -> str:
    """The name of a parameter as torchvision spells it since 0.13."""
    for pattern, newer in _OLDER:
        name = pattern.sub(newer, name)
    return name
