"""Faster R-CNN around its two networks: proposals of the dense part, what is cut out for them, boxes of the box head.

All of it in float32, outside the engines, which TensorRT for RTX could not build with it: suppression and RoIAlign run
on GPUs alone. Sources: Ren et al., "Faster R-CNN" (arXiv:1506.01497); Lin et al., "Feature Pyramid Networks"
(arXiv:1612.03144), equation 1; He et al., "Mask R-CNN" (arXiv:1703.06870) for RoIAlign. Constants are torchvision's
defaults.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

from edgeres import engines, onnx_io, store
from edgeres.boxes import Array, Boxes, anchors, clipped, decode, last, sigmoid, suppress
from edgeres.data import ImageSet, batches, tensors
from edgeres.errors import UsageError
from edgeres.store import Artifact, Sidecar
from edgeres.types import Preprocess, Target

if TYPE_CHECKING:
    import onnxruntime

Maps = Mapping[str, Array]
"""What the dense part gives, by name: `P2` (N, C, H, W) ..., `objectness.P2` (N, anchors, H, W) ..., `bbox_pred.P2`
(N, anchors * 4, H, W) ..."""
Head = Callable[[Array], Sequence[Array]]
"""The box head: regions (K, C, POOLED, POOLED) -> `cls_score` (K, classes), the first of them background, and
`bbox_pred` (K, classes * 4)."""
SIDES = {f"P{level}": (2 ** (level + 3),) for level in range(2, 7)}
"""Level -> the side of its square anchor."""
CANDIDATES, PROPOSALS, NEAR, THIN = 1000, 1000, 0.7, 1e-3
"""The most proposals of a level before, and of an image after suppression; the largest overlap (IoU); the smallest
side, pixels."""
SCORE, DETECTIONS, OVERLAP, SMALLEST = 0.05, 100, 0.5, 1e-2
"""Smallest score of a box, the most of an image, the largest overlap of a class, and the smallest side."""
WEIGHTS = np.array([10, 10, 5, 5], np.float32)
"""How much larger the box head says shifts and sizes than `decode` takes them."""
POOLED, SAMPLES = 7, 2
"""Bins of a region a side, and sampled points of a bin a side."""
LEVEL, SCALE = 4, 224
"""The level of a proposal with sides of SCALE pixels: half the side is one level finer."""
EACH = 64
"""Regions of an image that calibrate."""
EXACT = Target("onnxruntime", "cpu")


def detect(maps: Maps, image: tuple[int, int], head: Head) -> list[Boxes]:
    """The boxes of N images of (height, width) pixels, as torchvision's FasterRCNN makes them."""
    found = []
    for index, proposed in enumerate(proposals(maps, image)):
        if len(proposed.boxes):
            scores, shifts = head(pooled(maps, index, proposed.boxes, image))
            proposed = _boxes(proposed.boxes, scores, shifts, image)
        found.append(proposed)
    return found


def proposals(maps: Maps, image: tuple[int, int]) -> list[Boxes]:
    """Of each of N images the boxes, of whatever class, at which the second network looks: at most PROPOSALS, best
    first, their labels the levels, from 0."""
    levels = [level for level in SIDES if f"objectness.{level}" in maps]
    around = [anchors(maps[f"objectness.{level}"].shape[2:], image, SIDES[level]) for level in levels]

    def candidates(index: int, label: int) -> Boxes:
        per_position = maps[f"objectness.{levels[label]}"].shape[1]
        logits, shifts = (
            last(maps[f"{kind}.{levels[label]}"][index], per_position) for kind in ("objectness", "bbox_pred")
        )
        best = np.argsort(-logits[:, 0], kind="stable")[:CANDIDATES]
        made = decode(shifts[best], around[label][best])
        return Boxes(made, sigmoid(logits[best, 0]), np.full(len(best), label))

    def image_proposals(index: int) -> Boxes:
        parts = [candidates(index, label) for label in range(len(levels))]
        fields = zip(*((part.boxes, part.scores, part.labels) for part in parts), strict=True)
        found = Boxes(*(np.concatenate(field) for field in fields))
        return suppress(clipped(found, image, THIN), NEAR, PROPOSALS)

    return [image_proposals(index) for index in range(len(maps[f"objectness.{levels[0]}"]))]


