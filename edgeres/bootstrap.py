"""The bootstrap of a percentile of timings, which are correlated within a process and differ between processes.

Processes are drawn with replacement, one fewer than there are, so that the variance between few of them is not
underestimated (Rao and Wu, 1988, "Resampling inference with complex survey data"). Of each, circular blocks of
neighbouring calls are drawn, not single calls (Politis and Romano, 1992, "A circular block-resampling procedure for
stationary data"); they are 2 n^(1/3) calls long, the rate at which the error of a block bootstrap falls fastest.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
_CALLS_AT_ONCE = 4_000_000


def percentiles(
    processes: Sequence[NDArray[np.float64]], percentile: float, random: np.random.Generator
) -> NDArray[np.float64]:
    """The percentile (0 to 100) of each of RESAMPLES resamples of calls (N,), float64 (RESAMPLES,).

    Every process drawn gives the same number of calls, so that a resample is as long as all of them together.
    """
    lengths = np.array([len(one) for one in processes])
    pooled, offsets = np.concatenate(processes), np.cumsum(lengths) - lengths
    drawn = max(1, len(processes) - 1)
    calls = math.ceil(len(pooled) / drawn)
    length = math.ceil(2 * (len(pooled) / len(processes)) ** (1 / 3))
    found = []
    for rows in np.array_split(np.empty(RESAMPLES), 1 + drawn * calls * RESAMPLES // _CALLS_AT_ONCE):
        chosen = random.integers(len(processes), size=(len(rows), drawn, 1, 1))
        starts = random.random((len(rows), drawn, math.ceil(calls / length), 1)) * lengths[chosen]
        within = (starts.astype(np.int64) + np.arange(length)) % lengths[chosen]
        resamples = pooled[(offsets[chosen] + within).reshape(len(rows), drawn, -1)[:, :, :calls]]
        found.append(np.percentile(resamples.reshape(len(rows), -1), percentile, axis=1))
    return np.concatenate(found)


def interval(values: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """The middle `confidence` percent of bootstrap values: low and high."""
    low, high = np.percentile(values, [50 - confidence / 2, 50 + confidence / 2])
    return float(low), float(high)
