"""What a report says, derived: one row per cell, and how its values are written.

All renderers take their rows and number formats from here, so that they cannot disagree.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from edgeres.figures import megabytes as megabytes
from edgeres.figures import number as number
from edgeres.figures import points as points
from edgeres.schema import Cell, Report
from edgeres.types import Precision

NOTHING = "—"
"""Stands where there is no value."""
TIMES, TO = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"
_UNMEASURED = {"measured": NOTHING, "built": "not run", "failed": "failed"}


@dataclass(frozen=True)
class Row:
    """One cell with what follows from its neighbours. Times in milliseconds, shares in percent; None: not known."""

    target: str
    precision: Precision
    scheme: str | None
    status: Literal["measured", "built", "failed"]
    message: str
    p50: float | None
    p90: float | None
    p99: float | None
    throughput: float | None
    """Images a second."""
    speedup: float | None
    """p50 of the FP32 cell of the same target, else of its FP16 cell, divided by this p50; at one batch size."""
    speedup_over: Precision | None
    steady: bool
    """False where this latency, or the one that the speed-up is counted from, was not stable."""
    images: int | None
    """How many images `top1` was found on."""
    top1: float | None
    top1_interval: tuple[float, float] | None
    drop: float | None
    """Points of top-1 lost against `drop_against`, on the same images; below zero is a gain. None for FP32."""
    drop_against: str | None
    """Target of the FP32 cell: this one if it was measured there, else the first that was."""
    agreement: float | None
    size: int | None
    """Bytes on disk."""

    @property
    def name(self) -> str:
        return f"{self.target} {self.precision}"


def rows(report: Report) -> list[Row]:
    """One row per cell, in the report's order."""
    return [_row(cell, report.cells) for cell in report.cells]


def _row(cell: Cell, cells: list[Cell]) -> Row:
    latency, accuracy = cell.latency, cell.accuracy
    slow = _slow(cell, cells)
    exact = _exact(cell, cells)
    return Row(
        target=cell.target,
        precision=cell.precision,
        scheme=cell.scheme,
        status=cell.status,
        message=cell.message,
        p50=latency.p50 if latency else None,
        p90=latency.p90 if latency else None,
        p99=latency.p99 if latency else None,
        throughput=latency.throughput if latency else None,
        speedup=slow.latency.p50 / latency.p50 if slow and slow.latency and latency and latency.p50 > 0 else None,
        speedup_over=slow.precision if slow else None,
        steady=all(timed.stable for timed in (latency, slow.latency if slow else None) if timed),
        images=accuracy.images if accuracy else None,
        top1=100 * accuracy.top1 if accuracy else None,
        top1_interval=(100 * accuracy.top1_interval[0], 100 * accuracy.top1_interval[1]) if accuracy else None,
        drop=100 * (exact.accuracy.top1 - accuracy.top1) if exact and exact.accuracy and accuracy else None,
        drop_against=exact.target if exact else None,
        agreement=100 * accuracy.agreement if accuracy and accuracy.agreement is not None else None,
        size=cell.size,
    )


def _slow(cell: Cell, cells: list[Cell]) -> Cell | None:
    """The cell that a speed-up is counted from."""
    timed = {
        other.precision: other
        for other in reversed(cells)
        if other.target == cell.target and other.latency and cell.latency and other.latency.batch == cell.latency.batch
    }
    return timed.get(Precision.FP32, timed.get(Precision.FP16))


def _exact(cell: Cell, cells: list[Cell]) -> Cell | None:
    """The cell that a drop is counted from."""
    if cell.precision is Precision.FP32 or cell.accuracy is None:
        return None
    fp32 = [
        other
        for other in cells
        if other.precision is Precision.FP32 and other.accuracy and other.accuracy.same_images(cell.accuracy)
    ]
    return next((other for other in fp32 if other.target == cell.target), fp32[0] if fp32 else None)


def span(interval: tuple[float, float]) -> str:
    """One decimal each."""
    return f"{interval[0]:.1f}{TO}{interval[1]:.1f}"


def _or_nothing(value: float | None, write: Callable[[float], str]) -> str:
    return NOTHING if value is None else write(value)


def _speedup(row: Row) -> str:
    over = " vs fp16" if row.speedup_over is Precision.FP16 and row.precision is not Precision.FP16 else ""
    return NOTHING if row.speedup is None else f"{number(row.speedup)}{TIMES}{over}"


def _spread(row: Row) -> str:
    if row.top1 is None or row.top1_interval is None:
        return NOTHING
    low, high = row.top1_interval
    return f"{row.top1:.2f} ±{max(row.top1 - low, high - row.top1):.1f}"


@dataclass(frozen=True)
class Column:
    """How a row is written under `heading`, and its plain `value`, in the same unit, to sort by and for CSV."""

    heading: str
    text: Callable[[Row], str]
    value: Callable[[Row], float | str | None]


COLUMNS: Mapping[str, Column] = {
    "target": Column("target", lambda r: r.target, lambda r: r.target),
    "precision": Column("precision", lambda r: str(r.precision), lambda r: str(r.precision)),
    "scheme": Column("scheme", lambda r: r.scheme or NOTHING, lambda r: r.scheme),
    "p50": Column("p50 ms", lambda r: number(r.p50) if r.p50 is not None else _UNMEASURED[r.status], lambda r: r.p50),
    "p90": Column("p90 ms", lambda r: _or_nothing(r.p90, number), lambda r: r.p90),
    "p99": Column("p99 ms", lambda r: _or_nothing(r.p99, number), lambda r: r.p99),
    "throughput": Column("images/s", lambda r: _or_nothing(r.throughput, number), lambda r: r.throughput),
    "speedup": Column("speed-up", _speedup, lambda r: r.speedup),
    "top1": Column("top-1 %", lambda r: _or_nothing(r.top1, points), lambda r: r.top1),
    "interval": Column(
        "95 % interval",
        lambda r: span(r.top1_interval) if r.top1_interval else NOTHING,
        lambda r: "{:.2f} to {:.2f}".format(*r.top1_interval) if r.top1_interval else None,
    ),
    "spread": Column("top-1 %", _spread, lambda r: r.top1),
    "drop": Column("drop", lambda r: _or_nothing(r.drop, points), lambda r: r.drop),
    "agreement": Column("agree %", lambda r: _or_nothing(r.agreement, points), lambda r: r.agreement),
    "size": Column("size MB", lambda r: _or_nothing(r.size, megabytes), lambda r: r.size and r.size / 1e6),
}
"""By key; each renderer chooses and orders its own."""

LEGEND = (
    "p50, p90, p99: milliseconds per call, host to host. Speed-up: p50 of FP32 on the same target divided by this p50. "
    "Top-1 with its 95 % interval. Drop: points of top-1 lost against FP32 on the same images; below zero is a gain. "
    "Agree: share of images with the same top-1 as FP32."
)
