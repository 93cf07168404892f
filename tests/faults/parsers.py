"""Every parser of edgeres with whole files for it: what `fuzz.py` spoils, and how it is read then."""

import io
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import mutations as spoil
import numpy as np
import onnx
import trust
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))  # `report.example`

from edgeres import disk, engines, evaluate, onnx_io, recipe, store
from edgeres.data import open_images
from edgeres.types import Preprocess, Target

HERE = Target("onnxruntime", "cpu")
SIDE = Preprocess(resize=32, crop=32)
CLASSES = tuple("abcdefghij")


@dataclass(frozen=True)
class Parser:
    """`read` gets the place of a spoilt file; `seeds` are whole ones; `beside` lies next to it; `checked`: its format
    or its sidecar has a checksum, so that what is spoilt blindly is refused or gives what the whole file gives."""

    read: Callable[[Path], Any]
    seeds: Sequence[str]
    mutate: spoil.Mutation
    beside: Sequence[str] = ()
    checked: bool = False


def _report(path: Path) -> None:
    from rich.console import Console

    from edgeres import baseline, gate
    from edgeres import report as reports
    from edgeres.report import terminal

    found = reports.load(path)
    for suffix in (".html", ".md", ".csv", ".json"):
        reports.render(found, suffix)
    terminal.show(found, Console(file=io.StringIO(), width=100))
    gate.compare(found, found, found.rules or {"size": "2%", "latency_p50": "5%", "top1_drop": 0.3})
    baseline.changes(found, path)
    baseline.render(found)


def _sidecar(path: Path) -> object:
    engine = path.with_suffix("")
    onnx_io.info(engine)
    store.calibration(engine)
    return store.verify(engine).digest


def _trials(path: Path) -> object:
    from edgeres.tune.trials import Trials

    return Trials(path, {"model": "1"}).times


def _maps(path: Path) -> object:
    from edgeres.evaluate import maps

    return maps.scores(path)


def _checkpoint(path: Path, folder: bool = False) -> object:
    from edgeres.models import checkpoint

    found = checkpoint.read(path.parent if folder else path)
    checkpoint.load(None, found)
    if found.config.preprocess is not None:
        Preprocess.parse(found.config.preprocess, str(path))
    return {name: value.numpy().tobytes() for name, value in found.state.items()}, found.config.classes


def _program(path: Path) -> object:
    from edgeres.models import program

    return sorted(program.load(path).state_dict)


def _own(path: Path) -> object:
    from edgeres.quantization import place
    from edgeres.quantization.graph import Graph
    from edgeres.quantization.prepare import prepare

    model = onnx_io.load(path)
    info = onnx_io.description(model, path)
    place.remembered(model, path)
    graph = Graph.of(model, path)
    return sorted(prepare(graph, {}, info.preprocess, True).roles)


def _session(path: Path, target: Target = HERE) -> object:
    loaded = engines.load(path, target, 1)
    batch, *rest = loaded.input_shape
    return loaded.run(np.zeros((batch or 1, *rest), np.float32))


def _inspected(path: Path) -> object:
    from edgeres import inspect

    return inspect.to_json(inspect.inspect(path, HERE))


def _foreign(path: Path) -> object:
    from edgeres.foreign import convert, read

    source = path if path.suffix == ".onnx" else path.with_suffix(".onnx")
    loaded = read.read(source)
    made = convert.convert(loaded.model, source)
    onnx_io.describe(made.model, onnx_io.ModelInfo("x", SIDE, made.outputs))
    onnx_io.save(made.model, path.with_name("made.onnx"))
    return loaded.run(made.output)(
        np.zeros((made.image.batch or 1, 3, made.image.side, made.image.side), np.float32)
    ).shape


@cache
def _graph(path: Path) -> Any:
    from edgeres.quantization.graph import Graph

    return Graph.of(onnx_io.load(path), path)


def _statistics(path: Path) -> object:
    from edgeres.quantization import schemes, statistics
    from edgeres.quantization.prepare import prepare
    from edgeres.quantization.quantize import activations

    found = statistics.load(path)
    scheme = schemes.find("onnxruntime")
    graph = prepare(_graph(path.with_name("model.onnx")), found.scales, SIDE, True)
    return {name: one.scale for name, one in activations(graph, found.tensors, scheme, "mse").items()}


def _predictions(path: Path) -> object:
    found = evaluate.predictions(path)
    return evaluate.accuracy(found, found) if found.task == "classification" else evaluate.scores(found, found)


def _images(path: Path) -> object:
    found = open_images(path)
    found.indices(CLASSES, len(CLASSES))
    return [found.cropped(index, SIDE).tobytes() for index in range(len(found))]


def _image(path: Path) -> object:
    return open_images(path.parent).cropped(0, SIDE).tobytes()


def _classes(path: Path) -> object:
    from edgeres.cli.export import _lines

    return _lines(path)


