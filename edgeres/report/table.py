"""What a report says, derived: one row per cell, and how its values are written.

All renderers take their rows and number formats from here, so that they cannot disagree.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgeres.figures import MINUS, MISSING, number, points
from edgeres.schema import Accuracy, Cell, Latency, McNemar, Report, Score
from edgeres.types import Precision

NOTHING = "—"
"""Stands where there is no value and no room to say so."""
TIMES, TO = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"
_STATES = {"measured": MISSING, "built": "not run", "failed": "failed"}
Interval = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """One cell with what follows from its neighbours. Times in milliseconds, shares in percent; None: not known."""

    cell: Cell
    speedup: float | None
    """p50 of the FP32 cell of the same target, else of its FP16 cell, divided by this p50; at one batch size."""
    speedup_over: Precision | None
    steady: bool
    """False where this latency, or the one that the speed-up is counted from, was not stable."""
    drop: float | None
    """Points of top-1 lost against `drop_against`, on the same images; below zero is a gain. None for FP32."""
    drop_against: str | None
    """`target` of the FP32 cell: this one if it was measured there, else the first that was."""

    @property
    def target(self) -> str:
        """With the device, where it is another."""
        return self.cell.place

    @property
    def precision(self) -> Precision:
        return self.cell.precision

    @property
    def status(self) -> str:
        return self.cell.status

    @property
    def name(self) -> str:
        return f"{self.target} {self.precision}"

    @property
    def has_figures(self) -> bool:
        return bool(self.cell.latency or self.cell.accuracy or self.cell.scores)

    @property
    def is_reference(self) -> bool:
        """Whether this is what others are compared with."""
        return self.precision is Precision.FP32

    @property
    def headline(self) -> Score | None:
        """The first score, of a task other than classification; where that is a map's ratio, the worst map's."""
        first = next(iter(self.cell.scores), None)
        if first is None or first.unit != "dB":
            return first
        return min((score for score in self.cell.scores if score.unit == "dB"), key=lambda score: score.value)

    @property
    def p50(self) -> float | None:
        return self.cell.latency.p50 if self.cell.latency else None

    @property
    def images(self) -> int | None:
        """How many images `top1`, or the headline, was found on."""
        found = self.cell.accuracy or self.headline
        return found.images if found else None

    @property
    def top1(self) -> float | None:
        return 100 * self.cell.accuracy.top1 if self.cell.accuracy else None

    @property
    def top1_interval(self) -> Interval | None:
        return _percent(self.cell.accuracy.top1_interval if self.cell.accuracy else None)


def rows(report: Report) -> list[Row]:
    """One row per cell, in the report's order."""
    return [_row(cell, report.cells) for cell in report.cells]


def _row(cell: Cell, cells: list[Cell]) -> Row:
    latency, accuracy = cell.latency, cell.accuracy
    slow, exact = _slow(cell, cells), _exact(cell, cells)
    return Row(
        cell=cell,
        speedup=slow.latency.p50 / latency.p50 if slow and slow.latency and latency and latency.p50 > 0 else None,
        speedup_over=slow.precision if slow else None,
        steady=all(timed.stable for timed in (latency, slow.latency if slow else None) if timed),
        drop=100 * (exact.accuracy.top1 - accuracy.top1) if exact and exact.accuracy and accuracy else None,
        drop_against=exact.place if exact else None,
    )


