"""Speed against accuracy of all cells in one picture, with the fronts of those that no other beats in both."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from edgeres.figures import number
from edgeres.report import scores, svg
from edgeres.report.table import Row
from edgeres.schema import Score
from edgeres.types import Precision

_GLYPH, _LINE, _MARK = 7.2, 16.0, 6.0
"""Width of a character and height of a line at 12 pixels, and half the width of a mark."""


@dataclass(frozen=True)
class _Point:
    """`level` and `interval` as they are told, shares in percent; negative where less is better: up is better."""

    row: Row
    latency: float
    level: float
    interval: tuple[float, float]


def shown(row: Row) -> bool:
    """Whether a row is in the picture: with p50, and top-1 or the headline of its scores."""
    return bool(row.p50 and (row.top1 is not None or row.headline))


def pareto(rows: Sequence[Row], width: int, height: int) -> str:
    """p50 (logarithmic, so that equal steps are equal speed-ups) against top-1, or the headline of the scores, for
    every row that is `shown`; better is up."""
    points = [_point(row) for row in rows if shown(row)]
    fast, slow = min(p.latency for p in points) / 1.3, max(p.latency for p in points) * 1.3
    low, high = min(p.interval[0] for p in points), max(p.interval[1] for p in points)
    headline = points[0].row.headline
    share = headline is None or headline.unit == "share"
    margin = max(0.06 * (high - low), 0.25 if share else 0.01 * abs(high)) or 1.0
    low, high = max(low - margin, 0.0) if low >= 0 else low - margin, high + margin
    ticks = steps(low, min(high, 100.0) if share else high)
    named = [f"{abs(tick):g}" for tick in ticks]
    frame = svg.Box(max(36.0, 8 + _GLYPH * max(map(len, named))), 26.0, width - 10.0, height - 42.0)

    def x(latency: float) -> float:
        return frame.left + (frame.right - frame.left) * math.log(latency / fast) / math.log(slow / fast)

    def y(level: float) -> float:
        return frame.bottom - (frame.bottom - frame.top) * (level - low) / (high - low)

    drawn = [svg.grid([(x(tick), f"{tick:g}") for tick in decades(fast, slow)], frame, upright=True)]
    drawn.append(svg.grid([(y(tick), name) for tick, name in zip(ticks, named, strict=True)], frame, upright=False))
    drawn.append(
        svg.text((frame.left + frame.right) / 2, height - 4.0, "p50, milliseconds (logarithmic)", "axis middle")
    )
    drawn.append(svg.text(0, 12, _axis(headline), "axis"))
    bests = [_best(own) for own in _by_device(points)]
    fronts = [[(x(p.latency), y(p.level)) for p in best] for best in bests]
    drawn += [f'<path class="front" d="{_staircase(front)}"/>' for front in fronts]
    treads = [
        svg.Box(left, down - 1, right, down + 1) for front in fronts for (left, down), (right, _) in pairwise(front)
    ]
    whiskers = [svg.Box(x(p.latency) - 1, y(p.interval[1]), x(p.latency) + 1, y(p.interval[0])) for p in points]
    drawn += [svg.line("whisker", (w.left + 1, w.top), (w.left + 1, w.bottom)) for w in whiskers]
    marks = [_square(x(p.latency), y(p.level)) for p in points]
    labels = place([p.row.name for p in points], marks, frame, [*whiskers, *treads])
    for point, mark, label in zip(points, marks, labels, strict=True):
        centre = (mark.left + _MARK, mark.top + _MARK)
        nearest = label.nearest(*centre)
        if math.dist(centre, nearest) > 1.5 * _MARK:
            drawn.append(svg.line("leader", centre, nearest))
        drawn.append(f"<g><title>{escape(_said(point))}</title>{_mark(point.row.precision, *centre)}</g>")
        # Fonts differ in width: the end at the mark is the one that must not move.
        at, side = (label.left + label.right) / 2, "middle"
        if label.right < mark.left or label.left > mark.right:
            at, side = (label.right - 2, "end") if label.right < mark.left else (label.left + 2, "start")
        drawn.append(svg.text(at, label.bottom - 4, point.row.name, f"label {side} {point.row.precision}"))
    said = "; ".join(
        f"{_said(point)}{' (on the front)' if any(point in best for best in bests) else ''}" for point in points
    )
    return svg.svg("pareto", width, height, f"Latency against {_axis(headline).partition(',')[0]}", said, drawn)


def place(
    names: Sequence[str], marks: Sequence[svg.Box], frame: svg.Box, crossed: Sequence[svg.Box] = ()
) -> list[svg.Box]:
    """Where each label stands: inside the frame, off the marks and the labels before it, near its own mark.

    Greedy: beside the mark if there is room, else further up or down; crossing one of `crossed`, thin lines, is worth
    a label that much nearer.
    """
    placed: list[svg.Box] = []
    for name, mark in zip(names, marks, strict=True):
        x, y = (mark.left + mark.right) / 2, (mark.top + mark.bottom) / 2
        wide = _GLYPH * len(name) + 4
        lefts = [mark.right + 2, mark.left - 2 - wide, x - wide / 2]
        tops = [y - _LINE / 2 + sign * step * 4 for step in range(50) for sign in (1, -1)]
        boxes = [
            svg.Box(left, top, left + wide, top + _LINE)
            for left in (min(max(left, frame.left + 2), frame.right - wide) for left in lefts)
            for top in tops
            if frame.top <= top <= frame.bottom - _LINE
        ]

        def cost(box: svg.Box, x: float = x, y: float = y) -> float:
            hidden = sum(map(box.overlap, [*marks, *placed]))
            return 100 * hidden + sum(map(box.overlap, crossed)) + 2 * math.dist((x, y), box.nearest(x, y))

        placed.append(min(boxes, key=cost))
    return placed


def _point(row: Row) -> _Point:
    """The whisker of a score is that of FP32's, or of the difference to it."""
    score, latency = row.headline, row.p50 or 0.0
    if score is None:
        top1 = row.top1 or 0.0
        return _Point(row, latency, top1, row.top1_interval or (top1, top1))
    scale = (100 if score.unit == "share" else 1) * (1 if score.higher_is_better else -1)
    from_, (low, high) = score.reference or 0.0, score.interval or (score.value, score.value)
    ends = sorted((scale * (from_ + low), scale * (from_ + high)))
    return _Point(row, latency, scale * score.value, (ends[0], ends[1]))


