"""The scores of tasks other than classification: in sentences, as columns of tables, and each in a line of its own."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from edgeres.figures import MINUS, points
from edgeres.report.table import COLUMNS, NOTHING, SPEED, TOP1, Column, Row
from edgeres.schema import Score

MEANINGS = {
    "mAP": "mAP: average precision of each label, averaged over the labels.",
    "agreement": "Agreement: share of label decisions at probability 0.5 that are FP32's.",
    "exact agreement": "Exact agreement: share of images with all of FP32's decisions.",
    "MAE": "MAE, RMSE: in the unit of the labels, averaged over the model's values.",
    "deviation": "Deviation: mean absolute difference to FP32, as a share of the labels' standard deviation.",
    "class recall@1": "Class recall@k: an image of the same class is among the k nearest others.",
    "cosine": "Cosine: of an image's vector with FP32's, on average and the worst.",
    "recall@1": "Recall@k: share of the k images nearest in FP32 that are among the k nearest.",
}
"""What a score means, by its name."""
REPLACED = {"top1": "headline", "spread": "headline", "interval": "", "drop": "change", "agreement": "beside FP32"}
"""Columns of a classifier, and what stands in their place."""


def write(value: float, unit: str) -> str:
    """A share in percent, without the sign; a cosine to its fifth decimal."""
    if unit == "share":
        return points(100 * value)
    text = f"{value:.1f}" if unit == "dB" else f"{round(value, 5):.5g}" if 0.9 < value < 1 else f"{value:.4g}"
    return text.replace("-", MINUS)


def symbol(unit: str) -> str:
    """What follows a figure: ` %`, ` dB`, or nothing."""
    return {"share": " %", "dB": " dB"}.get(unit, "")


def change(score: Score) -> float | None:
    """How far a score is above FP32's: of shares in points, of dB in dB, else in percent of FP32's; None where it has
    no reference."""
    return None if score.reference is None else _told(score, score.value - score.reference)


def _told(score: Score, difference: float) -> float:
    if score.unit == "dB":
        return difference
    return 100 * difference / (1.0 if score.unit == "share" else abs(score.reference or 1.0))


def signed(score: Score, changed: float) -> str:
    """What `change` gives, as text."""
    text = f"{changed:.1f}".replace("-", MINUS) if score.unit == "dB" else points(changed)
    sign = "+" if changed > 0 and re.search("[1-9]", text) else ""
    return f"{sign}{text}" + ("" if score.unit else " %")


def surely(score: Score) -> bool:
    """Whether the interval of the difference leaves out that there is none."""
    return score.interval is not None and not score.interval[0] <= 0 <= score.interval[1]


def lines(scores: Sequence[Score]) -> list[str]:
    """What `edgeres eval` prints: a line a score."""
    return [_line(score) for score in scores]


def _line(score: Score) -> str:
    unit, changed = symbol(score.unit), change(score)
    text = f"{score.name} {write(score.value, score.unit)}{unit}"
    sure = f" (95 % {between(score)})" if score.interval else ""
    if changed is None or score.reference is None:
        return text + sure
    text += f", FP32 {write(score.reference, score.unit)}{unit}: {signed(score, changed)}"
    text += {"share": " points", "dB": " dB"}.get(score.unit, "")
    return f"{text}{sure}, {'significant' if surely(score) else 'not significant'}" if sure else text


def between(score: Score) -> str:
    """The interval of a score's difference to FP32, or of its value where nothing is compared."""
    if score.interval is None:
        return NOTHING
    if score.reference is None:
        return " to ".join(write(side, score.unit) for side in score.interval)
    return " to ".join(signed(score, _told(score, side)) for side in score.interval)


def names(rows: Iterable[Row]) -> list[str]:
    """Every score that some cell has, as cells order them: those of FP32 first."""
    return list(dict.fromkeys(score.name for row in rows for score in row.cell.scores))


def find(row: Row, name: str) -> Score | None:
    """A row's score of that name."""
    return next((score for score in row.cell.scores if score.name == name), None)


def columns(rows: Sequence[Row]) -> Mapping[str, Column]:
    """Those of every report, and one for each score, by its name, with `change`, the headline against FP32's."""
    made, named = dict(COLUMNS), names(rows)
    for name in named:
        unit = next(score.unit for row in rows if (score := find(row, name)))
        made[name] = _column(f"{name}{symbol(unit)}", name, _value, lambda score, _: write(score.value, score.unit))
    if named:
        made["change"] = _column("change", named[0], change, signed)
    return made


def _value(score: Score) -> float:
    return score.value * (100 if score.unit == "share" else 1)


def _column(
    heading: str, name: str, of: Callable[[Score], float | None], written: Callable[[Score, float], str]
) -> Column:
    def value(row: Row) -> float | None:
        score = find(row, name)
        return of(score) if score else None

    def whole(row: Row) -> str:
        score, found = find(row, name), value(row)
        return NOTHING if score is None or found is None else written(score, found)

    return Column(heading, value, whole=whole, relative=True)


def keys(rows: Sequence[Row], wanted: Sequence[str]) -> list[str]:
    """Columns to show: of cells that have scores the headline, its change and the first figure that compares with FP32
    stand where a classifier's top-1, drop and agreement would."""
    named = names(rows)
    if not named:
        return list(wanted)
    alone = {score.name for row in rows for score in row.cell.scores if row.is_reference or score.reference is not None}
    compared = next((name for name in named[1:] if name not in alone), "")
    changed = any(change(score) is not None for row in rows if (score := find(row, named[0])))
    lead = named[0]
    if ratios := [row.headline for row in rows if row.headline and row.headline.unit == "dB"]:
        lead = min(ratios, key=lambda score: score.value).name
    shown = {"headline": lead, "change": "change" if changed else "", "beside FP32": compared}
    found = [shown.get(REPLACED[key], "") if key in REPLACED else key for key in wanted]
    return list(dict.fromkeys(filter(None, found)))


DETAILS = ("target", "precision", "score", "value", "FP32", "change", "95 % interval", "images")
"""Headings of `details`."""


def details(rows: Sequence[Row]) -> list[tuple[Row, Score, tuple[str, str, str, str]]]:
    """Every score of every cell, and as texts its value, FP32's, the change and the interval of that, or of the value
    where nothing is compared."""
    return [
        (
            row,
            score,
            (
                write(score.value, score.unit),
                NOTHING if score.reference is None else write(score.reference, score.unit),
                NOTHING if (changed := change(score)) is None else signed(score, changed),
                between(score),
            ),
        )
        for row in rows
        for score in row.cell.scores
    ]


def legend(rows: Sequence[Row]) -> str:
    """What the figures of a report mean."""
    named = names(rows)
    if not named:
        return f"{SPEED} {TOP1}"
    said = [MEANINGS[name] for name in named if name in MEANINGS]
    return " ".join(
        [SPEED, *said, "Change: against FP32 on the same images; of shares in points, of errors in percent."]
    )