def _slow(cell: Cell, cells: list[Cell]) -> Cell | None:
    """The cell that a speed-up is counted from."""
    timed = {
        other.precision: other
        for other in reversed(cells)
        if other.place == cell.place and other.latency and cell.latency and other.latency.batch == cell.latency.batch
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
    near = [other for other in fp32 if other.device == cell.device] or fp32
    return next((other for other in near if other.target == cell.target), near[0] if near else None)


def _percent(interval: Interval | None) -> Interval | None:
    return (100 * interval[0], 100 * interval[1]) if interval else None


def decibel(value: float) -> str:
    """From 100 dB on nothing but the rounding of float32 is left."""
    return f"{value:.1f}".replace("-", MINUS) if value < 100 else "exact"


@dataclass(frozen=True)
class Column:
    """How a row is written under `heading`, and its plain `value`, in the same unit, to sort by and for CSV."""

    heading: str
    value: Callable[[Row], float | str | None]
    write: Callable[[Any], str] = str
    """Writes a value that is there; `whole`, where the text needs more than the value, writes the row."""
    whole: Callable[[Row], str] | None = None
    relative: bool = False
    """Whether the value is against FP32, which has none itself."""

    def text(self, row: Row) -> str:
        """Short: a dash where there is no value."""
        value = self.value(row)
        return NOTHING if value is None else self.whole(row) if self.whole else self.write(value)

    def words(self, row: Row) -> str:
        """Says why where there is no value."""
        if self.value(row) is not None:
            return self.text(row)
        reference = self.relative and row.is_reference and row.status == "measured"
        return "reference" if reference else _STATES[row.status]


def _of_latency(heading: str, value: Callable[[Latency], Any], write: Callable[[Any], str] = number) -> Column:
    return Column(heading, lambda row: value(row.cell.latency) if row.cell.latency else None, write)


def _of_accuracy(
    heading: str, value: Callable[[Accuracy], Any], write: Callable[[Any], str] = points, relative: bool = False
) -> Column:
    """Shares are told in percent."""
    return Column(
        heading, lambda row: value(row.cell.accuracy) if row.cell.accuracy else None, write, relative=relative
    )


def _of_pairs(heading: str, value: Callable[[McNemar], Any], write: Callable[[Any], str] = str) -> Column:
    return _of_accuracy(heading, lambda found: value(found.mcnemar) if found.mcnemar else None, write, relative=True)


def _hundred(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _side(interval: Interval | None, side: int) -> float | None:
    return interval[side] if interval else None


def _range(interval: Interval | None, write: Callable[[float], str]) -> str:
    return TO.join(map(write, interval)) if interval else NOTHING


def _tenths(value: float) -> str:
    return f"{value:.1f}"


def _speedup(row: Row) -> str:
    over = " vs fp16" if row.speedup_over is Precision.FP16 and row.precision is not Precision.FP16 else ""
    return f"{number(row.speedup or 0.0)}{TIMES}{over}"


def _spread(row: Row) -> str:
    low, high = row.top1_interval or (0.0, 0.0)
    top1 = row.top1 or 0.0
    return f"{top1:.2f} ±{max(top1 - low, high - top1):.1f}"


COLUMNS: Mapping[str, Column] = {
    "target": Column("target", lambda r: r.target),
    "precision": Column("precision", lambda r: str(r.precision)),
    "scheme": Column("scheme", lambda r: r.cell.scheme or ("none" if r.precision is Precision.FP32 else None)),
    "status": Column("status", lambda r: r.status),
    "p50": Column("p50 ms", lambda r: r.p50, number),
    "p50_low": _of_latency("p50 low ms", lambda x: _side(x.p50_interval, 0)),
    "p50_high": _of_latency("p50 high ms", lambda x: _side(x.p50_interval, 1)),
    "p50_interval": Column(
        "95 % interval",
        lambda r: _side(r.cell.latency.p50_interval, 0) if r.cell.latency else None,
        whole=lambda r: _range(r.cell.latency.p50_interval if r.cell.latency else None, number),
    ),
    "p90": _of_latency("p90 ms", lambda x: x.p90),
    "p99": _of_latency("p99 ms", lambda x: x.p99),
    "p999": _of_latency("p99.9 ms", lambda x: x.p999),
    "device": _of_latency("device p50 ms", lambda x: x.device_p50),
    "batch": _of_latency("batch", lambda x: x.batch, str),
    "throughput": _of_latency("images/s", lambda x: x.throughput),
    "speedup": Column("speed-up", lambda r: r.speedup, whole=_speedup),
    "energy": _of_latency("energy mJ/image", lambda x: x.energy_mj),
    "memory": _of_latency("peak memory MB", lambda x: x.peak_rss_mb),
    "calls": _of_latency("calls", lambda x: len(x.samples), str),
    "rounds": _of_latency("processes", lambda x: len(x.rounds) or None, str),
    "warmup": _of_latency("warm-up calls", lambda x: x.warmup, str),
    "steady": _of_latency("steady", lambda x: "yes" if x.stable else "no", str),
    "images": Column("images", lambda r: r.images),
    "top1": Column("top-1 %", lambda r: r.top1, points),
    "top1_low": Column("top-1 low %", lambda r: _side(r.top1_interval, 0), points),
    "top1_high": Column("top-1 high %", lambda r: _side(r.top1_interval, 1), points),
    "interval": Column(
        "95 % interval", lambda r: _side(r.top1_interval, 0), whole=lambda r: _range(r.top1_interval, _tenths)
    ),
    "spread": Column("top-1 %", lambda r: r.top1, whole=_spread),
    "top5": _of_accuracy("top-5 %", lambda x: _hundred(x.top5)),
    "drop": Column("drop", lambda r: r.drop, points, relative=True),
    "agreement": _of_accuracy("agree %", lambda x: _hundred(x.agreement), relative=True),
    "agreement_interval": Column(
        "95 % interval",
        lambda r: _hundred(_side(r.cell.accuracy.agreement_interval, 0)) if r.cell.accuracy else None,
        whole=lambda r: _range(_percent(r.cell.accuracy.agreement_interval if r.cell.accuracy else None), _tenths),
        relative=True,
    ),
    "agreement_low": _of_accuracy("agree low %", lambda x: _hundred(_side(x.agreement_interval, 0)), relative=True),
    "agreement_high": _of_accuracy("agree high %", lambda x: _hundred(_side(x.agreement_interval, 1)), relative=True),
    "lost": _of_pairs("FP32 only", lambda x: x.lost),
    "gained": _of_pairs("this only", lambda x: x.gained),
    "p": _of_pairs("McNemar p", lambda x: x.p, lambda p: f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"),
    "evaluated": _of_accuracy("evaluated images/s", lambda x: x.images_per_second, number),
    "size": Column("size MB", lambda r: r.cell.size and r.cell.size / 1e6, number),
    "digest": Column("SHA-256", lambda r: r.cell.digest),
    "message": Column("message", lambda r: r.cell.message or None),
}
"""By key; each renderer chooses and orders its own."""

SPEED = (
    "p50, p90, p99: milliseconds per call, host to host. Speed-up: p50 of FP32 on the same target divided by this p50."
)
TOP1 = (
    "Top-1 with its 95 % interval. Drop: points of top-1 lost against FP32 on the same images; below zero is a gain. "
    "Agree: share of images with the same top-1 as FP32."
)
