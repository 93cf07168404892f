"""Top-1 and top-5 of a classifier with intervals, and INT8 against FP32 on the same images."""

import base64
import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.data import ImageSet
from edgeres.evaluate.predicted import TOP, Predictions, same_images
from edgeres.schema import Accuracy, ClassAccuracy, Flip, McNemar

GUESSES = "top-1 is no better than guessing: are the images, and the order of their labels, those of the model?"
THUMBNAILS = 24
"""Flipped images that get a picture."""
THUMBNAIL = 96
"""Longer side of such a picture, in pixels."""


def accuracy(found: Predictions, reference: Predictions | None = None) -> Accuracy:
    """Top-1 and top-5, and what differs from a reference on the same images; UsageError where they are others.

    Flipped images have no thumbnails: see `illustrated`.
    """
    if reference is not None:
        same_images(found, reference)
    hits = found.outputs == found.labels[:, None]
    right, count = int(hits[:, 0].sum()), len(hits)
    return Accuracy(
        images=count,
        dataset=found.dataset,
        top1=right / count,
        top1_interval=wilson(right, count),
        top5=float(hits.any(1).mean()) if hits.shape[1] == TOP else None,
        classes=_classes(found, reference),
        images_per_second=found.images_per_second,
        **_compared(found, reference) if reference is not None else {},
    )


def _compared(found: Predictions, reference: Predictions) -> dict[str, Any]:
    """What an `Accuracy` says of two predictions of the same images."""
    right, before = (one.outputs[:, 0] == one.labels for one in (found, reference))
    same = found.outputs[:, 0] == reference.outputs[:, 0]
    flipped = [
        Flip(
            name=found.names[index],
            label=found.classes[found.labels[index]],
            reference=found.classes[reference.outputs[index, 0]],
            predicted=found.classes[found.outputs[index, 0]],
        )
        for index in np.flatnonzero(~same)
    ]
    return {
        "agreement": float(same.mean()),
        "agreement_interval": wilson(int(same.sum()), len(same)),
        "mcnemar": mcnemar(int((before & ~right).sum()), int((right & ~before).sum())),
        "flipped": flipped,
    }


def _classes(found: Predictions, reference: Predictions | None) -> list[ClassAccuracy]:
    """Of each class that has images, in the order of the model's outputs."""

    def counted(labels: NDArray[np.int64]) -> list[int]:
        return list(map(int, np.bincount(labels, minlength=len(found.classes))))

    def right(one: Predictions) -> list[int]:
        return counted(one.labels[one.outputs[:, 0] == one.labels])

    rows = zip(found.classes, counted(found.labels), right(found), right(reference or found), strict=True)
    return [
        ClassAccuracy(name=name, images=count, top1=now / count, reference=before / count if reference else None)
        for name, count, now, before in rows
        if count
    ]


def illustrated(found: Accuracy, images: ImageSet) -> Accuracy:
    """With thumbnails of the first `THUMBNAILS` flipped images; one that cannot be made is left out."""
    positions = {name: index for index, name in enumerate(images.names)}

    def picture(flip: Flip) -> Flip:
        try:
            image, buffer = images.image(positions[flip.name]), io.BytesIO()
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            image.save(buffer, "JPEG", quality=80)
        except Exception:  # an ornament: the figures stand without it
            return flip
        return flip.model_copy(update={"thumbnail": base64.b64encode(buffer.getvalue()).decode()})

    flipped = [*map(picture, found.flipped[:THUMBNAILS]), *found.flipped[THUMBNAILS:]]
    return found.model_copy(update={"flipped": flipped})


def wilson(right: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson, "Probable inference", JASA 22, 1927): low and high, 0 to 1."""
    share, square = right / count, z * z
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = z / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar(lost: int, gained: int) -> McNemar:
    """The exact two-sided test of paired shares (McNemar, Psychometrika 12, 1947; exact: Fagerland et al., BMC Medical
    Research Methodology 13, 2013): where neither is better, each difference falls to either side like a coin."""
    count, fewer = lost + gained, min(lost, gained)
    tail = term = 1
    for index in range(fewer):
        term = term * (count - index) // (index + 1)
        tail += term
    return McNemar(lost=lost, gained=gained, p=min(1.0, 2 * tail / 2**count))


def guesses(found: Predictions) -> bool:
    """Whether the top-1 may be that of guessing, by its interval: of other images, or of labels in another order."""
    right = int((found.outputs[:, 0] == found.labels).sum())
    return wilson(right, len(found.labels))[0] <= 1 / len(found.classes)
