"""The sections of the HTML report that show figures: each a function of the rows, empty where there is nothing."""

import re
from collections.abc import Callable, Sequence
from html import escape

from edgeres.figures import MINUS, MISSING, number, points
from edgeres.report import pareto, scores, svg, words
from edgeres.report.grid import Entry, entries, folded, grid, precision, ranked
from edgeres.report.table import Row, decibel
from edgeres.schema import Flip, LayerError, LayerPrecision, Report, Score

CELL = ("target", "precision")
RESULTS = ("p50", "p90", "p99", "speedup", "top1", "interval", "drop", "agreement", "size", "scheme")
UNMEASURED = ("status", "scheme", "size")
LATENCY = ("p50", "p50_interval", "p90", "p99", "p999", "device", "throughput", "energy")
MEASURING = ("batch", "calls", "rounds", "warmup", "steady", "memory")
ACCURACY = ("images", "top5", "agreement", "agreement_interval", "lost", "gained", "p", "evaluated")
PICTURES, LINES = 12, 300
"""Pictures of a cell, and lines of a table, that the page shows at most; the JSON report holds all."""


def prose(text: str) -> str:
    """Words in backticks are set as code; a number and its unit stay on one line."""
    united = re.sub(r"(\d) (%|ms\b|dB\b)", "\\1\N{NO-BREAK SPACE}\\2", escape(text))
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", united)


def results(report: Report, rows: Sequence[Row]) -> str:
    """The table of all that was measured, the one of what was not, and what is to be said of them."""
    measured, others = [row for row in rows if row.has_figures], [row for row in rows if not row.has_figures]
    parts = []
    if measured:
        parts += [_cells("Measured engines", RESULTS, measured), f'<p class="legend">{prose(scores.legend(rows))}</p>']
    if others:
        parts.append(_cells("Engines not measured here", UNMEASURED, others))
    notes = "".join(f"<li>{prose(note)}</li>" for note in words.notes(report))
    return "".join(parts) + (f'<ul class="notes">{notes}</ul>' if notes else "")


def _cells(caption: str, keys: Sequence[str], rows: Sequence[Row]) -> str:
    known = scores.columns(rows)
    columns = [known[key] for key in scores.keys(rows, keys)]
    headings = [*CELL, *(column.heading for column in columns)]
    return grid(caption, headings, [entries(row, columns) for row in rows])


def speed_and_accuracy(rows: Sequence[Row]) -> str:
    """The picture of both, twice: for wide and for narrow pages."""
    images = {row.images for row in rows if pareto.shown(row)}
    if not images:
        return ""
    counted = " or ".join(str(count) for count in images)
    absent = words.several(row for row in rows if not pareto.shown(row))
    sure = "; all engines see the same images, so differences between them are surer than the whiskers suggest."
    if any(row.headline for row in rows):
        sure = ": of FP32's figure, and of what other engines differ from it, image by image."
    return (
        f"<figure>{pareto.pareto(rows, 1040, 420)}{pareto.pareto(rows, 360, 400)}"
        "<figcaption>Up and to the left is better; the line joins those that no other beats in both. Whiskers are 95 % "
        f"intervals on {counted} images{sure}"
        f"{escape(f' Not in the picture, for want of a figure: {absent}.') if absent else ''}"
        "</figcaption></figure>"
    )


def latency(rows: Sequence[Row]) -> str:
    """Each cell's distribution, then all figures, then throughput."""
    timed = [row for row in rows if row.cell.latency and row.cell.latency.samples]
    if not timed:
        return ""
    return (
        f'<div class="distributions">{"".join(map(_distribution, timed))}</div>'
        '<p class="legend">Bars: how many calls took how long, each cell on its own axis; the solid line is p50, the '
        "dashed one p99. Below: the calls in order, downwards; a drift or a burst shows there.</p>"
        f"{_cells('Latency in detail', LATENCY, timed)}{_cells('How it was measured', MEASURING, timed)}"
        f"{_throughput(timed)}"
    )


def _distribution(row: Row) -> str:
    made = row.cell.latency
    if made is None:
        return ""
    first, last = svg.extent(made)
    late = sum(sample > last for sample in made.samples)
    facts = [f"{len(made.samples)} calls" + (f" in {len(made.rounds)} processes" if made.rounds[1:] else "")]
    facts += [f"p90 {number(made.p90)} ms"]
    facts += [f"{late} slower than the axis, up to {number(max(made.samples))} ms"] if late else []
    facts += [f"batch {made.batch}"] if made.batch > 1 else []
    facts += [] if made.stable else ["not steady"]
    return (
        f"<figure><h3>{escape(row.target)} {precision(str(row.precision))}</h3>"
        f'<p class="marks"><span>p50 {number(made.p50)} ms</span><span>p99 {number(made.p99)} ms</span></p>'
        f'{svg.distribution(made)}<p class="ends"><span>{number(first)} ms</span><span>{number(last)} ms</span></p>'
        f"<figcaption>{', '.join(facts)}</figcaption></figure>"
    )


