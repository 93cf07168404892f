"""Average precision of boxes at the 101 points of recall of COCO (Lin et al., arXiv:1405.0312).

All boxes that are given count: of `boxes.retinanet` up to 300 an image, where COCO's tools take the best 100 of each
class and image. Nor is there what these tools leave out of the count: crowds, and boxes of other sizes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeres.boxes import Boxes, overlaps

RECALLS = np.linspace(0, 1, 101)


def mean_average_precision(found: Sequence[Boxes], truth: Sequence[Boxes], overlap: float) -> float:
    """The mean over the classes of the truth, 0 to 1; both are given by image, in the same order.

    Where there is no truth: 1 if nothing was found either, else 0.
    """
    classes = sorted({int(label) for one in truth for label in one.labels})
    if not classes:
        return float(not any(len(one.labels) for one in found))
    return float(np.mean([average_precision(found, truth, label, overlap) for label in classes]))


def average_precision(found: Sequence[Boxes], truth: Sequence[Boxes], label: int, overlap: float) -> float:
    """The precision at 101 points of recall, averaged, of a class that the truth has.

    A box is right where it overlaps (IoU) one of the truth by at least `overlap`; each box of the truth counts once,
    for the best of those that overlap it.
    """
    pairs = [
        (one, one.labels == label, exact.boxes[exact.labels == label]) for one, exact in zip(found, truth, strict=True)
    ]
    scores = np.concatenate([one.scores[mine] for one, mine, _ in pairs])
    right = np.concatenate([_matched(one.boxes[mine], theirs, overlap) for one, mine, theirs in pairs])
    hits = np.cumsum(right[np.argsort(-scores, kind="stable")])
    precision = hits / np.arange(1, len(hits) + 1)
    # The best precision at this recall or any larger one; 0 where no threshold reaches it.
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    recall = hits / sum(len(theirs) for _, _, theirs in pairs)
    return float(envelope[np.searchsorted(recall, RECALLS)].mean())


def _matched(mine: NDArray[np.float32], theirs: NDArray[np.float32], overlap: float) -> NDArray[np.bool_]:
    """Which boxes (K, 4), best first, are right: each takes the free one that it overlaps most."""
    near = overlaps(mine, theirs)
    right = np.zeros(len(mine), np.bool_)
    for index in range(len(mine) if len(theirs) else 0):
        best = int(near[index].argmax())
        right[index] = near[index, best] >= overlap
        if right[index]:
            near[:, best] = -1.0
    return right
