"""Whether the same inputs give the same files, byte for byte, whatever else changes.

    python pipelines/benchmarks/determinism.py MODEL.onnx IMAGES --calibration 32
        [--cpu "Haswell=qemu-x86_64 -cpu Haswell .venv/bin/python"]

Each row makes the statistics and the Q/DQ files anew, in a fresh process, with one thing changed: threads, the hash
seed, the locale, the time zone, the umask, the names of folders, the order in which files were created, the kernels of
NumPy and of its BLAS, or the whole CPU (each `--cpu NAME=COMMAND`, a Python with what edgeres needs). The table says
for each file whether it is the first row's, and else how it differs. Then engines are built of the first row's files,
several times each. Prints Markdown; determinism.md says how to read it.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeres import backends, disk, engines
from edgeres.data import ImageSet, open_images
from edgeres.quantization import calibrate, quantize, statistics
from edgeres.types import Target

FILES = (("fast", "onnxruntime"), ("balanced", "onnxruntime"), ("fast", "tensorrt"), ("balanced", "tensorrt"))
SMALL = {"NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX", "OPENBLAS_CORETYPE": "Nehalem"}


def make(model: Path, images: Path, out: Path, threads: int | None, runtime: str | None) -> None:
    """In a process of its own: the files of one row."""
    if threads:
        _threads(threads)
    if runtime == "onnxruntime":
        calibrate.DEEP = 0
    opened = open_images(images)
    calibrate.calibrate(model, opened, out / "model.stats")
    for level, scheme in FILES:
        path = out / f"{scheme}.{level}.onnx"
        quantize.quantize(model, out / "model.stats", path, scheme=scheme, level=level, images=opened)


def _threads(count: int) -> None:
    """As on a machine with so many cores, as far as runtimes look at them."""
    import onnxruntime

    from edgeres import engines

    plain, load = onnxruntime.SessionOptions, engines.load

    def options() -> Any:
        made = plain()
        made.intra_op_num_threads = count
        return made

    onnxruntime.SessionOptions = options
    os.cpu_count = lambda: count  # the threads that decode
    engines.load = lambda *given, **named: load(*given, **{"threads": count, **named})


def rows(images: ImageSet, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """What changes: a name, and `environment`, `options`, `prefix` of the command or another folder of `images`."""
    yield "again", {}
    for threads in (1, 2, 4):
        limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        yield f"{threads} threads", {"environment": limits, "options": ["--threads", str(threads)]}
    yield "one core", {"prefix": ["taskset", "-c", "0"]}
    yield "PYTHONHASHSEED=1", {"environment": {"PYTHONHASHSEED": "1"}}
    yield "locale, time zone, umask", {"environment": {"LC_ALL": "C", "TZ": "Asia/Kathmandu"}, "umask": 0o077}
    yield "another folder, files created in reverse", {"images": _reversed(images, folder / "an other / folder ü")}
    yield "calibrated in ONNX Runtime", {"options": ["--runtime", "onnxruntime"]}
    yield "NumPy and BLAS without AVX2", {"environment": SMALL}


def _reversed(images: ImageSet, folder: Path) -> Path:
    """The same images under the same names below another folder."""
    for name in reversed(images.names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(images.root / name, folder / name)
    return folder


def run(command: list[str], out: Path, change: Mapping[str, Any]) -> dict[str, Path]:
    """The files of a row, by name; none where the process fails, which is said."""
    out.mkdir(parents=True)
    environment = {**os.environ, **change.get("environment", {})}
    whole = [*change.get("prefix", []), *command, "--make", str(out), *change.get("options", [])]
    done = subprocess.run(
        whole, env=environment, capture_output=True, text=True, umask=change.get("umask", -1), check=False
    )
    if done.returncode:
        print(f"{shlex.join(whole)}: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}", file=sys.stderr)
        return {}
    return {path.name: path for path in sorted(out.iterdir()) if path.suffix in (".stats", ".onnx")}


def builds(files: Mapping[str, Path], count: int, folder: Path) -> None:
    """The engines of some files, built `count` times each, and what of their bytes differs."""
    print(f"\n| {count} builds | different files | sizes | bytes that differ |\n|---|---|---|---|")
    for text, name in (("openvino:cpu", "onnxruntime.balanced.onnx"), ("tensorrt-rtx:sm86", "tensorrt.balanced.onnx")):
        target, contents = Target.parse(text), []
        if not any(one.target == target and one.builds for one in backends.find(target).available()):
            continue
        for number in range(count):
            out = folder / f"{target.slug}.{number}{backends.find(target).suffix}"
            contents.append(engines.build(files[name], target, out).path.read_bytes())
        sizes = {len(content) for content in contents}
        shown = "—"
        if len(sizes) == 1:
            whole = np.stack([np.frombuffer(content, np.uint8) for content in contents])
            shown = f"{int((whole != whole[0]).any(0).sum()):,}"
        print(f"| {text} | {len(set(contents))} | {min(sizes):,} to {max(sizes):,} | {shown} |", flush=True)


def likeness(path: Path, other: Path) -> str:
    """How a file differs from another."""
    if disk.digest(path) == disk.digest(other):
        return "identical"
    if path.suffix == ".stats":
        return _of_statistics(statistics.load(path), statistics.load(other))
    one, two = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(file).graph.initializer}
        for file in (path, other)
    )
    if one.keys() != two.keys():
        return "another graph"
    weights = [name for name in one if one[name].dtype == np.int8 and one[name].ndim > 1]
    moved = sum(int((one[name] != two[name]).sum()) for name in weights)
    total = sum(one[name].size for name in weights)
    floats = [_apart(one[name], two[name]) for name in one if one[name].dtype.kind == "f"]
    return f"{moved:,} of {total:,} weights, floats by {max(floats):.0e}"


def _of_statistics(one: statistics.Calibration, two: statistics.Calibration) -> str:
    if one.tensors.keys() != two.tensors.keys() or one.scales.keys() != two.scales.keys():
        return "other tensors or scales"
    pairs = [(one.tensors[name], two.tensors[name]) for name in one.tensors]
    moved = sum(int(np.abs(a.counts - b.counts).sum()) for a, b in pairs if a.exponent == b.exponent)
    total = sum(int(a.counts.sum()) for a, _ in pairs)
    ranges = max(_apart(np.array([a.low, a.high]), np.array([b.low, b.high])) for a, b in pairs)
    return f"{moved:,} of {total:,} values in another bin, ranges by {ranges:.0e}"


def _apart(one: NDArray[Any], two: NDArray[Any]) -> float:
    """The largest difference, relative to the largest magnitude."""
    scale = float(np.abs(one).max(initial=0)) or 1.0
    return float(np.abs(one.astype(np.float64) - two).max(initial=0)) / scale if one.shape == two.shape else np.inf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--calibration", type=int, default=32)
    parser.add_argument("--cpu", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--builds", type=int, default=5)
    parser.add_argument("--only", help="rows whose name holds this")
    for hidden, kind in (("--make", Path), ("--threads", int), ("--runtime", str)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.make:
        make(given.model, given.images, given.make, given.threads, given.runtime)
        return
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        drawn = open_images(given.images).draw(given.calibration)
        images = _reversed(drawn.take(reversed(range(len(drawn)))), folder / "images")
        script, model = str(Path(__file__)), str(given.model)
        first = run([sys.executable, script, model, str(images)], folder / "first", {})
        print(f"| | {' | '.join(first)} |\n|---|{'---|' * len(first)}")
        every = [*rows(open_images(images), folder), *((one.partition("=")[0], {"python": one}) for one in given.cpu)]
        for number, (name, change) in enumerate(every):
            if given.only and given.only not in name:
                continue
            python = shlex.split(change["python"].partition("=")[2]) if "python" in change else [sys.executable]
            found = run([*python, script, model, str(change.get("images", images))], folder / str(number), change)
            cells = [likeness(first[file], found[file]) if file in found else "—" for file in first]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
        if given.builds:
            builds(first, given.builds, folder)


if __name__ == "__main__":
    main()
