"""Weights rounded together, held against every possible rounding and against rounding each by itself."""

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeres.quantization.rounding import BLOCK, nearest, partners
from edgeres.quantization.weights import LIMIT, PAIR_LIMIT, scales
from quantization.reference import Array, pair_sums


def inputs(random: np.random.Generator, columns: int, correlated: float, count: int = 400) -> Array:
    """(columns, count): what they share, and what each has of its own, of unequal strength."""
    own = random.standard_normal((columns, count)) * random.uniform(0.3, 2, (columns, 1))
    return (own + correlated * random.standard_normal(count)).astype(np.float32)


def error(weight: Array, quantized: NDArray[np.int8], scale: Array, gram: Array) -> NDArray[np.float64]:
    """The squared error of each output, (O,)."""
    difference = (quantized * scale[:, None] - weight).astype(np.float64)
    made: NDArray[np.float64] = np.einsum("oi,ij,oj->o", difference, gram.astype(np.float64), difference)
    return made


def plain(weight: Array, scale: Array) -> NDArray[np.int8]:
    return np.clip(np.rint(weight / scale[:, None]), -LIMIT, LIMIT).astype(np.int8)


@pytest.mark.parametrize("columns", [1, 2, 4, 6])
@pytest.mark.parametrize("correlated", [0.0, 1.0, 4.0])
def test_little_is_lost_beside_the_best_of_all_roundings(columns: int, correlated: float) -> None:
    random = np.random.default_rng(columns)
    found, best, alone = 0.0, 0.0, 0.0
    for _ in range(20):
        gram = inputs(random, columns, correlated)
        gram = gram @ gram.T
        weight = random.standard_normal((3, columns)).astype(np.float32)
        scale = (np.abs(weight).max(1) / 7).astype(np.float32)
        made = nearest(weight, scale, gram, None)
        assert made.dtype == np.int8
        down = np.floor(weight / scale[:, None])
        options = [error(weight, down + np.array(up), scale, gram) for up in product((-1, 0, 1, 2), repeat=columns)]
        lowest = np.min(options, 0)
        found, best = found + error(weight, made, scale, gram).sum(), best + lowest.sum()
        alone += error(weight, plain(weight, scale), scale, gram).sum()
    assert best * (1 - 1e-4) - 1e-6 <= found <= 1.25 * best + 1e-6
    assert found <= alone * (1 + 1e-6)
    assert columns < 4 or correlated < 4 or found < 0.8 * alone


@pytest.mark.parametrize("columns", [30, BLOCK, 2 * BLOCK + 45])
def test_correlated_inputs_lose_less_than_with_plain_rounding(columns: int) -> None:
    random = np.random.default_rng(columns)
    given = inputs(random, columns, 2.0, 3 * columns)
    gram = given @ given.T
    weight = random.standard_normal((8, columns)).astype(np.float32)
    scale = scales(weight)
    made = nearest(weight, scale, gram, None), plain(weight, scale)
    mine, alone = (error(weight, quantized, scale, gram).sum() for quantized in made)
    assert mine < 0.5 * alone


def test_the_result_does_not_depend_on_the_block_of_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(5)
    given = inputs(random, 100, 1.0)
    gram, weight = given @ given.T, random.standard_normal((6, 100)).astype(np.float32)
    scale = scales(weight)
    whole = nearest(weight, scale, gram, None)
    monkeypatch.setattr("edgeres.quantization.rounding.BLOCK", 7)
    assert (nearest(weight, scale, gram, None) != whole).mean() < 0.005  # float sums in another order


@pytest.mark.parametrize("strength", [1.0, 37.0])
def test_inputs_that_share_nothing_are_rounded_each_by_itself(strength: float) -> None:
    random = np.random.default_rng(6)
    weight = random.standard_normal((5, 200)).astype(np.float32)
    scale = (scales(weight) * np.float32(0.8)).astype(np.float32)  # the largest are cut off
    gram = np.eye(200, dtype=np.float32) * np.float32(strength)
    np.testing.assert_array_equal(nearest(weight, scale, gram, None), plain(weight, scale))


@pytest.mark.parametrize("shape", [(7, 40), (7, 16, 3, 3), (5, 1, 3, 3), (3, 5, 1, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_no_two_neighbours_of_one_sign_exceed_the_limit(shape: tuple[int, ...], seed: int) -> None:
    random = np.random.default_rng(seed)
    columns = int(np.prod(shape[1:]))
    given = inputs(random, columns, 3.0, 2 * columns + 50)
    weight = (random.standard_normal(shape) + 0.7).astype(np.float32)
    flat = weight.reshape(len(weight), -1)
    scale = (scales(flat) * np.float32(0.6)).astype(np.float32)  # so that the limit is met everywhere
    made = nearest(flat, scale, given @ given.T, partners(shape)).reshape(shape).astype(int)
    assert pair_sums(made).max() == PAIR_LIMIT
    free = nearest(flat, scale, given @ given.T, None)
    assert np.abs(free.astype(int)).max() == LIMIT


def test_an_even_number_of_input_channels_is_added_two_by_two() -> None:
    """Two input channels, three positions: kept as c0p0 c0p1 c0p2 c1p0 c1p1 c1p2, walked as 0 3, 1 4, 2 5."""
    found = {index: set(row) - {-1} for index, row in enumerate(partners((9, 2, 1, 3)).tolist())}
    assert found == {0: {3}, 3: {0}, 1: {4}, 4: {1}, 2: {5}, 5: {2}}


def test_an_odd_number_of_input_channels_is_added_with_either_neighbour_and_the_next_position() -> None:
    found = {index: set(row) - {-1} for index, row in enumerate(partners((9, 3, 1, 2)).tolist())}
    assert found == {0: {2}, 2: {0, 4}, 4: {2, 1}, 1: {4, 3}, 3: {1, 5}, 5: {3}}


def test_the_neighbours_of_a_classifier_are_those_beside_it() -> None:
    assert partners((10, 4)).tolist() == [[-1, 1], [0, -1], [-1, 3], [2, -1]]
    assert partners((10, 1)).tolist() == [[-1, -1]]
