"""What the labels of images mean to a model: the texts of an image set become the targets of its task.

A label is one name, or several with `;` between. Names are the model's class names or, as numbers, their indices.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import InputError

BETWEEN = ";"
Labels = Sequence[str | None]
"""One text an image, None where there is none."""


def texts(labels: NDArray[np.generic]) -> tuple[str, ...]:
    """The labels of an array as texts: whole numbers (N,) or (N, 1) are class indices, booleans and whole numbers
    (N, C) of 0 and 1 say which classes are there, floating point numbers (N,) or (N, K) are values. ValueError for
    anything else."""
    if labels.dtype.kind in "iu" and (labels.ndim == 1 or labels.shape[1:] == (1,)):
        return tuple(str(int(label)) for label in labels.ravel())
    if labels.ndim == 2 and labels.dtype.kind in "iub" and np.isin(labels, (0, 1)).all():
        return tuple(BETWEEN.join(map(str, np.flatnonzero(row))) for row in labels)
    if labels.ndim in (1, 2) and labels.dtype.kind == "f" and labels.size:
        return tuple(BETWEEN.join(f"{value:.9g}" for value in np.atleast_1d(row)) for row in labels)
    raise ValueError(
        "labels are neither class indices (N,) or (N, 1), 0 and 1 (N, C), nor floating point values (N, K)"
    )


def indices(labels: Labels, classes: Sequence[str], count: int, where: Path) -> NDArray[np.int64]:
    """Each label as an index into the model's `count` outputs, int64 (N,); none of the labels is None.

    A label is one of the model's class names, or an index as a number; where neither fits all labels and there
    are as many labels as outputs, their sorted order counts. InputError naming `where` otherwise.
    """
    found = [str(label) for label in labels]
    position = _positions(found, classes, count, where, ordered=True)
    return np.array([position[label] for label in found], np.int64)


def multi_hot(labels: Labels, classes: Sequence[str], count: int, where: Path) -> NDArray[np.bool_]:
    """Which of the model's `count` outputs are true of each image, bool (N, count); an empty label: none of them.

    InputError naming `where` where no image has a label, or one fits no output.
    """
    split = [[name.strip() for name in label.split(BETWEEN)] if label else [] for label in labels]
    if not any(split):
        raise InputError(
            f"{where} has no labels; give a manifest whose label column has names with {BETWEEN!r} between."
        )
    position = _positions([name for names in split for name in names], classes, count, where, ordered=False)
    made = np.zeros((len(split), count), np.bool_)
    for row, names in zip(made, split, strict=True):
        row[[position[name] for name in names]] = True
    return made


def values(labels: Labels, count: int, where: Path, names: Sequence[str]) -> NDArray[np.float32]:
    """The `count` values that each image is labelled with, float32 (N, count).

    InputError naming `where` and the first image whose label is not so many finite numbers.
    """
    made = np.full((len(labels), count), np.nan, np.float32)
    for row, label, name in zip(made, labels, names, strict=True):
        given = (label or "").split(BETWEEN)
        if len(given) == count:
            row[:] = [_number(value) for value in given]
        if not np.isfinite(row).all():
            wanted = "a number" if count == 1 else f"{count} numbers with {BETWEEN!r} between"
            raise InputError(f"{where}: {name} is labelled {label or ''!r}; the model gives {wanted}, label it so.")
    return made


def groups(labels: Labels) -> NDArray[np.int64]:
    """Equal numbers where labels are equal, int64 (N,), -1 where there is none: for models without classes."""
    numbers = {label: index for index, label in enumerate(sorted({label for label in labels if label}))}
    return np.array([numbers.get(label or "", -1) for label in labels], np.int64)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _positions(found: Sequence[str], classes: Sequence[str], count: int, where: Path, ordered: bool) -> dict[str, int]:
    """The output that each label names; `ordered`: by their sorted order, where nothing else fits."""
    distinct = sorted(set(found))
    if twice := next((label for label in distinct if list(classes).count(label) > 1), None):
        raise InputError(f"{where}: the model has two classes {twice!r}; name folders and labels by class indices.")
    if set(distinct) <= set(classes):
        return {name: index for index, name in enumerate(classes)}
    if all(label.isdecimal() and int(label) < count for label in distinct):
        return {label: int(label) for label in distinct}
    if ordered and len(distinct) == count and not classes:
        return {label: index for index, label in enumerate(distinct)}
    wrong = (label for label in distinct if label not in classes and not (label.isdecimal() and int(label) < count))
    odd = next(wrong, distinct[0])
    known = f", the first is {classes[0]!r}" if classes else ""
    raise InputError(
        f"{where} has {len(distinct)} labels such as {odd!r}, the model has {count} classes"
        f"{known}; name folders and labels by the model's class names or class indices."
    )
