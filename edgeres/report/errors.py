"""Where an INT8 file loses, on a terminal and as a picture."""

from collections.abc import Sequence
from html import escape

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeres.figures import plain
from edgeres.types import TensorError

SHOWN = 3
"""Outlier channels that the table names."""
EXACT = 100.0
"""From so many dB on nothing but the rounding of float32 is left."""
STEP, LABEL, WIDTH = 18, 260, 760
"""Height of a bar, width of its label and of the picture, in pixels."""


def show(errors: Sequence[TensorError], console: Console | None = None) -> None:
    """Print the errors, one line a tensor, as they are sorted."""
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    grid.add_column("tensor", overflow="fold")
    grid.add_column("role", no_wrap=True)
    grid.add_column("SQNR dB", justify="right", no_wrap=True)
    grid.add_column("own dB", justify="right", no_wrap=True)
    grid.add_column("outlier channels", overflow="fold")
    for error in errors:
        texts = [error.name, error.role, _decibel(error.sqnr), _decibel(error.rounding), _outliers(error)]
        grid.add_row(*(Text(plain(text)) for text in texts))
    (console or Console()).print(grid)


def svg(errors: Sequence[TensorError]) -> str:
    """A picture: one bar a tensor in the order of the network, as long as its SQNR; the worst ones are marked."""
    ordered = sorted(errors, key=lambda error: error.position)
    longest = max([1.0, *(error.sqnr for error in ordered if error.sqnr < EXACT)])
    worst = sorted(error.sqnr for error in ordered)[max(1, len(ordered) // 10) - 1]
    height = STEP * (len(ordered) + 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" font-size="12"'
        ' font-family="system-ui, sans-serif"><title>SQNR of each tensor in dB, in the order of the network</title>',
        "<style>text{fill:#1b1f24}.bar{fill:#3867b0}.worst{fill:#b3261e}rect.page{fill:#fff}"
        "@media(prefers-color-scheme:dark){text{fill:#e6e8eb}.bar{fill:#7aa5ea}.worst{fill:#f2877d}"
        "rect.page{fill:#16191d}}</style>",
        f'<rect class="page" width="{WIDTH}" height="{height}"/>',
        f'<text x="{LABEL}" y="{STEP - 4}">SQNR against FP32, dB; the worst are red</text>',
    ]
    for row, error in enumerate(ordered, start=1):
        length = max(2.0, (WIDTH - LABEL - 150) * min(error.sqnr, longest) / longest)
        kind = "worst" if error.sqnr <= worst else "bar"
        note = _decibel(error.sqnr) + (f", outliers: {len(error.outliers)}" if error.outliers else "")
        parts.append(
            f'<text x="{LABEL - 6}" y="{STEP * row + 13}" text-anchor="end">{escape(plain(error.name))}</text>'
            f'<rect class="{kind}" x="{LABEL}" y="{STEP * row + 3}" width="{length:.1f}" height="{STEP - 6}"/>'
            f'<text x="{LABEL + length + 5:.1f}" y="{STEP * row + 13}">{note}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


def _decibel(value: float) -> str:
    return f"{value:.1f}" if value < EXACT else "exact"


def _outliers(error: TensorError) -> str:
    shown = ", ".join(f"{channel} ({ratio:.0f}x)" for channel, ratio in error.outliers[:SHOWN])
    return shown + (f" and {len(error.outliers) - SHOWN} more" if len(error.outliers) > SHOWN else "")
