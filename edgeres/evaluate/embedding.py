"""Embeddings: whether the nearest images stay the nearest."""

import numpy as np
from numpy.typing import NDArray

from edgeres.evaluate.paired import Statistic, mean, score
from edgeres.evaluate.predicted import Predictions
from edgeres.schema import Score

KS = (1, 5, 10)
BLOCK = 1024
"""Images whose similarities to all others are held at once."""


def scores(found: Predictions, reference: Predictions | None) -> list[Score]:
    """Class recall@k where labels are known: an image of the same class among the k nearest others; of images whose
    class has another image. Against a reference: the mean and the worst cosine of an image's two vectors, and
    recall@k: the share of its k nearest images that are found.

    The nearest are those of the set, the image left out, by cosine. Intervals draw images to ask with; the set that
    is searched stays.
    """
    count = len(found.outputs)
    near = neighbours(found.outputs)
    exact = neighbours(reference.outputs) if reference else None
    ks = [k for k in KS if k < count]
    asked = _shared(found.labels)
    made = []
    for k in ks if asked.any() else ():
        now = _recall(found.labels, asked, near, k)
        before = None if exact is None else _recall(found.labels, asked, exact, k)
        made.append(score(f"class recall@{k}", found, int(asked.sum()), now, before, unit="share"))
    if reference and exact is not None:
        cosines = cosine(found.outputs, reference.outputs)
        made.append(score("cosine", found, count, mean(cosines), largest=1.0))
        made.append(Score(name="worst cosine", value=float(cosines.min()), images=count, dataset=found.dataset))
        for k in ks:
            kept = (near[:, :k, None] == exact[:, None, :k]).any(2).mean(1)
            made.append(score(f"recall@{k}", found, count, mean(kept), unit="share"))
    return made


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of each pair of rows (N, D); 0 where a vector is zero."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    found: NDArray[np.float64] = (a * b).sum(1) / np.maximum(lengths, 1e-30)
    return found


def neighbours(vectors: NDArray[np.float32], k: int = max(KS)) -> NDArray[np.int64]:
    """The k others with the largest cosine to each row of (N, D), the nearest first, the first of equals: int64
    (N, min(k, N - 1))."""
    unit = _unit(vectors)
    found = np.zeros((len(unit), min(k, len(unit) - 1)), np.int64)
    for start in range(0, len(unit), BLOCK):
        alike = unit[start : start + BLOCK] @ unit.T
        rows = np.arange(len(alike))
        alike[rows, start + rows] = -np.inf
        for place in range(found.shape[1]):
            best = alike.argmax(1)
            found[start : start + BLOCK, place] = best
            alike[rows, best] = -np.inf
    return found


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1; of zeros, where they were zero."""
    length = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    unit: NDArray[np.float32] = (vectors / np.maximum(length, 1e-30)).astype(np.float32)
    return unit


def _shared(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether an image has a label that another has, too."""
    values, counts = np.unique(labels[labels >= 0], return_counts=True)
    shared: NDArray[np.bool_] = np.isin(labels, values[counts > 1])
    return shared


def _recall(labels: NDArray[np.int64], asked: NDArray[np.bool_], near: NDArray[np.int64], k: int) -> Statistic:
    return mean((labels[near[asked, :k]] == labels[asked, None]).any(1))
