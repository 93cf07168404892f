"""A checkpoint becomes an FP32 ONNX file that is shown to compute what torch computes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeres import disk, onnx_io, regions, store
from edgeres.canonical import OUTPUT, canonical
from edgeres.data import ImageSet, open_images
from edgeres.errors import InputError, MissingRuntime, UsageError
from edgeres.onnx_io import ModelInfo
from edgeres.parity import SAMPLES, Parity, compare
from edgeres.store import Artifact, Sidecar
from edgeres.types import Preprocess, Task

if TYPE_CHECKING:
    import torch

    from edgeres.models.resnet import Size

OPSET = 19
"""The first in which Q/DQ takes float16 scales, as INT8 beside FP16 on TensorRT needs."""
TASKS: tuple[Task, ...] = ("classification", "multi-label", "regression", "embedding")
"""What a classifier's checkpoint can be exported for."""
FOREIGN = (".onnx", ".pt2")


def export(
    weights: Path,
    out: Path,
    arch: str | None = None,
    *,
    opset: int = OPSET,
    batch: int | None = None,
    preprocess: Mapping[str, Any] | None = None,
    classes: Sequence[str] = (),
    task: Task = "classification",
    features: Sequence[str] = (),
    box_head: bool = False,
    images: ImageSet | None = None,
) -> Artifact:
    """Write the ONNX file of a trained ResNet, batch norm folded, and prove it on real images.

    A network that someone else exported (.onnx, .pt2) goes to `edgeres.foreign.export.export`.

    The fields of `edgeres.parity.Parity` are the artifact's results; `recognised` are the architectures whose tensors
    fit where no name is stored, the first of them taken unless `arch` is given; `notes` are sentences on what was
    chosen.

    `arch` is a name of `edgeres.models.resnet.ARCHITECTURES`, None to recognise it; `batch` None leaves the batch
    dimension free; `preprocess` overrides fields of what is stored beside the weights or, where nothing is, of
    ImageNet's at the network's own size; `classes` names the outputs, by default as stored beside the weights;
    `task` says what the head is for: "multi-label" (each logit is a label of its own), "regression", or "embedding",
    which drops the head, or takes the output of a network that someone else exported; `features` names the maps of the
    stages to give instead, C2 ... C5, also of a detector's backbone, while a detector alone gives what its dense heads
    do (`edgeres.models.detection`); `box_head` takes the second network of a Faster R-CNN, whose input are regions
    (N, C, 7, 7) that `edgeres.regions` cuts out; `images` (default: four photographs that come with edgeres) prove the
    parity. The input is `input` float32 (N, 3, H, W), the output `logits` (N, classes), `embedding` (N, D), or maps
    (N, C, H, W) under their names.

    Raises UsageError, InputError for a checkpoint that does not fit, ParityError where ONNX Runtime and torch differ,
    MissingRuntime without torch.
    """
    if weights.suffix in FOREIGN:
        from edgeres.foreign.export import export as foreign

        if arch is not None:
            raise UsageError(f"{weights} has an architecture of its own; leave out --arch.")
        if features or box_head:
            raise UsageError(f"{weights} has no stages that are known by name; leave out --features and --box-head.")
        _known(task)
        given: dict[str, Any] = {"opset": opset, "batch": batch, "preprocess": preprocess, "classes": classes}
        return foreign(weights, out, task=task, images=images, **given)
    try:
        import torch

        from edgeres.models import checkpoint, detection, tracing
        from edgeres.models.architectures import ARCHITECTURES
    except ImportError as error:
        raise MissingRuntime(f"export needs {error.name}; `pip install 'edgeres[export]'`.") from None
    if not 13 <= opset <= 21:
        raise UsageError(f"opset {opset} is not supported; choose from 13 (per-channel Q/DQ begins there) to 21.")
    _known(task)
    store.distinct(out, weights)
    loaded = checkpoint.read(weights)
    model: torch.nn.Module
    if features or loaded.detector:
        name, model = detection.load(arch, loaded, features)
        outputs, task, ends = model.outputs, model.task, model.names
    else:
        name, model = checkpoint.load(arch, loaded, head=task != "embedding")
        outputs, ends = (model.width, ("embedding",)) if task == "embedding" else (loaded.outputs, (OUTPUT,))
    config = loaded.config
    recognised = [] if config.arch else list(loaded.rows)
    base = _default(ARCHITECTURES[name].size if name in ARCHITECTURES else detection.SIDE)
    if config.preprocess is not None:
        base = Preprocess.parse(config.preprocess, str(weights))
    wanted = base
    if preprocess:
        try:
            wanted = Preprocess.parse({**base.to_json(), **_scaled(base, preprocess)}, "the preprocessing asked for")
        except InputError as error:
            raise UsageError(str(error)) from None
    if task == "detection" and wanted.crop % detection.STRIDE:
        raise UsageError(
            f"{name} takes sides that are multiples of {detection.STRIDE}, not {wanted.crop}; change --size."
        )
    names = tuple(classes) or (config.classes if task not in ("embedding", "features") else ())
    if names and len(names) != outputs:
        raise UsageError(f"{len(names)} class names were given, {weights} has {outputs} outputs; give one name each.")
    info = ModelInfo(name, wanted, outputs, names, task)
    photos = images or open_images(SAMPLES)
    sides: tuple[int, ...] = (3, wanted.crop, wanted.crop)
    dense, maps = model, ends
    if box_head:
        if not isinstance(model, detection.FasterRCNN):
            raise UsageError(f"{weights} is {name}, which has no box head; Faster R-CNN has one: leave out --box-head.")
        model = model.roi_heads
        if model.shape[1] != regions.POOLED:
            raise InputError(f"{weights} takes regions of {model.shape[1]} bins a side; edgeres cuts {regions.POOLED}.")
        info = ModelInfo(f"{name}_box_head", None, model.outputs, (), model.task)
        ends, sides = model.names, model.shape

    def cut(given: NDArray[np.float32]) -> regions.Maps:
        return dict(zip(maps, _outputs(dense, given), strict=True))

    def write(path: Path) -> Mapping[str, Any]:
        made = canonical(tracing.trace(model, (batch or 1, *sides), batch is None), opset, ends)
        onnx_io.describe(made, info)
        onnx_io.save(made, path)
        proof = regions.sample(cut, photos, wanted) if box_head else photos
        parity = prove(path, model, proof, info.preprocess, batch).results()
        agreement = parity["agreement"] if task == "classification" else None
        notes = [*loaded.notes, *(model.notes if isinstance(model, detection.Maps) else ())]
        return {**parity, "agreement": agreement, "recognised": recognised, "notes": notes}

    made_from = {"weights": disk.digest(loaded.files[0]), "images": photos.digest}
    made_from |= {file.name: disk.digest(file) for file in loaded.files[1:]}
    parameters: dict[str, Any] = {"opset": opset, "batch": batch, "model": info.to_json()}
    if features:
        parameters["features"] = list(ends)
    return store.make(out, Sidecar("onnx", made_from, parameters, store.versions("edgeres", "torch", "onnx")), write)


