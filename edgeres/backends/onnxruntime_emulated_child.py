"""An ONNX file answers batches over pipes, by nothing but numpy and onnxruntime: Pythons without edgeres run this, too.

    PYTHON onnxruntime_emulated_child.py '{"model": FILE, "threads": 2, "disabled": [], "optimized": null}'

With `"model": null` it reads the bytes of the file from its input before all else. It says, as one line of JSON, what
it is and takes, then answers each batch with all outputs until its input ends.
"""

import io
import json
import platform
import sys
from typing import IO, Any

import numpy as np

LENGTH = 8
"""Bytes that say how long the arrays behind them are."""


def send(pipe: IO[bytes], arrays: Any) -> None:
    """Write arrays to a pipe."""
    buffer = io.BytesIO()
    np.savez(buffer, *arrays)
    send_bytes(pipe, buffer.getvalue())


def send_bytes(pipe: IO[bytes], content: bytes) -> None:
    """Write a file to a pipe."""
    pipe.write(len(content).to_bytes(LENGTH, "little"))
    pipe.write(content)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Any:
    """What `send` wrote; None where the pipe has ended."""
    content = receive_bytes(pipe)
    if not content:
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        return [found[name] for name in found.files]


def receive_bytes(pipe: IO[bytes]) -> bytes:
    """What `send_bytes` wrote; nothing where the pipe has ended."""
    head = pipe.read(LENGTH)
    content = pipe.read(int.from_bytes(head, "little")) if len(head) == LENGTH else b""
    return content if len(content) == int.from_bytes(head, "little") else b""


def numpy_name(kind: str) -> str:
    """NumPy's name of a type as ONNX Runtime gives it: `tensor(uint8)`."""
    return {"tensor(float)": "float32"}.get(kind, kind[7:-1])


def main(request: str) -> None:
    """Load, say so, and answer."""
    import onnxruntime

    asked = json.loads(request)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = asked["threads"]
    # A waiting thread that spins takes the emulator's time.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if asked["optimized"]:
        options.optimized_model_filepath = asked["optimized"]
    model = asked["model"] or receive_bytes(sys.stdin.buffer)
    session = onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], disabled_optimizers=asked["disabled"]
    )
    (given,) = session.get_inputs()
    told = {
        "shape": [side if isinstance(side, int) else None for side in given.shape],
        "type": numpy_name(given.type),
        "outputs": [taken.name for taken in session.get_outputs()],
        "machine": platform.machine(),
        "version": onnxruntime.__version__,
    }
    pipe = sys.stdout.buffer
    pipe.write(json.dumps(told).encode() + b"\n")
    pipe.flush()
    while (arrays := receive(sys.stdin.buffer)) is not None:
        send(pipe, session.run(None, {given.name: arrays[0]}))


if __name__ == "__main__":
    main(sys.argv[1])
