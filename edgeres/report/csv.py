"""The cells of a report as CSV (RFC 4180): plain figures in the units of the headings, empty where there is none."""

import csv
import io
import re

from edgeres.figures import plain
from edgeres.report import scores, table
from edgeres.schema import Report

LEFT_OUT = ("interval", "spread", "p50_interval", "agreement_interval")
"""Columns for readers; their bounds have columns of their own."""


def render(report: Report) -> str:
    """One line a cell, with a heading; lines end in CR LF."""
    rows = table.rows(report)
    columns = [column for key, column in scores.columns(rows).items() if key not in LEFT_OUT]
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\r\n")
    writer.writerow(_safe(column.heading) for column in columns)
    writer.writerows([_safe(column.value(row)) for column in columns] for row in rows)
    return written.getvalue()


def _safe(value: float | str | None) -> float | str | None:
    """A spreadsheet would run text that starts like a formula (OWASP, "CSV injection")."""
    if not isinstance(value, str):
        return value
    return plain(f"'{value}" if re.match("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]", value) else value)