def architectures() -> "Mapping[str, Size]":
    """Each name that `export` takes, with the size of its network; MissingRuntime without torch."""
    try:
        from edgeres.models.architectures import ARCHITECTURES
        from edgeres.models.resnet import size
    except ImportError as error:
        raise MissingRuntime(f"export needs {error.name}; `pip install 'edgeres[export]'`.") from None
    return {name: size(name) for name in ARCHITECTURES}


def _known(task: str) -> None:
    if task not in TASKS:
        raise UsageError(f"there is no task {task!r}; there are {', '.join(TASKS)}.")


def _default(size: int) -> Preprocess:
    return Preprocess() if size == 224 else Preprocess(resize=size, crop=size)


def _scaled(base: Preprocess, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """A crop that is given alone keeps the share of the image that it had."""
    if not isinstance(given.get("crop"), int) or "resize" in given:
        return given
    return {"resize": round(base.resize * given["crop"] / base.crop), **given}


def prove(
    exported: Path, model: "torch.nn.Module", images: ImageSet, preprocess: Preprocess | None, batch: int | None = None
) -> Parity:
    """Compare ONNX Runtime's outputs with torch's on images; see `edgeres.parity.compare`."""
    return compare(exported, lambda given: _outputs(model, given), "torch", images, preprocess, batch)


def _outputs(model: "torch.nn.Module", given: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
    import torch

    with torch.inference_mode():
        made = model(torch.from_numpy(given))
    return [value.numpy() for value in (made if isinstance(made, tuple) else (made,))]
