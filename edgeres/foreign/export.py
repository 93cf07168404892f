"""Any ONNX network of images, or .pt2 program, becomes edgeres' FP32 ONNX and is shown to compute the same."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeres import onnx_io, store
from edgeres.data import ImageSet, open_images
from edgeres.errors import InputError, UsageError
from edgeres.foreign import ends, read
from edgeres.foreign.affine import Affine
from edgeres.foreign.convert import Converted, convert
from edgeres.onnx_io import ModelInfo
from edgeres.parity import SAMPLES, Array, Network, compare
from edgeres.store import Artifact, Sidecar
from edgeres.types import Preprocess, Task

OPSET = 19
CAFFE_BGR = (103.939, 116.779, 123.68)
"""The means of ImageNet's B, G and R in levels, as Caffe's networks subtract them."""
LEVELS, UNIT, IMAGENET = "0 to 255", "0 to 1", "normalised with ImageNet's mean and std"


def export(
    source: Path,
    out: Path,
    *,
    opset: int = OPSET,
    batch: int | None = None,
    preprocess: Mapping[str, Any] | None = None,
    classes: Sequence[str] = (),
    task: Task = "classification",
    images: ImageSet | None = None,
) -> Artifact:
    """Write the canonical ONNX file of a network that someone else exported, and prove it on real images.

    `source` is an ONNX file of opset 9 or newer, beside it its external data, or a program of `torch.export.save`
    (.pt2). `batch` None leaves the batch free where the graph allows it. `preprocess` overrides fields of what `source`
    expects of its images: by default what a file of edgeres says of itself, which keeps its task and class names, too;
    else ImageNet's at its own size, or plain pixels where it normalises them itself; a normalisation in the graph
    becomes part of the preprocessing. `task` says what its one output is for: a Softmax, or
    Sigmoid of labels, behind logits is left out; an embedding is the output as it is. The results are the fields of
    `edgeres.parity.Parity` and `notes`, in plain words. Input, output and the other options are as in
    `edgeres.export.export`.

    Raises UsageError, InputError for what edgeres does not handle, naming node and operator, ParityError where the two
    differ in ONNX Runtime (.pt2: from torch), MissingRuntime for .pt2 without torch.
    """
    store.distinct(out, source)
    if not 13 <= opset <= 21:
        raise UsageError(f"opset {opset} is not supported; choose from 13 (per-channel Q/DQ begins there) to 21.")
    given = dict(preprocess or {})
    loaded = read.read(source)
    stored = _stored(loaded.model, source)
    task = stored.task if stored and task == "classification" else task
    made = convert(loaded.model, source, task, size=given.get("crop"), batch=batch, opset=opset)
    if stored and stored.preprocess:
        given = {**stored.preprocess.to_json(), "crop": made.image.side, **given}
    before, units = _preprocess(made, given)
    wanted = _normalised(before, made.normalisation)
    names = tuple(classes) or (stored.classes if stored else ())
    if names and len(names) != made.outputs:
        raise UsageError(f"{len(names)} class names were given, {source} has {made.outputs} outputs; give one each.")
    info = ModelInfo(stored.arch if stored else source.stem, wanted, made.outputs, names, task)
    notes = _meant(made.output, task) + _notes(made, units, before, given, batch)
    notes += ["its preprocessing is that which the file holds"] if stored else _order(wanted)
    photos = images or open_images(SAMPLES)

    def write(path: Path) -> Mapping[str, Any]:
        onnx_io.describe(made.model, info)
        onnx_io.save(made.model, path)
        removed = _operators(loaded.model) - _operators(made.model)
        reference = _reference(loaded.run(made.output), made.image, before, wanted)
        parity = compare(path, reference, loaded.name, photos, wanted, made.batch).results()
        agreement = parity["agreement"] if task == "classification" else None
        return {**parity, "agreement": agreement, "notes": notes, "removed": dict(sorted(removed.items()))}

    made_from = {**loaded.digests, "images": photos.digest}
    parameters = {"opset": opset, "batch": made.batch, "model": info.to_json()}
    versions = store.versions("edgeres", *loaded.packages)
    return store.make(out, Sidecar("onnx", made_from, parameters, versions), write)


def _stored(model: onnx.ModelProto, source: Path) -> ModelInfo | None:
    """What a file of edgeres says of itself; None of any other. UsageError where its end or its input is another."""
    if not onnx_io.is_described(model):
        return None
    stored = onnx_io.description(model, source)
    if stored.task in ("features", "detection"):
        raise UsageError(f"{source} gives maps; export it anew from its checkpoint, with --weights.")
    if stored.frame:
        raise UsageError(f"{source} is built for camera bytes; give the file that it was built from.")
    return stored


def _operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node if node.op_type != "Constant")


def _preprocess(made: Converted, given: Mapping[str, Any]) -> tuple[Preprocess, str]:
    """What the source expects of its images, and the range of pixels that it was taken to expect."""
    side, units = made.image.side, _units(made.image, made.normalisation)
    base = Preprocess(resize=round(side * 256 / 224) if side >= 128 else side, crop=side)
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


def _reference(source: read.Run, image: ends.Image, before: Preprocess, wanted: Preprocess) -> Network:
    """The source on images as the made file takes them: prepared, laid out and cut into batches as it wants them."""
    shape = (3, 1, 1)
    old = [np.array(value, np.float64).reshape(shape) for value in (before.mean, before.std)]
    new = [np.array(value, np.float64).reshape(shape) for value in (wanted.mean, wanted.std)]

    def run(images: Array) -> list[Array]:
        given = images if before == wanted else ((images * new[1] + new[0] - old[0]) / old[1]).astype(np.float32)
        given = given.transpose(0, 2, 3, 1) if image.last else given
        given = np.rint(given).clip(0, 255).astype(np.uint8) if image.dtype == "uint8" else given
        size = image.batch or 1
        parts = [given[first : first + size] for first in range(0, len(given), size)]
        return [np.concatenate([source(onnx_io.padded(part, size))[: len(part)] for part in parts])]

    return run


def _meant(output: ends.Output, task: Task) -> list[str]:
    """What the output was taken for."""
    if output.dropped:
        same = "top-1 is the same" if task == "classification" else "labels are the same at probability 0.5"
        return [f"the final {output.dropped} is left out: logits are given, {same}"]
    if task == "multi-label":
        return ["assumed: its outputs are logits, of which Sigmoid makes probabilities"]
    return ["its output is taken as the embedding; no head is dropped"] if task == "embedding" else []


def _notes(made: Converted, units: str, before: Preprocess, given: Mapping[str, Any], batch: int | None) -> list[str]:
    """What was decided on the way, for the one who converts."""
    notes = []
    if made.output.others:
        notes.append(f"outputs that are left out: {', '.join(made.output.others)}")
    if made.image.last:
        notes.append("it was written for channels last; `input` is (N, 3, H, W)")
    if made.normalisation is not None:
        notes.append("the normalisation in its graph is now part of the preprocessing")
    if not {"mean", "std"} & set(given):
        notes.append(f"assumed: it takes pixels {units}; else give --mean and --std")
    if not {"resize", "interpolation"} & set(given):
        notes.append(
            f"assumed: images are resized to {before.resize} pixels, {before.interpolation}; else give --resize"
        )
    if made.batch is not None and batch is None:
        notes.append(f"the batch stays {made.batch}: the graph allows no other")
    return notes


def _order(wanted: Preprocess) -> list[str]:
    """Nothing in a graph says in which order channels are; means that are B, G, R give a hint."""
    notes = ["assumed: channels are R, G, B"]
    if np.abs(np.array(wanted.mean) * 255 - CAFFE_BGR).max() < 1:
        notes.append(
            "its means look like Caffe's for B, G, R: if so, reverse the means and the input channels of the first "
            "convolution in the original, and export it again"
        )
    return notes
