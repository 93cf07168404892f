"""Whether an exported network computes what its source computes, shown on real images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeres import onnx_io
from edgeres.data import ImageSet, batches
from edgeres.errors import ParityError
from edgeres.types import Preprocess

TOLERANCE = 1e-4
"""Largest difference of a logit, relative to the largest logit: float32 rounding over a thousand layers stays below."""
SAMPLES = Path(__file__).parent / "images"
Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Images (N, 3, H, W) -> logits (N, classes)."""


@dataclass(frozen=True)
class Parity:
    """How far ONNX Runtime's logits are from the source's: the largest difference, absolute and relative to the largest
    logit, and the share of images with the same top-1."""

    images: int
    largest: float
    relative: float
    agreement: float


def compare(
    exported: Path, source: Network, name: str, images: ImageSet, preprocess: Preprocess, batch: int | None = None
) -> Parity:
    """Hold an ONNX file against its source, called `name`, on images; ParityError where a logit differs by more than
    TOLERANCE. `batch` is the file's where that is fixed."""
    import onnxruntime

    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    got, wanted = [], []
    for part in batches(images, preprocess, batch or 8):
        real = part.images
        given = onnx_io.padded(real, batch or len(real))
        got.append(session.run(None, {session.get_inputs()[0].name: given})[0][: len(real)])
        wanted.append(source(real))
    logits, reference = np.concatenate(got), np.concatenate(wanted)
    largest = float(np.abs(logits - reference).max())
    relative = largest / float(np.abs(reference).max() or 1)
    agreement = float((logits.argmax(1) == reference.argmax(1)).mean())
    if not relative <= TOLERANCE:  # also where either is NaN
        raise ParityError(
            f"the exported network's logits differ from {name}'s by {relative:.2g} of the largest (allowed "
            f"{TOLERANCE:g}) on {len(images)} images; try another --opset, and please report it."
        )
    return Parity(len(images), largest, relative, agreement)
