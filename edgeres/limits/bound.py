"""The most images a second of an engine whose 99th percentile of latency stays under a bound.

More images a call and more calls at once give more images a second, and each of them waits longer. Callers, one a
stream, ask again as soon as they are answered (a closed loop), each point in fresh processes. A point holds the bound
where all of the interval of its p99 does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from edgeres import bootstrap, machine, measure
from edgeres.measure import Load, Subject

ROUNDS = 3
MOST = 64
"""Images a call at most."""


@dataclass(frozen=True)
class Point:
    """A batch and a number of streams, as measured; milliseconds are those of a call, host to host. `confirmed` where
    it was measured again because it was the best."""

    load: Load
    confirmed: bool = False

    @property
    def calls(self) -> int:
        return sum(map(len, self.load.samples))

    @cached_property
    def p50(self) -> float:
        return float(np.percentile(np.concatenate(self.load.samples), 50))

    @cached_property
    def p99(self) -> float:
        return float(np.percentile(np.concatenate(self.load.samples), 99))

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % of the p99, over processes and blocks of neighbouring calls."""
        return bootstrap.interval([np.array(one) for one in self.load.samples], 99)


@dataclass(frozen=True)
class Curve:
    """Every point that was measured, and the `bound` of p99 in milliseconds."""

    points: tuple[Point, ...]
    bound: float

    def holds(self, point: Point) -> bool:
        """Whether the p99 is surely within the bound."""
        return point.interval[1] <= self.bound

    @cached_property
    def best(self) -> Point | None:
        """The most images a second of those that hold; None where none does."""
        return max(filter(self.holds, self.points), key=lambda one: one.load.images_per_second, default=None)

    @cached_property
    def front(self) -> list[Point]:
        """Those that no other beats in both p99 and images a second, the quickest answer first."""
        found: list[Point] = []
        for point in sorted(self.points, key=lambda one: (one.p99, -one.load.images_per_second)):
            if not found or point.load.images_per_second > found[-1].load.images_per_second:
                found.append(point)
        return found


def search(
    subject: Subject,
    bound: float,
    rounds: int = ROUNDS,
    progress: Callable[[int], object] = lambda processes: None,
) -> Curve:
    """Measure batches and streams until none that was left out could hold the bound with more images a second.

    For each number of streams the batch is doubled while the median keeps the bound, then the gap between the largest
    batch that holds it and the smallest that does not is halved. A fixed batch is the engine's own. What looks best of
    many is partly luck: it is measured once more, and that counts in place of the first time. Raises as
    `measure.under_load`.
    """

    def measured(streams: int, batch: int) -> Load:
        return measure.under_load(replace(subject, streams=streams, batch=batch), rounds, progress)

    curve = Curve((), bound)
    for streams in _streams(subject.threads or machine.cores()):

        def at(batch: int, streams: int = streams) -> Point:
            return Point(measured(streams, batch))

        first = at(1)
        if first.load.streams < streams:  # the runtime has no more of them: that was measured already
            break
        curve = replace(curve, points=(*curve.points, *([first] if first.load.fixed else _batches(first, at, curve))))
    while (best := curve.best) and not best.confirmed:
        again = Point(measured(best.load.streams, best.load.batch), confirmed=True)
        curve = replace(curve, points=tuple(again if point is best else point for point in curve.points))
    return curve


def _batches(first: Point, at: Callable[[int], Point], curve: Curve) -> list[Point]:
    """The points of one number of streams."""
    found = [first]
    while curve.holds(found[-1]) and found[-1].load.batch < MOST:
        found.append(at(2 * found[-1].load.batch))
    low = max((one.load.batch for one in found if curve.holds(one)), default=0)
    high = found[-1].load.batch
    while low and high - low > max(1, low // 4):
        found.append(at((low + high) // 2))
        low, high = (found[-1].load.batch, high) if curve.holds(found[-1]) else (low, found[-1].load.batch)
    return found


def _streams(cores: int) -> Sequence[int]:
    """1, 2, 4, ... and as many as there are cores."""
    return sorted({cores, *(2**power for power in range(cores.bit_length()))})
