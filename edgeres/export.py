"""A checkpoint becomes an FP32 ONNX file that is shown to compute what torch computes."""

import copy
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeres import onnx_io, store
from edgeres.canonical import INPUT, OUTPUT, canonical
from edgeres.data import ImageSet, open_images
from edgeres.errors import InputError, MissingRuntime, UsageError
from edgeres.onnx_io import ModelInfo
from edgeres.parity import SAMPLES, Parity, compare
from edgeres.store import Artifact, Sidecar
from edgeres.types import Preprocess

if TYPE_CHECKING:
    import onnx
    import torch

    from edgeres.models.resnet import ResNet

OPSET = 19
"""The first in which Q/DQ takes float16 scales, as INT8 beside FP16 on TensorRT needs."""
FOREIGN = (".onnx", ".pt2")
EXPORTED = 18
"""The opset that torch's exporter itself writes; others are converted from it."""


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

    A network that someone else exported (.onnx, .pt2) goes to `edgeres.foreign.export.export`.

    The fields of `edgeres.parity.Parity` are the artifact's results.

    `arch` is a name of `edgeres.models.resnet.ARCHITECTURES`, None to recognise it; `batch` None leaves the batch
    dimension free; `preprocess` overrides fields of what is stored beside the weights or, where nothing is, of
    ImageNet's at the network's own size; `classes` names the outputs, by default as stored beside the weights;
    `images` (default: four photographs that come with edgeres) prove the parity. The input is `input` float32
    (N, 3, H, W), the output `logits` (N, classes).

    Raises UsageError, InputError for a checkpoint that does not fit, ParityError where ONNX Runtime and torch differ,
    MissingRuntime without torch.
    """
    if weights.suffix in FOREIGN:
        from edgeres.foreign.export import export as foreign

        if arch is not None:
            raise UsageError(f"{weights} has an architecture of its own; leave out --arch.")
        return foreign(weights, out, opset=opset, batch=batch, preprocess=preprocess, classes=classes, images=images)
    try:
        import torch

        from edgeres.models import checkpoint
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
        example = torch.zeros(batch or 2, 3, info.preprocess.crop, info.preprocess.crop)
        made = canonical(_trace(model, example, batch is None), opset)
        onnx_io.describe(made, info)
        onnx_io.save(made, path)
        return asdict(prove(path, model, photos, info.preprocess, batch))

    made_from = {"weights": store.digest(weights), "images": photos.digest}
    parameters = {"opset": opset, "batch": batch, "model": info.to_json()}
    return store.make(out, Sidecar("onnx", made_from, parameters, store.versions("edgeres", "torch", "onnx")), write)


def architectures() -> list[str]:
    """The names that `export` takes; MissingRuntime without torch."""
    try:
        from edgeres.models.resnet import ARCHITECTURES
    except ImportError as error:
        raise MissingRuntime(f"export needs {error.name}; `pip install 'edgeres[export]'`.") from None
    return list(ARCHITECTURES)


def _default(size: int) -> Preprocess:
    return Preprocess() if size == 224 else Preprocess(resize=size, crop=size)


def _scaled(base: Preprocess, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """A crop that is given alone keeps the share of the image that it had."""
    if not isinstance(given.get("crop"), int) or "resize" in given:
        return given
    return {"resize": round(base.resize * given["crop"] / base.crop), **given}


def _trace(model: "ResNet", example: "torch.Tensor", dynamic: bool) -> "onnx.ModelProto":
    """Fold batch norm into the convolutions and let torch write the graph."""
    import torch

    if find_spec("onnxscript") is None:
        raise MissingRuntime("export needs onnxscript; `pip install 'edgeres[export]'`.")
    folded = fold(model)
    shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic else None
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns that torchvision, which is not used, is absent
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                folded,
                (example,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=EXPORTED,
                dynamic_shapes=shapes,
                dynamo=True,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    return program.model_proto


def fold(model: "ResNet") -> "ResNet":
    """A copy in which each batch norm is folded into the convolution before it (arXiv:1712.05877, section 3.2)."""
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    copied = copy.deepcopy(model)
    for module in copied.modules():
        children = list(module.named_children())
        for (name, child), (after, norm) in pairwise(children):
            if isinstance(child, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(child, norm))
                setattr(module, after, nn.Identity())
    return copied


def prove(
    exported: Path, model: "ResNet", images: ImageSet, preprocess: Preprocess, batch: int | None = None
) -> Parity:
    """Compare ONNX Runtime's logits with torch's on images; see `edgeres.parity.compare`."""
    import torch

    def source(given: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
        with torch.inference_mode():
            return [model(torch.from_numpy(given)).numpy()]

    return compare(exported, source, "torch", images, preprocess, batch)
