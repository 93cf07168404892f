"""From the statistics of a tensor to the range that INT8 shall cover.

All methods answer with (low, high), low <= 0 <= high: zero is always exactly representable, as padding needs it.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import UsageError
from edgeres.quantization.statistics import BINS, TensorStatistics

Range = tuple[float, float]

PERCENTILE = 99.99
CLIPPED = 3
"""How much more the squared error of a clipped value counts for `mse`: rounding errors point either way and cancel out
behind the tensor, clipping errs to one side and adds up. 2 to 6 are alike, 1 costs ResNet-50 2 dB of its logits."""
CANDIDATES = np.linspace(0.2, 1.0, 81)
"""Shares of the full range that `mse` and `entropy` try."""
STEPS, SYMMETRIC_STEPS = 255, 254
"""Quantization steps between the ends of a range: symmetric ranges end at -127 and 127."""


def minmax(statistics: TensorStatistics, symmetric: bool) -> Range:
    """Everything that calibration saw."""
    return min(statistics.low, 0.0), max(statistics.high, 0.0)


def percentile(statistics: TensorStatistics, symmetric: bool) -> Range:
    """All but the outermost (100 - PERCENTILE) per cent of the values, on each side half of it where both exist."""
    low, high = minmax(statistics, symmetric)
    sides = 2 if low < 0 < high else 1
    tail = (1 - PERCENTILE / 100) / sides * statistics.counts.sum()
    edges = statistics.edges
    below = np.cumsum(statistics.counts)
    above = np.cumsum(statistics.counts[::-1])[::-1]
    clipped_low = edges[np.searchsorted(below, tail, "right")] if low < 0 else 0.0
    clipped_high = edges[1:][len(above) - 1 - np.searchsorted(above[::-1], tail, "right")] if high > 0 else 0.0
    return max(low, min(clipped_low, 0.0)), min(high, max(clipped_high, 0.0))


def mse(statistics: TensorStatistics, symmetric: bool) -> Range:
    """The range with the smallest expected squared error of quantizing and dequantizing; see `CLIPPED`."""
    return _search(statistics, symmetric, _squared_error)


def entropy(statistics: TensorStatistics, symmetric: bool) -> Range:
    """The range whose quantized distribution is nearest to the real one by Kullback-Leibler divergence.

    Source: Migacz, "8-bit Inference with TensorRT" (GTC 2017). The values that the range cuts off stay in the
    reference, on its outermost bins, and what cannot be told apart after quantization shares its mass evenly.
    """
    counts = statistics.counts.copy()
    # Zero is exact in every range, and a ReLU gives so many that nothing else would count.
    counts[BINS] = min(counts[BINS], counts[BINS + 1])
    return _search(replace(statistics, counts=counts), symmetric, _divergence)


METHODS: dict[str, Callable[[TensorStatistics, bool], Range]] = {
    "minmax": minmax,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}


def find(method: str) -> Callable[[TensorStatistics, bool], Range]:
    """UsageError where there is no such method."""
    if method not in METHODS:
        raise UsageError(f"there is no range method {method!r}; there are {', '.join(METHODS)}.")
    return METHODS[method]


Loss = Callable[[NDArray[np.float64], NDArray[np.int64], Range, float], float]
"""Centres of bins, their counts, a range and the quantization step in it -> what it costs."""


def _search(statistics: TensorStatistics, symmetric: bool, loss: Loss) -> Range:
    """The candidate with the smallest loss: one share of the whole range for both ends, then each end by itself."""
    low, high = minmax(statistics, symmetric)
    if symmetric:
        low, high = -max(-low, high), max(-low, high)
    centres = statistics.edges[:-1] + 2.0 ** (statistics.exponent - 1)
    used = statistics.counts > 0
    centres, counts = centres[used], statistics.counts[used]
    steps = SYMMETRIC_STEPS if symmetric else STEPS

    def cost(option: Range) -> float:
        step = (option[1] - option[0]) / steps
        return loss(centres, counts, option, step) if step > 0 else float("inf")

    def best(options: list[Range]) -> Range:
        return min(options, key=cost)

    found = best([(low * share, high * share) for share in CANDIDATES[::-1]])
    if low < 0 < high and not symmetric:
        found = best([(low * share, found[1]) for share in CANDIDATES[::-1]])
        found = best([(found[0], high * share) for share in CANDIDATES[::-1]])
    return found


def _squared_error(centres: NDArray[np.float64], counts: NDArray[np.int64], option: Range, step: float) -> float:
    low, high = option
    rounded = np.rint(np.clip(centres, low, high) / step) * step
    clipped = (centres < low - step / 2) | (centres > high + step / 2)
    return float(np.dot(counts, np.where(clipped, CLIPPED, 1) * (centres - rounded) ** 2))


def _divergence(centres: NDArray[np.float64], counts: NDArray[np.int64], option: Range, step: float) -> float:
    inside = (centres >= option[0]) & (centres <= option[1])
    reference = np.where(inside, counts, 0).astype(np.float64)
    kept = np.flatnonzero(inside)
    if not len(kept):
        return float("inf")
    reference[kept[0]] += counts[centres < option[0]].sum()
    reference[kept[-1]] += counts[centres > option[1]].sum()
    level = np.rint(np.clip(centres, *option) / step).astype(np.int64)
    level -= level.min()
    level = level[inside]
    shared = (np.bincount(level, counts[inside]) / np.maximum(np.bincount(level), 1))[level]
    p, q = reference[inside] / reference.sum(), shared / shared.sum()
    return float(np.sum(p * np.log(p / q)))


assert BINS >= 4 * STEPS, "a histogram must be finer than the levels it decides on"
