"""How much of an engine's own throughput `edgeres eval` keeps: decode and inference overlap, or share the cores.

    python pipelines/benchmarks/evaluation.py ENGINE TARGET IMAGES [--samples 128] [--rounds 5] [--threads N]

Three figures, in turn in each round and in one process: the engine alone, on images that are decoded already; decoding
alone; `edgeres.evaluate.predict`, loading left out. Where decoding runs on the cores that the engine uses, no overlap
gains more than the bound 1 / (1 / engine + 1 / decode). Prints Markdown; ratios are of medians.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from edgeres import engines, evaluate, machine, onnx_io
from edgeres.data import batches, open_images
from edgeres.types import Target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", type=Path)
    parser.add_argument("target", type=Target.parse)
    parser.add_argument("images", type=Path)
    parser.add_argument("--samples", type=int, default=128, help="images, drawn; all are held in memory")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    images = open_images(options.images).draw(options.samples)
    preprocess = onnx_io.info(options.engine).preprocess
    engine = engines.load(options.engine, options.target, options.threads, streams=0)
    size = engine.input_shape[0] or evaluate.BATCH
    decoded = [onnx_io.padded(batch.images, size) for batch in batches(images, preprocess, size)]

    def rate(work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        return len(images) / (time.perf_counter() - start)

    def whole() -> float:
        found = evaluate.predict(options.engine, options.target, images, threads=options.threads)
        return found.images_per_second or 0.0

    rounds = [
        (
            rate(lambda: [*engine.stream(iter(decoded))]),
            rate(lambda: [batch.names for batch in batches(images, preprocess, size)]),
            whole(),
        )
        for _ in range(options.rounds + 1)
    ][1:]  # the first warms up
    alone, decode, overlapped = (median(figures) for figures in zip(*rounds, strict=True))
    bound = 1 / (1 / alone + 1 / decode)
    here = machine.describe()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(
        f"{options.engine.name} on {options.target}, {len(images)} images, batches of {size}, {options.rounds} rounds; "
        f"{here.cpu}, {here.cores} cores, load {load:.1f}\n\n"
        "| | images/s |\n|---|---|\n"
        f"| engine alone, decoded images | {alone:.1f} |\n| decoding alone | {decode:.1f} |\n"
        f"| bound on shared cores | {bound:.1f} |\n| edgeres eval | {overlapped:.1f} |\n\n"
        f"edgeres eval runs at {overlapped / alone:.1%} of the engine alone, {overlapped / bound:.1%} of the bound."
    )


if __name__ == "__main__":
    main()