def _throughput(rows: Sequence[Row]) -> str:
    """A line a cell, a column for each batch and number of calls at once."""
    found = [
        {(one.batch, one.streams): one.images_per_second for one in row.cell.latency.throughputs}
        for row in rows
        if row.cell.latency
    ]
    ways = sorted({way for one in found for way in one})
    if not ways:
        return f"<p>Throughput at other batches and with several calls at once: {MISSING}.</p>"
    body = [
        [*entries(row, ()), *(_known(one.get(way), number) for way in ways)]
        for row, one in zip(rows, found, strict=True)
    ]
    headings = [f"batch {batch}" + (f", {streams} at once" if streams > 1 else "") for batch, streams in ways]
    return grid("Throughput, images/s", (*CELL, *headings), body)


def _known(value: float | None, write: Callable[[float], str], absent: str = MISSING) -> Entry:
    return Entry(absent, None) if value is None else Entry(write(value), value)


def accuracy(rows: Sequence[Row]) -> str:
    """All figures, and the classes, those that lost most first."""
    if any(row.cell.scores for row in rows):
        return _scores(rows)
    found = [row for row in rows if row.cell.accuracy]
    if not found:
        return ""
    legend = (
        "Intervals are 95 %, Wilson. FP32 only, this only: images that only FP32, or only this engine, gets right. "
        "McNemar p: how probable a difference as large would be if neither were better; above 0.05 it may be chance."
    )
    classes = sorted(
        (
            (_percent(one.top1) - _percent(one.reference), row, one)
            for row in found
            if row.cell.accuracy
            for one in row.cell.accuracy.classes
            if one.reference is not None
        ),
        key=lambda line: line[0],
    )
    body = [
        [
            Entry(one.name),
            Entry(row.target),
            Entry(str(row.precision), "", precision(str(row.precision))),
            Entry(str(one.images), one.images),
            *(_known(figure, points) for figure in (_percent(one.top1), _percent(one.reference), change)),
        ]
        for change, row, one in classes[:LINES]
    ]
    headings = ("class", "target", "precision", "images", "top-1 %", "FP32 %", "change")
    by_class = ranked("Top-1 by class", headings, body, len(classes)) if body else f"<p>By class: {MISSING}.</p>"
    return f'{_cells("Accuracy in detail", ACCURACY, found)}<p class="legend">{prose(legend)}</p>{by_class}'


def _scores(rows: Sequence[Row]) -> str:
    """A line a score."""
    body = [
        [
            Entry(row.target),
            Entry(str(row.precision), "", precision(str(row.precision))),
            Entry(f"{score.name}{scores.symbol(score.unit)}"),
            *(Entry(text, value) for text, value in zip(texts, _values(score), strict=True)),
            Entry(str(score.images), score.images),
        ]
        for row, score, texts in scores.details(rows)
    ]
    legend = (
        "Intervals are 95 %, bootstrap over the images, paired: of the change, or of the value where nothing is "
        "compared. Where that of a change leaves out zero, it is no chance."
    )
    return f'{grid("Scores", scores.DETAILS, body)}<p class="legend">{prose(legend)}</p>'


def _values(score: Score) -> list[float | None]:
    """What the texts of `scores.details` are sorted by."""
    return [score.value, score.reference, scores.change(score), score.interval[0] if score.interval else None]


def _percent(share: float | None) -> float:
    """A share in percent, without what multiplying adds in the last digits."""
    return round(100 * (share or 0.0), 9)


