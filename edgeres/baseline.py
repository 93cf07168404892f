"""Accepting a report as the baseline of `edgeres check`: a file that is committed, and read as a diff.

What did not change stays as it was, byte for byte: keys in the schema's order, floats rounded, the samples of each
process on a line of their own, no pictures.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from edgeres import disk, gate
from edgeres import report as reports
from edgeres.errors import EdgeresError, InputError
from edgeres.report import scores
from edgeres.report.table import NOTHING, Row, rows
from edgeres.schema import Report

METRICS = ("p50", "p90", "p99", "top1", "agreement", "size")
"""What of a cell is told where it changes, as `edgeres.report.table` calls and writes it."""
DIGITS, DIGITS_OF_SHARES = 6, 12
"""Significant ones. Shares are counted images: rounded further, a drop at the limit would lie beyond it."""
EXACT = ("accuracy", "scores")
"""Parts of a cell that hold shares."""

Change = tuple[str, str, str, str]
"""Cell, metric with its unit, old, new."""


def changes(report: Report, out: Path) -> list[Change]:
    """What the baseline `out` changes with `report` in its place; EdgeresError where a report may not become one.

    That is: a cell failed, a latency rule would judge by an unsteady latency, or a rule finds no figure.
    """
    refused = next(_flaws(report), None)
    if refused:
        raise EdgeresError(f"this report cannot become a baseline: {refused}")
    try:
        old = rows(reports.load(out)) if out.is_file() else []
    except InputError:
        written = disk.read_json(out)
        if not isinstance(written, dict) or "schema_version" not in written:
            raise InputError(f"{out} is another file than a baseline; give another name to write to.") from None
        old = []  # of another version: nothing of it compares
    return list(_changes(old, rows(report)))


def write(report: Report, out: Path) -> None:
    """Write a report as a baseline, whole or not at all."""
    disk.write_bytes(out, (render(report) + "\n").encode())


def render(report: Report) -> str:
    """The JSON of a baseline, without the last newline; `Report` reads it like any other."""
    content = report.model_dump(mode="json", exclude_none=True)
    for cell in content["cells"]:
        for flip in cell.get("accuracy", {}).get("flipped", []):
            flip.pop("thumbnail", None)
        if latency := cell.get("latency"):
            cuts = [0, *accumulate(latency["rounds"][:-1]), len(latency["samples"])]
            latency["samples"] = _Lines(latency["samples"][start:end] for start, end in pairwise(cuts))
    return _json(_rounded(content))


class _Lines(list[Any]):
    """A list of numbers, in pieces that get a line each."""


def _rounded(value: Any, digits: int = DIGITS) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one, DIGITS_OF_SHARES if key in EXACT else digits) for key, one in value.items()}
    if isinstance(value, list):
        return type(value)(_rounded(one, digits) for one in value)
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def _json(value: Any, indent: str = "", listed: bool = False) -> str:
    """Objects over several lines, but those in lists that hold no others; lists of plain values on one line."""
    deeper = f"{indent}  "
    if isinstance(value, _Lines):
        lines = [json.dumps(one)[1:-1] for one in value]
    elif isinstance(value, dict) and not (listed and _flat(value.values())):
        lines = [f"{json.dumps(key)}: {_json(one, deeper)}" for key, one in value.items()]
    elif isinstance(value, list) and not _flat(value):
        lines = [_json(one, deeper, listed=True) for one in value]
    else:
        return json.dumps(value)
    opened, closed = "{}" if isinstance(value, dict) else "[]"
    return f"{opened}\n{deeper}" + f",\n{deeper}".join(lines) + f"\n{indent}{closed}" if lines else opened + closed


def _flat(values: Iterable[Any]) -> bool:
    return not any(isinstance(one, dict | list) for one in values)


def _flaws(report: Report) -> Iterator[str]:
    for cell in report.cells:
        if cell.status == "failed":
            yield f"{cell.place} {cell.precision} failed ({cell.message.rstrip('.')}); mend it and run again."
        if cell.latency and not cell.latency.stable and any(rule.startswith("latency") for rule in report.rules):
            why = " ".join(cell.latency.notes).rstrip(".") or "It was not steady"
            yield f"the latency of {cell.place} {cell.precision} is doubtful ({why}); run again when it is quiet."
    if report.rules:
        found = gate.compare(report, report, report.rules)
        yield from (verdict.sentence for verdict in found if verdict.outcome is gate.Outcome.INCONCLUSIVE)


def _changes(old: list[Row], new: list[Row]) -> Iterator[Change]:
    before, after = ({row.name: row for row in found} for found in (old, new))
    columns = scores.columns([*old, *new])
    for name in dict.fromkeys([*before, *after]):
        for metric in dict.fromkeys([*METRICS, *scores.names([*old, *new])]):
            column = columns[metric]
            was, now = (column.text(found[name]) if name in found else NOTHING for found in (before, after))
            if was != now:
                yield name, column.heading, was, now
