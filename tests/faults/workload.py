"""A network, images and a recipe so small that a whole run takes less than a second, made of seeded numbers alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from PIL import Image

from edgeres import processes

CLASSES, SIDE = 4, 16


def unmeasured() -> None:
    """From now on measuring processes of this one are those of `canned`."""
    ask = processes.ask

    def other(module: str, *arguments: str, broken: Any) -> Any:
        return ask("canned" if module == "edgeres.measure.child" else module, *arguments, broken=broken)

    processes.ask = other  # type: ignore[assignment]


def network(path: Path, channels: int = 8, side: int = SIDE, classes: int = CLASSES) -> Path:
    """A stem, one residual block and a head, as somebody else would export them."""
    random = np.random.default_rng(7)
    nodes, weights = [], {}

    def layer(op: str, name: str, source: str, shape: tuple[int, ...], **attributes: Any) -> str:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        weights[f"{name}.w"] = (scale * random.standard_normal(shape)).astype(np.float32)
        weights[f"{name}.b"] = (0.1 * random.standard_normal(shape[0])).astype(np.float32)
        nodes.append(helper.make_node(op, [source, f"{name}.w", f"{name}.b"], [name], name, **attributes))
        return name

    def plain(op: str, name: str, *sources: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, sources, [name], name, **attributes))
        return name

    pads = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    stem = layer("Conv", "stem", "image", (channels, 3, 3, 3), strides=[2, 2], **pads)
    stem = plain("Relu", "stem.relu", stem)
    inner = plain("Relu", "one.relu", layer("Conv", "one", stem, (channels, channels, 3, 3), **pads))
    inner = layer("Conv", "two", inner, (channels, channels, 3, 3), **pads)
    body = plain("Relu", "sum.relu", plain("Add", "sum", inner, stem))
    pooled = plain("Flatten", "flat", plain("GlobalAveragePool", "pool", body), axis=1)
    layer("Gemm", "logits", pooled, (classes, channels), transB=1)
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", kind, ["N", 3, side, side])],
        [helper.make_tensor_value_info("logits", kind, ["N", classes])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def pictures(count: int, seed: int, side: int = SIDE) -> NDArray[np.uint8]:
    """Smooth patches of colour, (N, side, side, 3)."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 4, 4, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC)) for one in coarse])


def images(root: Path, count: int, seed: int) -> Path:
    """A folder of PNG files, one folder a class."""
    for index, picture in enumerate(pictures(count, seed)):
        path = root / str(index % CLASSES) / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return root


def recipe(folder: Path, targets: str) -> Path:
    """A recipe with everything that it needs, in a folder."""
    network(folder / "tiny.onnx")
    images(folder / "calibration", 8, 1)
    images(folder / "evaluation", 12, 2)
    path = folder / "tiny.toml"
    path.write_text(
        f"""
        targets = {targets}
        [model]
        onnx = "tiny.onnx"
        classes = ["a", "b", "c", "d"]
        [data]
        calibration = "calibration"
        evaluation = "evaluation"
        [quantization]
        level = "fast"
        [bench]
        rounds = 1
        [check]
        latency_p50 = "50%"
        top1_drop = 100
        """,
        encoding="utf-8",
    )
    return path


TIMES = {"created", "seconds", "images_per_second"}
"""Keys of JSON files that are times, or made of them. `latency` is measured, too, but not here: see `canned`."""


def content(folder: Path) -> dict[str, bytes]:
    """What of a folder two runs share: every file, JSON without its times."""
    found = {}
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        whole = path.read_bytes()
        if path.suffix == ".json":
            whole = json.dumps(_lasting(json.loads(whole)), indent=1).encode()
        found[path.relative_to(folder).as_posix()] = whole
    return found


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lasting(one) for key, one in value.items() if key not in TIMES}
    return [_lasting(one) for one in value] if isinstance(value, list) else value
