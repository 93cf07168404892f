"""Logits of ONNX files by nothing but numpy and onnxruntime: `emulated.py` runs this in Pythons without edgeres.

    PYTHON logits.py exact|optimised IMAGES.npy OUT.npz [MODEL.onnx ...]

`exact` executes every Q and DQ as it is written, in floats; `optimised` is what users get: this CPU's INT8 kernels.
IMAGES are float32 (N, 3, H, W); OUT gets one array (N, classes) per file, in order. Prints what it ran on.
"""

import platform
import sys

import numpy as np
import onnxruntime as runtime

THREADS = 2
LEVELS = {
    "exact": runtime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "optimised": runtime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def main(level: str, images: str, out: str, *files: str) -> None:
    options = runtime.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3
    # A waiting thread that spins takes the emulator's time.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    batch = np.load(images)
    logits = []
    for file in files:
        session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        logits.append(np.concatenate([session.run(None, {name: image[None]})[0] for image in batch]))
    np.savez(out, *logits)
    print(f"{platform.machine()}, onnxruntime {runtime.__version__}, numpy {np.__version__}")


if __name__ == "__main__":
    main(*sys.argv[1:])
