"""Per-channel symmetric INT8 weights, axis 0, and the bias correction that goes with them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LIMIT = 127
"""INT8 weights are -127 ... 127: symmetric, as TensorRT and the per-channel kernels want them."""
PAIR_LIMIT = 128
"""255 * 128 = 32,640: the largest sum of two neighbouring weights that U8 activations cannot push out of 16 bits."""
SHARES = np.linspace(0.7, 1.0, 7)
"""Shares of a channel's largest weight that the search for its scale tries."""
PAIRED_SHARES = np.linspace(0.7, 2.0, 14)
"""The same where pairs are limited: at 2.0 no weight is above 64, so that every pair fits."""


TOGETHER = 1 << 16
"""Weights whose scales are sought at once: as many as stay in the cache."""


@dataclass(frozen=True)
class Layer:
    """What a layer is written with: INT8 weights (O, ...), their scales (O,), and the bias (O,) in float."""

    weight: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]


def scales(weight: NDArray[np.float32], paired: bool = False) -> NDArray[np.float32]:
    """The scale of each output channel, (O,): the one with the smallest squared error of its INT8 weights (O, ...).

    `paired` admits only scales with which no pair of weights (`pair_step`) of one sign sums to more than `PAIR_LIMIT`.
    The AVX2 kernels of the CPU runtimes (vpmaddubsw) add the products of two neighbours along the input
    channels in 16 bits, with saturation: a larger pair can give wrong sums. Seven-bit weights, the usual remedy,
    bound every single weight instead of the pairs and give up twice as much. A channel of zeros gets scale 1.
    """
    flat = by_position(weight)
    rows = max(1, TOGETHER // flat.shape[1])
    step = pair_step(weight.shape) if paired else None
    return np.concatenate([_scales(flat[start : start + rows], step) for start in range(0, len(flat), rows)])


def pair_step(shape: tuple[int, ...]) -> int:
    """How far apart pairs of neighbours begin that a kernel may add in 16 bits, for (O, I, ...) weights.

    Along an even number of input channels the first and the second are added, the third and the fourth, ...: 2. Along
    an odd number ONNX Runtime goes on counting at the next position of the kernel, OpenVINO does not: any two, 1.
    """
    return 2 if shape[1] % 2 == 0 else 1


def _scales(flat: NDArray[np.float32], step: int | None) -> NDArray[np.float32]:
    largest = np.abs(flat).max(1)
    dead = largest < np.finfo(np.float32).tiny * LIMIT
    largest[dead] = LIMIT
    best = np.full(len(flat), np.inf)
    chosen = np.empty(len(flat), np.float32)
    for share in PAIRED_SHARES if step else SHARES:
        scale = (largest * (share / LIMIT)).astype(np.float32)
        rounded = np.clip(np.rint(flat / scale[:, None]), -LIMIT, LIMIT)
        error = np.square(flat - rounded * scale[:, None]).sum(1)
        better = error < best
        if step:
            better &= largest_pair(rounded, step) <= PAIR_LIMIT
        best[better], chosen[better] = error[better], scale[better]
    chosen[dead] = 1
    return chosen


def by_position(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """(O, I, H, W) -> (O, H * W * I): the order in which the kernels walk, input channels next to each other."""
    return np.moveaxis(weight.reshape(*weight.shape[:2], -1), 1, 2).reshape(len(weight), -1)


def largest_pair(rounded: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """The largest sum of two neighbours of one sign in each row (`by_position`), (O,); pairs begin `step` apart."""
    above, below = np.maximum(rounded, 0), np.maximum(-rounded, 0)
    sums = np.maximum(above[:, 1:] + above[:, :-1], below[:, 1:] + below[:, :-1])[:, ::step]
    pairs: NDArray[np.float32] = sums.max(1, initial=0)
    return pairs


def quantize(weight: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.int8]:
    """Weights (O, ...) as INT8 with the given scale (O,) per output channel."""
    quantized: NDArray[np.int8] = np.clip(np.rint(weight / _along(scale, weight)), -LIMIT, LIMIT).astype(np.int8)
    return quantized


def dequantize(quantized: NDArray[np.int8], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the runtime will compute with."""
    return quantized.astype(np.float32) * _along(scale, quantized)


def corrected(
    bias: NDArray[np.float32],
    weight: NDArray[np.float32],
    used: NDArray[np.float32],
    means: NDArray[np.float64],
) -> NDArray[np.float32]:
    """The bias (O,) that keeps the expected output where it was, though `used` replaces `weight` (O, I / groups, ...).

    `means` (I,) are the expected inputs per channel. Source: Nagel et al., "Data-Free Quantization Through Weight
    Equalization and Bias Correction" (arXiv:1906.04721), section 4.2, with measured instead of derived means. The
    zeros of padding are left out of account, as there.
    """
    shift = (used.astype(np.float64) - weight).reshape(*weight.shape[:2], -1).sum(2)
    groups = len(means) // shift.shape[1]
    inputs = np.repeat(means.reshape(groups, -1), len(shift) // groups, 0)
    moved: NDArray[np.float32] = (bias - (shift * inputs).sum(1)).astype(np.float32)
    return moved


def _along(scale: NDArray[np.float32], weight: NDArray[np.generic]) -> NDArray[np.float32]:
    return scale.reshape(-1, *(1,) * (weight.ndim - 1))
