"""ONNX Runtime and nothing else: the median of a tight loop with IO binding, what onnxruntime_perf_test does.

    python pipelines/benchmarks/tight.py MODEL.onnx BATCH THREADS SECONDS

Prints milliseconds. The input and the output are bound once: no copy and no dictionary within the timed call.
"""

import sys
import time
from statistics import median

import numpy as np
import onnxruntime


def main(model: str, batch: str, threads: str, seconds: str) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = int(threads)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (given,), (taken,) = session.get_inputs(), session.get_outputs()
    shape = [side if isinstance(side, int) else int(batch) for side in given.shape]
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    binding = session.io_binding()
    binding.bind_ortvalue_input(given.name, onnxruntime.OrtValue.ortvalue_from_numpy(images))
    binding.bind_output(taken.name)
    taken_ns = []
    started = time.monotonic()
    while (span := time.monotonic() - started) < 2 * float(seconds):
        start = time.perf_counter_ns()
        session.run_with_iobinding(binding)
        if span > float(seconds):  # as long again to warm up
            taken_ns.append(time.perf_counter_ns() - start)
    print(median(taken_ns) / 1e6)


if __name__ == "__main__":
    main(*sys.argv[1:])
