"""From what a detector's dense heads give to boxes: anchors, decoding, non-maximum suppression.

All of it outside the network, in float32: INT8 is for convolutions. Constants are torchvision's defaults. What Faster
R-CNN does on top of it with its second network is in `edgeres.regions`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
RATIOS = (0.5, 1.0, 2.0)
"""Height over width of the anchors at a position."""
OCTAVES = {f"P{level}": tuple(int(2 ** (level + 2) * 2 ** (third / 3)) for third in range(3)) for level in range(3, 8)}
"""Level -> sides of RetinaNet's square anchors: three in each octave (arXiv:1708.02002, section 4)."""
SCORE, CANDIDATES, OVERLAP, DETECTIONS = 0.05, 1000, 0.5, 300
"""Smallest score of a box; the most of a level before, the largest overlap (IoU), and the most of an image after
suppression."""
LARGEST = np.log(1000 / 16)
"""Largest logarithm of how much larger than its anchor a box may be."""


@dataclass(frozen=True)
class Boxes:
    """Of one image, best first: `boxes` float32 (K, 4), x1 y1 x2 y2 in pixels of the network's input; `scores`
    float32 (K,), 0 to 1; `labels` int64 (K,), indices into the network's classes."""

    boxes: Array
    scores: Array
    labels: NDArray[np.int64]


def anchors(grid: tuple[int, int], image: tuple[int, int], sizes: Sequence[float]) -> Array:
    """The anchors at each position of a map of `grid` (height, width) on an image of (height, width) pixels: float32
    (height * width * len(RATIOS) * len(sizes), 4), positions first, then ratios, then sizes.

    Source: torchvision's `AnchorGenerator`: whole strides, corners of the first anchors rounded to whole pixels.
    """
    root, side = np.sqrt(np.array(RATIOS, np.float32))[:, None], np.array(sizes, np.float32)
    width, height = (1 / root * side).ravel(), (root * side).ravel()
    first = np.rint(np.stack([-width, -height, width, height], 1) / 2)
    y, x = (np.arange(count) * (side // count) for count, side in zip(grid, image, strict=True))
    rows, columns = np.meshgrid(y, x, indexing="ij")
    shifts = np.stack([columns, rows, columns, rows], -1).reshape(-1, 1, 4).astype(np.float32)
    made: Array = (shifts + first).reshape(-1, 4)
    return made


def decode(deltas: Array, around: Array) -> Array:
    """Boxes (K, 4) from what a network says of them relative to anchors (K, 4): the shift of the centre in units of the
    anchor's sides, and the logarithm of how much larger they are (arXiv:1311.2524, appendix C)."""
    size = around[:, 2:] - around[:, :2]
    centre = around[:, :2] + size / 2 + deltas[:, :2] * size
    half = np.exp(np.minimum(deltas[:, 2:], np.float32(LARGEST))) * size / 2
    made: Array = np.concatenate([centre - half, centre + half], 1)
    return made


def overlaps(one: Array, others: Array) -> Array:
    """Intersection over union of boxes (K, 4) and (L, 4): (K, L)."""
    corner = np.maximum(one[:, None, :2], others[None, :, :2])
    opposite = np.minimum(one[:, None, 2:], others[None, :, 2:])
    shared = np.prod(np.maximum(opposite - corner, 0), -1)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], -1) for boxes in (one, others)]
    made: Array = shared / np.maximum(areas[0][:, None] + areas[1] - shared, np.float32(1e-12))
    return made


def clipped(found: Boxes, image: tuple[int, int], smallest: float) -> Boxes:
    """What of boxes lies in an image of (height, width) pixels, without those of which a side is below `smallest`."""
    inside = np.clip(found.boxes, 0, np.array([image[1], image[0]] * 2, np.float32))
    wide = (inside[:, 2:] - inside[:, :2] >= smallest).all(1)
    return Boxes(inside[wide], found.scores[wide], found.labels[wide])


def suppress(found: Boxes, overlap: float, most: int) -> Boxes:
    """Of boxes of one label that overlap more, the best alone; at most so many boxes, best first."""
    order = np.argsort(-found.scores, kind="stable")
    kept: list[int] = []
    while len(order) and len(kept) < most:
        best, order = order[0], order[1:]
        kept.append(int(best))
        near = overlaps(found.boxes[[best]], found.boxes[order])[0] > overlap
        order = order[~(near & (found.labels[order] == found.labels[best]))]
    return Boxes(found.boxes[kept], found.scores[kept], found.labels[kept])


def retinanet(maps: Mapping[str, Array], image: tuple[int, int]) -> list[Boxes]:
    """The boxes of N images of (height, width) pixels from RetinaNet's outputs by name: `cls_logits.P3`
    (N, anchors * classes, H, W), `bbox_regression.P3` (N, anchors * 4, H, W), ...

    As torchvision makes them, but for boxes outside the image, which it keeps without area.
    """
    logits, deltas = ([maps[f"{kind}.{level}"] for level in OCTAVES] for kind in ("cls_logits", "bbox_regression"))
    around = [anchors(one.shape[2:], image, sizes) for one, sizes in zip(logits, OCTAVES.values(), strict=True)]

    def boxes(index: int) -> Boxes:
        levels = zip(logits, deltas, around, strict=True)
        parts = [_candidates(scores[index], shifts[index], mine) for scores, shifts, mine in levels]
        found = Boxes(*(np.concatenate(part) for part in zip(*parts, strict=True)))
        return suppress(clipped(found, image, 1e-30), OVERLAP, DETECTIONS)

    return [boxes(index) for index in range(len(logits[0]))]


def detector(arch: str) -> Callable[[Mapping[str, Array], tuple[int, int]], list[Boxes]] | None:
    """What makes boxes of the outputs of an architecture; None where edgeres has no such thing."""
    return retinanet if arch.startswith("retinanet_") else None


def _candidates(logits: Array, deltas: Array, around: Array) -> tuple[Array, Array, NDArray[np.int64]]:
    """The best boxes of one level, their scores and labels; a box counts once for each class above `SCORE`."""
    per_position = len(around) // (logits.shape[1] * logits.shape[2])
    by_anchor = last(logits, per_position)
    chosen = np.flatnonzero(by_anchor > np.log(SCORE / (1 - SCORE)))
    values = by_anchor.ravel()[chosen]
    best = np.argsort(-values, kind="stable")[:CANDIDATES]
    anchor, label = np.divmod(chosen[best], by_anchor.shape[1])
    boxes = decode(last(deltas, per_position)[anchor], around[anchor])
    return boxes, sigmoid(values[best]), label.astype(np.int64)


def sigmoid(logits: Array) -> Array:
    made: Array = (1 / (1 + np.exp(-logits))).astype(np.float32)
    return made


def last(values: Array, anchors: int) -> Array:
    """(anchors * K, H, W) -> (H * W * anchors, K)."""
    split = values.reshape(anchors, -1, *values.shape[1:])
    made: Array = split.transpose(2, 3, 0, 1).reshape(-1, split.shape[1])
    return made
