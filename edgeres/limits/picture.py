"""What was found of the limits as pictures, each one an SVG file of its own."""

import math
from collections.abc import Callable, Sequence
from html import escape

from edgeres.limits.bound import Curve, Point
from edgeres.limits.roofline import Layer, Roofline
from edgeres.report import pareto, svg

WIDTH, HEIGHT, MARK = 860, 480, 5.0
FRAME = svg.Box(56.0, 26.0, WIDTH - 12.0, HEIGHT - 42.0)
NAMED = 6
"""Layers that are named: those that lose most."""
STYLE = (
    "<style>text{fill:#1b1f24;font:12px system-ui,sans-serif}.axis{fill:#59636e}.middle{text-anchor:middle}"
    ".end{text-anchor:end}.page{fill:#fff}.grid{stroke:#d8dde3}.roof{stroke:#59636e;stroke-width:1.5}"
    ".bound{stroke:#b3261e;stroke-dasharray:5 4}.int8,.holds{fill:#3867b0}.fp32,.fails{fill:#9aa4af}.bf16{fill:#b7791f}"
    ".best{fill:#1a7f37}circle{fill-opacity:.75}.whisker,.front{stroke:#9aa4af;fill:none}"
    "@media(prefers-color-scheme:dark){text{fill:#e6e8eb}.axis{fill:#9aa4af}.page{fill:#16191d}.grid{stroke:#30363d}"
    ".int8,.holds{fill:#7aa5ea}.bound{stroke:#f2877d}}</style>"
)
Scale = Callable[[float], float]


def roofline(found: Roofline) -> str:
    """Operations a second against operations a byte, both logarithmic: the roofs, and each layer with arithmetic, its
    area the time that it takes."""
    layers = [layer for layer in found.layers if layer.macs and layer.ms]
    peaks, memory = found.limits.peaks, found.limits.bandwidths
    intensities, rates = [2 * one.intensity for one in layers], [_rate(one) for one in layers]
    top = 2 * max(peak.rate for peak in peaks.values()) / 1e9
    x = _log(min(intensities) / 2, max(intensities) * 2, FRAME.left, FRAME.right)
    y = _log(min(rates) / 2, top * 2, FRAME.bottom, FRAME.top)
    left, right = min(intensities) / 2, max(intensities) * 2
    drawn = _frame("operations a byte (logarithmic)", "GOP/s (logarithmic)")
    drawn.append(svg.grid([(x(tick), f"{tick:g}") for tick in pareto.decades(left, right)], FRAME, upright=True))
    shown = pareto.decades(min(rates) / 2, top * 2)
    drawn.append(svg.grid([(y(tick), f"{tick:g}") for tick in shown], FRAME, upright=False))
    for name, peak in peaks.items():
        height = 2 * peak.rate / 1e9
        drawn.append(svg.line("roof", (x(left), y(height)), (x(right), y(height))))
        drawn.append(svg.text(x(left) + 4, y(height) - 5, f"{name} {height:.0f} GOP/s", "axis"))
    for size, rate in {memory[0], memory[-1]}:
        # Where the slope meets the highest roof and the lower edge of the frame.
        start, end = max(left, min(rates) / 2 / (rate / 1e9)), min(right, top / (rate / 1e9))
        if start < end:
            drawn.append(svg.line("roof", (x(start), y(start * rate / 1e9)), (x(end), y(end * rate / 1e9))))
            words = f"{rate / 1e9:.0f} GB/s with {size / 1e6:.1f} MB"
            drawn.append(svg.text(x(start) + 6, y(start * rate / 1e9) - 5, words, "axis"))
    worst, slowest = [one for one in found.worst if one in layers][:NAMED], max(layer.ms for layer in layers)
    for layer in layers:
        centre, radius = (x(2 * layer.intensity), y(_rate(layer))), 2 + 9 * math.sqrt(layer.ms / slowest)
        said = f"{layer.name}: {layer.ms:.3f} ms, {layer.share:.0%} of what is attainable"
        drawn.append(_dot(layer.precision, centre, radius, said))
    drawn += _labels([(one.name, (x(2 * one.intensity), y(_rate(one)))) for one in worst])
    title = f"Roofline: {found.share:.0%} of what is attainable"
    return _picture(title, drawn)


