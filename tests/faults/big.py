"""What edgeres says of networks that are larger than protobuf's 2 GB.

    python tests/faults/big.py            # needs 5 GB on disk and 3 GB of memory

Makes one of 2.2 GB with its weights beside it, the same with all in one file (which no protobuf can be: zeros to that
length), and gives both to every command that reads ONNX.
"""

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx
import workload
from onnx import TensorProto, helper

COLUMNS = 550_000_000


def beside(path: Path) -> Path:
    """The tiny network with one more, huge, classifier; its weights are a sparse file."""
    model = onnx.load(workload.network(path))
    huge = TensorProto(name="huge", data_type=TensorProto.FLOAT, dims=[workload.CLASSES, COLUMNS // workload.CLASSES])
    huge.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "huge.data"), ("offset", 0), ("length", 4 * COLUMNS)):
        huge.external_data.add(key=key, value=str(value))
    with (path.parent / "huge.data").open("wb") as file:
        file.truncate(4 * COLUMNS)
    model.graph.initializer.append(huge)
    model.graph.node.append(helper.make_node("ReduceMax", ["huge"], ["largest"], "largest", axes=[1], keepdims=1))
    model.graph.node.append(helper.make_node("MatMul", ["logits", "largest"], ["answer"], "answer"))
    model.graph.output[0].name = "answer"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    path.write_bytes(model.SerializeToString())
    return path


def main() -> int:
    """0 where every command refuses or handles both, in one sentence."""
    bad = 0
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        recipe = workload.recipe(folder, '["onnxruntime:cpu"]')
        text = recipe.read_text()
        external = beside(folder / "external" / "model.onnx")
        whole = folder / "whole.onnx"
        whole.write_bytes(external.read_bytes())
        with whole.open("rb+") as file:
            file.truncate(2_200_000_000)
        data, target = f"--data {folder}/calibration", "--target onnxruntime:cpu"
        for model in (external, whole):
            recipe.write_text(text.replace("tiny.onnx", str(model)))
            for command in (
                f"export --onnx {model} -o {folder}/out.onnx",
                f"calibrate {model} {data} -o {folder}/out.stats",
                f"quantize {model} {data} -o {folder}/out.onnx",
                f"build {model} {target} -o {folder}/built.onnx",
                f"build {model} --target openvino:cpu -o {folder}/built.blob",
                f"inspect {model} {target}",
                f"bench {model} {target} --rounds 1",
                f"eval {model} {target} {data}",
                f"run {recipe} -o {folder}/run",
            ):
                done = subprocess.run(
                    [sys.executable, "-m", "edgeres", *shlex.split(command)], capture_output=True, text=True, cwd=folder
                )
                said = (done.stderr.strip().splitlines() or ["nothing"])[-1].replace(str(folder), "")
                broken = done.returncode not in (0, 2, 3) or "Traceback" in done.stderr
                bad += broken
                print(f"| {model.name} | {command.split()[0]} | {done.returncode} | {said} |", flush=True)
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
