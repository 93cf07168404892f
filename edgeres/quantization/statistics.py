"""What calibration keeps of each activation tensor, in constant memory: range, histogram, per-channel means and peaks.

The bins of a histogram are a power of two wide, and counts are integers, so that a histogram that must grow merges
neighbouring bins exactly: the result does not depend on the order of the images, on the batches, or on how many
machines shared the work.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres import archive
from edgeres.errors import EdgeresError, InputError, UsageError

BINS = 2048
"""Bins on each side of zero."""
_FRACTION = 2.0**20
"""Per-channel means are summed as multiples of 1/_FRACTION: integer sums have no order."""
_SMALLEST = -126
"""Exponent of the finest bins, and of a tensor that is zero throughout: float32 can still be scaled by 2**126."""
_LEAST = 2.0**-60
"""The smallest scale of a channel, and the reciprocal of the largest: weights divided by it stay in float32."""


@dataclass(frozen=True)
class TensorStatistics:
    """`low` and `high` of all values; `counts` int64 (2 * BINS,) of bins 2**exponent wide, the first BINS below zero;
    `sums` int64 (C,) of the spatial means of each channel, in units of 2**-20, over `images` images; `peaks` (C,) the
    largest magnitudes of each channel."""

    low: float
    high: float
    exponent: int
    counts: NDArray[np.int64]
    sums: NDArray[np.int64]
    peaks: NDArray[np.float32]
    images: int

    @classmethod
    def of(
        cls,
        samples: NDArray[np.float32],
        maxima: NDArray[np.float32],
        minima: NDArray[np.float32],
        means: NDArray[np.float32],
        peaks: NDArray[np.float32],
    ) -> "TensorStatistics":
        """The statistics of N images: some of their values; extremes, mean and largest magnitude of all, (N, C) each.

        ValueError where a value is NaN or infinite, or so large that means cannot be summed.
        """
        low, high = float(minima.min()) + 0.0, float(maxima.max()) + 0.0  # + 0.0: there is but one zero
        if not np.isfinite(low + high) or not np.isfinite(means).all():
            raise ValueError("NaN or infinite")
        largest = max(-low, high)
        exponent = max(int(np.frexp(largest)[1]) - BINS.bit_length() + 1, _SMALLEST) if largest > 0 else _SMALLEST
        # Scaled down in float32, a tiny negative value could become zero and change its side.
        kind = np.float64 if low < 0 < exponent else np.float32
        bins = np.multiply(samples.ravel(), kind(2.0**-exponent), dtype=kind)
        if low < 0:
            np.floor(bins, out=bins)
        index = bins.astype(np.intp)
        index += BINS
        counts = np.bincount(index, minlength=2 * BINS)
        scaled = np.rint(means.astype(np.float64) * _FRACTION)
        _summable(np.abs(scaled).sum(0))
        return cls(low, high, exponent, counts, scaled.astype(np.int64).sum(0), peaks.max(0), len(samples))

    def __add__(self, other: "TensorStatistics") -> "TensorStatistics":
        """The statistics of both sets of images; ValueError as `of`."""
        _summable(np.abs(self.sums.astype(np.float64)) + np.abs(other.sums.astype(np.float64)))
        exponent = max(self.exponent, other.exponent)
        counts = self._coarser(exponent) + other._coarser(exponent)
        low, high = min(self.low, other.low), max(self.high, other.high)
        sums, peaks = self.sums + other.sums, np.maximum(self.peaks, other.peaks)
        return TensorStatistics(low, high, exponent, counts, sums, peaks, self.images + other.images)

    def _coarser(self, exponent: int) -> NDArray[np.int64]:
        """The counts in bins 2**exponent wide."""
        steps = exponent - self.exponent
        if steps == 0:
            return self.counts
        counts = np.zeros_like(self.counts)
        np.add.at(counts, (np.arange(-BINS, BINS) >> min(steps, 62)) + BINS, self.counts)
        return counts

    @property
    def possible(self) -> bool:
        """Whether these are what `of` can give: a file may hold anything."""
        whole = all(values.dtype == np.int64 for values in (self.counts, self.sums)) and self.images > 0
        shaped = self.counts.shape == (2 * BINS,) and self.sums.shape == self.peaks.shape == (len(self.sums),)
        most = float(np.finfo(np.float32).max)
        finite = -most <= self.low <= self.high <= most and np.isfinite(self.peaks).all()
        scaled = _SMALLEST <= self.exponent <= 128
        return bool(whole and shaped and finite and scaled and self.counts.min() >= 0 < self.counts.sum())

    @property
    def edges(self) -> NDArray[np.float64]:
        """The borders of the bins, (2 * BINS + 1,)."""
        return np.ldexp(np.arange(-BINS, BINS + 1, dtype=np.float64), self.exponent)

    @property
    def power(self) -> float:
        """The mean square of all values, from the histogram."""
        centres = (self.edges[:-1] + self.edges[1:]) / 2
        return float(np.dot(self.counts, np.square(centres)) / self.counts.sum())

    @property
    def means(self) -> NDArray[np.float64]:
        """The mean of each channel, (C,)."""
        return self.sums / (_FRACTION * self.images)


def _summable(magnitudes: NDArray[np.float64]) -> None:
    """ValueError where int64 would wrap around: at means of 2**43, those of no trained network."""
    if magnitudes.max() >= 2.0**63:
        raise ValueError("larger than any trained network's")


Statistics = Mapping[str, TensorStatistics]
"""Statistics by the name of the tensor."""


@dataclass(frozen=True)
class Calibration:
    """What a `.stats` file holds: the statistics of the prepared graph, and the scales that it was prepared with."""

    tensors: Statistics
    scales: Mapping[str, NDArray[np.float32]]


def save(calibration: Calibration, path: Path) -> None:
    """Write a `.stats` file: a compressed .npz whose bytes depend on its content alone."""
    arrays: dict[str, Any] = {"names": np.array(list(calibration.tensors), str)}
    for position, one in enumerate(calibration.tensors.values()):
        arrays[f"{position}.range"] = np.array([one.low, one.high])
        arrays[f"{position}.exponent"] = np.array([one.exponent, one.images])
        arrays[f"{position}.counts"] = one.counts
        arrays[f"{position}.sums"] = one.sums
        arrays[f"{position}.peaks"] = one.peaks
    arrays["scaled"] = np.array(list(calibration.scales), str)
    arrays |= {f"scales.{position}": values for position, values in enumerate(calibration.scales.values())}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    path.write_bytes(buffer.getvalue())


def load(path: Path) -> Calibration:
    """Read what `save` wrote; UsageError where it is absent, InputError where it is something else."""
    if not path.is_file():
        raise UsageError(f"there are no statistics at {path}; make them with `edgeres calibrate`.")
    try:
        arrays = archive.arrays(path)
        found = {}
        for position, name in enumerate(arrays["names"]):
            (low, high), (exponent, images) = arrays[f"{position}.range"], arrays[f"{position}.exponent"]
            counts, sums, peaks = (arrays[f"{position}.{key}"] for key in ("counts", "sums", "peaks"))
            one = TensorStatistics(float(low), float(high), int(exponent), counts, sums, peaks, int(images))
            if not one.possible:
                raise ValueError(f"the statistics of {name} cannot be")
            found[str(name)] = one
        scales = {str(name): arrays[f"scales.{position}"] for position, name in enumerate(arrays["scaled"])}
        if not all(one.ndim == 1 and ((one >= _LEAST) & (one <= 1 / _LEAST)).all() for one in scales.values()):
            raise ValueError("scales of channels are no such")
        return Calibration(found, scales)
    except EdgeresError:
        raise
    except Exception as error:  # zipfile, zlib and numpy each have their own
        raise InputError(f"{path} is not a statistics file ({error}); calibrate again.") from None
