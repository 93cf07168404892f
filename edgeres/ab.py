"""Whether one engine is slower than another, on a machine whose speed is not steady: both in turn, in one job.

Two reports of two hours differ by what the machine did in them. Here each round measures both engines in one fresh
process, a few milliseconds in turn (see `edgeres.measure.ratio`), so that what lasts longer is the same for both. A
round gives one number, the ratio. Where the engines are alike it is as likely above 1 as below by any factor, whatever
the noise is like, since a coin decides which is the first. Wilcoxon's signed-rank test asks no more than that: its
error rate is exact and outliers do not move it (Wilcoxon, 1945, "Individual Comparisons by Ranking Methods"; the
interval is that of Hodges and Lehmann, 1963, "Estimates of Location Based on Rank Tests").

It is looked at after LOOKS rounds, until it is decided. Each look may be wrong in ALPHA / len(LOOKS) of the cases, so
that all of them together call an engine slower that is not in at most ALPHA of them (Bonferroni).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

from edgeres import report as reports
from edgeres.errors import UsageError
from edgeres.gate import Outcome, Verdict
from edgeres.measure import Subject, ratio
from edgeres.progress import Progress, Silent
from edgeres.types import Target

LOOKS = (10, 20, 40)
ALPHA = 0.005
"""One-sided, as that of `edgeres.gate`."""
BETA = 0.05
"""Chance, at each look, of passing an engine that is slower by just more than the limit."""
RULE = "latency_p50"


@dataclass(frozen=True)
class Decision:
    """`growth` of head over base, `low` and `high` (99.7 % interval) in percent, after so many rounds."""

    outcome: Outcome
    growth: float
    low: float
    high: float
    rounds: int


def decide(rounds: Iterable[float], limit: float) -> Decision:
    """Take rounds, each the ratio of head's latency to base's, until it is known how it lies to `limit`, in percent, or
    the last look is reached.

    Regressed: growth beyond the limit, and surely some. Passed: growth surely within the limit. Inconclusive: neither,
    at the last look. ValueError where the rounds end before.
    """
    ratios: list[float] = []
    for one in rounds:
        ratios.append(math.log(one))
        if len(ratios) not in LOOKS:
            continue
        growth, low, high = interval(ratios)
        _, _, most = interval(ratios, BETA)
        outcome = Outcome.INCONCLUSIVE
        if low > 0 and growth > limit:
            outcome = Outcome.REGRESSED
        elif most < limit:
            outcome = Outcome.PASSED
        if outcome is not Outcome.INCONCLUSIVE or len(ratios) == LOOKS[-1]:
            return Decision(outcome, growth, low, high, len(ratios))
    raise ValueError(f"{len(ratios)} rounds decide nothing; {LOOKS[-1]} always do")


def interval(ratios: Sequence[float], alpha: float = ALPHA / len(LOOKS)) -> tuple[float, float, float]:
    """The growth in percent behind logarithms of ratios, and bounds each of which at most `alpha` of the cases break:
    none where so few rounds cannot tell."""
    walsh, out = _walsh(np.array(ratios)), _trimmed(len(ratios), alpha)
    growth = 100 * math.expm1(float(np.median(walsh)))
    if out < 0:
        return growth, -100.0, math.inf
    return growth, 100 * math.expm1(walsh[out]), 100 * math.expm1(walsh[-1 - out])


def _walsh(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The means of all pairs, each value with itself, too, in order: their median estimates the centre."""
    one, other = np.triu_indices(len(values))
    return np.sort((values[one] + values[other]) / 2)


@lru_cache
def _trimmed(n: int, alpha: float) -> int:
    """How many of the smallest means of pairs lie below a one-sided bound that `alpha` of the cases break.

    The bound's place is the quantile of the sum of the ranks 1 to n, each counted or not by a fair coin.
    """
    chances = np.ones(1)
    for rank in range(1, n + 1):
        chances = (np.pad(chances, (0, rank)) + np.pad(chances, (rank, 0))) / 2
    return int(np.searchsorted(np.cumsum(chances), alpha, "right")) - 1


def compare(
    base: Path,
    head: Path,
    limit: float,
    target: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[Verdict]:
    """Measure two engines for `target`, or every measured engine of the run folder `base` and the same of `head`, in
    turn until it is decided whether the p50 of head's grew by more than `limit` percent.

    Inconclusive where `head` lacks an engine. UsageError where the target is missing, where a folder has no report or
    no measured engine, and where two engines run at different batches; raises what measuring raises.
    """
    if base.is_dir() != head.is_dir() or base.is_dir() == bool(target):
        raise UsageError("give two engines and their --target, or two run folders, which know their targets.")
    verdicts = []
    for name, first, second in _engines(base, head, target, threads):
        if second is None:
            sentence = f"{name}: the base has an engine, {head} has none; its latency is not known."
            verdicts.append(Verdict(RULE, name, Outcome.INCONCLUSIVE, None, limit, sentence))
            continue
        with (progress or Silent()).step(f"measure {name}", LOOKS[-1]) as advance:
            verdicts.append(_verdict(name, decide(rounds(first, second, advance), limit), limit))
    return verdicts


def _verdict(name: str, found: Decision, limit: float) -> Verdict:
    where = f"{found.low:+.1f} to {found.high:+.1f} % in {found.rounds} rounds"
    words = {
        Outcome.PASSED: f"p50 changed by {found.growth:+.1f} %, within {limit:g} % ({where})",
        Outcome.REGRESSED: f"p50 grew by {found.growth:.1f} %, more than {limit:g} % ({where})",
        Outcome.INCONCLUSIVE: f"p50 changed by {found.growth:+.1f} %, but that is not sure ({where}); "
        "measure on a quieter machine",
    }[found.outcome]
    return Verdict(RULE, name, found.outcome, found.growth, limit, f"{name}: {words}.")


def rounds(base: Subject, head: Subject, advance: Callable[[int], object]) -> Iterator[float]:
    """The ratio of head's latency to base's, round after round; a coin says which of them is loaded first."""
    coin = Random(0)
    while True:
        yield 1 / ratio(head, base) if coin.random() < 0.5 else ratio(base, head)
        advance(1)


def _engines(
    base: Path, head: Path, target: str | None, threads: int | None
) -> Iterator[tuple[str, Subject, Subject | None]]:
    """The name of each pair, its base and its head: None where a cell that was measured of `base` has none."""
    if target:
        device = Target.parse(target)
        yield target, Subject(base, device, threads=threads), Subject(head, device, threads=threads)
        return
    here, there = (
        {(c.target, c.precision): c for c in reports.load(folder).cells if not c.device} for folder in (base, head)
    )
    measured = [cell for cell in here.values() if cell.latency and cell.engine]
    if not measured:
        raise UsageError(f"{base} has no measured engine to compare with; run its recipe on this machine.")
    for cell in measured:
        device, batch = Target.parse(cell.target), cell.latency.batch if cell.latency else 1
        told = cell.properties.get("threads", "")
        used = threads or (int(told) if told.isdecimal() else None)
        other = there.get((cell.target, cell.precision))
        name = other.engine if other and other.status != "failed" else None
        subject = Subject(head / name, device, batch, used) if name else None
        yield f"{cell.target} {cell.precision}", Subject(base / str(cell.engine), device, batch, used), subject
