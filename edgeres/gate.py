"""Whether a report may pass: it is held against an accepted baseline by rules. Pure functions, nothing is printed.

    top1_drop = 0.3       points of top-1 that a cell may lose against the same cell of the baseline
    agreement = 0.98      least share of images on which an INT8 cell agrees with FP32; the baseline is not asked
    latency_p50 = "5%"    largest growth of p50 against the baseline; latency_p90 and latency_p99 likewise
    size = "+2%"          largest growth of the engine on disk

Sizes, and top-1 on the same images, are exact: beyond the limit is a regression. A latency is not: the same engine
measured twice gives two figures. It is a regression where the growth is beyond the limit (size) *and* a 99 % bootstrap
interval of the ratio of the two percentiles, from the raw samples, lies wholly above 1 (significance). That interval
and not the usual 95 %: one side of the latter alone is wrong in 2.5 % of comparisons, for each cell and each rule.
Timings follow one another, so blocks of neighbours are drawn, not single calls (see `edgeres.bootstrap`); with fewer
than TAIL calls beyond a percentile the bootstrap knows nothing about it.

Inconclusive, never a pass: growth beyond the limit without significance, or measured while unsteady; a latency of
another machine or batch; a top-1 on other images; another number of classes; a figure that the baseline has and the
report lacks; a rule that found nothing to judge. A cell that the baseline does not have passes with a note.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np

from edgeres import bootstrap
from edgeres.errors import UsageError
from edgeres.report.table import megabytes, number, points, same_images
from edgeres.schema import Accuracy, Cell, Latency, Report
from edgeres.types import Precision

RULES: Mapping[str, str] = {
    "top1_drop": "points, as in 0.3",
    "agreement": "a share from 0 to 1, as in 0.98",
    "latency_p50": 'a percentage, as in "5%"',
    "latency_p90": 'a percentage, as in "5%"',
    "latency_p99": 'a percentage, as in "5%"',
    "size": 'a percentage, as in "+2%"',
}
"""The known rules and what each takes."""

TAIL = 10
"""Samples that must lie beyond a percentile: 20 calls for p50, 100 for p90, 1000 for p99."""
_CONFIDENCE, _SEED = 99.0, 0
_EXACT = 1e-9
"""Slack for 84.0 - 83.7 > 0.3 in floating point."""


class Outcome(str, Enum):
    """What a rule found in a cell, and what all of them found together."""

    PASSED = "passed"
    REGRESSED = "regressed"
    INCONCLUSIVE = "inconclusive"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Verdict:
    """One rule on one cell. `measured` and `limit` share the rule's unit: points, a share, or percent of growth.

    `cell` is `target precision`, empty where the rule found no cell; `measured` is None where nothing was compared.
    """

    rule: str
    cell: str
    outcome: Outcome
    measured: float | None
    limit: float
    sentence: str


def compare(report: Report, baseline: Report, rules: Mapping[str, float | str]) -> list[Verdict]:
    """Hold every cell of `report` against the same cell of `baseline`, rule by rule.

    UsageError where there are no rules, for an unknown rule, and for a value that cannot be read.
    """
    if not rules:
        raise UsageError('there is nothing to check; add rules to [check] of the recipe, as in latency_p50 = "5%".')
    limits = {rule: _limit(rule, value) for rule, value in rules.items()}
    return [verdict for rule, limit in limits.items() for verdict in _judge(rule, limit, report, baseline)]


def overall(verdicts: list[Verdict]) -> Outcome:
    """Regressed if any is, else inconclusive if any is or there is none, else passed."""
    found = {verdict.outcome for verdict in verdicts} or {Outcome.INCONCLUSIVE}
    return next(o for o in (Outcome.REGRESSED, Outcome.INCONCLUSIVE, Outcome.PASSED) if o in found)


def _limit(rule: str, value: float | str) -> float:
    if rule not in RULES:
        raise UsageError(f"[check] has no rule {rule!r}; it knows {', '.join(RULES)}.")
    try:
        if isinstance(value, bool) or _is_percentage(rule) != (isinstance(value, str) and value.strip().endswith("%")):
            raise ValueError
        limit = float(value.strip().removesuffix("%") if isinstance(value, str) else value)
        if not 0 <= limit < (1 + _EXACT if rule == "agreement" else math.inf):
            raise ValueError
    except (TypeError, ValueError):
        known = "; ".join(f"{name} takes {taken}" for name, taken in RULES.items())
        raise UsageError(f"[check] cannot read {rule} = {value!r}: {known}.") from None
    return limit


def _is_percentage(rule: str) -> bool:
    return rule == "size" or rule.startswith("latency")


def _judge(rule: str, limit: float, report: Report, baseline: Report) -> list[Verdict]:
    ours, theirs = _cells(report), _cells(baseline)
    verdicts = []
    for name in dict.fromkeys([*ours, *theirs]):
        found = _cell(rule, limit, ours.get(name), theirs.get(name), _obstacle(rule, report, baseline))
        if found:
            outcome, measured, words = found
            verdicts.append(Verdict(rule, name, outcome, measured, limit, f"{name}: {words}"))
    if all(verdict.outcome is Outcome.PASSED and verdict.measured is None for verdict in verdicts):
        words = f"{rule}: no cell has a figure to judge in both reports; run the targets here, or accept a baseline."
        verdicts.append(Verdict(rule, "", Outcome.INCONCLUSIVE, None, limit, words))
    return verdicts


def _cells(report: Report) -> dict[str, Cell]:
    return {f"{cell.target} {cell.precision}": cell for cell in report.cells}


_Found = tuple[Outcome, float | None, str]


def _cell(rule: str, limit: float, ours: Cell | None, theirs: Cell | None, obstacle: str) -> _Found | None:
    """The verdict on one cell; None where the rule says nothing of it."""
    new, old = _figure(rule, ours), _figure(rule, theirs)
    if new is None:
        return None if old is None else (Outcome.INCONCLUSIVE, None, _absent(rule, ours))
    if rule == "agreement":
        return _agreement(new, limit, "" if old is not None else "; new, the baseline has none")
    if ours is None or theirs is None or old is None:
        return Outcome.PASSED, None, f"new, the baseline has nothing to hold {rule} against; accept a new one."
    if obstacle:
        return Outcome.INCONCLUSIVE, None, f"{rule} cannot be compared: {obstacle}."
    if rule == "top1_drop":
        return _top1(new, old, limit, ours.accuracy, theirs.accuracy)
    if rule == "size":
        return _size(new, old, limit)
    return _latency(rule, new, old, limit, ours.latency, theirs.latency)


def _obstacle(rule: str, report: Report, baseline: Report) -> str:
    """What keeps a whole report from being compared; empty where nothing does."""
    if report.model.classes != baseline.model.classes:
        return f"the model has {report.model.classes} classes, the baseline's {baseline.model.classes}"
    if rule.startswith("latency") and report.machine.identity != baseline.machine.identity:
        return f"measured on {report.machine.identity}, the baseline on {baseline.machine.identity}"
    return ""


def _figure(rule: str, cell: Cell | None) -> float | None:
    """What a rule looks at; None where the cell does not have it, or has no number."""
    if cell is None or cell.status == "failed":
        return None
    value: float | None = None
    if rule == "size":
        value = cell.size
    elif rule == "top1_drop" and cell.accuracy:
        value = cell.accuracy.top1
    elif rule == "agreement" and cell.accuracy and cell.precision is Precision.INT8:
        value = cell.accuracy.agreement
    elif rule.startswith("latency") and cell.latency:
        value = {"p50": cell.latency.p50, "p90": cell.latency.p90, "p99": cell.latency.p99}[rule[-3:]]
    if value is None or not math.isfinite(value):
        return None
    return None if value <= 0 and _is_percentage(rule) else value


def _absent(rule: str, cell: Cell | None) -> str:
    if cell is None:
        return f"the baseline has it, the report does not; {rule} is not known."
    why = f"{cell.status}, {cell.message.rstrip('.')}" if cell.message else cell.status
    return f"the baseline has a figure for {rule}, the report has none ({why})."


def _agreement(share: float, limit: float, note: str) -> _Found:
    beyond = share < limit - _EXACT
    words = f"agrees with FP32 on {share:.2%} of the images, {'below' if beyond else 'at least'} {limit:.2%}{note}."
    return _outcome(beyond), share, words


def _top1(new: float, old: float, limit: float, ours: Accuracy | None, theirs: Accuracy | None) -> _Found:
    if ours is None or theirs is None or not same_images(ours, theirs):
        return Outcome.INCONCLUSIVE, None, "top-1 was found on other images than the baseline's; evaluate on the same."
    drop = 100 * (old - new)
    beyond = drop > limit + _EXACT
    change = f"lost {points(drop)} points, {'more than' if beyond else 'within'} {limit:g}"
    if drop < _EXACT:
        change = f"gained {points(-drop)} points" if drop < -_EXACT else "did not change"
    return _outcome(beyond), drop, f"top-1 {change} ({old:.2%} to {new:.2%})."


def _size(new: float, old: float, limit: float) -> _Found:
    growth, beyond, change = _growth(new, old, limit)
    return _outcome(beyond), growth, f"size {change} ({megabytes(old)} to {megabytes(new)} MB)."


def _latency(rule: str, new: float, old: float, limit: float, ours: Latency | None, theirs: Latency | None) -> _Found:
    if ours is None or theirs is None or ours.batch != theirs.batch:
        return Outcome.INCONCLUSIVE, None, f"{rule} cannot be compared: the batch differs; measure both at one."
    growth, beyond, change = _growth(new, old, limit)
    words = f"{rule.removeprefix('latency_')} {change} ({number(old)} to {number(new)} ms)"
    if beyond and (doubt := _doubt(ours, theirs, int(rule[-2:]))):
        return Outcome.INCONCLUSIVE, growth, f"{words}, but {doubt}."
    return _outcome(beyond), growth, f"{words}."


def _outcome(beyond: bool) -> Outcome:
    return Outcome.REGRESSED if beyond else Outcome.PASSED


def _growth(new: float, old: float, limit: float) -> tuple[float, bool, str]:
    """Growth in percent, whether that is beyond the limit, and in words."""
    growth = 100 * (new / old - 1)
    beyond = growth > limit + _EXACT
    if growth < 0.05 and not beyond:
        return growth, beyond, f"shrank by {-growth:.1f} %" if growth < -0.05 else "did not change"
    return growth, beyond, f"grew by {growth:.1f} %, {'more than' if beyond else 'within'} {limit:g} %"


def _doubt(ours: Latency, theirs: Latency, percentile: int) -> str:
    """Why growth beyond the limit is no proof; empty where it is one."""
    if not (ours.stable and theirs.stable):
        return "a latency was not steady; measure again on a quiet machine"
    needed = round(TAIL * 100 / (100 - percentile))
    if min(len(ours.samples), len(theirs.samples)) < needed:
        return f"that takes at least {needed} calls in each report to be sure of; measure more"
    low, high = ratio_interval(ours.samples, theirs.samples, percentile)
    return f"the ratio may be anywhere from {low:.3f} to {high:.3f}; measure more calls" if low <= 1 else ""


def ratio_interval(ours: list[float], theirs: list[float], percentile: float) -> tuple[float, float]:
    """99 % bootstrap interval of the ratio of one percentile of two series of timings, ours above."""
    random = np.random.default_rng(_SEED)
    above, below = (bootstrap.percentiles([np.asarray(one)], percentile, random) for one in (ours, theirs))
    return bootstrap.interval(above / below, _CONFIDENCE)
