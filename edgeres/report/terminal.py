"""The report on a terminal: one table that fits 80 columns, and plain sentences below it."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeres.figures import plain
from edgeres.report import scores, table, words
from edgeres.schema import Report

LONG = 12
"""Characters from which on a heading takes two lines."""
NARROW, WIDE = 76, 100
"""Columns of a terminal below which agreement and size give way, and from which p90 and p99 have room."""


def show(report: Report, console: Console) -> None:
    """Print the report; colour and width are the console's own. Names are printed as they are, never as markup."""
    keys = ["target", "precision", "p50", "speedup", "spread", "drop"]
    if console.width >= NARROW:
        keys += ["agreement", "size"]
    if console.width >= WIDE:
        keys[3:3] = ["p90", "p99"]
    rows = table.rows(report)
    keys, columns = scores.keys(rows, keys), scores.columns(rows)
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for key in keys:
        if key == "target":
            grid.add_column("target", overflow="fold", min_width=10)
        elif key == "precision":
            grid.add_column("", no_wrap=True)
        else:
            heading = columns[key].heading
            broken = heading.replace(" ", "\n", 1) if len(heading) > LONG else heading
            grid.add_column(Text(plain(broken)), justify="right", no_wrap=True)
    before = None
    for row in rows:
        texts = [Text(plain(columns[key].text(row)).replace(" vs ", "\nvs ")) for key in keys]
        if row.status != "measured" and row.p50 is None:
            texts[keys.index("p50")] = Text(plain(columns["p50"].words(row)))
        if row.target == before:
            texts[0] = Text()
        before = row.target
        grid.add_row(*texts, style="" if row.status == "measured" else "dim")
    console.print(grid)
    console.print()
    for line in [*words.headlines(report), *words.notes(report)]:
        console.print(Text(plain(line)))
