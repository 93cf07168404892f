"""What a search found as one HTML file: the choice, the picture of speed against accuracy, and every trial."""

import time
from dataclasses import dataclass
from html import escape

from edgeres import evaluate, machine
from edgeres.figures import number, points
from edgeres.report import html, sections
from edgeres.report.grid import Entry, grid
from edgeres.report.table import NOTHING, Row
from edgeres.schema import Accuracy, Cell, Latency
from edgeres.tune import show
from edgeres.tune.search import Trial, Tuned


@dataclass(frozen=True)
class _Tried(Row):
    """A trial as a row of the picture, under its own name."""

    label: str

    @property
    def name(self) -> str:
        return self.label


def render(found: Tuned, target: str) -> str:
    """The whole page."""
    told = show.text(found).partition("\nengine: ")[0].splitlines()
    body = [_line(trial) for trial in found.trials]
    parts = {
        "Speed against accuracy": sections.speed_and_accuracy([_row(trial, found, target) for trial in found.trials]),
        "Trials": grid("Trials", ("candidate", "p50 ms", "to the leader", "top-1 drop", "verdict"), body),
    }
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    verdict = "".join(f"<p>{escape(line)}</p>" for line in told)
    return html.page(f"{target}, tuned", f"batch 1, on {machine.describe().cpu}", created, verdict, parts)


def _line(trial: Trial) -> list[Entry]:
    quality, lane = trial.quality, trial.lane
    ratio = lane.ratio if lane else None
    drop = quality.drop if quality else None
    return [
        Entry(trial.candidate.name),
        Entry(number(trial.p50) if trial.p50 else NOTHING, trial.p50),
        Entry(f"{ratio:.3f}" if ratio else NOTHING, ratio),
        Entry(points(drop) if drop is not None else NOTHING, drop),
        Entry(trial.verdict),
    ]


def _row(trial: Trial, found: Tuned, target: str) -> _Tried:
    """`speed_and_accuracy` leaves out what was not judged, and says so."""
    quality, lane = trial.quality, trial.lane
    accuracy = latency = None
    if quality:
        right = round(quality.top1 * found.images)
        interval = evaluate.wilson(right, found.images)
        accuracy = Accuracy(images=found.images, dataset="", top1=quality.top1, top1_interval=interval)
    if lane:
        samples = sorted(lane.times)
        middle, last = lane.p50, samples[-1]
        latency = Latency(
            p50=middle, p90=last, p99=last, batch=1, throughput=1e3 / middle, samples=samples, warmup=0, stable=True
        )
    precision = trial.candidate.choice.precision
    cell = Cell(target=target, precision=precision, status="measured", latency=latency, accuracy=accuracy)
    return _Tried(cell, None, None, True, None, None, label=trial.candidate.name)
