"""What a report says in plain words: the verdict, the notes, the environment, the digests."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from edgeres.figures import number, outputs, points
from edgeres.report import scores
from edgeres.report.table import NOTHING, TIMES, Row, decibel, rows
from edgeres.schema import Cell, LayerError, LayerPrecision, Report, Score
from edgeres.types import Precision

SUMMANDS = ("shortcut", "branch")
"""Roles of tensors that are added up next."""
NAMED = 6
"""Layers that a sentence names."""
_Told = TypeVar("_Told")


def best(found: Iterable[Row]) -> list[Row]:
    """The fastest measured INT8 row of each runtime of each device, in the order of the rows."""
    fastest: dict[tuple[str, str | None], Row] = {}
    for row in found:
        runtime = row.target.partition(":")[0], row.cell.device
        if row.precision is Precision.INT8 and row.p50 is not None:
            fastest[runtime] = min(fastest.get(runtime, row), row, key=lambda r: r.p50 or 0.0)
    return list(fastest.values())


def pace(row: Row) -> tuple[str, str]:
    """The speed-up as a figure and what it is: `("3.07x", "faster than fp32")`; a slow-down is turned round."""
    if row.speedup is None:
        return number(row.p50 or 0.0), "ms, with nothing measured beside it to compare"
    factor = max(row.speedup, 1 / row.speedup)
    word = "as fast as" if factor < 1.005 else "faster than" if row.speedup > 1 else "slower than"
    return f"{number(factor)}{TIMES}", f"{word} {row.speedup_over}"


def loss(row: Row) -> tuple[str, str]:
    """The drop as a figure and what it is: `("0.15", "points of top-1 lost")`."""
    if row.headline:
        return _change(row.headline)
    if row.drop is None:
        return NOTHING, "accuracy not compared with fp32"
    lost = round(row.drop, 2)
    return points(abs(lost)), "points of top-1 " + ("gained" if lost < 0 else "lost")


def _change(score: Score) -> tuple[str, str]:
    """The same of a headline: `("0.15", "points of mAP lost")`, `("1.2 %", "larger MAE")`, `("0.998", "cosine")`."""
    changed = scores.change(score)
    if changed is None:
        return scores.write(score.value, score.unit) + scores.symbol(score.unit), score.name
    changed = round(changed, 2)
    if score.unit == "share":
        return points(abs(changed)), f"points of {score.name} {'gained' if changed > 0 else 'lost'}"
    unit = scores.symbol(score.unit) or " %"
    what = "smaller" if changed < 0 else "larger" if changed > 0 else "change of"
    return f"{points(abs(changed))}{unit}", f"{what} {score.name}"


def _kept(score: Score) -> str:
    """What becomes of a headline: `and loses 0.15 points of mAP (71.20 % on 800 images)`."""
    found = f"{scores.write(score.value, score.unit)}{scores.symbol(score.unit)} on {score.images} images"
    changed = scores.change(score)
    if changed is None:
        return f"; its {score.name} is {found}"
    figure, changed = _change(score)[0], round(changed, 2)
    if not changed:
        return f" and keeps its {score.name} ({found})"
    if score.unit == "share":
        return f" and {'gains' if changed > 0 else 'loses'} {figure} points of {score.name} ({found})"
    return f"; its {score.name} {'grows' if changed > 0 else 'shrinks'} by {figure} ({found})"


def sentence(row: Row) -> str:
    """What a measured INT8 row says, in plain words."""
    return _claim(row) + ("" if row.steady else " The latency was not steady: measure again on a quiet machine.")


def _claim(row: Row) -> str:
    times, faster = pace(row)
    took = number(row.p50 or 0.0)
    if row.p50 is None:
        text = f"{row.name} has no latency"
    elif row.speedup is None:
        text = f"{row.name} takes {took} ms, with nothing measured beside it to compare"
    else:
        text = f"{row.name} is {times} {faster} ({took} ms against {number(row.speedup * (row.p50 or 0.0))} ms)"
    if row.headline:
        return f"{text}{_kept(row.headline)}."
    if row.top1 is None:
        return f"{text}; its accuracy was not measured."
    found = f"{points(row.top1)} % on {row.images} images"
    if row.drop is None:
        return f"{text}; its top-1 is {found}."
    lost = round(row.drop, 2)
    verb = "loses" if lost > 0 else "gains"
    change = f"{verb} {points(abs(lost))} points of top-1" if lost else "keeps its top-1"
    where = "" if row.drop_against == row.target else f" against {row.drop_against} fp32"
    return f"{text} and {change}{where} ({found})."


def verdict(report: Report) -> list[str]:
    """The best INT8 engine of each runtime, then what was only built and what failed: a sentence each."""
    return headlines(report) + asides(report)


def headlines(report: Report) -> list[str]:
    """One sentence for the best INT8 engine of each runtime, and for each that has an accuracy and no latency."""
    every = rows(report)
    untimed = [row for row in every if row.precision is Precision.INT8 and row.p50 is None and row.has_figures]
    return [sentence(row) for row in best(every) + untimed] or ["No INT8 engine was measured."]


def asides(report: Report) -> list[str]:
    """What was only built, what failed; empty where all was measured."""
    said = []
    if built := [row for row in rows(report) if row.status == "built"]:
        said.append(f"Built, not run on this machine: {several(built)}.")
    if failed := [row for row in rows(report) if row.status == "failed"]:
        said.append(f"Failed: {several(failed)}.")
    return said


def several(found: Iterable[Row]) -> str:
    """Name many cells shortly: `tensorrt-rtx:sm75, sm86 (fp16, int8); openvino:gpu (int8)`."""
    precisions: dict[str, list[str]] = {}
    for row in found:
        precisions.setdefault(row.target, []).append(str(row.precision))
    devices: dict[tuple[str, str], list[str]] = {}
    for target, listed in precisions.items():
        runtime, _, device = target.partition(":")
        devices.setdefault((runtime, ", ".join(dict.fromkeys(listed))), []).append(device)
    return "; ".join(
        f"{runtime}:{', '.join(names)} " + (f"({listed})" if "," in listed or names[1:] else listed)
        for (runtime, listed), names in devices.items()
    )


def notes(report: Report) -> list[str]:
    """Why cells were not measured, and what makes measured figures doubtful: each once, naming all it is true of."""
    said: dict[tuple[str, str], list[Row]] = {}
    for row, cell in zip(rows(report), report.cells, strict=True):
        kind = {"measured": "", "built": " built, not run", "failed": " failed"}[cell.status]
        doubts = list(cell.latency.notes) if cell.latency else []
        if cell.latency and not cell.latency.stable and not doubts:
            doubts = ["the latency was not steady; measure again on a quiet machine."]
        why = [cell.message] if cell.message or cell.status != "measured" else []
        for text in why + doubts:
            said.setdefault((kind, " ".join(text.split()) or "no reason was given."), []).append(row)
    return [f"{several(who)}{kind}: {text}" for (kind, text), who in said.items()]


def inside(report: Report, told: Callable[[Cell], list[_Told]]) -> list[tuple[str, list[_Told]]]:
    """What INT8 cells tell of their layers or tensors, equal ones together: who they are, and what."""
    groups: list[tuple[list[Row], list[_Told]]] = []
    for row in rows(report):
        if not (found := told(row.cell)):
            continue
        for who, known in groups:
            if known == found:
                who.append(row)
                break
        else:
            groups.append(([row], found))
    return [(several(who), found) for who, found in groups]


def untold(report: Report, told: Callable[[Cell], list[_Told]]) -> str:
    """The INT8 engines that tell nothing; empty where each does."""
    missing = [row for row in rows(report) if row.precision is Precision.INT8 and not told(row.cell)]
    return several(missing)


def precisions(layers: Sequence[LayerPrecision]) -> str:
    """How much of a network runs in INT8, and what does not."""
    weighted = [layer for layer in layers if layer.weight_bytes is not None]
    whole = [layer for layer in weighted if layer.precision == "int8"]
    macs = sum(layer.macs or 0 for layer in weighted)
    known = all(layer.macs is not None for layer in weighted) and macs
    share = f", {100 * sum(layer.macs or 0 for layer in whole) / macs:.1f} % of the arithmetic" if known else ""
    others = [f"{layer.name} ({layer.precision})" for layer in weighted if layer.precision != "int8"]
    more = f" and {len(others) - NAMED} more" if others[NAMED:] else ""
    rest = f" Not in INT8: {', '.join(others[:NAMED])}{more}." if others else ""
    return f"{len(whole)} of {len(weighted)} layers with weights run in INT8{share}.{rest}"


def worst_first(errors: Sequence[LayerError]) -> list[LayerError]:
    """By SQNR; the summands of a block last, for they are clipped where its ReLU cuts them off anyway: an error that
    matters shows in the block."""
    return sorted(errors, key=lambda error: (error.role in SUMMANDS, error.sqnr_db))


def losses(errors: Sequence[LayerError]) -> str:
    """What a Q/DQ file keeps at its end, and where it loses most."""
    least = worst_first(errors)[0]
    kept = next((f"The {_output(e)} {decibel(e.sqnr_db)} dB. " for e in errors if e.role == "logits"), "")
    return f"{kept}The worst of {len(errors)} tensors is {least.name} ({least.role}) with {decibel(least.sqnr_db)} dB."


def _output(error: LayerError) -> str:
    return "logits keep" if error.name == "logits" else f"{error.name} keeps"


def environment(report: Report) -> list[tuple[str, str]]:
    """Name and value of all that decides the figures: model, parity, calibration, machine, packages, runtimes."""
    machine, model = report.machine, report.model
    found = [
        ("measured", moment(report.created)),
        ("model", f"{model.arch}, {outputs(model.task, model.classes)}"),
        ("export against checkpoint", _listed(model.parity)),
        ("calibration", _listed({k: v for k, v in report.calibration.items() if k != "dataset"})),
        ("machine", f"{machine.cpu}, {machine.cores} cores, {number(machine.memory_gib)} GiB, {machine.architecture}"),
        ("instruction sets", ", ".join(machine.features)),
        ("system", f"{machine.system}, Python {machine.python}"),
        ("packages", _listed(machine.packages)),
        *((name, f"{one.cpu}, {one.cores} cores; {_listed(one.packages)}") for name, one in report.devices.items()),
    ]
    said: dict[str, list[Row]] = {}
    for row, cell in zip(rows(report), report.cells, strict=True):
        said.setdefault(_listed(cell.properties), []).append(row)
    found += [(several(who), text) for text, who in said.items()]
    if report.rules:
        found.append(("held to", _listed(report.rules)))
    return [(name, value) for name, value in found if value]


def moment(created: str) -> str:
    """When it was made, to the minute, as people write it."""
    return re.sub(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d).*", r"\1 \2 UTC", created)


def _listed(values: Mapping[str, object]) -> str:
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())


def digests(report: Report) -> list[tuple[str, str]]:
    """File or image set, and SHA-256 in hex."""
    found = {"FP32 ONNX": report.model.digest, "calibration images": str(report.calibration.get("dataset", ""))}
    for cell in report.cells:
        for one in (cell.accuracy, *cell.scores):
            if one:
                found.setdefault("evaluation images", one.dataset)
    found |= {cell.engine: cell.digest for cell in report.cells if cell.engine and cell.digest}
    return [(name, value) for name, value in found.items() if value]
