"""How much the ratio of two latencies varies where they are equal: processes in turn, and turns in one process.

    python pipelines/benchmarks/turns.py int8.onnx --target onnxruntime:cpu [--threads 1] [--rounds 30]

One engine stands for both. A round measures it in two processes, one after the other (`edgeres.measure.measure`), and
as `edgeres check --ab` does (`edgeres.measure.ratio`). Prints Markdown.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from tools import versions

from edgeres import machine
from edgeres.measure import Subject, measure, ratio
from edgeres.types import Target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", type=Path)
    parser.add_argument("--target", default="onnxruntime:cpu")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=30)
    asked = parser.parse_args()
    subject = Subject(asked.engine, Target.parse(asked.target), threads=asked.threads)
    apart, in_turn = [], []
    for done in range(asked.rounds):
        one, other = (found.latency.p50 for found in measure([subject, subject], rounds=1))
        apart.append(other / one)
        in_turn.append(ratio(subject, subject))
        print(f"{done + 1} of {asked.rounds}: {apart[-1]:.4f}, {in_turn[-1]:.4f}", file=sys.stderr)
    here = machine.describe()
    print(f"{asked.engine.name}, {asked.target}, {asked.threads or 'all'} threads, {asked.rounds} rounds;", end=" ")
    print(f"{here.cpu}, {here.cores} cores, {' '.join(here.features)}; {versions()}\n")
    print("| | half of the ratios within | standard deviation | furthest from 1 |\n|---|---|---|---|")
    for name, ratios in (("two processes, one after the other", apart), ("one process, turns of 20 ms", in_turn)):
        off = 100 * np.abs(np.log(ratios))
        print(f"| {name} | {np.median(off):.2f} % | {100 * np.log(ratios).std():.2f} % | {off.max():.1f} % |")


if __name__ == "__main__":
    main()
