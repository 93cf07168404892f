"""Whether two measured latencies differ by more than chance.

The same engine measured twice gives two figures, and two processes differ by more than two calls of one do. So a
process counts as one observation, however many calls it timed: Student's 99 % interval of the ratio of the two reports'
mean log percentiles of a process, with one variance for both (the machine is the same), must lie wholly above 1. That
interval and not the usual 95 %: one side of the latter alone is wrong in 2.5 % of comparisons, for each cell and each
rule. Fewer than PROCESSES processes in a report, or than TAIL calls beyond a percentile, know nothing about it.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeres.bootstrap import student
from edgeres.schema import Latency

TAIL = 10
"""Samples that must lie beyond a percentile: 20 calls for p50, 100 for p90, 1000 for p99."""
PROCESSES = 3
CONFIDENCE = 99.0


def doubtful(ours: Latency, theirs: Latency, percentile: int) -> str:
    """Why growth beyond the limit is no proof; empty where it is one."""
    if not (ours.stable and theirs.stable):
        return "a latency was not steady; measure again on a quiet machine"
    needed = round(TAIL * 100 / (100 - percentile))
    if min(len(ours.samples), len(theirs.samples)) < needed:
        return f"that takes at least {needed} calls in each report to be sure of; measure more"
    above, below = _processes(ours), _processes(theirs)
    if min(len(above), len(below)) < PROCESSES:
        return f"that takes at least {PROCESSES} processes in each report to be sure of; measure more rounds"
    low, high = ratio_interval(above, below, percentile)
    return f"the ratio may be anywhere from {low:.3f} to {high:.3f}; measure more rounds" if low <= 1 else ""


def ratio_interval(
    ours: Sequence[NDArray[np.float64]], theirs: Sequence[NDArray[np.float64]], percentile: float
) -> tuple[float, float]:
    """99 % interval of the ratio of one percentile of two latencies, ours above: the timings of each process."""
    above, below = (np.log([np.percentile(one, percentile) for one in rounds]) for rounds in (ours, theirs))
    freedom = len(above) + len(below) - 2
    squares = ((above - above.mean()) ** 2).sum() + ((below - below.mean()) ** 2).sum()
    error = math.sqrt(squares / freedom * (1 / len(above) + 1 / len(below)))
    centre, half = above.mean() - below.mean(), student(CONFIDENCE, freedom) * error
    return math.exp(centre - half), math.exp(centre + half)


def _processes(latency: Latency) -> list[NDArray[np.float64]]:
    """The timings of each process; none where the report does not tell them apart."""
    if not latency.rounds or min(latency.rounds) < 1 or sum(latency.rounds) != len(latency.samples):
        return []
    return np.split(np.array(latency.samples), np.cumsum(latency.rounds)[:-1])
