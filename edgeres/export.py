"""A checkpoint becomes an FP32 ONNX file that is shown to compute what torch computes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeres import onnx_io, store
from edgeres.canonical import INPUT, canonical
from edgeres.data import ImageSet, batches, open_images
from edgeres.errors import InputError, MissingRuntime, ParityError, UsageError
from edgeres.onnx_io import ModelInfo
from edgeres.store import Artifact, Sidecar
from edgeres.types import Preprocess

if TYPE_CHECKING:
    from edgeres.models.resnet import ResNet, Size

OPSET = 19
"""The first in which Q/DQ takes float16 scales, as INT8 beside FP16 on TensorRT needs."""
TOLERANCE = 1e-4
"""Largest difference of a logit, relative to the largest logit: float32 rounding over a thousand layers stays below."""
SAMPLES = Path(__file__).parent / "images"


@dataclass(frozen=True)
class Parity:
    """How far ONNX Runtime's logits are from torch's: the largest difference, absolute and relative to the largest
    logit, and the share of images with the same top-1."""

    images: int
    largest: float
    relative: float
    agreement: float


def export(
    weights: Path,
    out: Path,
    arch: str | None = None,
    *,
    opset: int = OPSET,
    batch: int | None = None,
    preprocess: Mapping[str, Any] | None = None,
    classes: Sequence[str] = (),
    images: ImageSet | None = None,
) -> Artifact:
    """Write the ONNX file of a trained ResNet, batch norm folded, and prove it on real images.

    The fields of `Parity` are the artifact's results.

    `arch` is a name of `edgeres.models.resnet.ARCHITECTURES`, None to recognise it; `batch` None leaves the batch
    dimension free; `preprocess` overrides fields of what is stored beside the weights or, where nothing is, of
    ImageNet's at the network's own size; `classes` names the outputs, by default as stored beside the weights;
    `images` (default: four photographs that come with edgeres) prove the parity. The input is `input` float32
    (N, 3, H, W), the output `logits` (N, classes).

    Raises UsageError, InputError for a checkpoint that does not fit, ParityError where ONNX Runtime and torch differ,
    MissingRuntime without torch.
    """
    try:
        from edgeres.models import checkpoint, tracing
        from edgeres.models.resnet import ARCHITECTURES
    except ImportError as error:
        raise MissingRuntime(f"export needs {error.name}; `pip install 'edgeres[export]'`.") from None
    if not 13 <= opset <= 21:
        raise UsageError(f"opset {opset} is not supported; choose from 13 (per-channel Q/DQ begins there) to 21.")
    store.distinct(out, weights)
    loaded = checkpoint.read(weights)
    name, model = checkpoint.load(arch, loaded)
    outputs = model.fc.out_features
    base = _default(ARCHITECTURES[name].size)
    if loaded.preprocess is not None:
        base = Preprocess.parse(loaded.preprocess, str(weights))
    wanted = base
    if preprocess:
        try:
            wanted = Preprocess.parse({**base.to_json(), **_scaled(base, preprocess)}, "the preprocessing asked for")
        except InputError as error:
            raise UsageError(str(error)) from None
    names = tuple(classes) or loaded.classes
    if names and len(names) != outputs:
        raise UsageError(f"{len(names)} class names were given, {weights} has {outputs} classes; give one name each.")
    info = ModelInfo(name, wanted, outputs, names)
    photos = images or open_images(SAMPLES)

    def write(path: Path) -> Mapping[str, Any]:
        shape = (batch or 1, 3, info.preprocess.crop, info.preprocess.crop)
        made = canonical(tracing.trace(model, shape, batch is None), opset)
        onnx_io.describe(made, info)
        onnx_io.save(made, path)
        return asdict(prove(path, model, photos, info.preprocess, batch))

    made_from = {"weights": store.digest(weights), "images": photos.digest}
    parameters = {"opset": opset, "batch": batch, "model": info.to_json()}
    return store.make(out, Sidecar("onnx", made_from, parameters, store.versions("edgeres", "torch", "onnx")), write)


def architectures() -> "Mapping[str, Size]":
    """Each name that `export` takes, with the size of its network; MissingRuntime without torch."""
    try:
        from edgeres.models.resnet import ARCHITECTURES, size
    except ImportError as error:
        raise MissingRuntime(f"export needs {error.name}; `pip install 'edgeres[export]'`.") from None
    return {name: size(name) for name in ARCHITECTURES}


def _default(size: int) -> Preprocess:
    return Preprocess() if size == 224 else Preprocess(resize=size, crop=size)


def _scaled(base: Preprocess, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """A crop that is given alone keeps the share of the image that it had."""
    if not isinstance(given.get("crop"), int) or "resize" in given:
        return given
    return {"resize": round(base.resize * given["crop"] / base.crop), **given}


def prove(
    exported: Path, model: "ResNet", images: ImageSet, preprocess: Preprocess, batch: int | None = None
) -> Parity:
    """Compare ONNX Runtime's logits with torch's on images; ParityError where they differ by more than TOLERANCE."""
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    got, wanted = [], []
    for part in batches(images, preprocess, batch or 8):
        real = part.images
        given = onnx_io.padded(real, batch or len(real))
        got.append(session.run(None, {INPUT: given})[0][: len(real)])
        with torch.inference_mode():
            wanted.append(model(torch.from_numpy(real)).numpy())
    logits, reference = np.concatenate(got), np.concatenate(wanted)
    largest = float(np.abs(logits - reference).max())
    relative = largest / float(np.abs(reference).max() or 1)
    agreement = float((logits.argmax(1) == reference.argmax(1)).mean())
    if not relative <= TOLERANCE:  # also where either is NaN
        raise ParityError(
            f"the exported network's logits differ from torch's by {relative:.2g} of the largest (allowed "
            f"{TOLERANCE:g}) on {len(images)} images; try another --opset, and please report it."
        )
    return Parity(len(images), largest, relative, agreement)
