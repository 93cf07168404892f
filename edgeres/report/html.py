"""The report as one HTML file that opens offline: nothing is loaded, and it can be read without scripts.

Everything that comes from a report passes `html.escape` and, for whoever reads the file in a terminal, `figures.plain`;
besides, a Content-Security-Policy allows only this file's own style sheet and script, by their digests.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from string import Template

from edgeres.figures import outputs, plain
from edgeres.report import sections, table, words
from edgeres.report.grid import Entry, grid, precision
from edgeres.report.sections import prose
from edgeres.report.table import NOTHING, Row
from edgeres.schema import Report


def render(report: Report) -> str:
    """The whole page."""
    rows = table.rows(report)
    made = {
        "Speed against accuracy": sections.speed_and_accuracy(rows),
        "Results": sections.results(report, rows),
        "Latency": sections.latency(rows),
        "Accuracy": sections.accuracy(rows),
        "Changed answers": sections.flips(rows),
        "Error by layer": sections.errors(report),
        "Precision by layer": sections.layers(report),
        "Environment": _pairs(words.environment(report)),
        "Digests": _digests(report),
    }
    network = f"{report.model.arch}, {outputs(report.model.task, report.model.classes)}"
    return page(report.name, f"{network}, on {report.machine.cpu}", report.created, _verdict(report, rows), made)


def page(name: str, summary: str, created: str, verdict: str, parts: Mapping[str, str]) -> str:
    """A page of a verdict and titled parts, both marked up already; a part without content is left out. `created` is
    UTC, ISO 8601."""
    style, script = _data("report.css"), _data("report.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_sha256(style)}'; script-src '{_sha256(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    shown = {title: content for title, content in parts.items() if content}
    made = Template(_data("report.html")).substitute(
        policy=policy,
        style=style,
        script=script,
        name=escape(name),
        summary=escape(summary),
        created=escape(created),
        moment=escape(words.moment(created)),
        verdict=_section("Verdict", verdict),
        contents="".join(f'<li><a href="#{_id(title)}">{title}</a></li>' for title in shown),
        sections="\n".join(_section(title, content) for title, content in shown.items()),
    )
    return plain(made)


def _data(name: str) -> str:
    return (resources.files("edgeres.report") / name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _id(title: str) -> str:
    return title.lower().replace(" ", "-")


def _section(title: str, content: str) -> str:
    return f'<section aria-labelledby="{_id(title)}">\n<h2 id="{_id(title)}">{title}</h2>\n{content}\n</section>'


def _verdict(report: Report, rows: Sequence[Row]) -> str:
    cards = []
    for row in words.best(rows):
        figures = "".join(f"<p><strong>{escape(f)}</strong> {escape(what)}</p>" for f, what in _figures(row))
        cards.append(
            f"<article><h3>{escape(row.target)} {precision(str(row.precision))}</h3>"
            f'<div class="figures">{figures}</div><p>{prose(words.sentence(row))}</p></article>'
        )
    said = words.asides(report) if cards else words.verdict(report)
    cards_shown = f'<div class="cards">{"".join(cards)}</div>' if cards else ""
    return cards_shown + "".join(f'<p class="aside">{prose(text)}</p>' for text in said)


def _figures(row: Row) -> list[tuple[str, str]]:
    return [figure for figure in (words.pace(row), words.loss(row)) if figure[0] != NOTHING]


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    listed = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in pairs)
    return f'<dl class="facts">{listed}</dl>'


def _digests(report: Report) -> str:
    body = [
        [Entry(name), Entry(value, "", f'<span class="digest">{escape(value)}</span>')]
        for name, value in words.digests(report)
    ]
    return grid("Digests", ("file", "SHA-256"), body)
