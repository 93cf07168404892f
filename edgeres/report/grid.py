"""Tables of the HTML report, in a frame that scrolls; the page's script makes them sortable and downloadable."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from edgeres.figures import MISSING
from edgeres.report.table import NOTHING, Column, Row

STATES = (MISSING, NOTHING, "not run", "failed", "reference", "none")
"""What stands for a value that is not there."""
FIRST = 8
"""Lines of a sorted table that are shown at first."""


@dataclass(frozen=True)
class Entry:
    """What a cell of a table shows, and the plain `value` it sorts by; `html` is that text, marked up already."""

    text: str
    value: float | str | None = ""
    html: str = ""


def entries(row: Row, columns: Sequence[Column]) -> list[Entry]:
    """One line for a cell of the report: target, precision, then `columns`."""
    written = [Entry(column.words(row), column.value(row)) for column in columns]
    return [Entry(row.target), Entry(str(row.precision), "", precision(str(row.precision))), *written]


def precision(name: str) -> str:
    """The name of a precision in its colour."""
    known = name if name in ("fp32", "fp16", "int8") else "other"
    return f'<span class="precision {known}">{escape(name)}</span>'


def grid(caption: str, headings: Sequence[str], body: Sequence[Sequence[Entry]]) -> str:
    """A table; the first column heads its rows, columns of numbers are set to the right."""
    numeric = [not any(isinstance(line[i].value, str) for line in body) for i in range(len(headings))]
    head = "".join(
        f'<th scope="col"{_kind(number)}>{escape(heading)}</th>'
        for heading, number in zip(headings, numeric, strict=True)
    )
    lines = []
    for line in body:
        cells = [_cell(entry, number) for entry, number in zip(line[1:], numeric[1:], strict=True)]
        lines.append(f'<tr><th scope="row">{line[0].html or escape(line[0].text)}</th>{"".join(cells)}</tr>')
    return (
        f'<div class="scroll" role="region" aria-label="{escape(caption)}, table" tabindex="0"><table class="data">'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>\n<tbody>\n{chr(10).join(lines)}\n"
        "</tbody></table></div>"
    )


def _kind(number: bool, more: str = "") -> str:
    names = " ".join(filter(None, ("number" if number else "", more)))
    return f' class="{names}"' if names else ""


def _cell(entry: Entry, number: bool) -> str:
    value = f' data-value="{escape(_plain(entry.value))}"' if entry.value != "" else ""
    absent = "absent" if entry.text in STATES else ""
    return f"<td{_kind(number, absent)}{value}>{entry.html or escape(entry.text)}</td>"


def _plain(value: float | str | None) -> str:
    return "" if value is None else f"{value:.10g}" if isinstance(value, float) else str(value)


def ranked(caption: str, headings: Sequence[str], body: Sequence[Sequence[Entry]], whole: int | None = None) -> str:
    """A table that has the worst first: those, and all others where they are asked for.

    `whole` is how many there are, where `body` does not hold all.
    """
    if len(body) <= FIRST + 2:
        return grid(caption, headings, body)
    summary = f"The worst {len(body)} of {whole}" if whole and whole > len(body) else f"All {len(body)}"
    first = grid(f"{caption}: the worst {FIRST}", headings, body[:FIRST])
    return first + folded(summary, grid(caption, headings, body))


def folded(summary: str, content: str) -> str:
    """Content that is shown when asked for."""
    return f"<details><summary>{escape(summary)}</summary>\n{content}\n</details>"