def _axis(headline: Score | None) -> str:
    if headline is None:
        return "top-1, %"
    if headline.unit == "dB":
        return "SQNR of the worst map, dB"
    unit = scores.symbol(headline.unit).strip()
    return f"{headline.name}, {unit}" if unit else headline.name


def _said(point: _Point) -> str:
    score = point.row.headline
    value = f"{score.name} {scores.write(score.value, score.unit)}{scores.symbol(score.unit)}" if score else ""
    return f"{point.row.name} {number(point.latency)} ms, {value or f'{point.level:.2f} %'}"


def _by_device(points: Sequence[_Point]) -> Iterator[list[_Point]]:
    """Devices do not compete: each has a front of its own."""
    for device in dict.fromkeys(point.row.cell.device for point in points):
        yield [point for point in points if point.row.cell.device == device]


def _best(points: Sequence[_Point]) -> list[_Point]:
    """Those that no other is both faster and more accurate than, fastest first."""
    front: list[_Point] = []
    for point in sorted(points, key=lambda p: (p.latency, -p.level)):
        if not front or point.level > front[-1].level:
            front.append(point)
    return front


def _staircase(corners: Sequence[tuple[float, float]]) -> str:
    (left, down), *rest = corners
    return f"M{left:.1f} {down:.1f}" + "".join(f"H{right:.1f}V{up:.1f}" for right, up in rest)


def decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 of every power of ten between two bounds, and more of each where those are fewer than three."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for multiples in ((1, 2, 5), (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)):
        ticks = [m * 10.0**p for p in powers for m in multiples if low <= m * 10.0**p <= high]
        if len(ticks) > 2:
            break
    return ticks


def steps(low: float, high: float) -> list[float]:
    """At most seven round numbers between two bounds."""
    sizes = (multiple * 10.0**power for power in range(-9, 9) for multiple in (1, 2, 5))
    step = next(size for size in sizes if (high - low) / size <= 6 + 1e-9)
    return [round(step * i, 9) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _square(x: float, y: float) -> svg.Box:
    return svg.Box(x - _MARK, y - _MARK, x + _MARK, y + _MARK)


def _mark(precision: Precision, x: float, y: float) -> str:
    """A shape per precision, so that colour is not needed to tell them apart."""
    if precision is Precision.INT8:
        return f'<circle class="int8" cx="{x:.1f}" cy="{y:.1f}" r="5.5"/>'
    if precision is Precision.FP16:
        return f'<path class="fp16" d="M{x:.1f} {y - 6.5:.1f}l6.5 6.5-6.5 6.5-6.5-6.5z"/>'
    return f'<rect class="fp32" x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10"/>'
