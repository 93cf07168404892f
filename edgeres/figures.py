"""How figures and names are written, wherever they are shown."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeres.types import Task

MINUS = "\N{MINUS SIGN}"
MISSING = "not available"
"""Stands where there is no value: never a blank."""
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\N{ARABIC LETTER MARK}\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""What moves a cursor, colours a terminal or turns a line round (Unicode's bidirectional controls), and what no
encoding can write: no name needs it."""


def number(value: float) -> str:
    """Three significant digits, as far as that needs decimals; a true minus sign."""
    decimals = next((d for d, least in enumerate((100, 10, 1)) if abs(value) >= least), 3)
    return f"{value:.{decimals}f}".replace("-", MINUS)


def points(value: float) -> str:
    """Two decimals, never a negative zero."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", MINUS)


def megabytes(size: float) -> str:
    """Of 10⁶ bytes."""
    return number(size / 1e6)


def counted(images: int) -> str:
    """`1 image`, `64 images`."""
    return f"{images} image{'s' * (images != 1)}"


def plain(text: str) -> str:
    """Text of others as a terminal may have it: what it would obey stands there in letters, as in `\\x1b[2J`."""
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def outputs(task: "Task", count: int) -> str:
    """What a model gives: `10 classes`, `2048 dimensions`."""
    named = {"multi-label": "label", "regression": "value", "embedding": "dimension", "features": "map"}
    one = named.get(task)
    return f"{count} classes" if one is None else f"{count} {one}{'s' * (count != 1)}"
