"""Ranges against numpy and against brute force on the values themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from edgeres.errors import UsageError
from edgeres.quantization import ranges
from edgeres.quantization.quantize import quantizer
from edgeres.quantization.ranges import METHODS, PERCENTILE, Range
from edgeres.quantization.schemes import SCHEMES
from edgeres.quantization.statistics import TensorStatistics

SCHEME = {False: SCHEMES["onnxruntime"], True: SCHEMES["tensorrt"]}
SAMPLES = ("normal", "relu", "negative", "laplace", "heavy", "outlier", "uniform", "lopsided")


def sample(name: str, count: int = 20_000) -> NDArray[np.float32]:
    random = np.random.default_rng(7)
    values = {
        "normal": lambda: random.normal(0, 2, count),
        "relu": lambda: np.maximum(random.normal(0, 1, count), 0),
        "negative": lambda: -np.abs(random.normal(0, 1, count)),
        "laplace": lambda: random.laplace(0, 1, count),
        "heavy": lambda: random.standard_t(3, count),
        "outlier": lambda: np.append(random.normal(0, 1, count - 1), 30.0),
        "uniform": lambda: random.uniform(-1, 3, count),
        "lopsided": lambda: np.where(random.random(count) < 0.01, -5.0, 1.0) * random.exponential(1, count),
    }[name]()
    return values.astype(np.float32)


def statistics(values: NDArray[np.float32]) -> TensorStatistics:
    """Of one image with one channel, every value a sample."""
    high, low = np.array([[values.max()]]), np.array([[values.min()]])
    return TensorStatistics.of(values.reshape(1, -1), high, low, np.array([[values.mean()]]), np.maximum(high, -low))


def squared_error(values: NDArray[np.float32], span: Range, symmetric: bool) -> float:
    """What a runtime loses on these very values with this range; what is clipped weighs `CLIPPED`."""
    scheme = SCHEME[symmetric]
    used, limits = quantizer(span, scheme), np.iinfo(scheme.activation)
    point = int(used.zero_point)
    wanted = np.rint(values / used.scale) + point
    levels = np.clip(wanted, limits.min, limits.max)
    errors = np.square((levels - point) * used.scale - values)
    return float(np.mean(errors * np.where(wanted == levels, 1, ranges.CLIPPED)))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("method", METHODS)
@given(arrays.arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32)))
def test_every_range_holds_zero_and_no_more_than_was_seen(
    method: str, symmetric: bool, values: NDArray[np.float32]
) -> None:
    low, high = METHODS[method](statistics(values), symmetric)
    largest = float(np.abs(values).max())
    assert low <= 0 <= high
    if symmetric:
        assert max(-low, high) <= largest
    else:
        assert low >= min(values.min(), 0)
        assert high <= max(values.max(), 0)


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_of_zeros_has_an_empty_range(method: str) -> None:
    assert METHODS[method](statistics(np.zeros(10, np.float32)), False) == (0, 0)


@pytest.mark.parametrize("name", SAMPLES)
def test_minmax_is_all_that_was_seen_and_zero(name: str) -> None:
    values = sample(name)
    assert ranges.minmax(statistics(values), False) == (min(values.min(), 0), max(values.max(), 0))


@pytest.mark.parametrize("name", SAMPLES)
def test_percentile_is_that_of_numpy_within_a_bin(name: str) -> None:
    values = sample(name, 400_000)
    seen = statistics(values)
    low, high = ranges.percentile(seen, False)
    tail = (100 - PERCENTILE) / (2 if values.min() < 0 < values.max() else 1)
    bin_width = 2.0**seen.exponent
    if values.min() < 0:
        exact = np.percentile(values, tail, method="higher")
        assert exact - 1.01 * bin_width <= low <= exact
    if values.max() > 0:
        exact = np.percentile(values, 100 - tail, method="lower")
        assert exact <= high <= exact + 1.01 * bin_width


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", SAMPLES)
def test_mse_loses_no_more_than_the_best_of_all_ranges(name: str, symmetric: bool) -> None:
    values = sample(name)
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    shares = np.linspace(0.1, 1, 46)
    if symmetric:
        options = [(-share * max(-low, high), share * max(-low, high)) for share in shares]
    else:
        lows, highs = ({side * share for share in shares} for side in (low, high))
        options = [(one, other) for one in lows for other in highs]
    best = min(squared_error(values, option, symmetric) for option in options)
    found = squared_error(values, ranges.mse(statistics(values), symmetric), symmetric)
    assert found <= 1.03 * best


@pytest.mark.parametrize("symmetric", [False, True])
def test_mse_clips_an_outlier_no_further_than_it_pays(symmetric: bool) -> None:
    values = sample("outlier")
    seen = statistics(values)
    found = squared_error(values, ranges.mse(seen, symmetric), symmetric)
    for other in (ranges.minmax, ranges.percentile, ranges.entropy):
        assert found < squared_error(values, other(seen, symmetric), symmetric)


@pytest.mark.parametrize("symmetric", [False, True])
def test_entropy_cuts_the_tail_and_keeps_the_bulk(symmetric: bool) -> None:
    values = sample("heavy", 200_000)
    low, high = ranges.entropy(statistics(values), symmetric)
    assert max(-low, high) < 0.6 * np.abs(values).max()
    assert ((values > low) & (values < high)).mean() > 0.998


@pytest.mark.parametrize("symmetric", [False, True])
def test_entropy_keeps_all_of_what_has_no_tail(symmetric: bool) -> None:
    low, high = ranges.entropy(statistics(sample("uniform")), symmetric)
    assert high > 2.9
    assert low < -0.95


def test_entropy_is_not_led_by_the_zeros_of_a_relu() -> None:
    positive = np.abs(sample("normal"))
    zeros = np.zeros(10 * len(positive), np.float32)
    with_zeros = ranges.entropy(statistics(np.concatenate([positive, zeros])), False)
    assert with_zeros[1] == pytest.approx(ranges.entropy(statistics(positive), False)[1], rel=0.05)


@pytest.mark.parametrize("method", ["mse", "entropy"])
@pytest.mark.parametrize("name", SAMPLES)
def test_a_symmetric_search_answers_with_a_symmetric_range(name: str, method: str) -> None:
    low, high = METHODS[method](statistics(sample(name)), True)
    assert low == -high


def test_an_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no range method 'median'; there are minmax, percentile, entropy, mse"):
        ranges.find("median")