PARSERS: dict[str, Parser] = {
    "recipe (.toml)": Parser(recipe.read, ["recipe.toml"], spoil.text),
    "report, baseline (.json)": Parser(_report, ["report.json"], spoil.either(spoil.tree, spoil.text)),
    "sidecar (.json)": Parser(_sidecar, ["solar.blob.json"], spoil.either(spoil.tree, spoil.text), ["solar.blob"]),
    "trials (.jsonl)": Parser(_trials, ["trials.jsonl"], spoil.text),
    "figures of maps (.json)": Parser(_maps, ["maps.json"], spoil.either(spoil.tree, spoil.text)),
    "config.json of timm": Parser(
        partial(_checkpoint, folder=True), ["timm/config.json"], spoil.tree, ["model.safetensors"]
    ),
    "config.json of transformers": Parser(
        partial(_checkpoint, folder=True),
        ["transformers/config.json", "transformers/preprocessor_config.json"],
        spoil.tree,
        ["model.safetensors"],
    ),
    "index of weights (.json)": Parser(
        partial(_checkpoint, folder=True), ["model.safetensors.index.json"], spoil.tree, ["part.safetensors"]
    ),
    "checkpoint (.pth)": Parser(_checkpoint, ["weights.pth"], spoil.members(spoil.blind), checked=True),
    "checkpoint, old format": Parser(_checkpoint, ["old.pth"], spoil.blind),
    "checkpoint (.safetensors)": Parser(_checkpoint, ["model.safetensors"], spoil.safetensors),
    "program (.pt2)": Parser(
        _program, ["program.pt2"], spoil.members(spoil.either(spoil.blind, spoil.text)), checked=True
    ),
    "ONNX, own": Parser(_own, ["model.onnx"], spoil.onnx),
    "ONNX, in ONNX Runtime": Parser(_session, ["model.onnx", "int8.onnx"], spoil.onnx),
    "ONNX, INT8, inspected": Parser(_inspected, ["int8.onnx"], spoil.onnx),
    "ONNX, foreign": Parser(_foreign, ["theirs.onnx"], spoil.onnx, ["theirs.bin"]),
    "external data": Parser(_foreign, ["theirs.bin"], spoil.blind, ["theirs.onnx"]),
    "statistics (.stats)": Parser(
        _statistics, ["model.stats"], spoil.members(spoil.numpy_array), ["model.onnx"], checked=True
    ),
    "predictions (.npz)": Parser(_predictions, ["predictions.npz"], spoil.members(spoil.numpy_array), checked=True),
    "images (.npz)": Parser(_images, ["images.npz"], spoil.members(spoil.numpy_array), checked=True),
    "manifest (.csv)": Parser(_images, ["list.csv"], spoil.text, ["0.png", "1.png", "2.png"]),
    "class names (.txt)": Parser(_classes, ["classes.txt"], spoil.text),
    "images, each format": Parser(
        _image, [f"image.{kind}" for kind in ("png", "jpg", "webp", "bmp", "tif", "ppm", "gif")], spoil.blind
    ),
    "engine (.blob)": Parser(
        partial(_session, target=Target("openvino", "cpu")), ["engine.blob"], spoil.blind, ["engine.blob.json"], True
    ),
    "devices (.toml)": Parser(trust.devices, ["devices.toml"], spoil.text),
    "signature (.jsonl)": Parser(
        trust.verified, ["engine.intoto.jsonl"], spoil.tree, [*trust.SIGNED, "owner.pub.pem"], checked=True
    ),
    **{name: Parser(read, seeds, spoil.pem, beside) for name, (read, seeds, beside) in trust.SEEDS.items()},
}


def make(folder: Path) -> None:
    """Write whole files of every kind: a ResNet-8 with random weights, and what edgeres makes of it."""
    import torch
    from safetensors.torch import save_file

    from edgeres.export import export
    from edgeres.models.resnet import build
    from edgeres.quantization.calibrate import calibrate
    from edgeres.quantization.quantize import quantize

    make_light(folder)
    trust.make(folder)
    torch.manual_seed(0)
    state = build("resnet8_torch", 10).eval().state_dict()
    torch.save({"epoch": 3, "state_dict": state}, folder / "weights.pth")
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    save_file(state, folder / "model.safetensors", {"arch": "resnet8_torch", "classes": json.dumps(CLASSES)})
    save_file(state, folder / "part.safetensors")
    told = {"metadata": {}, "weight_map": dict.fromkeys(state, "part.safetensors")}
    disk.write_json(folder / "model.safetensors.index.json", told)
    normal = {"mean": [0.5] * 3, "std": [0.2] * 3}
    pretrained = {"input_size": [3, 32, 32], "crop_pct": 0.9, "crop_mode": "center", **normal}
    timm = {"architecture": "resnet8_torch", "num_classes": 10, "model_args": {}, "pretrained_cfg": pretrained}
    disk.write_json(folder / "timm" / "config.json", {**timm, "label_names": CLASSES})
    labels = {"id2label": {str(index): name for index, name in enumerate(CLASSES)}}
    config = {"model_type": "resnet", "hidden_act": "relu", "downsample_in_bottleneck": False, **labels}
    disk.write_json(folder / "transformers" / "config.json", config)
    processor = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 32}, "crop_pct": 0.875}
    normalised = {"image_mean": [0.5] * 3, "image_std": [0.2] * 3, "resample": 3, "do_normalize": True}
    disk.write_json(folder / "transformers" / "preprocessor_config.json", {**processor, **normalised})
    small = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(3136, 5))
    torch.export.save(torch.export.export(small.eval(), (torch.zeros(1, 3, 30, 30),)), folder / "program.pt2")

    images = open_images(folder / "images.npz")
    own = export(folder / "weights.pth", folder / "model.onnx", "resnet8_torch", classes=CLASSES, images=images).path
    stats = calibrate(own, images, folder / "model.stats").path
    quantize(own, stats, folder / "int8.onnx", scheme="onnxruntime")
    evaluate.evaluate(own, HERE, images, folder / "predictions.npz")
    engines.build(own, Target("openvino", "cpu"), folder / "engine.blob")
    make_foreign(own, folder)


