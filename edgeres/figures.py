"""How figures are written, wherever they are shown."""

from edgeres.types import Task

MINUS = "\N{MINUS SIGN}"
MISSING = "not available"
"""Stands where there is no value: never a blank."""


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


def outputs(task: Task, count: int) -> str:
    """What a model gives: `10 classes`, `2048 dimensions`."""
    named = {"multi-label": "label", "regression": "value", "embedding": "dimension", "features": "map"}
    one = named.get(task)
    return f"{count} classes" if one is None else f"{count} {one}{'s' * (count != 1)}"
