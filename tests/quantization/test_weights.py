"""Weight scales, the limit on pairs held against emulated saturating arithmetic, and bias correction."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from edgeres.quantization import weights

shapes = st.one_of(
    st.tuples(*(st.integers(1, n) for n in (5, 9, 3, 3))), st.tuples(st.integers(1, 5), st.integers(1, 40))
)
tensors = arrays.arrays(np.float32, shapes, elements=st.floats(-2, 2, width=16))


def vpmaddubsw(activations: NDArray[np.uint8], factors: NDArray[np.int8]) -> tuple[NDArray[np.int16], bool]:
    """U8 x S8 products of neighbours (..., K) added in 16 bits with saturation, and whether any sum was too large."""
    products = activations.astype(np.int32) * factors
    exact = products[..., ::2] + products[..., 1::2]
    limits = np.iinfo(np.int16)
    return np.clip(exact, limits.min, limits.max).astype(np.int16), bool(
        (exact > limits.max).any() or (exact < limits.min).any()
    )


def rows(quantized: NDArray[np.int8], offset: int) -> NDArray[np.int8]:
    """(O, I, H, W) -> (O, K), K even, as the kernels walk: input channels next to each other, from `offset` on."""
    flat = quantized.reshape(*quantized.shape[:2], -1).transpose(0, 2, 1).reshape(len(quantized), -1)
    return np.pad(flat, ((0, 0), (offset, (flat.shape[1] + offset) % 2)))


def saturates(weight: NDArray[np.float32], paired: bool) -> bool:
    """Whether any U8 activations push a sum of two products out of 16 bits."""
    quantized = weights.quantize(weight, weights.scales(weight, paired))
    found = False
    # An odd number of channels shifts the pairs from one position to the next, or does not: both must fit.
    for offset in range(weight.shape[1] % 2 + 1):
        factors = rows(quantized, offset)
        for worst in (factors > 0, factors < 0, np.ones_like(factors, bool)):
            _, lost = vpmaddubsw((255 * worst).astype(np.uint8), factors)
            found |= lost
    return found


@given(tensors)
def test_limited_pairs_never_saturate(weight: NDArray[np.float32]) -> None:
    assert not saturates(weight, paired=True)


@pytest.mark.parametrize("sign", [-1, 1])
def test_unlimited_pairs_do_saturate(sign: int) -> None:
    weight = np.full((1, 2, 1, 1), sign, np.float32)
    assert saturates(weight, paired=False)
    assert not saturates(weight, paired=True)


def test_the_sum_over_limited_pairs_is_exact_for_any_activations() -> None:
    random = np.random.default_rng(0)
    weight = random.standard_t(3, (16, 32, 3, 3)).astype(np.float32)
    factors = rows(weights.quantize(weight, weights.scales(weight, paired=True)), 0)
    activations = random.choice(np.array([0, 1, 254, 255], np.uint8), (50, 1, factors.shape[1]))
    sums, lost = vpmaddubsw(activations, factors)
    assert not lost
    exact = (activations.astype(np.int64) * factors).sum(-1)
    np.testing.assert_array_equal(sums.sum(-1, dtype=np.int64), exact)


@given(tensors)
def test_weights_stay_within_the_symmetric_range(weight: NDArray[np.float32]) -> None:
    for paired in (False, True):
        scale = weights.scales(weight, paired)
        assert scale.dtype == np.float32
        assert scale.shape == (len(weight),)
        assert (scale > 0).all()
        assert np.abs(weights.quantize(weight, scale).astype(int)).max() <= weights.LIMIT


def errors(weight: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float64]:
    """The squared error of each output channel."""
    used = weights.dequantize(weights.quantize(weight, scale), scale)
    return np.square(used.astype(np.float64) - weight).reshape(len(weight), -1).sum(1)


@given(tensors)
def test_no_channel_is_worse_than_with_its_largest_weight_as_the_limit(weight: NDArray[np.float32]) -> None:
    largest = np.abs(weight).reshape(len(weight), -1).max(1)
    usual = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    assert (errors(weight, weights.scales(weight)) <= errors(weight, usual) * (1 + 1e-4) + 1e-12).all()


@given(tensors)
def test_no_channel_with_limited_pairs_is_worse_than_with_seven_bits(weight: NDArray[np.float32]) -> None:
    largest = np.abs(weight).reshape(len(weight), -1).max(1)
    seven = np.where(largest > 0, largest / 63.5, 1).astype(np.float32)
    assert (errors(weight, weights.scales(weight, paired=True)) <= errors(weight, seven) * (1 + 1e-4) + 1e-12).all()


def test_limited_pairs_cost_little_where_large_weights_are_rare() -> None:
    weight = np.random.default_rng(1).normal(0, 0.05, (32, 64, 3, 3)).astype(np.float32)
    free, limited = (errors(weight, weights.scales(weight, paired)).sum() for paired in (False, True))
    seven = errors(weight, (np.abs(weight).max((1, 2, 3)) / 63.5).astype(np.float32)).sum()
    assert free <= limited < 0.6 * seven


def test_a_clipped_outlier_makes_the_other_weights_finer() -> None:
    weight = np.concatenate([np.linspace(-0.7, 0.7, 99_999), [1.0]]).astype(np.float32).reshape(1, -1)
    assert weights.scales(weight)[0] < 1 / 127


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("value", [0.0, 1e-40])
def test_a_dead_channel_gets_scale_one_and_no_weights(value: float, paired: bool) -> None:
    weight = np.ones((3, 4, 3, 3), np.float32)
    weight[1] = value
    scale = weights.scales(weight, paired)
    assert scale[1] == 1
    assert not weights.quantize(weight, scale)[1].any()
    assert scale[0] < 0.05


@pytest.mark.parametrize("groups", [1, 4])
def test_corrected_bias_keeps_the_mean_output_of_a_convolution(groups: int) -> None:
    torch = pytest.importorskip("torch", reason="the extra `export` is not installed")
    random = np.random.default_rng(2)
    weight = random.standard_normal((12, 8 // groups, 3, 3)).astype(np.float32)
    used = (weight + random.normal(0.1, 0.1, weight.shape)).astype(np.float32)
    bias = random.standard_normal(12).astype(np.float32)
    means = random.normal(0, 3, 8)
    images = random.standard_normal((4, 8, 10, 10))
    images += (means - images.mean((0, 2, 3))).reshape(8, 1, 1)

    def mean_output(weight: NDArray[np.float32], bias: NDArray[np.float32]) -> NDArray[np.float64]:
        # Wrapped around, so that every weight meets every pixel and nothing but the means of the channels counts.
        wrapped = torch.nn.functional.pad(torch.from_numpy(images), (1, 1, 1, 1), mode="circular")
        tensors = torch.from_numpy(weight).double(), torch.from_numpy(bias).double()
        result: NDArray[np.float64] = (
            torch.nn.functional.conv2d(wrapped, *tensors, groups=groups).mean((0, 2, 3)).numpy()
        )
        return result

    corrected = weights.corrected(bias, weight, used, means)
    wanted = mean_output(weight, bias)
    np.testing.assert_allclose(mean_output(used, corrected), wanted, atol=1e-4)
    assert np.abs(mean_output(used, bias) - wanted).max() > 0.5


def test_corrected_bias_keeps_the_mean_output_of_a_classifier() -> None:
    random = np.random.default_rng(3)
    weight, bias = random.standard_normal((5, 20)).astype(np.float32), np.zeros(5, np.float32)
    used = (weight + 0.1).astype(np.float32)
    features = random.exponential(2, (100, 20))
    corrected = weights.corrected(bias, weight, used, features.mean(0))
    np.testing.assert_allclose((features @ used.T + corrected).mean(0), (features @ weight.T).mean(0), atol=1e-4)


def test_the_same_weights_leave_the_bias_alone() -> None:
    weight, bias = np.ones((4, 3, 3, 3), np.float32), np.arange(4, dtype=np.float32)
    np.testing.assert_array_equal(weights.corrected(bias, weight, weight, np.full(3, 9.0)), bias)
