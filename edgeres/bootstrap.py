"""How sure a percentile of timings is, where each process was another draw and each call resembles its neighbours; and
how sure a figure of images is.

Timings are resampled by a hierarchical bootstrap: processes are drawn with replacement, and within each of them
circular blocks of neighbouring calls (Politis and Romano, 1992, "A circular block-resampling procedure for stationary
data"). Few processes make it too narrow twice: their spread is underestimated by k / (k - 1), and its tails are
Student's, not normal. Both are mended by stretching the interval about the estimate, that of timings on a logarithmic
scale (Hesterberg, 2015, "What Teachers Should Know About the Bootstrap", section 5.3). Few images do the same.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

_RESAMPLES, _SEED = 1000, 0


def interval(rounds: Sequence[NDArray[np.float64]], percentile: float, confidence: float = 95.0) -> tuple[float, float]:
    """Interval, in the timings' unit, of a percentile of them all; `rounds` holds those of each process, in order.

    Of one process it tells how sure the percentile is of that process alone. ValueError where a round has no timing.
    """
    drawn = np.concatenate(list(_resampled(rounds, percentile)))
    low, high = np.log(np.percentile(drawn, [50 - confidence / 2, 50 + confidence / 2]))
    centre = math.log(np.percentile(np.concatenate(rounds), percentile))
    low, high = _stretched(low, high, centre, len(rounds), confidence)
    return math.exp(low), math.exp(high)


def _stretched(low: float, high: float, centre: float, count: int, confidence: float) -> tuple[float, float]:
    """An interval about an estimate made honest for few draws; that of a single one stays."""
    if count < 2:
        return low, high
    normal = NormalDist().inv_cdf(0.5 + confidence / 200)
    stretch = math.sqrt(count / (count - 1)) * student(confidence, count - 1) / normal
    return centre - stretch * max(centre - low, 0.0), centre + stretch * max(high - centre, 0.0)


def _resampled(rounds: Sequence[NDArray[np.float64]], percentile: float) -> Iterator[NDArray[np.float64]]:
    """The percentile of each resample, some resamples at a time so that long series fit into memory.

    Blocks are 2 n^(1/3) calls long, the rate at which the error of a block bootstrap falls fastest.
    """
    random = np.random.default_rng(_SEED)
    pooled, sizes = np.concatenate(rounds), np.array([len(one) for one in rounds])
    length = math.ceil(2 * sizes.mean() ** (1 / 3))
    blocks = math.ceil(sizes.mean() / length)
    for rows in np.array_split(np.empty(_RESAMPLES), 1 + pooled.size * _RESAMPLES // 4_000_000):
        chosen = random.integers(sizes.size, size=(len(rows), sizes.size, 1, 1))
        starts = random.integers(sizes[chosen], size=(len(rows), sizes.size, blocks, 1))
        within = (starts + np.arange(length)) % sizes[chosen]
        drawn = pooled[(np.cumsum(sizes) - sizes)[chosen] + within]
        yield np.percentile(drawn.reshape(len(rows), -1), percentile, axis=1)


def student(confidence: float, freedom: int) -> float:
    """Half the width, in standard errors, of a two-sided interval of Student's t with `freedom` degrees of freedom.

    With t = sqrt(freedom) tan(angle) the density of the angle is proportional to cos(angle)^(freedom - 1).
    """
    angles = np.linspace(0, np.pi / 2, 20_001)
    density = np.cos(angles) ** (freedom - 1)
    below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    angle = np.interp(confidence / 100, below / below[-1], angles)
    return math.sqrt(freedom) * math.tan(angle)


def over_images(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    count: int,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[float, float] | None:
    """95 % percentile interval of a figure of `count` images, each drawn with replacement (Efron, 1979, "Bootstrap
    Methods: Another Look at the Jackknife"), stretched about the figure of them all as for few processes; None where
    the images do not have the figure.

    `statistic` maps weights float64 (R, count), how often each image was drawn, to R figures, NaN where there is none;
    none lies outside `limits`.
    """
    centre = float(statistic(np.ones((1, count)))[0])
    if not math.isfinite(centre):
        return None
    random = np.random.default_rng(_SEED)
    drawn = []
    for rows in np.array_split(np.empty(_RESAMPLES), 1 + count * _RESAMPLES // 4_000_000):
        chosen = random.integers(count, size=(len(rows), count)) + count * np.arange(len(rows))[:, None]
        weights = np.bincount(chosen.ravel(), minlength=count * len(rows)).reshape(len(rows), count)
        drawn.append(statistic(weights.astype(np.float64)))
    found = np.concatenate(drawn)
    found = found[np.isfinite(found)]
    if not len(found):
        return None
    low, high = (float(side) for side in np.percentile(found, [2.5, 97.5]))
    low, high = _stretched(low, high, centre, count, 95.0)
    return max(low, limits[0]), min(high, limits[1])
