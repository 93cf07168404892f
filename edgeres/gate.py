"""Whether a report may pass: it is held against an accepted baseline by rules. Pure functions, nothing is printed.

    top1_drop = 0.3       points of top-1 that a cell may lose against the same cell of the baseline
    agreement = 0.98      least share of images on which an INT8 cell agrees with FP32; the baseline is not asked
    map_drop = 0.3        points of mAP, of multi-label networks
    mae_rise = "1%"       largest growth of the mean absolute error, of regression
    cosine = 0.99         least mean cosine of an INT8 cell's embeddings to FP32's; recall_at_1 = 0.95 likewise
    latency_p50 = "5%"    largest growth of p50 against the baseline; latency_p90 and latency_p99 likewise
    size = "+2%"          largest growth of the engine on disk

A size is exact: beyond the limit is a regression. What is measured is not: it regressed where it is beyond the limit
(size) *and* cannot be chance (significance).

Latency: see `edgeres.significance`. What differs between the two hours at which two reports were made no statistics can
see: see `edgeres.ab`.

Top-1, on the same images: a drop beyond the limit of an INT8 cell that is not worse than FP32 of the same network
(McNemar's test, p above CHANCE) is chance. Any other drop beyond the limit is counted image by image, and regressed.
So it is with mAP and MAE, where the bootstrap interval of the difference to FP32 says whether a cell is worse.

Inconclusive, never a pass: growth beyond the limit without significance, or measured while unsteady; a latency of
another machine or batch; a top-1 on other images; another number of classes; a figure that the baseline has and the
report lacks; a rule that found nothing to judge. A cell that the baseline does not have passes with a note.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from edgeres.errors import UsageError
from edgeres.figures import megabytes, number, points
from edgeres.schema import Accuracy, Cell, Latency, Report, Score
from edgeres.significance import doubtful
from edgeres.types import Precision

RULES: Mapping[str, str] = {
    "top1_drop": "points, as in 0.3",
    "agreement": "a share from 0 to 1, as in 0.98",
    "map_drop": "points, as in 0.3",
    "mae_rise": 'a percentage, as in "1%"',
    "cosine": "a number from 0 to 1, as in 0.99",
    "recall_at_1": "a share from 0 to 1, as in 0.95",
    "latency_p50": 'a percentage, as in "5%"',
    "latency_p90": 'a percentage, as in "5%"',
    "latency_p99": 'a percentage, as in "5%"',
    "size": 'a percentage, as in "+2%"',
}
"""The known rules and what each takes."""

FLOORS = ("agreement", "cosine", "recall_at_1")
"""Rules that hold an INT8 cell to its FP32, without a baseline."""
SCORES = {
    "agreement": "agreement",
    "map_drop": "mAP",
    "mae_rise": "MAE",
    "cosine": "cosine",
    "recall_at_1": "recall@1",
}
"""The score that a rule looks at, of a task other than classification."""

CHANCE = 0.05
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
    return [verdict for rule, limit in limits(rules).items() for verdict in _judge(rule, limit, report, baseline)]


def limits(rules: Mapping[str, float | str]) -> dict[str, float]:
    """The limit of each rule; UsageError where there are no rules, for an unknown one, and for a value that cannot be
    read."""
    if not rules:
        raise UsageError('there is nothing to check; add rules to [check] of the recipe, as in latency_p50 = "5%".')
    return {rule: read(rule, value) for rule, value in rules.items()}


def overall(verdicts: list[Verdict]) -> Outcome:
    """Regressed if any is, else inconclusive if any is or there is none, else passed."""
    found = {verdict.outcome for verdict in verdicts} or {Outcome.INCONCLUSIVE}
    return next(o for o in (Outcome.REGRESSED, Outcome.INCONCLUSIVE, Outcome.PASSED) if o in found)


def read(rule: str, value: float | str) -> float:
    """A rule's limit in its own unit; UsageError for an unknown rule and for a value that cannot be read."""
    if rule not in RULES:
        raise UsageError(f"[check] has no rule {rule!r}; it knows {', '.join(RULES)}.")
    try:
        if isinstance(value, bool) or _is_percentage(rule) != (isinstance(value, str) and value.strip().endswith("%")):
            raise ValueError
        limit = float(value.strip().removesuffix("%") if isinstance(value, str) else value)
        if not 0 <= limit < (1 + _EXACT if rule in FLOORS else math.inf):
            raise ValueError
    except (TypeError, ValueError):
        raise UsageError(f"[check] cannot read {rule} = {value!r}: it takes {RULES[rule]}.") from None
    return limit


