"""Whether an exported network computes what its source computes, shown on real images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres import onnx_io
from edgeres.data import ImageSet, batches
from edgeres.errors import ParityError
from edgeres.types import Preprocess

TOLERANCE = 1e-4
"""Largest difference of an output, relative to the largest one: float32 rounding over a thousand layers stays below."""
SAMPLES = Path(__file__).parent / "images"
Array = NDArray[np.float32]
Network = Callable[[Array], Sequence[Array]]
"""Images (N, 3, H, W) -> each of the outputs (N, ...), in the order of the exported file."""


@dataclass(frozen=True)
class Parity:
    """How far ONNX Runtime's outputs are from the source's: the largest difference, absolute and relative to the
    largest output, and the share of images with the same top-1 by the first output."""

    images: int
    largest: float
    relative: float
    agreement: float
    outputs: Mapping[str, float]
    """The relative difference of each output by name."""

    def results(self) -> dict[str, Any]:
        """As plain JSON; the outputs only where there are several."""
        told = asdict(self)
        return told if len(self.outputs) > 1 else {name: value for name, value in told.items() if name != "outputs"}


def compare(
    exported: Path,
    source: Network,
    name: str,
    images: ImageSet,
    preprocess: Preprocess | None,
    batch: int | None = None,
) -> Parity:
    """Hold an ONNX file against its source, called `name`, on images; ParityError where they differ by more than
    TOLERANCE. `batch` is the file's where that is fixed."""
    import onnxruntime

    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    got: list[list[Array]] = []
    wanted: list[Sequence[Array]] = []
    for part in batches(images, preprocess, batch or 8):
        real = part.images
        given = {session.get_inputs()[0].name: onnx_io.padded(real, batch or len(real))}
        got.append([found[: len(real)] for found in session.run(None, given)])
        wanted.append(source(real))
    found, exact = ([np.concatenate(parts) for parts in zip(*side, strict=True)] for side in (got, wanted))
    differences = [float(np.abs(one - other).max()) for one, other in zip(found, exact, strict=True)]
    shares = [off / float(np.abs(other).max() or 1) for off, other in zip(differences, exact, strict=True)]
    worst = int(np.argmax(shares))  # NaN is the largest
    relative = shares[worst]
    if not relative <= TOLERANCE:  # also where it is NaN
        raise ParityError(
            f"the exported network's {names[worst]} differ from {name}'s by {relative:.2g} of the largest (allowed "
            f"{TOLERANCE:g}) on {len(images)} images; try another --opset, and please report it."
        )
    agreement = float((found[0].argmax(1) == exact[0].argmax(1)).mean())
    return Parity(len(images), differences[worst], relative, agreement, dict(zip(names, shares, strict=True)))