def make_foreign(own: Path, folder: Path) -> None:
    """Write a network as if it were someone else's, with its weights beside it."""
    theirs = onnx.load(own)
    del theirs.metadata_props[:]
    onnx.save(theirs, folder / "theirs.onnx", save_as_external_data=True, location="theirs.bin", size_threshold=4096)


def make_light(folder: Path) -> None:
    """Write those files that take no network."""
    from report.example import solar

    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 40, 36, 3), np.uint8)
    for index, one in enumerate(pixels[:3]):
        Image.fromarray(one).save(folder / f"{index}.png")
    for kind in ("png", "jpg", "webp", "bmp", "tif", "ppm", "gif"):
        Image.fromarray(pixels[0]).save(folder / f"image.{kind}")
    np.savez_compressed(folder / "images.npz", images=pixels, labels=np.arange(6))
    rows = [f"{index}.png,{disk.digest(folder / f'{index}.png')},{index}" for index in range(3)]
    (folder / "list.csv").write_text("\n".join(["# root = .", "path,sha256,label", *rows, ""]))
    (folder / "classes.txt").write_text("\n".join(CLASSES))

    (folder / "solar.blob").write_bytes(b"an engine")
    described = {"model": onnx_io.ModelInfo("resnet8", SIDE, 10, CLASSES).to_json(), "target": "openvino:cpu"}
    made = store.Sidecar("engine", {"model": "0" * 64}, described, {"edgeres": "0"}, {}, ["1" * 64])
    made = replace(made, digest=disk.digest(folder / "solar.blob"))
    disk.write_json(folder / "solar.blob.json", vars(made))
    (folder / "recipe.toml").write_text(
        'name = "solar"\n[model]\nweights = "weights.pth"\narch = "resnet8_torch"\nclasses = ["a", "b"]\nopset = 19\n'
        'preprocess = { resize = 40, crop = 32 }\n[data]\ncalibration = "a"\nevaluation = "b"\nsamples = 64\n'
        '[quantization]\nmethod = "mse"\n[bench]\nrounds = 3\n[[targets]]\ntarget = "openvino:cpu"\n'
        'precisions = ["fp32", "int8"]\nkeep = ["conv1"]\nsettings = { NUM_STREAMS = "1" }\n'
        '[[targets]]\ntarget = "onnxruntime:cpu"\n[check]\ntop1_drop = 0.3\nlatency_p50 = "5%"\n'
    )
    report = solar().model_copy(update={"rules": {"size": "+2%", "latency_p50": "5%"}})
    cells = [cell.model_copy(update={"latency": _short(cell.latency)}) for cell in report.cells]
    (folder / "report.json").write_text(report.model_copy(update={"cells": cells}).model_dump_json())
    _some_trials(folder / "trials.jsonl")
    score = {"name": "cosine C5", "value": 0.99, "unit": "", "interval": [0.98, 1.0], "images": 8, "dataset": "5e"}
    disk.write_json(folder / "maps.json", [score, {**score, "name": "SQNR C5", "unit": "dB", "value": 31.5}])


def _short(latency: Any) -> Any:
    return latency and latency.model_copy(update={"samples": latency.samples[:24], "rounds": [8, 8, 8]})


def _some_trials(path: Path) -> None:
    from edgeres.tune.space import Candidate, Choice
    from edgeres.tune.trials import Quality, Trials

    trials = Trials(path, {"model": "1"})
    for ms in (1.5, 1.25):
        trials.timed("files", Candidate(Choice("openvino")), ms)
    trials.judged(Candidate(Choice("openvino")), Quality(0.75, 0.5, 0.99))


def beside(folder: Path, parser: Parser, place: Path) -> None:
    """Put what lies next to a parser's file there."""
    place.mkdir(parents=True, exist_ok=True)
    for name in parser.beside:
        shutil.copy(folder / name, place / Path(name).name)
