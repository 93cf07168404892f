"""Histograms against numpy's, exact merging, and the file they are kept in."""

from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from edgeres.errors import InputError, UsageError
from edgeres.quantization import statistics
from edgeres.quantization.statistics import BINS, Calibration, TensorStatistics

finite = st.floats(-(2.0**20), 2.0**20, width=32)
tensors = arrays.arrays(np.float32, st.tuples(*(st.integers(1, n) for n in (9, 4, 3, 3))), elements=finite)


def same(one: TensorStatistics, other: TensorStatistics) -> bool:
    scalars = [(s.low, s.high, s.exponent, s.images) for s in (one, other)]
    arrays = ((getattr(one, name), getattr(other, name)) for name in ("counts", "sums", "peaks"))
    return scalars[0] == scalars[1] and all(np.array_equal(mine, theirs) for mine, theirs in arrays)


def of(values: NDArray[np.float32]) -> TensorStatistics:
    """The statistics of whole tensors (N, C, ...): every value is a sample."""
    each = values.reshape(*values.shape[:2], -1)
    peaks = np.abs(each).max(2)
    return TensorStatistics.of(each.reshape(len(each), -1), each.max(2), each.min(2), each.mean(2), peaks)


def sample(seed: int, shape: tuple[int, ...] = (4, 3, 5, 5), scale: float = 1.0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


@given(tensors)
def test_the_histogram_is_that_of_numpy(values: NDArray[np.float32]) -> None:
    found = of(values)
    # numpy closes its last bin on the right; no value lies on that border here.
    expected, _ = np.histogram(values.astype(np.float64), found.edges)
    np.testing.assert_array_equal(found.counts, expected)
    assert (found.low, found.high, found.images) == (values.min(), values.max(), len(values))


def test_the_largest_value_lies_in_the_outer_half_of_its_side() -> None:
    found = of(sample(0, scale=37.0))
    largest = max(-found.low, found.high)
    assert found.edges[-1] / 2 <= largest < found.edges[-1]


def test_the_means_are_those_of_each_channel() -> None:
    values = sample(1) + np.arange(3, dtype=np.float32).reshape(3, 1, 1)
    np.testing.assert_allclose(of(values).means, values.mean((0, 2, 3)), atol=1e-6)


def test_vectors_have_the_mean_of_each_feature() -> None:
    values = sample(2, (6, 5))
    np.testing.assert_allclose(of(values).means, values.mean(0), atol=1e-6)


@given(tensors, st.data())
def test_any_partition_in_any_order_gives_the_same_statistics(values: NDArray[np.float32], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(values))))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(values) - 1)))))
    parts = [part for part in np.split(values[order], cuts) if len(part)]
    assert same(reduce(add, map(of, parts)), of(values))


def test_tiny_negative_values_keep_their_side_beside_huge_ones() -> None:
    tiny, huge = np.full((1, 1, 1, 2), -1e-45, np.float32), np.array([[[[1e30, -1e30]]]], np.float32)
    together = of(np.concatenate([tiny, huge]))
    assert same(of(tiny) + of(huge), together)
    assert together.counts[BINS - 1] == 2


@settings(max_examples=30)
@given(st.lists(st.integers(-60, 38), min_size=2, max_size=6))
def test_the_range_grows_over_many_orders_of_magnitude(exponents: list[int]) -> None:
    batches = [sample(seed, scale=2.0**exponent) for seed, exponent in enumerate(exponents)]
    merged = reduce(add, map(of, batches))
    assert merged.low == min(batch.min() for batch in batches)
    assert merged.high == max(batch.max() for batch in batches)
    expected, _ = np.histogram(np.concatenate(batches).astype(np.float64), merged.edges)
    np.testing.assert_array_equal(merged.counts, expected)


def test_peaks_are_the_largest_magnitude_of_each_channel_over_all_images() -> None:
    values = sample(7, (6, 3, 4, 4))
    merged = of(values[:2]) + of(values[2:])
    np.testing.assert_array_equal(merged.peaks, np.abs(values).max((0, 2, 3)))


def test_the_power_is_the_mean_square_within_a_bin() -> None:
    values = sample(8, (4, 3, 40, 40), 3.0)
    assert of(values).power == pytest.approx(np.square(values.astype(np.float64)).mean(), rel=1e-3)


