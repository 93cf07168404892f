"""Two hours of work in miniature: everything that edgeres does, again and again in one process, and nothing grows.

    python tests/faults/soak.py                  # ten minutes
    python tests/faults/soak.py --minutes 1

Each turn calibrates, quantizes, builds, evaluates, measures, reports and checks the workload beside this file anew, in
a folder of its own. After each the process's resident memory, open files, threads and files in its temporary folder are
counted, when garbage is collected and the allocator has given back what nobody holds. It has one arena: of one for each
thread pages stay half empty, and a leak of some kB a turn would not be seen beside those.
The first half warms up (caches fill, Python's table of names grows); through the rest a line is fitted (Theil and Sen:
the median of the slopes of all pairs), and it must not rise by more than `GROWTH` MB in a hundred turns. Of fewer than
`ENOUGH` turns memory is not judged: caches still fill, which looks like 10 MB in a hundred.
Then 10,000 and 100,000 images of one manifest are evaluated, a few files under as many names.
"""

import argparse
import contextlib
import ctypes
import gc
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import threading
import time
from itertools import combinations
from pathlib import Path
from statistics import median

import workload

from edgeres import cli

GROWTH = 1.0
WARM = 1 / 2
ENOUGH = 40
"""Turns after the warm-up."""
PER_IMAGE = 500
"""Bytes."""
SAID = io.StringIO()
"""One for all commands: Typer keeps every stream that it ever wrote to, with all that was written."""
TARGETS = '[{target = "onnxruntime:cpu", precisions = ["fp32", "int8"]}, "openvino:cpu"]'
EVALUATION = """
import resource, sys, time
from pathlib import Path
from edgeres import evaluate
from edgeres.data import open_images
from edgeres.types import Target
engine, images, count = Path(sys.argv[1]), open_images(Path(sys.argv[2])), int(sys.argv[3])
found = evaluate.predict(engine, Target("onnxruntime", "cpu"), images.take(range(count)))
print(len(found.outputs), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def turn(recipe: Path, folder: Path) -> None:
    """One turn; the commands are those of a user, and each must succeed."""
    model, engine = folder / "run" / "model.onnx", folder / "engine.blob"
    images = ["--data", str(recipe.parent / "calibration")]
    for command in (
        ["run", recipe, "-o", folder / "run"],
        ["calibrate", model, *images, "-o", folder / "one.stats"],
        ["quantize", model, *images, "--scheme", "openvino", "--level", "balanced", "-o", folder / "one.onnx"],
        ["build", folder / "one.onnx", "--target", "openvino:cpu", "-o", engine],
        ["inspect", engine, "--target", "openvino:cpu"],
        ["bench", engine, "--target", "openvino:cpu", "--rounds", "1"],
        ["eval", engine, "--target", "openvino:cpu", "--data", recipe.parent / "evaluation", "--reference", model],
        ["report", folder / "run", "-o", folder / "report.html", "-o", folder / "report.md"],
        ["baseline", "accept", folder / "run", "-o", folder / "baseline.json"],
        ["check", folder / "run", "--baseline", folder / "baseline.json"],
    ):
        SAID.seek(0)
        SAID.truncate()
        with contextlib.redirect_stdout(SAID), contextlib.redirect_stderr(SAID):
            status = cli.main([str(word) for word in command])
        assert status == 0, f"edgeres {' '.join(map(str, command))}: exit {status}\n{SAID.getvalue()}"


def count(scratch: Path) -> dict[str, float]:
    """What may not grow: resident memory in MB, open files, threads, temporary files."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "memory MB": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "open files": len(os.listdir("/proc/self/fd")) - 1,
        "threads": len(os.listdir("/proc/self/task")),
        "Python threads": threading.active_count(),
        "temporary files": len(list(scratch.rglob("*"))),
    }


def slope(values: list[float]) -> float:
    """Of the line through them, a hundred turns."""
    return 100 * median((b - a) / (j - i) for (i, a), (j, b) in combinations(enumerate(values), 2))


def soak(minutes: float) -> bool:
    """Turns for so many minutes; whether nothing grew."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        scratch = folder / "tmp"
        scratch.mkdir()
        tempfile.tempdir = str(scratch)
        workload.unmeasured()
        recipe = workload.recipe(folder, TARGETS)
        start, counted = time.monotonic(), []
        while time.monotonic() - start < 60 * minutes or len(counted) < 6:
            with tempfile.TemporaryDirectory(dir=folder) as fresh:
                turn(recipe, Path(fresh))
            counted.append(count(scratch))
        tempfile.tempdir = None
    warm = counted[int(WARM * len(counted)) :]
    print(f"{len(counted)} turns in {(time.monotonic() - start) / 60:.1f} min, the last {len(warm)} judged\n")
    print("| | first turn | after warm-up | last turn | line, per 100 turns |\n|---|---|---|---|---|")
    steady, few = True, len(warm) < ENOUGH
    for name in counted[0]:
        growth = slope([one[name] for one in warm])
        if name == "memory MB":
            steady &= few or growth <= GROWTH
        else:
            steady &= growth <= 0
        print(f"| {name} | {counted[0][name]:.1f} | {warm[0][name]:.1f} | {counted[-1][name]:.1f} | {growth:+.2f} |")
    if few:
        print(f"\nmemory is not judged by fewer than {ENOUGH} turns after the warm-up; give more --minutes")
    return steady


def evaluated(most: int) -> bool:
    """The peak memory of evaluating a tenth of a manifest's images, and all of them; whether it is constant.

    What is kept of an image, its answer and its digest, is some hundred bytes.
    """
    peaks = []
    print("\n| images evaluated | peak memory MB |\n|---|---|")
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        recipe = workload.recipe(folder, '["onnxruntime:cpu"]')
        with contextlib.redirect_stdout(io.StringIO()):
            assert cli.main(["export", "--onnx", str(folder / "tiny.onnx"), "-o", str(folder / "model.onnx")]) == 0
        files = sorted((recipe.parent / "evaluation").rglob("*.png"))
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
        lines = ["path,sha256,label"]
        for index in range(most):
            link = folder / f"{index // 1000}" / f"{index:06d}.png"
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(files[index % len(files)])
            lines.append(f"{link.relative_to(folder)},{digests[index % len(files)]},{index % workload.CLASSES}")
        (folder / "manifest.csv").write_text("\n".join(lines))
        for images in (most // 10, most):
            command = [sys.executable, "-c", EVALUATION, folder / "model.onnx", folder / "manifest.csv", images]
            done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            number, peak = map(int, done.stdout.split())
            assert number == images
            peaks.append(peak)
            print(f"| {images:,} | {peak} |", flush=True)
    return peaks[1] - peaks[0] < PER_IMAGE * most / 1e6


def main() -> int:
    """0 where nothing grew."""
    if os.environ.get("MALLOC_ARENA_MAX") != "1":  # the allocator reads it as the process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "MALLOC_ARENA_MAX": "1"})
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--images", type=int, default=100_000)
    given = parser.parse_args()
    steady, constant = soak(given.minutes), evaluated(given.images)
    print("\nnothing grew" if steady and constant else "\nSOMETHING GREW")
    return 0 if steady and constant else 1


if __name__ == "__main__":
    sys.exit(main())