def curve(found: Curve) -> str:
    """Images a second against p99 (logarithmic) with its interval; the bound, the Pareto front, the best point."""
    points = found.points
    most = 1.1 * max(point.load.images_per_second for point in points)
    ends = [end for point in points for end in point.interval] + [found.bound]
    left, right = min(ends) / 1.2, max(ends) * 1.2
    x = _log(left, right, FRAME.left, FRAME.right)

    def y(rate: float) -> float:
        return FRAME.bottom - (FRAME.bottom - FRAME.top) * rate / most

    def at(point: Point) -> tuple[float, float]:
        return x(point.p99), y(point.load.images_per_second)

    drawn = _frame("p99, milliseconds (logarithmic)", "images a second")
    drawn.append(svg.grid([(x(tick), f"{tick:g}") for tick in pareto.decades(left, right)], FRAME, upright=True))
    drawn.append(svg.grid([(y(tick), f"{tick:g}") for tick in pareto.steps(0, most)], FRAME, upright=False))
    drawn.append(svg.line("bound", (x(found.bound), FRAME.top), (x(found.bound), FRAME.bottom)))
    front = [at(point) for point in found.front]
    drawn.append(f'<path class="front" d="M{"L".join(f"{across:.1f} {down:.1f}" for across, down in front)}"/>')
    for point in points:
        low, high = point.interval
        height = y(point.load.images_per_second)
        drawn.append(svg.line("whisker", (x(low), height), (x(high), height)))
        kind = "best" if point is found.best else "holds" if found.holds(point) else "fails"
        drawn.append(_dot(kind, at(point), MARK + 2 * (point is found.best), _said(point)))
    drawn += _labels([(f"{one.load.batch} x {one.load.streams}", at(one)) for one in points])
    title = f"Images a second under p99 of {found.bound:g} ms; labels are batch x streams"
    return _picture(title, drawn)


def _rate(layer: Layer) -> float:
    """GOP/s, two operations a multiply-accumulate."""
    return 2 * layer.macs / layer.ms / 1e6


def _said(point: Point) -> str:
    load = point.load
    return f"batch {load.batch}, {load.streams} streams: {load.images_per_second:.1f} images/s, p99 {point.p99:.2f} ms"


def _log(low: float, high: float, start: float, end: float) -> Scale:
    return lambda value: start + (end - start) * math.log(value / low) / math.log(high / low)


def _frame(across: str, upwards: str) -> list[str]:
    return [
        STYLE,
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}"/>',
        svg.text((FRAME.left + FRAME.right) / 2, HEIGHT - 4.0, across, "axis middle"),
        svg.text(4, 14, upwards, "axis"),
    ]


def _dot(kind: str, centre: tuple[float, float], radius: float, said: str) -> str:
    across, down = centre
    circle = f'<circle class="{kind}" cx="{across:.1f}" cy="{down:.1f}" r="{radius:.1f}"/>'
    return f"<g><title>{escape(said)}</title>{circle}</g>"


def _labels(named: Sequence[tuple[str, tuple[float, float]]]) -> list[str]:
    marks = [svg.Box(x - MARK, y - MARK, x + MARK, y + MARK) for _, (x, y) in named]
    boxes = pareto.place([name for name, _ in named], marks, FRAME)
    return [svg.text(box.left + 2, box.bottom - 4, name, "label") for (name, _), box in zip(named, boxes, strict=True)]


def _picture(title: str, drawn: Sequence[str]) -> str:
    named = svg.text(FRAME.right, 14, title, "end")
    return svg.svg("limits", WIDTH, HEIGHT, title, title, [*drawn, named], 'xmlns="http://www.w3.org/2000/svg"') + "\n"
