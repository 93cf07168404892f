"""What engines take on disk, and what of it are weights.

    python pipelines/benchmarks/sizes.py MODEL.onnx MODEL.stats [--target onnxruntime:cpu ...] [--out DIR]

Builds the FP32, FP16 and INT8 engine for each target, and the INT8 one that takes camera bytes where a runtime computes
with UINT8. The weights are those of convolutions and classifier as the ONNX file stores them; the rest are biases,
scales, the graph and the class names. Prints Markdown.
"""

import argparse
from collections import Counter
from pathlib import Path

from edgeres import backends, engines, onnx_io, store
from edgeres.errors import EdgeresError
from edgeres.qdq import Network, stored
from edgeres.quantization.quantize import quantize
from edgeres.types import Frame, Target

PRECISIONS = ("fp32", "fp16", "int8")
TARGETS = ("onnxruntime:cpu", "openvino:cpu", "tensorrt-rtx:sm86")


def weights(model: Path) -> int:
    """Bytes of the weights in an ONNX file, those that layers share counted once."""
    network = Network(onnx_io.load(model))
    found = {id(weight): stored(weight) for layer in network.layers if (weight := network.weight(layer)) is not None}
    return sum(found.values())


def parts(model: Path) -> str:
    """What stands beside the weights in an ONNX file, in kB, the largest first."""
    loaded = onnx_io.load(model)
    ends = {".weight.q": "", ".bias.q": "biases", "scale": "scales", "zero_point": "zero points", "border": "border"}
    found: Counter[str] = Counter(graph=sum(node.ByteSize() for node in loaded.graph.node))
    found["metadata"] = sum(entry.ByteSize() for entry in loaded.metadata_props)
    for tensor in loaded.graph.initializer:
        found[next((part for end, part in ends.items() if tensor.name.endswith(end)), "others")] += tensor.ByteSize()
    return ", ".join(f"{part} {size / 1e3:.0f}" for part, size in found.most_common() if part and size >= 500)


def row(model: Path, statistics: Path, target: Target, precision: str, frame: Frame | None, folder: Path) -> str:
    backend, source = backends.find(target), model
    if precision != "fp32":
        scheme = backend.scheme(target) if precision == "int8" else "fp16"
        source = folder / f"{model.stem}.{scheme}.onnx"
        quantize(model, statistics if precision == "int8" else None, source, scheme=scheme)
    out = folder / f"{model.stem}.{target.slug}.{precision}{'.u8' if frame else ''}{backend.suffix}"
    name = f"{target} | {precision}{', camera bytes' if frame else ''}"
    try:
        engines.build(source, target, out, frame=frame)
    except EdgeresError as error:
        return f"| {name} | {error} | | |"
    size, held = out.stat().st_size, weights(source)
    return f"| {name} | {size / 1e6:.2f} | {held / 1e6:.2f} | {(size - held) / 1e3:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("statistics", type=Path)
    parser.add_argument("--target", nargs="+", default=TARGETS)
    parser.add_argument("--out", type=Path, default=Path("build/sizes"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    packages = ", ".join(" ".join(one) for one in store.versions("onnxruntime", "openvino", "tensorrt-rtx").items())
    print(f"{onnx_io.info(options.model).arch}; {packages}\n")
    print("| target | precision | MB | weights, MB | the rest, kB |\n|---|---|---|---|---|")
    for target in map(Target.parse, options.target):
        for precision in PRECISIONS:
            print(row(options.model, options.statistics, target, precision, None, options.out), flush=True)
        if backends.find(target).unsigned:
            print(row(options.model, options.statistics, target, "int8", "u8-nhwc", options.out), flush=True)
    print("\nBeside the weights, kB:\n")
    for path in sorted(options.out.glob(f"{options.model.stem}.*.int8*.onnx")):
        print(f"- {path.name}: {parts(path)}")


if __name__ == "__main__":
    main()
