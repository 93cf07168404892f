"""Inline SVG for the HTML report: its parts, and the pictures of one cell. Colours come from the style sheet, by class.

These pictures stretch to the width that they are given; their figures stand beside them as text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate

import numpy as np

from edgeres.figures import number
from edgeres.report.table import decibel
from edgeres.report.words import SUMMANDS, losses, worst_first
from edgeres.schema import Latency, LayerError

BINS, DOTS, SLOWEST, TOP = 40, 500, 50, 60
"""Bars of a histogram; dots that a series of calls is thinned to, besides its slowest; dB where a profile ends."""
STRETCHED = 'preserveAspectRatio="none"'


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "Box") -> float:
        """Shared area, pixels squared."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(wide, 0.0) * max(high, 0.0)

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """The point of the rectangle that is nearest to another."""
        return min(max(x, self.left), self.right), min(max(y, self.top), self.bottom)


def distribution(latency: Latency, width: int = 480, height: int = 80, below: int = 96) -> str:
    """How many calls took how long, over `extent`, with p50 and p99; `below` it the calls in order, downwards.

    Of many calls each n-th is drawn, and the slowest; what is beyond the axis stands at its end. Lines part the
    processes.
    """
    first, last = extent(latency)
    counts = np.histogram(latency.samples, bins=BINS, range=(first, last))[0].tolist()
    step, tall = width / BINS, (height - 4) / max(*counts, 1)
    bars = "".join(
        f"M{i * step:.1f} {height}v{-count * tall:.1f}h{step - 1.5:.1f}V{height}z"
        for i, count in enumerate(counts)
        if count
    )
    top, bottom, calls = height + 8.0, height + 4.0 + below, len(latency.samples)
    shown = {*range(0, calls, -(-calls // DOTS)), *np.argsort(latency.samples)[-SLOWEST:].tolist()}
    dots = [
        f"M{width * (min(latency.samples[i], last) - first) / (last - first):.1f} "
        f"{top + (bottom - top) * (i + 0.5) / calls:.1f}h0"
        for i in sorted(shown)
    ]
    parted = [top + (bottom - top) * end / calls for end in accumulate(latency.rounds[:-1])]
    drawn = [
        f'<path class="bars" d="{bars}"/>',
        line("base", (0, height), (width, height)),
        *(line("base", (0, at), (width, at)) for at in parted),
        f'<path class="calls" d="{"".join(dots)}"/>',
    ]
    for kind, value in (("p50", latency.p50), ("p99", latency.p99)):
        at = width * (value - first) / (last - first)
        drawn.append(line(kind, (at, 0), (at, height + below)))
    told = f"{calls} calls from {number(first)} to {number(max(latency.samples))} ms, half of them below "
    title, said = "Distribution of latency, and call by call", f"{told}{number(latency.p50)} ms."
    return svg("distribution", width, height + below + 4, title, said, drawn, STRETCHED)


def extent(latency: Latency) -> tuple[float, float]:
    """The axis of a distribution, milliseconds: from the fastest call to a little beyond p99."""
    first = min(latency.samples)
    return first, max(latency.p99 + 0.15 * (latency.p99 - first), first * 1.01)


def profile(errors: Sequence[LayerError], width: int = 960, height: int = 150) -> str:
    """SQNR of each tensor, in the order of the network, over `bounds`, with a line each 10 dB.

    The worst tenth is marked, summands are grey.
    """
    low, high = bounds(errors)
    worst = worst_first(errors)[: max(1, len(errors) // 10)]

    def y(decibels: float) -> float:
        return 6 + (height - 12) * (high - min(decibels, high)) / (high - low)

    dots = [(width * (i + 0.5) / len(errors), y(error.sqnr_db), error) for i, error in enumerate(errors)]
    drawn = [line("grid", (0, y(at)), (width, y(at))) for at in range(low, high + 1, 10)]
    drawn.append(f'<path class="course" d="M{"L".join(f"{x:.1f} {down:.1f}" for x, down, _ in dots)}"/>')
    for x, down, error in dots:
        kind = "worst" if error in worst else "summand" if error.role in SUMMANDS else "tensor"
        drawn.append(
            f'<path class="{kind}" d="M{x:.1f} {down:.1f}h0"><title>{escape(error.name)}: '
            f"{decibel(error.sqnr_db)} dB</title></path>"
        )
    title = "SQNR of each tensor, in the order of the network"
    return svg("profile", width, height, title, losses(errors), drawn, STRETCHED)


def bounds(errors: Sequence[LayerError]) -> tuple[int, int]:
    """The axis of a profile: whole tens of dB, zero among them."""
    values = [min(error.sqnr_db, TOP) for error in errors]
    return 10 * int(min(0.0, *values) // 10), 10 * max(1, -int(-max(values) // 10))


def grid(ticks: Sequence[tuple[float, str]], frame: Box, upright: bool) -> str:
    """Lines at positions, with their names beside the frame."""
    if upright:
        return "".join(
            line("grid", (at, frame.top), (at, frame.bottom)) + text(at, frame.bottom + 16, name, "axis middle")
            for at, name in ticks
        )
    return "".join(
        line("grid", (frame.left, at), (frame.right, at)) + text(frame.left - 6, at + 4, name, "axis end")
        for at, name in ticks
    )


def line(kind: str, start: tuple[float, float], end: tuple[float, float]) -> str:
    (x1, y1), (x2, y2) = start, end
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'


def svg(kind: str, width: int, height: int, title: str, said: str, drawn: Sequence[str], more: str = "") -> str:
    """A picture with its name and, for those who cannot see it, what it shows."""
    return (
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" {more}>'
        f"<title>{escape(title)}</title><desc>{escape(said)}</desc>{''.join(drawn)}</svg>"
    )
