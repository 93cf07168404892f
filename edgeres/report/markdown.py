"""The report as Markdown, for a pull request: GitHub's and GitLab's dialect, no image, no link."""

import re
from collections.abc import Iterable, Mapping, Sequence

from edgeres.figures import plain
from edgeres.report import scores, table, words
from edgeres.report.table import decibel
from edgeres.schema import LayerError, Report

KEYS = ("target", "precision", "p50", "p90", "p99", "speedup", "top1", "interval", "drop", "agreement", "size")
LATENCY = ("target", "precision", "p50_interval", "p999", "device", "throughput", "energy", "memory", "calls", "steady")
ACCURACY = ("target", "precision", "images", "top5", "agreement", "agreement_interval", "lost", "gained", "p")
LIMIT = 65_536
"""What GitHub takes as a comment, in characters; here counted in bytes, which are never fewer."""
ROOM_TO_SAY_SO = 256
NOTE, WORST = 600, 8
"""Characters of a note, and tensors of a file, that are shown at most."""


def render(report: Report) -> str:
    """Title, verdict, table, notes; then all else, folded away, as far as a comment holds it."""
    notes = "\n".join(f"- {_prose(note if len(note) <= NOTE else note[:NOTE] + '…')}" for note in words.notes(report))
    head = [
        f"## {escape(report.name)}: {escape(report.model.arch)} in INT8",
        " ".join(escape(said) for said in words.verdict(report)),
        _table(table.rows(report), KEYS),
        f"<sub>{escape(scores.legend(table.rows(report)))}</sub>",
        notes,
    ]
    folds = {
        "Latency": _cells(report, LATENCY),
        "Accuracy": _scores(report) or _cells(report, ACCURACY),
        "Errors by layer": _errors(report),
        "Precision by layer": _precisions(report),
        "Environment": _environment(report),
        "Digests": _digests(report),
        "Changed answers": _flips(report),
    }
    return _fitted("\n\n".join(filter(None, head)), {title: content for title, content in folds.items() if content})


def _fitted(text: str, folds: Mapping[str, str]) -> str:
    """The head with as many folds as fit below the limit; where it does not fit itself, its first lines."""
    room, left_out = LIMIT - ROOM_TO_SAY_SO, []
    if _size(text) > room:
        text = text.encode()[:room].decode(errors="ignore").rpartition("\n")[0]
        left_out = ["lines"]
    for title, content in folds.items():
        fold = f"\n\n<details>\n<summary>{title}</summary>\n\n{content}\n\n</details>"
        if _size(text + fold) <= room:
            text += fold
        else:
            left_out.append(title.lower())
    said = f"\n\nLeft out to fit a comment: {', '.join(left_out)}; the HTML and the JSON report have them."
    return text + (said if left_out else "") + "\n"


def _size(text: str) -> int:
    return len(text.encode())


def escape(text: str) -> str:
    """Text that Markdown and HTML leave as it is, on one line."""
    flat = plain(re.sub(r"\s+", " ", text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", flat)


def code(text: str) -> str:
    """Text in a code span, fit for a table; there nothing is a tag, a link or a mention."""
    return "`" + plain(" ".join(text.split())).replace("`", "'").replace("|", "\\|") + "`"


def _prose(text: str) -> str:
    """Words in backticks stay code."""
    parts = re.split(r"`([^`]+)`", text)
    return "".join(code(part) if i % 2 else escape(part) for i, part in enumerate(parts))


def _cells(report: Report, keys: Sequence[str]) -> str:
    measured = [row for row in table.rows(report) if row.has_figures]
    return _table(measured, keys) if measured else ""


def _scores(report: Report) -> str:
    body = [
        [
            code(row.target),
            str(row.precision),
            escape(f"{score.name}{scores.symbol(score.unit)}"),
            *map(escape, texts),
            str(score.images),
        ]
        for row, score, texts in scores.details(table.rows(report))
    ]
    return _grid(scores.DETAILS, body, numbers=5) if body else ""


def _table(rows: Sequence[table.Row], keys: Sequence[str]) -> str:
    """Where a cell has no figures, its p50 says why."""
    columns, keys = scores.columns(rows), scores.keys(rows, keys)

    def written(row: table.Row, key: str) -> str:
        column = columns[key]
        return escape(column.words(row) if row.has_figures or key == "p50" else column.text(row))

    body = [[code(row.target), *(written(row, key) for key in keys[1:])] for row in rows]
    return _grid([escape(columns[key].heading) for key in keys], body, numbers=len(keys) - 2)


def _flips(report: Report) -> str:
    body = [
        [
            code(row.target),
            str(row.precision),
            code(flip.name),
            *map(escape, (flip.label, flip.reference, flip.predicted)),
        ]
        for row in table.rows(report)
        if row.cell.accuracy
        for flip in row.cell.accuracy.flipped
    ]
    return _grid(("target", "precision", "image", "label", "FP32 says", "now"), body) if body else ""


def _errors(report: Report) -> str:
    """What each file keeps, and its worst tensors."""
    return "\n\n".join(
        f"{escape(who)}: {escape(words.losses(found))}\n\n{_worst(found)}"
        for who, found in words.inside(report, lambda cell: cell.errors)
    )


def _worst(found: Sequence[LayerError]) -> str:
    worst = words.worst_first(found)[:WORST]
    body = [[code(error.name), escape(error.role), decibel(error.sqnr_db)] for error in worst]
    return _grid(("tensor", "role", "SQNR dB"), body, numbers=1)


def _precisions(report: Report) -> str:
    told = words.inside(report, lambda cell: cell.layers)
    return "\n".join(f"- {escape(who)}: {escape(words.precisions(found))}" for who, found in told)


def _grid(headings: Sequence[str], body: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """A table whose last `numbers` columns are set to the right."""
    rule = [":--"] * (len(headings) - numbers) + ["--:"] * numbers
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, rule, *body))


def _environment(report: Report) -> str:
    return _grid(("", ""), [(escape(name), escape(value)) for name, value in words.environment(report)])


def _digests(report: Report) -> str:
    return _grid(("file", "SHA-256"), [(code(name), code(value)) for name, value in words.digests(report)])
