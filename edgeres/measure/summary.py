"""Rounds become figures, with what makes them doubtful in plain words."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres import bootstrap
from edgeres.measure.child import WARM_LONGEST, Subject
from edgeres.schema import Latency, Throughput

SPREAD = 0.25
"""Interquartile range over median, and difference of the rounds' medians, above which figures are called unstable."""
DRIFT = 0.05
"""Change of the median over a round, or from the first round to the last, that is called a drift if it has a trend."""
TREND = 2.58
"""Standard normal deviate of a trend's test: 1 % of steady series have one as large."""
BLOCKS = 8
"""Parts of a round whose medians are tested for a trend."""
OTHERS, STOLEN = 0.1, 0.02
"""Shares of the cores, busy with other processes or other guests, above which they disturb."""
SWITCHES = 100.0
"""Involuntary context switches a second above which other threads wanted the cores."""
TAIL = 1000
"""Fewest calls for p99.9."""


@dataclass(frozen=True)
class Measured:
    """The latency and what the runtime said that it ran."""

    latency: Latency
    properties: dict[str, str]


def summary(subject: Subject, rounds: Sequence[dict[str, Any]], throughputs: Sequence[dict[str, Any]]) -> Measured:
    """Pool the samples of all rounds, see `child.latency`, and say what makes them doubtful."""
    batch = int(rounds[0]["batch"])
    series = [np.array(one["samples"]) for one in rounds]
    pooled = np.concatenate(series)
    p50, p90, p99, p999 = np.percentile(pooled, [50, 90, 99, 99.9])
    device = [milliseconds for one in rounds for milliseconds in one["device"]]
    notes = list(doubts(subject, rounds))
    latency = Latency(
        p50=p50,
        p50_interval=bootstrap.interval(series, 50),
        p90=p90,
        p99=p99,
        p999=p999 if len(pooled) >= TAIL else None,
        device_p50=float(np.median(device)) if device else None,
        batch=batch,
        throughput=batch * len(pooled) / (pooled.sum() / 1e3),
        samples=[round(float(sample), 4) for sample in pooled],
        rounds=[len(one) for one in series],
        throughputs=[Throughput.model_validate(one) for one in throughputs],
        peak_rss_mb=max((one["peak_rss_mb"] for one in rounds if one["peak_rss_mb"]), default=None),
        energy_mj=_mean([one["energy_mj"] for one in rounds if one["energy_mj"]]),
        warmup=sum(one["warmup"] for one in rounds),
        stable=not notes,
        notes=notes,
    )
    return Measured(latency, rounds[0]["properties"])


def doubts(subject: Subject, rounds: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A sentence for each thing that makes the figures of rounds doubtful."""
    series = [np.array(one["samples"]) for one in rounds]
    p25, p50, p75 = np.percentile(np.concatenate(series), [25, 50, 75])
    medians = [float(np.median(one)) for one in series]
    if (p75 - p25) / p50 > SPREAD:
        yield f"The middle half of the calls spreads over {(p75 - p25) / p50:.0%} of the median."
    if max(medians) / min(medians) - 1 > SPREAD:
        yield f"The medians of the rounds lie between {min(medians):.2f} and {max(medians):.2f} ms."
    if not all(one["steady"] for one in rounds):
        yield f"A warm-up was not steady after {WARM_LONGEST:g} s."
    yield from _drifts(series, medians)
    yield from _swaps(subject, [one["properties"] for one in rounds])
    yield from _crowding(_threads(rounds[0]["properties"]), [one["conditions"] for one in rounds])


def _drifts(series: Sequence[NDArray[np.float64]], medians: Sequence[float]) -> Iterator[str]:
    change, ordered = medians[-1] / medians[0] - 1, sorted(medians)
    if len(medians) > 2 and list(medians) in (ordered, ordered[::-1]) and abs(change) > DRIFT:
        yield f"The median drifts by {change:+.0%} from the first round to the last: clock or heat."
    blocks = [[float(np.median(part)) for part in np.array_split(one, min(BLOCKS, len(one)))] for one in series]
    change = float(np.median([parts[-1] / parts[0] - 1 for parts in blocks]))
    if abs(change) > DRIFT and abs(trend(blocks)) > TREND:
        yield f"Calls drift by {change:+.0%} within a round: clock or heat."


def trend(series: Sequence[Sequence[float]]) -> float:
    """The standard normal deviate of a common trend of several series, above zero where they rise.

    The seasonal Kendall test (Hirsch, Slack and Smith, 1982, "Techniques of trend analysis for monthly water quality
    data"): Kendall's S and its variance are summed over the series; no difference between series counts.
    """
    score, variance = 0.0, 0.0
    for one in series:
        values, n = np.array(one), len(one)
        score += float(np.triu(np.sign(values[None, :] - values[:, None])).sum())
        variance += n * (n - 1) * (2 * n + 5) / 18
    return score / math.sqrt(variance) if variance else 0.0


def _swaps(subject: Subject, properties: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Where the rounds ran differently, or not as asked."""
    for name in sorted({name for one in properties for name in one}):
        found = list(dict.fromkeys(one.get(name, "nothing") for one in properties))
        if len(found) > 1:
            yield f"The rounds did not run alike: {name} was {' and '.join(found)}."
    told = _threads(properties[0])
    if subject.threads and told and told != subject.threads:
        yield f"The runtime took {told} threads, not the {subject.threads} that were asked for."


def _threads(properties: Mapping[str, str]) -> int:
    """The threads that a runtime says it has, 0 where it does not."""
    told = properties.get("threads", "")
    return int(told) if told.isdecimal() else 0


def _crowding(told: int, found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Where threads, those the runtime told or those seen to work, had to wait: for their own kind, or for others."""
    cores, threads = found[0]["cores"], max(told, *(one["threads"] for one in found))
    if threads > math.ceil(cores):
        yield f"{threads} threads shared {cores:g} cores: ask for fewer, with --threads."
    others = max((one["others"] or 0.0 for one in found), default=0.0)
    stolen = max((one["stolen"] or 0.0 for one in found), default=0.0)
    switches = max((one["switches"] or 0.0 for one in found), default=0.0)
    if others > OTHERS * cores:
        yield f"Other processes kept up to {others:.1f} of {cores:g} cores busy."
    if stolen > STOLEN * cores:
        yield f"Other guests of the host took up to {stolen:.2f} of {cores:g} cores."
    if switches > SWITCHES and threads <= cores and others <= OTHERS * cores:
        yield f"Threads were put off their cores {switches:.0f} times a second."


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
