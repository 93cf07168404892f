"""Dense linear algebra whose result does not depend on how many cores share it: what NumPy lacks of it.

Each block is a product by one thread, always of the same operands; the blocks of one step run side by side.
Source: Golub and Van Loan, "Matrix Computations" (4th edition), sections 3.1.2 and 4.2.5.
"""

import ctypes
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres import machine

BLOCK = 384
"""Rows and columns of a block."""
NAMES = ("scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_", "openblas_{}_num_threads")
"""As NumPy's wheels from 2.0 call it, those before, and distributions."""

Matrix = NDArray[Any]


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for each of NumPy's products while it lasts: OpenBLAS sums in an order that depends on how many there
    are. Nothing changes where NumPy was built with another library."""
    library = ctypes.CDLL(np.linalg._umath_linalg.__file__)
    name = next((name for name in NAMES if hasattr(library, name.format("set"))), None)
    if name is None:
        yield
        return
    limit, before = getattr(library, name.format("set")), getattr(library, name.format("get"))()
    limit(1)
    try:
        yield
    finally:
        limit(before)


def product(left: Matrix, right: Matrix) -> Matrix:
    """left (M, K) @ right (K, N)."""
    made = np.empty((len(left), right.shape[1]), left.dtype)

    def block(rows: slice, columns: slice) -> None:
        np.matmul(left[rows], right[:, columns], out=made[rows, columns])

    _each(block, [(rows, columns) for rows in _blocks(made.shape[0]) for columns in _blocks(made.shape[1])])
    return made


def gram(rows: Matrix) -> Matrix:
    """rows.T @ rows, (K, K), of (P, K)."""
    made = np.empty((rows.shape[1],) * 2, rows.dtype)

    def block(below: slice, beside: slice) -> None:
        made[below, beside] = rows[:, below].T @ rows[:, beside]
        if below != beside:
            made[beside, below] = made[below, beside].T

    sides = _blocks(len(made))
    _each(block, [(below, beside) for index, below in enumerate(sides) for beside in sides[: index + 1]])
    return made


def cholesky(matrix: Matrix) -> list[Matrix]:
    """The lower triangle of a symmetric positive definite matrix (K, K) becomes its Cholesky factor, in place; the
    upper is left over. Gives the inverses of the factor's blocks on the diagonal. LinAlgError where it is not positive
    definite."""
    inverses = []
    for here in _blocks(len(matrix)):
        corner, below, rest = matrix[here, here], matrix[here.stop :, here], matrix[here.stop :, here.stop :]
        corner[:] = np.linalg.cholesky(corner)
        inverse = np.tril(np.linalg.inv(corner)).astype(matrix.dtype)
        inverses.append(inverse)

        def divided(rows: slice, below: Matrix = below, inverse: Matrix = inverse) -> None:
            below[rows] = below[rows] @ inverse.T

        def updated(rows: slice, columns: slice, below: Matrix = below, rest: Matrix = rest) -> None:
            rest[rows, columns] -= below[rows] @ below[columns].T

        sides = _blocks(len(below))
        _each(divided, [(rows,) for rows in sides])
        _each(updated, [(rows, columns) for index, rows in enumerate(sides) for columns in sides[: index + 1]])
    return inverses


def solve(matrix: Matrix, right: Matrix) -> Matrix:
    """X (K, N) of matrix @ X = right, for a symmetric positive definite matrix (K, K), whose factor takes its place.

    In the type of the operands, where numpy.linalg.solve takes twice the memory and time for float32, and does not
    make use of the symmetry. LinAlgError as `cholesky`.
    """
    corners = [*zip(_blocks(len(matrix)), cholesky(matrix), strict=True)]
    made: Matrix = right.copy()

    def column(columns: slice) -> None:
        mine = made[:, columns]
        for rows, inverse in corners:
            mine[rows] = inverse @ (mine[rows] - matrix[rows, : rows.start] @ mine[: rows.start])
        for rows, inverse in reversed(corners):
            mine[rows] = inverse.T @ (mine[rows] - matrix[rows.stop :, rows].T @ mine[rows.stop :])

    _each(column, [(columns,) for columns in _blocks(made.shape[1])])
    return made


def _blocks(length: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK)]


def _each(work: Callable[..., None], arguments: list[tuple[slice, ...]]) -> None:
    if len(arguments) < 2:
        for given in arguments:
            work(*given)
        return
    with ThreadPoolExecutor(machine.cores()) as pool:
        for _ in pool.map(lambda given: work(*given), arguments):
            pass
