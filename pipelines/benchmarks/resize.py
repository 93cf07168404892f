"""Could the resize be inside the graph, too? The runtimes' own against Pillow's, which `edgeres` prepares images with.

    python pipelines/benchmarks/resize.py PHOTOS [--count 20] [--side 256]

Each photo is resized so that its shorter side has `--side` pixels, bilinear with antialiasing: by Pillow, by ONNX's
Resize (antialias, opset 19) in ONNX Runtime and in OpenVINO, and by OpenVINO's preprocessing (RESIZE_BILINEAR_PILLOW).
Errors are in levels of 255 against Pillow; times are of one thread, CPU time, the median over photos. Prints Markdown.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
import openvino
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from openvino.preprocess import PrePostProcessor, ResizeAlgorithm
from PIL import Image

from edgeres import machine, store
from edgeres.data import open_images

Pixels = NDArray[np.uint8]
Way = Callable[[Pixels], Pixels]
ONE = {"INFERENCE_NUM_THREADS": 1}


def onnx_resize(before: tuple[int, ...], after: tuple[int, ...]) -> bytes:
    """A network of one Resize, (H, W, 3) pixels in planes."""
    (h, w, _), (oh, ow, _) = before, after
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear", antialias=1)
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 3, h, w])
    y = helper.make_tensor_value_info("y", TensorProto.UINT8, [1, 3, oh, ow])
    sizes = numpy_helper.from_array(np.array([1, 3, oh, ow]), "sizes")
    graph = helper.make_graph([node], "resize", [x], [y], [sizes])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9).SerializeToString()


def ways(before: tuple[int, ...], after: tuple[int, ...]) -> dict[str, Way]:
    """Each takes and gives pixels (H, W, 3)."""
    model, core = onnx_resize(before, after), openvino.Core()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    read = core.compile_model(core.read_model(model), "CPU", ONE)
    given = openvino.opset13.parameter([1, *after], openvino.Type.u8)
    copy = openvino.Model([openvino.opset13.result(openvino.opset13.convert(given, "f32"))], [given])
    steps = PrePostProcessor(copy)
    steps.input().tensor().set_shape([1, *before]).set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NHWC"))
    steps.input().preprocess().resize(ResizeAlgorithm.RESIZE_BILINEAR_PILLOW, *after[:2])
    own = core.compile_model(steps.build(), "CPU", ONE)

    def planes(run: Callable[[Pixels], Pixels]) -> Way:
        return lambda image: run(np.ascontiguousarray(image.transpose(2, 0, 1))[None])[0].transpose(1, 2, 0)

    size = after[1], after[0]
    return {
        "Pillow": lambda image: np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)),
        "ONNX Runtime, Resize": planes(lambda image: session.run(None, {"x": image})[0]),
        "OpenVINO, Resize": planes(lambda image: read(image)[0]),
        "OpenVINO, its own": lambda image: own(image[None])[0][0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--side", type=int, default=256)
    options = parser.parse_args()
    errors: dict[str, list[float]] = {}
    times: dict[str, list[float]] = {}
    images = open_images(options.photos).draw(options.count)
    for index in range(len(images)):
        image = np.asarray(images.image(index))
        h, w, _ = image.shape
        found = ways(image.shape, (options.side * h // min(h, w), options.side * w // min(h, w), 3))
        wanted = found["Pillow"](image).astype(int)
        for name, way in found.items():
            errors.setdefault(name, []).append(float(np.abs(way(image) - wanted).max()))
            start = time.process_time()
            for _ in range(5):
                way(image)
            times.setdefault(name, []).append((time.process_time() - start) / 5 * 1e3)
    here, packages = machine.describe(), store.versions("onnxruntime", "openvino", "pillow")
    print(f"{len(images)} photos; {here.cpu}, {', '.join(' '.join(item) for item in packages.items())}\n")
    print("| | largest error, levels | ms |\n|---|---|---|")
    for name, found_errors in errors.items():
        print(f"| {name} | {max(found_errors):.0f} | {median(times[name]):.1f} |")


if __name__ == "__main__":
    main()
