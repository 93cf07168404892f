"""What was found of the limits, as text and as JSON."""

from collections.abc import Mapping
from typing import Any

from edgeres.figures import number
from edgeres.limits.bound import Curve, Point
from edgeres.limits.roofline import Layer, Roofline

SHOWN = 15
"""Layers that the text names; JSON has them all."""


def roofline(found: Roofline) -> str:
    """The limits of the machine, the share that the engine reaches, and the layers that lose most."""
    latency, limits = found.whole.latency, found.limits
    low, high = latency.p50_interval or (latency.p50, latency.p50)
    lines = [f"{name:<14}{2 * peak.rate / 1e9:.0f} GOP/s at most ({peak.layer})" for name, peak in limits.peaks.items()]
    moved = ", ".join(f"{rate / 1e9:.1f} with {size / 1e6:.1f} MB" for size, rate in limits.bandwidths)
    lines += [
        f"{'memory':<14}GB/s: {moved}",
        f"{'engine':<14}p50 {latency.p50:.2f} ms (95 % {low:.2f} to {high:.2f}), batch {found.batch}; its layers "
        f"{found.profiled:.2f} ms by the runtime's profile",
        f"{'limit':<14}{found.attainable:.2f} ms with each layer at its own: {found.share:.0%} of what is attainable",
        "",
        f"{'layer':<30} {'runs in':<8} {'ms':>7} {'MMAC':>7} {'kB':>7} {'MAC/B':>6} {'GOP/s':>7} {'share':>6} "
        f"{'lost ms':>8}",
    ]
    lines += [_layer(layer) for layer in found.worst[:SHOWN]]
    rest = found.worst[SHOWN:]
    if rest:
        spent, lost = sum(layer.ms for layer in rest), sum(layer.lost for layer in rest)
        lines.append(f"{f'{len(rest)} others':<30} {'':<8} {spent:7.3f} {'':>38} {lost:8.3f}")
    return "\n".join([*lines, *latency.notes])


def _layer(layer: Layer) -> str:
    rate = f"{2 * layer.macs / layer.ms / 1e6:.0f}" if layer.macs and layer.ms else "—"
    arithmetic, intensity = (f"{layer.macs / 1e6:.1f}", f"{layer.intensity:.0f}") if layer.macs else ("—", "—")
    return (
        f"{layer.name[-30:]:<30} {layer.precision:<8} {layer.ms:7.3f} {arithmetic:>7} {layer.moved / 1e3:7.0f} "
        f"{intensity:>6} {rate:>7} {layer.share:>6.0%} {layer.lost:8.3f}"
    )


def roofline_json(found: Roofline) -> dict[str, Any]:
    """Everything; times in milliseconds, rates a second."""
    latency, limits = found.whole.latency, found.limits
    return {
        "p50_ms": latency.p50,
        "p50_interval_ms": latency.p50_interval,
        "batch": found.batch,
        "properties": found.whole.properties,
        "notes": latency.notes,
        "profiled_ms": found.profiled,
        "attainable_ms": found.attainable,
        "share": found.share,
        "peaks": {name: {"macs_per_second": one.rate, "layer": one.layer} for name, one in limits.peaks.items()},
        "bandwidths": [{"bytes": size, "bytes_per_second": rate} for size, rate in limits.bandwidths],
        "layers": [
            {
                "name": layer.name,
                "precision": layer.precision,
                "kernel": layer.kernel,
                "ms": layer.ms,
                "macs": layer.macs,
                "bytes": layer.moved,
                "attainable_ms": layer.attainable,
                "share": layer.share,
            }
            for layer in found.layers
        ],
    }


def curve(found: Curve) -> str:
    """Every point, whether it holds the bound, and the best of them."""
    best = found.best
    if best is None:
        head = f"no batch and number of streams keeps p99 surely within {found.bound:g} ms"
    else:
        head = (
            f"{number(best.load.images_per_second)} images/s with p99 {_p99(best)} within {found.bound:g} ms: "
            f"batch {best.load.batch}, {_streams(best)}"
        )
    fewest = min(point.calls for point in found.points)
    processes = len(found.points[0].load.samples)
    lines = [
        head,
        f"p99 with its 95 % interval, of {fewest} calls or more in {processes} processes a point; "
        "a point holds where all of the interval does",
        "",
        f"{'streams':>7} {'batch':>6} {'images/s':>9} {'p50 ms':>8} {'p99 ms':>8}  95 %",
    ]
    for point in sorted(found.points, key=lambda one: (one.load.streams, one.load.batch)):
        load, (low, high) = point.load, point.interval
        words = ["holds" if found.holds(point) else "does not hold"]
        words += ["measured again"] if point.confirmed else []
        words += ["best"] if point is best else ["Pareto"] if point in found.front else []
        lines.append(
            f"{load.streams:>7} {load.batch:>6} {number(load.images_per_second):>9} {number(point.p50):>8} "
            f"{number(point.p99):>8}  {number(low)} to {number(high)}: {', '.join(words)}"
        )
    return "\n".join(lines)


def curve_json(found: Curve) -> dict[str, Any]:
    """Every point without its samples."""
    return {
        "bound_ms": found.bound,
        "best": _point(found.best, found) if found.best else None,
        "points": [_point(point, found) for point in found.points],
    }


def _point(point: Point, found: Curve) -> Mapping[str, Any]:
    return {
        "batch": point.load.batch,
        "streams": point.load.streams,
        "images_per_second": point.load.images_per_second,
        "p50_ms": point.p50,
        "p99_ms": point.p99,
        "p99_interval_ms": point.interval,
        "calls": point.calls,
        "processes": len(point.load.samples),
        "holds": found.holds(point),
        "confirmed": point.confirmed,
        "pareto": point in found.front,
    }


def _p99(point: Point) -> str:
    low, high = point.interval
    return f"{number(point.p99)} ms ({number(low)} to {number(high)})"


def _streams(point: Point) -> str:
    return f"{point.load.streams} stream{'s' if point.load.streams > 1 else ''}"