def pooled(maps: Maps, index: int, boxes: Array, image: tuple[int, int]) -> Array:
    """RoIAlign: what lies below boxes (K, 4) in the maps of one of the images, (K, C, POOLED, POOLED).

    Each box is cut out of the map whose resolution fits its size. Corners are not moved by half a pixel, as in the
    paper and in torchvision's detectors (`aligned=False`).
    """
    levels = [level for level in SIDES if level in maps]
    steps = [image[0] // maps[level].shape[2] for level in levels]
    size = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], 1))
    fitting = np.floor(LEVEL + np.log2(size / np.float32(SCALE)) + np.float32(1e-6))
    first, coarsest = np.log2(steps[0]), np.log2(steps[-1])
    mine = np.clip(fitting, first, coarsest) - first
    made = np.zeros((len(boxes), maps[levels[0]].shape[1], POOLED, POOLED), np.float32)
    for number, (level, step) in enumerate(zip(levels, steps, strict=True)):
        rows = np.flatnonzero(mine == number)
        given = {"map": maps[level][[index]], "boxes": boxes[rows], "images": np.zeros(len(rows), np.int64)}
        if len(rows):
            made[rows] = _align(step).run(None, given)[0]
    return made


def sample(run: Callable[[Array], Maps], images: ImageSet, preprocess: Preprocess, each: int = EACH) -> ImageSet:
    """Of each image `each` regions, from the best proposal to the last: what the box head takes.

    `run` is the dense part.
    """
    parts, names = [], []
    for batch in batches(images, preprocess, 1):
        maps, sides = run(batch.images), batch.images.shape[2:]
        found = proposals(maps, sides)[0].boxes
        ranks = np.unique(np.linspace(0, len(found) - 1, min(each, len(found))).astype(int))
        parts.append(pooled(maps, 0, found[ranks], sides))
        names += [f"{batch.names[0]}#{rank}" for rank in ranks]
    return tensors(images.source, names, np.concatenate(parts))


def cut(
    model: Path, images: ImageSet, out: Path, each: int = EACH, progress: Callable[[int], object] = lambda images: None
) -> Artifact:
    """Write `sample` of a dense part's ONNX file as an .npz file, which calibrates and evaluates its box head.

    UsageError where the file is of another network.
    """
    info = onnx_io.info(model)
    if not info.arch.startswith("fasterrcnn_") or info.preprocess is None:
        raise UsageError(
            f"{model} is {info.arch}, not the dense part of a Faster R-CNN; give what `export` made of it."
        )
    preprocess = info.preprocess

    def write(path: Path) -> None:
        engine = engines.load(model, EXACT)

        def run(pixels: Array) -> Maps:
            progress(len(pixels))
            return dict(zip(engine.outputs, engine.maps(pixels), strict=True))

        made = sample(run, images, preprocess, each)
        with path.open("wb") as file:
            np.savez(file, tensors=np.asarray(made.pixels), names=np.array(made.names))

    made_from = {"model": store.source(model), "images": images.digest}
    return store.make(
        out, Sidecar("regions", made_from, {"each": each}, store.versions("edgeres", "onnxruntime")), write
    )


def _boxes(proposed: Array, scores: Array, shifts: Array, image: tuple[int, int]) -> Boxes:
    """What the box head says of proposals (K, 4); a proposal counts once for each class above SCORE."""
    shares = np.exp(scores - scores.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    rows, labels = np.nonzero(shares > SCORE)
    rows, labels = rows[labels > 0], labels[labels > 0]  # the first class is background
    made = decode(shifts.reshape(*shares.shape, 4)[rows, labels] / WEIGHTS, proposed[rows])
    return suppress(clipped(Boxes(made, shares[rows, labels], labels), image, SMALLEST), OVERLAP, DETECTIONS)


@cache
def _align(step: int) -> "onnxruntime.InferenceSession":
    """ONNX's RoiAlign on a map with a value each `step` pixels: `map` (1, C, H, W), `boxes` (K, 4), `images` (K,)."""
    import onnxruntime

    node = helper.make_node(
        "RoiAlign",
        ["map", "boxes", "images"],
        ["regions"],
        output_height=POOLED,
        output_width=POOLED,
        sampling_ratio=SAMPLES,
        spatial_scale=1 / step,
        coordinate_transformation_mode="output_half_pixel",
    )
    given = [
        helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, "C", "H", "W"]),
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["K", 4]),
        helper.make_tensor_value_info("images", TensorProto.INT64, ["K"]),
    ]
    made = helper.make_tensor_value_info("regions", TensorProto.FLOAT, ["K", "C", POOLED, POOLED])
    graph = helper.make_graph([node], "align", given, [made])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
