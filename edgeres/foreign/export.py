"""Any ONNX image classifier, or .pt2 program, becomes edgeres' FP32 ONNX and is shown to compute the same."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
from numpy.typing import NDArray

from edgeres import onnx_io, store
from edgeres.canonical import canonical
from edgeres.data import ImageSet, open_images
from edgeres.errors import InputError, UsageError
from edgeres.foreign import ends, read
from edgeres.foreign.affine import Affine
from edgeres.foreign.simplify import Simplified, operators, simplify
from edgeres.onnx_io import ModelInfo
from edgeres.parity import SAMPLES, Network, compare
from edgeres.store import Artifact, Sidecar
from edgeres.types import Preprocess

OPSET = 19
LEVELS, UNIT, IMAGENET = "0 to 255", "0 to 1", "normalised with ImageNet's mean and std"


def export(
    source: Path,
    out: Path,
    *,
    opset: int = OPSET,
    batch: int | None = None,
    preprocess: Mapping[str, Any] | None = None,
    classes: Sequence[str] = (),
    images: ImageSet | None = None,
) -> Artifact:
    """Write the canonical ONNX file of a classifier that someone else exported, and prove it on real images.

    `source` is an ONNX file of opset 9 or newer, beside it its external data, or a program of `torch.export.save`
    (.pt2). `batch` None leaves the batch free where the graph allows it. `preprocess` overrides fields of what `source`
    expects of its images: by default ImageNet's at its own size, or plain pixels where it normalises them itself; a
    normalisation in the graph becomes part of the preprocessing. The results are the fields of `edgeres.parity.Parity`
    and `notes`, in plain words. Input, output and the other options are as in `edgeres.export.export`.

    Raises UsageError, InputError for what edgeres does not handle, naming node and operator, ParityError where the two
    differ in ONNX Runtime (.pt2: from torch), MissingRuntime for .pt2 without torch.
    """
    store.distinct(out, source)
    if not 13 <= opset <= 21:
        raise UsageError(f"opset {opset} is not supported; choose from 13 (per-channel Q/DQ begins there) to 21.")
    given = dict(preprocess or {})
    loaded = read.read(source)
    graph = _shaped(loaded.model)
    image = ends.image(graph, given.get("crop"), source)
    taken = ends.classes(graph, source)
    made, fixed = _canonical(loaded.model, image, taken.logits, batch, opset, source)
    before, units = _preprocess(image, made.normalisation, given)
    wanted = _normalised(before, made.normalisation)
    outputs = _outputs(made.model, source)
    names = tuple(classes)
    if names and len(names) != outputs:
        raise UsageError(f"{len(names)} class names were given, {source} has {outputs} classes; give one name each.")
    info = ModelInfo(source.stem, wanted, outputs, names)
    notes = _notes(taken, image, made, units, before, given, batch, fixed)
    photos = images or open_images(SAMPLES)
    reference = _reference(loaded.network(taken), image, before, wanted)

    def write(path: Path) -> Mapping[str, Any]:
        onnx_io.describe(made.model, info)
        onnx_io.save(made.model, path)
        removed = operators(loaded.model) - operators(made.model)
        parity = compare(path, reference, loaded.name, photos, wanted, fixed)
        return {**asdict(parity), "notes": notes, "removed": dict(sorted(removed.items()))}

    made_from = {**loaded.digests, "images": photos.digest}
    parameters = {"opset": opset, "batch": fixed, "model": info.to_json()}
    versions = store.versions("edgeres", *loaded.packages)
    return store.make(out, Sidecar("onnx", made_from, parameters, versions), write)


def _shaped(proto: onnx.ModelProto) -> ir.Graph:
    """The graph as it stands, its shapes inferred."""
    model = ir.from_proto(proto)
    passes.InlinePass()(model)
    passes.RemoveInitializersFromInputsPass()(model)
    passes.ShapeInferencePass(strict_mode=False)(model)
    return model.graph


def _canonical(
    proto: onnx.ModelProto, image: ends.Image, logits: str, batch: int | None, opset: int, where: Path
) -> tuple[Simplified, int | None]:
    """The canonical graph and its batch: free if it may be and can be, else as asked for or as it was."""
    made = _spelled(simplify(proto, image, logits, None, where), opset)
    if _any_batch(made.model, image.side):
        if batch is None:
            return made, None
        return _spelled(simplify(proto, image, logits, batch, where), opset), batch
    if image.batch is None or batch not in (None, image.batch):
        raise InputError(
            f"{where} does not take a batch of {batch or 'any size'}; give --batch {image.batch or 1}, or export it anew."
        )
    return _spelled(simplify(proto, image, logits, image.batch, where), opset), image.batch


def _spelled(made: Simplified, opset: int) -> Simplified:
    return Simplified(canonical(made.model, opset), made.normalisation)


def _any_batch(model: onnx.ModelProto, side: int) -> bool:
    """Whether three images in one batch give what each gives alone."""
    given = np.random.default_rng(0).standard_normal((3, 3, side, side), np.float32)
    try:
        run = _runner(model)
        alone = np.concatenate([run(given[i : i + 1]) for i in range(3)])
        return bool(np.allclose(run(given), alone, rtol=1e-3, atol=1e-3 * float(np.abs(alone).max())))
    except Exception:  # whatever a runtime says of a batch that does not fit
        return False


def _runner(model: onnx.ModelProto) -> Network:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: np.asarray(session.run(None, {name: images})[0])


def _outputs(model: onnx.ModelProto, where: Path) -> int:
    dims = model.graph.output[0].type.tensor_type.shape.dim
    count = dims[1].dim_value if len(dims) == 2 else 0
    if not count:
        raise InputError(f"{where}: its output is not one score for each class; edgeres takes classifiers.")
    return int(count)


def _preprocess(image: ends.Image, found: Affine | None, given: Mapping[str, Any]) -> tuple[Preprocess, str]:
    """What the source expects of its images, and the range of pixels that it was taken to expect."""
    side = image.side
    base = Preprocess(resize=round(side * 256 / 224) if side >= 128 else side, crop=side)
    units = _units(image, found)
    if units != IMAGENET:
        std = 1 / 255 if units == LEVELS else 1.0
        base = replace(base, mean=(0.0, 0.0, 0.0), std=(std, std, std))
    try:
        return Preprocess.parse({**base.to_json(), **given}, "the preprocessing asked for"), units
    except InputError as error:
        raise UsageError(str(error)) from None


def _units(image: ends.Image, found: Affine | None) -> str:
    """The range that a graph's own normalisation is for: it centres and scales pixels of that range."""
    if image.dtype == "uint8":
        return LEVELS
    if found is None:
        return IMAGENET
    centre, spread = -found.shift / found.scale, 1 / found.scale
    if np.abs(centre).max() > 2 or spread.max() > 4:
        return LEVELS
    return UNIT if centre.min() > 0.1 else IMAGENET


