"""Weights rounded for what they do: the error of a layer's output, not of each weight, is made small.

Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"
(arXiv:2210.17323); in the form of Babai's nearest plane, to which it is equivalent (Chen et al., arXiv:2507.18553).
"""

import numpy as np
from numpy.typing import NDArray

from edgeres.quantization import dense
from edgeres.quantization.weights import LIMIT, PAIR_LIMIT, pair_step

BLOCK = 128
"""Columns between two matrix products."""


def nearest(
    weight: NDArray[np.float32],
    scale: NDArray[np.float32],
    gram: NDArray[np.float32],
    partners: NDArray[np.int64] | None,
) -> NDArray[np.int8]:
    """INT8 weights (O, K) that make the squared error of weight @ inputs small; `gram` (K, K) is inputs @ inputs.T.

    The columns are rounded one after the other, those of the strongest inputs first; each takes back what the others
    left over. `partners` (K, P) names the columns with which a weight of the same sign may sum to no more than
    `PAIR_LIMIT` (-1: none), None where nothing can saturate. `gram` must be positive definite.
    """
    order = np.argsort(np.diag(gram), kind="stable")
    exact = gram[np.ix_(order, order)].astype(np.float64)
    dense.cholesky(exact)
    factor = exact.astype(np.float32).T
    del exact
    factor /= np.diag(factor)[:, None].copy()
    target = weight[:, order] / scale[:, None]
    place = np.empty(len(order) + 1, np.int64)
    place[order], place[-1] = np.arange(len(order)), len(order)
    neighbours = None if partners is None else place[partners[order]]
    columns = target.shape[1]
    # One more column, of zeros, stands for the neighbour that is not there.
    made, left = np.zeros((len(weight), columns + 1), np.float32), np.zeros(target.shape, np.float32)
    for stop in range(columns, 0, -BLOCK):
        start = max(stop - BLOCK, 0)
        known = target[:, start:stop] + left[:, stop:] @ factor[start:stop, stop:].T
        for column in range(stop - 1, start - 1, -1):
            inner = factor[column, column + 1 : stop]
            wanted = known[:, column - start] + left[:, column + 1 : stop] @ inner
            low, high = -float(LIMIT), float(LIMIT)
            if neighbours is not None:
                beside = made[:, neighbours[column]]
                low = np.maximum(low, -PAIR_LIMIT - beside.min(1, initial=0))
                high = np.minimum(high, PAIR_LIMIT - beside.max(1, initial=0))
            made[:, column] = np.clip(np.rint(wanted), low, high)
            left[:, column] = target[:, column] - made[:, column]
    restored = np.empty(weight.shape, np.int8)
    restored[:, order] = made[:, :-1].astype(np.int8)
    return restored


def partners(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """The weights of one output channel with which each is added in 16 bits, (K, 2), -1 for none, for (O, I, ...)
    weights; see `weights.pair_step`. K counts in the order of the weight's own axes.
    """
    channels, positions = shape[1], int(np.prod(shape[2:]))
    walk = np.arange(channels * positions).reshape(channels, positions).T.ravel()
    first, second = walk[: -1 : pair_step(shape)], walk[1 :: pair_step(shape)]
    beside = np.full((len(walk), 2), -1)
    beside[second, 0], beside[first, 1] = first, second
    return beside
