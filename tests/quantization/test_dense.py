"""Products and solutions by blocks, held against NumPy's."""

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeres import machine
from edgeres.quantization import dense

SIZES = (1, 7, 8, 9, 30)


@pytest.fixture(autouse=True, params=[1, 3])
def _cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: request.param)
    monkeypatch.setattr(dense, "BLOCK", 4)


def rows(size: int) -> NDArray[np.float64]:
    return np.random.default_rng(size).standard_normal((size + 5, size))


@pytest.mark.parametrize("size", SIZES)
def test_products_are_those_of_numpy(size: int) -> None:
    given = rows(size)
    np.testing.assert_allclose(dense.gram(given), given.T @ given, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dense.product(given.T, given[:, :3]), given.T @ given[:, :3], rtol=1e-12, atol=1e-12)
    assert dense.gram(given.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("size", SIZES)
def test_the_factor_is_that_of_numpy(size: int) -> None:
    found = dense.gram(rows(size))
    wanted = np.linalg.cholesky(found)
    inverses = dense.cholesky(found)
    np.testing.assert_allclose(np.tril(found), wanted, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(inverses[0] @ wanted[:4, :4], np.eye(min(size, 4)), atol=1e-9)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("columns", [1, 9])
def test_the_solution_is_that_of_numpy_in_the_type_of_the_operands(size: int, columns: int) -> None:
    matrix, right = dense.gram(rows(size)), np.random.default_rng(1).standard_normal((size, columns))
    wanted = np.linalg.solve(matrix, right)
    np.testing.assert_allclose(dense.solve(matrix.copy(), right), wanted, rtol=1e-7, atol=1e-9)
    single = dense.solve((matrix + 10 * np.eye(size)).astype(np.float32), right.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, np.linalg.solve(matrix + 10 * np.eye(size), right), rtol=1e-3, atol=1e-5)


def test_what_is_not_positive_definite_is_refused() -> None:
    with pytest.raises(np.linalg.LinAlgError):
        dense.solve(-np.eye(9), np.ones((9, 1)))


def test_bits_do_not_depend_on_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    given = rows(30).astype(np.float32)
    made = []
    for cores in (1, 4):
        monkeypatch.setattr(machine, "cores", lambda cores=cores: cores)
        matrix = dense.gram(given) + np.eye(30, dtype=np.float32)
        made.append(dense.solve(matrix, dense.product(given.T, given)).tobytes())
    assert made[0] == made[1]