def _normalised(before: Preprocess, found: Affine | None) -> Preprocess:
    """`before` with a normalisation y = a x + b done after it."""
    if found is None:
        return before
    mean, std = np.array(before.mean), np.array(before.std)
    r, g, b = (float(value) for value in mean - found.shift * std / found.scale)
    x, y, z = (float(value) for value in std / found.scale)
    return replace(before, mean=(r, g, b), std=(x, y, z))


def _reference(network: Network, image: ends.Image, before: Preprocess, wanted: Preprocess) -> Network:
    """The source on images as the made file takes them: prepared, laid out and cut into batches as it wants them."""
    shape = (3, 1, 1)
    old = [np.array(value, np.float64).reshape(shape) for value in (before.mean, before.std)]
    new = [np.array(value, np.float64).reshape(shape) for value in (wanted.mean, wanted.std)]

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        source = images if before == wanted else ((images * new[1] + new[0] - old[0]) / old[1]).astype(np.float32)
        source = source.transpose(0, 2, 3, 1) if image.last else source
        source = np.rint(source).clip(0, 255).astype(np.uint8) if image.dtype == "uint8" else source
        size = image.batch or 1
        parts = [source[first : first + size] for first in range(0, len(source), size)]
        return np.concatenate([network(onnx_io.padded(part, size))[: len(part)] for part in parts])

    return run


def _notes(
    taken: ends.Classes,
    image: ends.Image,
    made: Simplified,
    units: str,
    before: Preprocess,
    given: Mapping[str, Any],
    batch: int | None,
    fixed: int | None,
) -> list[str]:
    """What was decided on the way, for the one who converts."""
    notes = []
    if taken.dropped:
        notes.append(f"the final {taken.dropped} is left out: logits are given, top-1 is the same")
    if taken.others:
        notes.append(f"the output {', '.join(taken.others)} is left out")
    if image.last:
        notes.append("it was written for channels last; `input` is (N, 3, H, W)")
    if made.normalisation is not None:
        notes.append("the normalisation in its graph is now part of the preprocessing")
    if not {"mean", "std"} & set(given):
        notes.append(f"assumed: it takes pixels {units}; else give --mean and --std")
    if not {"resize", "interpolation"} & set(given):
        notes.append(
            f"assumed: images are resized to {before.resize} pixels, {before.interpolation}; else give --resize"
        )
    if fixed is not None and batch is None:
        notes.append(f"the batch stays fixed at {fixed}: the graph allows no other")
    return notes
