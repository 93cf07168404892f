"""What INT8 does to the maps of a backbone and to the boxes of detectors, by scheme and runtime.

    python pipelines/benchmarks/detection.py RESNET50.pth PHOTOS WORK [--calibration 32] [--samples 16] [--no-latency]
        [--level fast] [--size 224 --size 512] [--detector 512]

RESNET50.pth is a trained classifier in torchvision's layout. Its body is real, and so are its maps. Trained detectors
are not at hand: the pyramids and heads on it are random, seeded, and scaled so that boxes come out (`seeded`). What
INT8 does to random heads is no promise for trained ones: their scores crowd at the threshold, where those of trained
heads are far above or far below it, so that boxes come and go with less noise.

Of Faster R-CNN each of the two networks has a table, and the boxes that both find together have one. Its box head is
calibrated and evaluated on regions that the FP32 dense part cuts out of the photos.

Calibrates on the first photos, evaluates on others. Prints Markdown. p50 is at batch 1, of the box head at as many
regions as an image has; FP32 and INT8 take turns.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tools import first, versions

from edgeres import engines, machine, onnx_io, regions
from edgeres.boxes import Array, Boxes
from edgeres.data import ImageSet, batches, open_images
from edgeres.errors import EdgeresError
from edgeres.evaluate.detection import mean_average_precision
from edgeres.evaluate.maps import OVERLAPS, compare
from edgeres.export import export
from edgeres.measure import Subject, measure
from edgeres.models import checkpoint, detection
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.quantize import quantize
from edgeres.schema import Score
from edgeres.store import Artifact
from edgeres.types import Preprocess, Target

PAIRS = (("onnxruntime", "onnxruntime:cpu"), ("openvino", "openvino:cpu"))
"""Scheme and the runtime that it is for."""
EVERYWHERE = ("tensorrt", "portable")
"""Schemes without a runtime of their own here: run on ONNX Runtime, which computes any Q/DQ file."""
RTX = Target("tensorrt-rtx", "sm86")
CLASSES, WIDE = 91, 256
SPREAD, SHARE = 1.5, 1e-4
"""Standard deviation of the class logits, and about which share of them is above the threshold of a box."""
FOUND = 200
"""Of Faster R-CNN on one photo, about how many scores are above the threshold of a box."""


def seeded(weights: Path, kind: str, photos: ImageSet, size: int, out: Path) -> None:
    """Write a detector's state dict in torchvision's layout: a trained body, random pyramid and heads.

    Every convolution of the heads keeps the power of what it gets (He et al., arXiv:1502.01852); the last are scaled
    and shifted on one photo: class logits as `SPREAD` and `SHARE` say, shifts of boxes by a tenth of the anchor.
    """
    torch.manual_seed(0)
    body = {k: v for k, v in checkpoint.read(weights).state.items() if not k.startswith("fc.")}
    state = {f"backbone.body.{k}": v for k, v in body.items() if not k.endswith("num_batches_tracked")}

    def add(name: str, inputs: int, outputs: int, kernel: int) -> None:
        state[f"{name}.weight"] = torch.randn(outputs, inputs, kernel, kernel) * (2 / (inputs * kernel**2)) ** 0.5
        state[f"{name}.bias"] = torch.zeros(outputs)

    widths = (512, 1024, 2048) if kind == "retinanet" else (256, 512, 1024, 2048)
    for level, inputs in enumerate(widths):
        add(f"backbone.fpn.inner_blocks.{level}.0", inputs, WIDE, 1)
        add(f"backbone.fpn.layer_blocks.{level}.0", WIDE, WIDE, 3)
    if kind == "retinanet":
        add("backbone.fpn.extra_blocks.p6", WIDE, WIDE, 3)
        add("backbone.fpn.extra_blocks.p7", WIDE, WIDE, 3)
        tops = {"head.classification_head.cls_logits": 9 * CLASSES, "head.regression_head.bbox_reg": 36}
        for head in ("classification", "regression"):
            for depth in range(4):
                add(f"head.{head}_head.conv.{depth}.0", WIDE, WIDE, 3)
        for name, outputs in tops.items():
            add(name, WIDE, outputs, 3)
    else:
        tops = {"rpn.head.cls_logits": 3, "rpn.head.bbox_pred": 12}
        add("rpn.head.conv.0.0", WIDE, WIDE, 3)
        for name, outputs in tops.items():
            add(name, WIDE, outputs, 1)
        head = {"box_head.fc6": (1024, WIDE * regions.POOLED**2), "box_head.fc7": (1024, 1024)}
        head |= {"box_predictor.cls_score": (CLASSES, 1024), "box_predictor.bbox_pred": (4 * CLASSES, 1024)}
        for name, shape in head.items():
            state[f"roi_heads.{name}.weight"] = torch.randn(shape) * (2 / shape[1]) ** 0.5
            state[f"roi_heads.{name}.bias"] = torch.zeros(shape[0])
    torch.save(state, out)
    model = detection.load(None, checkpoint.read(out))[1]
    photo = next(batches(photos.take([0]), Preprocess(resize=size, crop=size), 1)).images
    with torch.inference_mode():
        found = dict(zip(model.names, model(torch.from_numpy(photo)), strict=True))
    threshold = float(np.log(0.05 / 0.95))
    for (name, _), output in zip(tops.items(), (model.names[-10], model.names[-5]), strict=True):
        values = found[output]
        if "cls_logits" in name:
            state[f"{name}.weight"] *= SPREAD / values.std()
            state[f"{name}.bias"] += (
                threshold
                - torch.quantile(values.flatten()[:: 1 + values.numel() // 10**6], 1 - SHARE) * SPREAD / values.std()
            )
        else:
            state[f"{name}.weight"] *= 0.1 / values.std()
    torch.save(state, out)
    if kind == "fasterrcnn":
        _head(state, detection.load(None, checkpoint.read(out))[1], photo)
        torch.save(state, out)


def _head(state: dict[str, torch.Tensor], model: torch.nn.Module, photo: Array) -> None:
    """Scale the ends of the box head on what the dense part finds in one photo: each class logit is 0 in the mean and
    deviates by twice `SPREAD`, and that of the background leaves `FOUND` scores above the threshold."""
    ends = "roi_heads.box_predictor"
    with torch.inference_mode():
        maps = {name: one.numpy() for name, one in zip(model.names, model(torch.from_numpy(photo)), strict=True)}
        found = regions.proposals(maps, photo.shape[2:])[0].boxes
        cut = regions.pooled(maps, 0, found, photo.shape[2:])
        scores, shifts = model.get_submodule("roi_heads")(torch.from_numpy(cut))
    gain = 2 * SPREAD / scores.std(0)
    state[f"{ends}.cls_score.weight"] *= gain[:, None]
    state[f"{ends}.cls_score.bias"] = -scores.mean(0) * gain
    # A shift of WEIGHTS is as large as its proposal.
    state[f"{ends}.bbox_pred.weight"] *= 0.1 * float(regions.WEIGHTS[0]) / shifts.std()
    logits = (scores - scores.mean(0)) * gain
    while (logits.softmax(1)[:, 1:] > regions.SCORE).sum() > FOUND:
        logits[:, 0] += 0.25
        state[f"{ends}.cls_score.bias"][0] += 0.25


def quantized(model: Path, calibration: ImageSet, work: Path, level: str) -> Iterator[tuple[str, Path]]:
    """The INT8 file of every scheme."""
    statistics = work / f"{model.stem}.stats"
    calibrate(model, calibration, statistics)
    for scheme in (*(scheme for scheme, _ in PAIRS), *EVERYWHERE):
        out = work / f"{model.stem}.{scheme}.onnx"
        quantize(model, statistics, out, scheme=scheme, level=level, images=calibration)
        yield scheme, out


def shown(scores: Sequence[Score]) -> dict[str, str]:
    """mAP in percent, SQNR and cosine of each output."""
    named = {score.name: score.value for score in scores}
    told = {name: f"{100 * value:.1f} %" for name, value in named.items() if name.startswith("mAP")}
    levels = [name.removeprefix("SQNR ") for name in named if name.startswith("SQNR")]
    return told | {one: f"{named[f'SQNR {one}']:.1f} dB, {named[f'cosine {one}']:.5f}" for one in levels}


def table(
    model: Path, calibration: ImageSet, photos: ImageSet, options: argparse.Namespace, batch: int = 1
) -> dict[str, Path]:
    """Of one FP32 file: the error of each scheme on its runtime, and what it costs; the INT8 files by scheme."""
    runs = dict(PAIRS)
    columns: dict[str, dict[str, str]] = {}
    files: dict[str, Path] = {}
    for scheme, path in quantized(model, calibration, options.work, options.level):
        files[scheme] = path
        target = Target.parse(runs.get(scheme, "onnxruntime:cpu"))
        scores = compare(path, target, model, photos, threads=2)
        columns[f"{scheme}, {target}"] = {**shown(scores), "MB": f"{path.stat().st_size / 1e6:.1f}"}
        print(f"{model.stem}, {scheme}: done", file=sys.stderr, flush=True)
    _print(columns)
    try:
        engines.build(files["tensorrt"], RTX, options.work / f"{model.stem}.engine")
        print(f"\n{RTX}: builds.")
    except EdgeresError as error:
        print(f"\n{RTX}: does not build. {error}")
    if options.latency:
        print("\n| target | FP32 p50 | INT8 p50 |\n|---|---|---|")
        for scheme, target in PAIRS:
            subjects = [Subject(path, Target.parse(target), batch, 2) for path in (model, files[scheme])]
            exact, int8 = (found.latency.p50 for found in measure(subjects, rounds=3))
            print(f"| {target} | {exact:.1f} ms | {int8:.1f} ms |", flush=True)
    return files


def _print(columns: dict[str, dict[str, str]]) -> None:
    print(f"\n| | {' | '.join(columns)} |\n{'|---' * (1 + len(columns))}|")
    for row in next(iter(columns.values())):
        print(f"| {row} | {' | '.join(column[row] for column in columns.values())} |", flush=True)


def whole(
    exact: tuple[Path, Path],
    dense: dict[str, Path],
    head: dict[str, Path],
    photos: ImageSet,
    options: argparse.Namespace,
) -> None:
    """The boxes of both networks of Faster R-CNN together, with the box head in FP32 and in INT8."""
    runs = dict(PAIRS)
    reference = Target.parse("onnxruntime:cpu")
    truth, spent = boxes(*exact, reference, photos)
    columns: dict[str, dict[str, str]] = {}
    for scheme, path in dense.items():
        target = Target.parse(runs.get(scheme, "onnxruntime:cpu"))
        cells = {}
        for name, second in (("box head in FP32", exact[1]), ("both in INT8", head[scheme])):
            found, _ = boxes(path, second, target, photos)
            for overlap in OVERLAPS:
                cells[f"mAP@{overlap:g}, {name}"] = f"{100 * mean_average_precision(found, truth, overlap):.1f} %"
        columns[f"{scheme}, {target}"] = cells
        print(f"whole, {scheme}: done", file=sys.stderr, flush=True)
    print(f"\n{sum(len(one.boxes) for one in truth) / len(truth):.0f} boxes a photo in FP32.")
    _print(columns)
    if options.latency:
        print(f"\nProposals, RoIAlign and boxes, outside the engines: {1000 * np.median(spent):.0f} ms a photo.")


def boxes(dense: Path, head: Path, target: Target, photos: ImageSet) -> tuple[list[Boxes], list[float]]:
    """What two files of Faster R-CNN find in each photo, and the seconds that it took outside of both."""
    first, second = (engines.load(path, target, 2) for path in (dense, head))
    found, spent = [], []
    for batch in batches(photos, onnx_io.info(dense).preprocess, 1):
        maps = dict(zip(first.outputs, first.maps(batch.images), strict=True))
        inside = 0.0

        def timed(given: Array) -> Sequence[Array]:
            nonlocal inside
            start = time.perf_counter()
            made = second.maps(given)
            inside = time.perf_counter() - start
            return made

        start = time.perf_counter()
        found += regions.detect(maps, batch.images.shape[2:], timed)
        spent.append(time.perf_counter() - start - inside)
    return found, spent


def shares(made: Artifact) -> str:
    """The parity of each output."""
    return ", ".join(f"{name} {share:.1e}" for name, share in made.sidecar.results["outputs"].items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--calibration", type=int, default=32, help="photos that calibrate")
    parser.add_argument("--samples", type=int, default=16, help="photos that evaluate")
    parser.add_argument("--level", default="fast")
    parser.add_argument("--size", type=int, action="append", help="sides of the backbone's images")
    parser.add_argument("--detector", type=int, default=512, help="side of the detectors' images; 0 leaves them out")
    parser.add_argument("--no-latency", dest="latency", action="store_false")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    calibration = first(options.photos, options.calibration)
    photos = first(options.photos, options.samples, options.calibration)
    here = machine.describe()
    print(f"{here.cpu}, {here.cores} cores, {' '.join(here.features)}; {versions()}.")
    print(f"{len(calibration)} photos calibrate (level {options.level}), {len(photos)} others evaluate.")
    for size in options.size or (224, 512):
        model = options.work / f"backbone{size}.onnx"
        features = ("C2", "C3", "C4", "C5")
        made = export(options.weights, model, features=features, preprocess={"resize": size, "crop": size})
        print(f"\n## Backbone, {size} x {size} pixels\n\nParity with torch, relative: {shares(made)}")
        table(model, calibration, photos, options)
    sized = {"resize": options.detector, "crop": options.detector}
    for kind in ("retinanet", "fasterrcnn") if options.detector else ():
        weights, model = options.work / f"{kind}.pth", options.work / f"{kind}.onnx"
        seeded(options.weights, kind, calibration, options.detector, weights)
        made = export(weights, model, preprocess=sized)
        print(f"\n## {kind}, {options.detector} x {options.detector} pixels, random heads\n")
        print(f"Parity with torch, relative: {shares(made)}")
        dense = table(model, calibration, photos, options)
        if kind == "fasterrcnn":
            exact = options.work / "boxhead.onnx"
            made = export(weights, exact, preprocess=sized, box_head=True)
            print(f"\n### Its box head, {regions.PROPOSALS} regions\n\nParity with torch, relative: {shares(made)}")
            mine = [
                open_images(regions.cut(model, images, options.work / f"{name}.npz").path)
                for name, images in (("calibration", calibration), ("evaluation", photos))
            ]
            head = table(exact, *mine, options, batch=regions.PROPOSALS)
            print("\n### Both together")
            whole((model, exact), dense, head, photos, options)


if __name__ == "__main__":
    main()
