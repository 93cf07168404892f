"""Candidates measured in turn, round after round; one that is surely slower than the leader is dropped.

A round measures every candidate that is left once, in an order that turns, so that what the machine does meanwhile is
the same for all. What counts is the ratio to the leader within a round. Racing: Maron and Moore, 1997, "The Racing
Algorithm"; the bound is Student's on the logarithms of the ratios.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np

from edgeres.bootstrap import student

FEWEST, MOST = 4, 12
"""Rounds before one may be dropped, and after which the race ends."""
CONFIDENCE = 99.0
"""Percent of races in which no interval misses: each look at each rival may miss in its part of the rest
(Bonferroni)."""

EQUAL = 1.01
"""A ratio that nobody would choose by."""

T = TypeVar("T")
Against = Callable[[int, int], tuple[float, float, float]]


@dataclass(frozen=True)
class Lane(Generic[T]):
    """One candidate's race: `times` of its rounds, ms; `ratio` to the leader's, with its interval; `dropped` where it
    was called off as surely slower."""

    candidate: T
    times: tuple[float, ...]
    ratio: float = 1.0
    interval: tuple[float, float] = (1.0, 1.0)
    dropped: bool = False

    @property
    def p50(self) -> float:
        """The median of the rounds, ms."""
        return float(np.median(self.times))


def race(
    candidates: Sequence[T],
    measure: Callable[[T], float],
    known: Callable[[T], Sequence[float]] = lambda candidate: (),
    enough: Callable[[], bool] = lambda: False,
) -> list[Lane[T]]:
    """Who is fastest, the first; the others by how far they are behind.

    `measure` gives milliseconds of one round of a candidate; `known` those of rounds that were measured before, which
    are not measured again; when `enough` says so, no round is begun. Of candidates that are within EQUAL of the fastest
    and cannot be told from it the first wins.
    """
    times: dict[int, list[float]] = {index: [] for index in range(len(candidates))}
    alive = list(times)
    looks = (MOST - FEWEST + 1) * max(1, len(candidates) - 1)
    against = partial(_against, times, 100 - (100 - CONFIDENCE) / looks)
    for turn in range(MOST):
        if turn >= FEWEST and (len(alive) == 1 or enough()):
            break
        for index in alive[turn % len(alive) :] + alive[: turn % len(alive)]:
            before = known(candidates[index])
            times[index].append(before[turn] if turn < len(before) else measure(candidates[index]))
        if turn + 1 >= FEWEST:
            leader = _leader(alive, times, against)
            alive = [index for index in alive if index == leader or against(index, leader)[1] <= 1]
    leader = _leader(alive, times, against)
    lanes = []
    for index, candidate in enumerate(candidates):
        ratio, low, high = against(index, leader)
        lanes.append(Lane(candidate, tuple(times[index]), ratio, (low, high), index not in alive))
    return sorted(lanes, key=lambda lane: (lane.dropped, lane.candidate is not candidates[leader], lane.ratio))


def _leader(alive: Sequence[int], times: Mapping[int, Sequence[float]], against: Against) -> int:
    """The fastest, or the first of those that are as fast for any purpose: later candidates must earn their place."""
    fastest = min(alive, key=lambda index: np.median(times[index]))

    def equal(index: int) -> bool:
        ratio, low, _ = against(index, fastest)
        return ratio <= EQUAL and low <= 1

    return next(index for index in alive if index == fastest or equal(index))


def _against(
    times: Mapping[int, Sequence[float]], confidence: float, index: int, leader: int
) -> tuple[float, float, float]:
    """The ratio of a candidate's time to the leader's over the rounds that both ran, and its interval."""
    logs = np.array([math.log(one / other) for one, other in zip(times[index], times[leader], strict=False)])
    centre, half = float(logs.mean()), math.inf
    if len(logs) > 1:
        half = student(confidence, len(logs) - 1) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    low, high = (math.exp(min(max(centre + side, -50.0), 50.0)) for side in (-half, half))
    return math.exp(centre), low, high
