"""The report as one HTML file that opens offline: nothing is loaded, and it can be read without scripts.

Everything that comes from a report passes `html.escape`; besides, a Content-Security-Policy allows only this file's
own style sheet and script, by their digests.
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from string import Template

from edgeres.report import svg, table, words
from edgeres.report.table import NOTHING, Row, number
from edgeres.schema import Report

KEYS = (
    "target",
    "precision",
    "p50",
    "p90",
    "p99",
    "throughput",
    "speedup",
    "top1",
    "interval",
    "drop",
    "agreement",
    "size",
    "scheme",
)
NAMED = ("target", "precision", "scheme")
"""Columns of words; the others hold numbers."""
SHOWN = 10
"""How many names of flipped images are listed."""


def render(report: Report) -> str:
    """The whole page."""
    rows = table.rows(report)
    style, script = _data("report.css"), _data("report.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_sha256(style)}'; script-src '{_sha256(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    sections = [
        _section("Verdict", _verdict(report, rows)),
        _section("Results", _results(report, rows)),
        _section("Speed against accuracy", _pareto(rows)),
        _section("Latency, call by call", _latency(report, rows)),
        _section("Images whose answer changed", _flipped(report, rows)),
        _section("Machine and model", _pairs(words.environment(report))),
        _section("Digests", _digests(report)),
    ]
    return Template(_data("report.html")).substitute(
        policy=policy,
        style=style,
        script=script,
        name=escape(report.name),
        summary=escape(f"{report.model.arch}, {report.model.classes} classes, on {report.machine.cpu}"),
        created=escape(report.created),
        moment=escape(words.moment(report)),
        sections="\n".join(filter(None, sections)),
    )


def _data(name: str) -> str:
    return (resources.files("edgeres.report") / name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _section(title: str, content: str) -> str:
    name = title.split(",")[0].lower().replace(" ", "-")
    if not content:
        return ""
    return f'<section aria-labelledby="{name}">\n<h2 id="{name}">{title}</h2>\n{content}\n</section>'


def _verdict(report: Report, rows: Sequence[Row]) -> str:
    cards = []
    for row in words.best(rows):
        figures = "".join(f"<p><strong>{escape(f)}</strong> {escape(what)}</p>" for f, what in _figures(row))
        cards.append(
            f"<article><h3>{escape(row.target)} {_precision(row)}</h3>"
            f'<div class="figures">{figures}</div><p>{_prose(words.sentence(row))}</p></article>'
        )
    said = words.asides(report) if cards else words.verdict(report)
    grid = f'<div class="cards">{"".join(cards)}</div>' if cards else ""
    return grid + "".join(f'<p class="aside">{_prose(text)}</p>' for text in said)


def _figures(row: Row) -> list[tuple[str, str]]:
    return [figure for figure in (words.pace(row), words.loss(row)) if figure[0] != NOTHING]


def _precision(row: Row) -> str:
    return f'<span class="precision {row.precision}">{row.precision}</span>'


def _results(report: Report, rows: Sequence[Row]) -> str:
    columns = [(key, table.COLUMNS[key]) for key in KEYS]
    head = "".join(
        f'<th scope="col"{"" if key in NAMED else " class=number"}>{escape(column.heading)}</th>'
        for key, column in columns
    )
    body = []
    for row in rows:
        cells = [f'<th scope="row">{escape(row.target)}</th>', f"<td>{_precision(row)}</td>"]
        for key, column in columns[2:]:
            value, text = column.value(row), escape(column.text(row))
            kind = "" if key in NAMED else " class=number"
            cells.append(f'<td{kind} data-value="{escape(str("" if value is None else value))}">{text}</td>')
        body.append(f"<tr class={row.status}>{''.join(cells)}</tr>")
    notes = "".join(f"<li>{_prose(note)}</li>" for note in words.notes(report))
    return (
        _scrolled("Results", head, body)
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
        + f'<p class="legend">{escape(table.LEGEND)}</p>'
    )


def _prose(text: str) -> str:
    """Words in backticks are set as code; a number and its unit stay on one line."""
    united = re.sub(r"(\d) (%|ms\b)", "\\1\N{NO-BREAK SPACE}\\2", escape(text))
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", united)


def _scrolled(label: str, head: str, body: Iterable[str]) -> str:
    """A table that scrolls sideways in its own frame, also by keyboard."""
    return (
        f'<div class="scroll" role="region" aria-label="{label}" tabindex="0"><table class="data">'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{chr(10).join(body)}\n</tbody></table></div>"
    )


def _pareto(rows: Sequence[Row]) -> str:
    images = {row.images for row in rows if row.p50 and row.top1 is not None}
    if not images:
        return ""
    counted = " or ".join(str(count) for count in images)
    return (
        f"<figure>{svg.pareto(rows, 1040, 420)}{svg.pareto(rows, 360, 400)}"
        "<figcaption>Up and to the left is better; the line joins those that no other beats in both. Whiskers are 95 % "
        f"intervals on {counted} images; all engines see the same images, so differences between them are surer than "
        "the whiskers suggest.</figcaption></figure>"
    )


def _latency(report: Report, rows: Sequence[Row]) -> str:
    figures = []
    for row, cell in zip(rows, report.cells, strict=True):
        if cell.latency is None or not cell.latency.samples:
            continue
        latency, (first, last) = cell.latency, svg.extent(cell.latency)
        late = sum(sample > last for sample in latency.samples)
        facts = [f"{len(latency.samples)} calls", f"p90 {number(latency.p90)} ms"]
        facts += [f"{late} slower than the axis, up to {number(max(latency.samples))} ms"] if late else []
        facts += [f"batch {latency.batch}"] if latency.batch > 1 else []
        facts += [] if latency.stable else ["not steady"]
        figures.append(
            f"<figure><h3>{escape(row.target)} {_precision(row)}</h3>"
            f'<p class="marks"><span>p50 {number(latency.p50)} ms</span><span>p99 {number(latency.p99)} ms</span></p>'
            f'{svg.histogram(latency)}<p class="ends"><span>{number(first)} ms</span><span>{number(last)} ms</span></p>'
            f"<figcaption>{', '.join(facts)}</figcaption></figure>"
        )
    if not figures:
        return ""
    legend = '<p class="legend">Each has its own axis; the solid line is p50, the dashed one p99.</p>'
    return f'<div class="histograms">{"".join(figures)}</div>{legend}'


def _flipped(report: Report, rows: Sequence[Row]) -> str:
    parts = []
    for row, cell in zip(rows, report.cells, strict=True):
        if cell.accuracy is None or not cell.accuracy.flipped:
            continue
        names = cell.accuracy.flipped
        listed = "".join(f"<li>{escape(name)}</li>" for name in names[:SHOWN])
        more = f"<p>and {len(names) - SHOWN} more, all in the JSON report.</p>" if names[SHOWN:] else ""
        parts.append(
            f"<h3>{escape(row.target)} {_precision(row)}</h3><p>{len(names)} of {cell.accuracy.images} images have "
            f'another top-1 than in FP32.</p><ul class="names">{listed}</ul>{more}'
        )
    return "".join(f"<div>{part}</div>" for part in parts)


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>' for k, v in pairs)}</dl>"


def _digests(report: Report) -> str:
    body = [
        f'<tr><th scope="row">{escape(name)}</th><td class="digest">{escape(value)}</td></tr>'
        for name, value in words.digests(report)
    ]
    return _scrolled("Digests", '<th scope="col">file</th><th scope="col">SHA-256</th>', body)
