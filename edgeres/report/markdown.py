"""The report as Markdown, for a pull request: GitHub's and GitLab's dialect, no image, no link."""

import re
from collections.abc import Iterable, Sequence

from edgeres.report import table, words
from edgeres.schema import Report

KEYS = ("target", "precision", "p50", "p90", "p99", "speedup", "top1", "interval", "drop", "agreement", "size")


def render(report: Report) -> str:
    """Title, verdict, table, notes; then environment and digests, folded away."""
    parts = [
        f"## {escape(report.name)}: {escape(report.model.arch)} in INT8",
        " ".join(escape(said) for said in words.verdict(report)),
        _results(report),
        f"<sub>{escape(table.LEGEND)}</sub>",
    ]
    if notes := words.notes(report):
        parts.append("\n".join(f"- {_prose(note)}" for note in notes))
    parts += [_fold("Environment", _environment(report)), _fold("Digests", _digests(report))]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text that Markdown and HTML leave as it is, on one line."""
    flat = re.sub(r"\s+", " ", text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", flat)


def code(text: str) -> str:
    """Text in a code span, fit for a table; there nothing is a tag, a link or a mention."""
    return "`" + " ".join(text.split()).replace("`", "'").replace("|", "\\|") + "`"


def _prose(text: str) -> str:
    """Words in backticks stay code."""
    parts = re.split(r"`([^`]+)`", text)
    return "".join(code(part) if i % 2 else escape(part) for i, part in enumerate(parts))


def _results(report: Report) -> str:
    columns = [table.COLUMNS[key] for key in KEYS]
    body = [[code(row.target), *(escape(column.text(row)) for column in columns[1:])] for row in table.rows(report)]
    return _grid([column.heading for column in columns], body, numbers=len(columns) - 2)


def _grid(headings: Sequence[str], body: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """A table whose last `numbers` columns are set to the right."""
    rule = [":--"] * (len(headings) - numbers) + ["--:"] * numbers
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, rule, *body))


def _fold(title: str, content: str) -> str:
    return f"<details>\n<summary>{title}</summary>\n\n{content}\n\n</details>"


def _environment(report: Report) -> str:
    return _grid(("", ""), [(escape(name), escape(value)) for name, value in words.environment(report)])


def _digests(report: Report) -> str:
    return _grid(("file", "SHA-256"), [(code(name), code(value)) for name, value in words.digests(report)])