def flips(rows: Sequence[Row]) -> str:
    """Images whose top-1 is not FP32's: pictures, and all of them as a table."""
    parts = []
    for row in rows:
        if row.cell.accuracy is None or not row.cell.accuracy.flipped:
            continue
        found = row.cell.accuracy.flipped
        lost, gained = sum(f.label == f.reference for f in found), sum(f.label == f.predicted for f in found)
        neither = len(found) - lost - gained
        counted = f"Top-1 differs from FP32's on {len(found)} of {row.cell.accuracy.images} images. FP32 is right on "
        counted += f"{lost} of them, {row.precision} on {gained}, neither on {neither}."
        body = [[Entry(f.name), Entry(f.label), Entry(f.reference), Entry(f.predicted)] for f in found[:LINES]]
        listed = grid(f"Changed answers of {row.name}", ("image", "label", "FP32 says", f"{row.precision} says"), body)
        summary = "As a table" + (f", the first {LINES} of {len(found)}" if len(found) > LINES else "")
        parts.append(
            f"<h3>{escape(row.target)} {precision(str(row.precision))}</h3>"
            f'<p>{counted}</p><div class="flips">{"".join(map(_flip, found[:PICTURES]))}</div>'
            f"{folded(summary, listed)}"
        )
    return "".join(f"<div>{part}</div>" for part in parts)


def _flip(flip: Flip) -> str:
    """A changed answer; what is right is marked by more than its colour."""
    seen = (
        f'<img src="data:image/jpeg;base64,{escape(flip.thumbnail)}" alt="" width="64" height="64">'
        if flip.thumbnail
        else '<span class="unseen">no picture</span>'
    )
    answers = f"<dt>label</dt><dd>{escape(flip.label)}</dd>" + "".join(
        f"<dt>{who}</dt><dd>{escape(said)} {'✓' if said == flip.label else '✗'}</dd>"
        for who, said in (("FP32", flip.reference), ("now", flip.predicted))
    )
    return f"<figure>{seen}<figcaption><span>{escape(flip.name)}</span><dl>{answers}</dl></figcaption></figure>"


def errors(report: Report) -> str:
    """Where each Q/DQ file loses: its tensors in the order of the network, and the worst of them."""
    parts = [
        f"<h3>{escape(who)}</h3><p>{prose(words.losses(found))}</p>{_profile(found)}{_tensors(who, found)}"
        for who, found in words.inside(report, lambda cell: cell.errors)
    ]
    missing = words.untold(report, lambda cell: cell.errors)
    if not parts and not missing:
        return ""
    legend = (
        '<p class="legend">SQNR: decibels of a tensor above what INT8 has changed in it by then, on real images; 6 dB '
        "are one bit. In the order of the network, a line each 10 dB. Grey, and last in the table: the summands of a "
        "block, which are clipped where its ReLU cuts them off anyway; an error that matters shows in the block.</p>"
    )
    return "".join(f"<div>{part}</div>" for part in parts) + (legend if parts else "") + _untold(missing)


def _profile(found: Sequence[LayerError]) -> str:
    low, high = svg.bounds(found)
    steps = range(high, low - 1, -10)
    scale = "".join(f"<span>{str(at).replace('-', MINUS)}{' dB' if at == high else ''}</span>" for at in steps)
    return f'<div class="profiled"><p class="scale" aria-hidden="true">{scale}</p>{svg.profile(found)}</div>'


def _tensors(who: str, found: Sequence[LayerError]) -> str:
    places = {one.name: place for place, one in enumerate(found, start=1)}
    body = [
        [
            Entry(one.name),
            Entry(one.role),
            Entry(decibel(one.sqnr_db), one.sqnr_db),
            Entry(str(places[one.name]), places[one.name]),
        ]
        for one in words.worst_first(found)
    ]
    return ranked(f"Errors of {who}", ("tensor", "role", "SQNR dB", "place"), body)


def layers(report: Report) -> str:
    """What each engine computes in which precision."""
    parts = [
        f"<h3>{escape(who)}</h3><p>{prose(words.precisions(found))}</p>"
        f"{folded(f'All {len(found)} layers', _layers(who, found))}"
        for who, found in words.inside(report, lambda cell: cell.layers)
    ]
    return "".join(f"<div>{part}</div>" for part in parts) + _untold(words.untold(report, lambda cell: cell.layers))


def _layers(who: str, found: Sequence[LayerPrecision]) -> str:
    total = sum(layer.macs or 0 for layer in found) or 1
    body = [
        [
            Entry(layer.name),
            Entry(layer.precision, "", precision(layer.precision)),
            Entry(layer.kernel or MISSING),
            # Sums and pools have neither weights nor multiplications.
            _known(layer.weight_bytes and layer.weight_bytes / 1e3, number, "none"),
            _known(layer.macs and layer.macs / 1e6, number, "none"),
            _known(layer.macs and 100 * layer.macs / total, number, "none"),
        ]
        for layer in found
    ]
    return grid(f"Layers of {who}", ("layer", "runs in", "as", "weights kB", "MACs, 10⁶", "share %"), body)


def _untold(missing: str) -> str:
    return f"<p>{MISSING.capitalize()}: {escape(missing)}.</p>" if missing else ""