def _is_percentage(rule: str) -> bool:
    return rule in ("size", "mae_rise") or rule.startswith("latency")


def _judge(rule: str, limit: float, report: Report, baseline: Report) -> list[Verdict]:
    ours, theirs = _cells(report), _cells(baseline)
    same_network = report.model.digest == baseline.model.digest
    verdicts = []
    for name in dict.fromkeys([*ours, *theirs]):
        cell = ours.get(name, theirs.get(name))
        obstacle = _obstacle(rule, report, baseline, cell.device if cell else None)
        found = _cell(rule, limit, ours.get(name), theirs.get(name), obstacle, same_network)
        if found:
            outcome, measured, words = found
            verdicts.append(Verdict(rule, name, outcome, measured, limit, f"{name}: {words}"))
    if all(verdict.outcome is Outcome.PASSED and verdict.measured is None for verdict in verdicts):
        words = f"{rule}: no cell has a figure to judge in both reports; run the targets here, or accept a baseline."
        verdicts.append(Verdict(rule, "", Outcome.INCONCLUSIVE, None, limit, words))
    return verdicts


def _cells(report: Report) -> dict[str, Cell]:
    return {f"{cell.place} {cell.precision}": cell for cell in report.cells}


_Found = tuple[Outcome, float | None, str]


def _cell(
    rule: str, limit: float, ours: Cell | None, theirs: Cell | None, obstacle: str, same_network: bool
) -> _Found | None:
    """The verdict on one cell; None where the rule says nothing of it."""
    new, old = _figure(rule, ours), _figure(rule, theirs)
    if new is None:
        return None if old is None else (Outcome.INCONCLUSIVE, None, _absent(rule, ours))
    if rule in FLOORS:
        return _floor(rule, new, limit, "" if old is not None else "; new, the baseline has none")
    if ours is None or theirs is None or old is None:
        return Outcome.PASSED, None, f"new, the baseline has nothing to hold {rule} against; accept a new one."
    if obstacle:
        return Outcome.INCONCLUSIVE, None, f"{rule} cannot be compared: {obstacle}."
    if rule == "top1_drop":
        return _top1(new, old, limit, ours.accuracy, theirs.accuracy, same_network)
    if rule in SCORES:
        return _scored(new, old, limit, _score(rule, ours), _score(rule, theirs), same_network)
    if rule == "size":
        return _size(new, old, limit)
    if (here := ours.properties.get("threads")) != (there := theirs.properties.get("threads")):
        words = f"{rule} cannot be compared: {here} threads, the baseline {there}; measure both with as many."
        return Outcome.INCONCLUSIVE, None, words
    return _latency(rule, new, old, limit, ours.latency, theirs.latency)


def _obstacle(rule: str, report: Report, baseline: Report, device: str | None) -> str:
    """What keeps the cells of a device, None: of the reports' machine, from being compared; empty: nothing."""
    if report.model.task != baseline.model.task:
        return f"the model is for {report.model.task}, the baseline's for {baseline.model.task}"
    if report.model.classes != baseline.model.classes:
        return f"the model has {report.model.classes} classes, the baseline's {baseline.model.classes}"
    here, there = (one.devices.get(device) if device else one.machine for one in (report, baseline))
    if rule.startswith("latency") and here and there and here.identity != there.identity:
        return f"measured on {here.identity}, the baseline on {there.identity}"
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
    elif rule in FLOORS and cell.precision is not Precision.INT8:
        return None
    elif rule == "agreement" and cell.accuracy:
        value = cell.accuracy.agreement
    elif score := _score(rule, cell):
        value = score.value
    elif rule.startswith("latency") and cell.latency:
        value = {"p50": cell.latency.p50, "p90": cell.latency.p90, "p99": cell.latency.p99}[rule[-3:]]
    if value is None or not math.isfinite(value):
        return None
    return None if value <= 0 and _is_percentage(rule) else value


