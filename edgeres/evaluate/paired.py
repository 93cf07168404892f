"""A figure of some images as a `Score`: beside that of FP32 on the same images, with a bootstrap interval."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres import bootstrap
from edgeres.evaluate.predicted import Predictions
from edgeres.schema import Score

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""Gives a figure, (R,), for each of R ways to weigh N images, (R, N): how often each of them was drawn."""


def mean(values: NDArray[Any]) -> Statistic:
    """The mean of what each image has, (N,)."""
    each = values.astype(np.float64)
    return lambda weights: weights @ each / weights.sum(1)


def score(
    name: str,
    found: Predictions,
    count: int,
    now: Statistic,
    before: Statistic | None = None,
    largest: float = math.inf,
    **given: Any,
) -> Score:
    """A figure of `count` images as `now` gives it for an engine and `before` for FP32, of size `largest` at most (a
    share is 0 to 1); `given`: fields of `Score`."""
    whole = np.ones((1, count))
    reference = None if before is None else float(before(whole)[0])
    difference = now if before is None else lambda weights: now(weights) - before(weights)
    share = given.get("unit") == "share"
    largest = 1.0 if share else largest
    return Score(
        name=name,
        value=float(now(whole)[0]),
        reference=reference,
        interval=bootstrap.over_images(difference, count, (0.0 if share and before is None else -largest, largest)),
        images=count,
        dataset=found.dataset,
        **given,
    )