def test_samples_fill_the_histogram_and_nothing_else() -> None:
    """Extremes and means are of all values, of which the histogram holds a grid."""
    values = sample(9, (4, 3, 6, 6))
    each = values.reshape(4, 3, -1)
    grid = values[:, :, ::3, ::3].reshape(4, -1)
    extremes = each.max(2), each.min(2), each.mean(2), np.abs(each).max(2)
    found, whole = TensorStatistics.of(grid, *extremes), of(values)
    assert (found.low, found.high, found.exponent) == (whole.low, whole.high, whole.exponent)
    np.testing.assert_array_equal(found.sums, whole.sums)
    np.testing.assert_array_equal(found.counts, np.histogram(grid.astype(np.float64), found.edges)[0])


def test_a_tensor_of_zeros_is_all_in_the_bin_of_zero() -> None:
    found = of(np.zeros((2, 3, 4, 4), np.float32))
    assert (found.low, found.high) == (0.0, 0.0)
    assert found.counts[BINS] == found.counts.sum() == 96
    assert not found.means.any()


def test_zeros_first_and_values_later_is_the_same_as_together() -> None:
    zeros, values = np.zeros((2, 3, 5, 5), np.float32), sample(3)
    merged = of(zeros) + of(values)
    assert same(merged, of(np.concatenate([values, zeros])))


@pytest.mark.parametrize("largest", [1e-45, 1e-38, 1e12])
def test_very_small_and_very_large_values_are_counted(largest: float) -> None:
    found = of(np.array([[[[largest, 0.0]]]], np.float32))
    assert found.counts.sum() == 2
    assert found.high <= found.edges[-1]


def test_the_sign_of_zero_leaves_no_trace(tmp_path: Path) -> None:
    for name, values in (("plus", [0.0, -0.0]), ("minus", [-0.0, 0.0])):
        one = of(np.array(values, np.float32).reshape(1, 1, 1, 2))
        statistics.save(Calibration({"x": one}, {}), tmp_path / name)
    assert (tmp_path / "plus").read_bytes() == (tmp_path / "minus").read_bytes()


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(broken: float) -> None:
    values = sample(4)
    values[1, 2, 3, 4] = broken
    with pytest.raises(ValueError, match="NaN or infinite"):
        of(values)


def example() -> Calibration:
    tensors = {"input": of(sample(5)), "layer1.0.conv1": of(sample(6, scale=40.0))}
    return Calibration(tensors, {"layer1.0.conv1": np.array([0.25, 1.0, 4.0], np.float32)})


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    statistics.save(example(), tmp_path / "x.stats")
    loaded = statistics.load(tmp_path / "x.stats")
    assert list(loaded.tensors) == list(example().tensors)
    assert all(same(loaded.tensors[name], one) for name, one in example().tensors.items())
    assert list(loaded.scales) == ["layer1.0.conv1"]
    assert loaded.scales["layer1.0.conv1"].dtype == np.float32
    np.testing.assert_array_equal(loaded.scales["layer1.0.conv1"], [0.25, 1.0, 4.0])


def test_the_bytes_depend_on_the_statistics_alone(tmp_path: Path) -> None:
    statistics.save(example(), tmp_path / "one.stats")
    statistics.save(example(), tmp_path / "two.stats")
    assert (tmp_path / "one.stats").read_bytes() == (tmp_path / "two.stats").read_bytes()


def test_absent_statistics_are_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no statistics at .*absent\.stats; make them with `edgeres calibrate`"):
        statistics.load(tmp_path / "absent.stats")


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "empty", "other"])
def test_a_damaged_file_is_an_input_error(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "x.stats"
    statistics.save(example(), path)
    content = path.read_bytes()
    middle = len(content) // 2
    if damage == "other":
        with path.open("wb") as file:
            np.savez(file, names=np.array(["x"]))
    else:
        flipped = (
            content[:middle] + bytes(255 - byte for byte in content[middle : middle + 50]) + content[middle + 50 :]
        )
        path.write_bytes({"cut": content[:middle], "flipped": flipped, "text": b"statistics", "empty": b""}[damage])
    with pytest.raises(InputError, match=r"x\.stats is not a statistics file .*calibrate again"):
        statistics.load(path)


@pytest.mark.parametrize("ends", [(-1e300, 1.0), (0.0, 1e39), (float("nan"), 1.0), (2.0, 1.0)])
def test_a_range_that_float32_does_not_hold_cannot_be(ends: tuple[float, float]) -> None:
    found = of(sample(0))
    assert found.possible
    assert not replace(found, low=ends[0], high=ends[1]).possible