def _score(rule: str, cell: Cell) -> Score | None:
    return next((score for score in cell.scores if score.name == SCORES.get(rule)), None)


def _absent(rule: str, cell: Cell | None) -> str:
    if cell is None:
        return f"the baseline has it, the report does not; {rule} is not known."
    why = f"{cell.status}, {cell.message.rstrip('.')}" if cell.message else cell.status
    return f"the baseline has a figure for {rule}, the report has none ({why})."


def _floor(rule: str, value: float, limit: float, note: str) -> _Found:
    beyond = value < limit - _EXACT
    words = {
        "agreement": f"agrees with FP32 on {value:.2%} of the images",
        "cosine": f"has a mean cosine to FP32 of {value:.5f}",
        "recall_at_1": f"finds FP32's nearest image for {value:.2%}",
    }[rule]
    least = f"{limit:g}" if rule == "cosine" else f"{limit:.2%}"
    return _outcome(beyond), value, f"{words}, {'below' if beyond else 'at least'} {least}{note}."


def _top1(
    new: float, old: float, limit: float, ours: Accuracy | None, theirs: Accuracy | None, same_network: bool
) -> _Found:
    if ours is None or theirs is None or not ours.same_images(theirs):
        return Outcome.INCONCLUSIVE, None, "top-1 was found on other images than the baseline's; evaluate on the same."
    drop, beyond, words = _drop("top-1", new, old, limit)
    if beyond and same_network and ours.mcnemar and ours.mcnemar.p > CHANCE:
        doubt = f"the cell is not surely worse than FP32 (McNemar p = {ours.mcnemar.p:.2g}); evaluate on more images"
        return Outcome.INCONCLUSIVE, drop, f"{words}, but {doubt}."
    return _outcome(beyond), drop, f"{words}."


def _drop(name: str, new: float, old: float, limit: float) -> tuple[float, bool, str]:
    """Points that a share lost, whether that is beyond the limit, and in words."""
    drop = 100 * (old - new)
    beyond = drop > limit + _EXACT
    change = f"lost {points(drop)} points, {'more than' if beyond else 'within'} {limit:g}"
    if drop < _EXACT:
        change = f"gained {points(-drop)} points" if drop < -_EXACT else "did not change"
    return drop, beyond, f"{name} {change} ({old:.2%} to {new:.2%})"


def _scored(
    new: float, old: float, limit: float, ours: Score | None, theirs: Score | None, same_network: bool
) -> _Found:
    if ours is None or theirs is None or not ours.same_images(theirs):
        return Outcome.INCONCLUSIVE, None, "the score is of other images than the baseline's; evaluate on the same."
    if ours.higher_is_better:
        loss, beyond, words = _drop(ours.name, new, old, limit)
    else:
        loss, beyond, change = _growth(new, old, limit)
        words = f"{ours.name} {change} ({old:.4g} to {new:.4g})"
    if beyond and same_network and ours.reference is not None and not _worse(ours):
        doubt = "the cell is not surely worse than FP32 (the interval of the difference holds zero)"
        return Outcome.INCONCLUSIVE, loss, f"{words}, but {doubt}; evaluate on more images."
    return _outcome(beyond), loss, f"{words}."


def _worse(score: Score) -> bool:
    """Whether the whole interval of the difference to FP32 lies on its worse side."""
    if score.interval is None:
        return False
    return score.interval[1] < 0 if score.higher_is_better else score.interval[0] > 0


def _size(new: float, old: float, limit: float) -> _Found:
    growth, beyond, change = _growth(new, old, limit)
    return _outcome(beyond), growth, f"size {change} ({megabytes(old)} to {megabytes(new)} MB)."


def _latency(rule: str, new: float, old: float, limit: float, ours: Latency | None, theirs: Latency | None) -> _Found:
    if ours is None or theirs is None or ours.batch != theirs.batch:
        return Outcome.INCONCLUSIVE, None, f"{rule} cannot be compared: the batch differs; measure both at one."
    growth, beyond, change = _growth(new, old, limit)
    words = f"{rule.removeprefix('latency_')} {change} ({number(old)} to {number(new)} ms)"
    if beyond and (reason := doubtful(ours, theirs, int(rule[-2:]))):
        return Outcome.INCONCLUSIVE, growth, f"{words}, but {reason}."
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
