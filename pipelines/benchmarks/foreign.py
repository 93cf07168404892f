"""Networks that other exporters wrote, through export, quantize, every runtime: the table of foreign.md.

    python pipelines/benchmarks/foreign.py --resnet18 R18.pth --resnet50 R50.pth --photos FOLDER -o TABLE.md [NAME ...]

Each row is made in a process of its own. `parity` compares the FP32 file with the original graph, unoptimised, on the
photos that come with edgeres; agreement and SQNR compare INT8 (`--level fast`, for the runtime named) with FP32 on
photos that did not calibrate; top-1 means nothing for the networks with random weights.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import spellings as spelled
from peers import figures
from tools import arrays, first

from edgeres import engines
from edgeres.errors import EdgeresError
from edgeres.export import export
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.quantize import quantize
from edgeres.types import Target

CALIBRATE, EVALUATE = 20, 30
RUNTIMES = {"onnxruntime": Target("onnxruntime", "cpu"), "openvino": Target("openvino", "cpu")}
RTX = Target("tensorrt-rtx", "sm86")
LIGHT = sorted(path.stem.removeprefix("light_") for path in spelled.LIGHT.glob("*.onnx"))
Maker = Callable[[dict[str, Path], Path], Path]
"""(checkpoints, folder) -> the foreign file."""


def _torch(name: str, checkpoints: dict[str, Path]) -> Any:
    from edgeres.models import checkpoint

    return checkpoint.load(None, checkpoint.read(checkpoints[name]))[1]


def _legacy(name: str, opset: int) -> Maker:
    return lambda given, folder: spelled.legacy(_torch(name, given), folder / f"legacy{opset}.onnx", opset)


def _of_legacy(rewrite: Callable[[Path, Path], Path], name: str, opset: int) -> Maker:
    return lambda given, folder: rewrite(_legacy(name, opset)(given, folder), folder / "made.onnx")


def _torch_made(write: Callable[..., Path], name: str) -> Maker:
    return lambda given, folder: write(_torch("resnet18", given), folder / name)


def _mobilenet(given: dict[str, Path], folder: Path) -> Path:
    return spelled.legacy(spelled.mobilenet(), folder / "mobilenet.onnx", 13, 112)


def _light(name: str) -> Maker:
    return lambda given, folder: spelled.light(name, folder / f"{name}.onnx")


ROWS: dict[str, tuple[str, Maker]] = {
    "r18-legacy9": ("ResNet-18, torch's legacy exporter, opset 9", _legacy("resnet18", 9)),
    "r18-legacy11": ("the same, opset 11", _legacy("resnet18", 11)),
    "r18-legacy13": ("the same, opset 13", _legacy("resnet18", 13)),
    "r18-legacy17": ("the same, opset 17", _legacy("resnet18", 17)),
    "r18-external": ("the same, external data", _of_legacy(spelled.external, "resnet18", 13)),
    "r18-caffe2": ("ResNet-18 as Caffe2 writes it, opset 9", _of_legacy(spelled.caffe2, "resnet18", 9)),
    "r18-tf2onnx": ("ResNet-18 as tf2onnx writes it, channels last", _of_legacy(spelled.channels_last, "resnet18", 13)),
    "r18-normalising": ("ResNet-18 that normalises its image", _of_legacy(spelled.normalising, "resnet18", 13)),
    "r18-dynamo": ("ResNet-18, torch's new exporter", _torch_made(spelled.dynamo, "made.onnx")),
    "r18-pt2": ("ResNet-18, torch.export .pt2", _torch_made(spelled.program, "made.pt2")),
    "r50-legacy13": ("ResNet-50, torch's legacy exporter, opset 13", _legacy("resnet50", 13)),
    "r50-caffe2": ("ResNet-50 as Caffe2 writes it, opset 9", _of_legacy(spelled.caffe2, "resnet50", 9)),
    "r50-tf2onnx": ("ResNet-50 as tf2onnx writes it, channels last", _of_legacy(spelled.channels_last, "resnet50", 13)),
    "mobilenet": ("a small MobileNetV2, legacy exporter, opset 13, random weights", _mobilenet),
    **{name: (f"{name}, Caffe2, opset 9, random weights", _light(name)) for name in LIGHT},
}


def described(name: str) -> tuple[str, Maker]:
    """A row of the table, or of a file: what Keras and tf2onnx wrote, for one."""
    return ROWS[name] if name in ROWS else (Path(name).stem, lambda given, folder: Path(name))


def row(name: str, checkpoints: dict[str, Path], photos: Path) -> dict[str, Any]:
    """What becomes of one network."""
    title, make = described(name)
    found: dict[str, Any] = {"title": title}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fp32 = folder / "fp32.onnx"
        exported = export(make(checkpoints, folder), fp32)
        found |= exported.sidecar.results
        images, held = first(photos, CALIBRATE), first(photos, EVALUATE, skip=CALIBRATE)
        calibrate(fp32, images, folder / "fp32.stats")
        given = list(arrays(fp32, held))
        exact = _logits(fp32, RUNTIMES["onnxruntime"], given)
        for runtime, target in RUNTIMES.items():
            found[runtime] = _tried(lambda target=target, runtime=runtime: _int8(folder, runtime, target, given, exact))
        found["rtx"] = _tried(lambda: _built(folder))
    return found


def _tried(step: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return step()
    except EdgeresError as error:
        return {"failed": str(error)}


def _int8(folder: Path, scheme: str, target: Target, given: list[Any], exact: Any) -> dict[str, Any]:
    out = folder / f"{scheme}.onnx"
    made = quantize(folder / "fp32.onnx", folder / "fp32.stats", out, scheme=scheme)
    compared = figures(_logits(out, target, given), exact, np.full(len(exact), -1))
    return {"layers": made.sidecar.results["layers"], **{key: compared[key] for key in ("agreement", "sqnr")}}


def _built(folder: Path) -> dict[str, Any]:
    out = folder / "tensorrt.onnx"
    quantize(folder / "fp32.onnx", folder / "fp32.stats", out, scheme="tensorrt")
    built = engines.build(out, RTX, folder / "made.engine")
    return {"mb": built.path.stat().st_size / 1e6}


def _logits(model: Path, target: Target, given: list[Any]) -> Any:
    engine = engines.load(model, target, 2)
    return np.concatenate([engine.run(image) for image in given])


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| network | taken out or replaced | parity: largest difference, relative | ONNX Runtime INT8: agreement, SQNR "
        "| OpenVINO INT8: agreement, SQNR | RTX engine |",
        "|---|---|---|---|---|---|",
    ]
    for one in rows:
        if "failed" in one:
            lines.append(f"| {one['title']} | {one['failed']} | | | | |")
            continue
        removed = ", ".join(f"{count} {op}" for op, count in one["removed"].items()) or "nothing"
        cells = [one["title"], removed, f"{one['largest']:.1e}, {one['relative']:.1e}"]
        cells += [_told(one[runtime]) for runtime in RUNTIMES]
        cells.append(one["rtx"].get("failed") or f"{one['rtx']['mb']:.1f} MB")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _told(found: dict[str, Any]) -> str:
    return found.get("failed") or f"{found['agreement']:.1%}, {found['sqnr']:.1f} dB, {found['layers']} layers"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--resnet18", type=Path, required=True)
    parser.add_argument("--resnet50", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--out", "-o", type=Path, required=True)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*", help="rows to make, all by default; or ONNX files")
    given = parser.parse_args()
    if given.one:
        found = row(given.one, {"resnet18": given.resnet18, "resnet50": given.resnet50}, given.photos)
        given.out.write_text(json.dumps(found), encoding="utf-8")
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in given.names or ROWS:
            print(name, file=sys.stderr)
            out = Path(folder) / "row.json"
            options = ["--resnet18", given.resnet18, "--resnet50", given.resnet50, "--photos", given.photos, "-o", out]
            ended = subprocess.run(
                [sys.executable, __file__, *map(str, options), "--one", name], capture_output=True, text=True
            )
            failed = {"title": described(name)[0], "failed": (ended.stderr.splitlines() or ["?"])[-1]}
            rows.append(json.loads(out.read_text(encoding="utf-8")) if ended.returncode == 0 else failed)
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
            given.out.write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
