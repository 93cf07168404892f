"""Kill runs, at random moments and at every write, fill their disk, run them again, and look whether anything is lost.

    python tests/faults/kill.py --kills 500        # SIGKILL at random moments
    python tests/faults/kill.py --kills 0          # every write alone

A run is `edgeres run` on the workload beside this file, in a process forked after the imports, so that every kill hits
work; measuring processes are real ones that measure nothing. After each kill the run is repeated, and everything in its
folder must be, byte for byte, what an undisturbed run leaves there, but for times (`workload.TIMES`); no temporary file
and no child process may be left. At every write: before each file operation (open for writing, move, remove, make a
folder, flush) and in the middle of each write, the process dies or is told that the disk is full.
"""

import argparse
import errno
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import onnxruntime  # noqa: F401  (with the others before the fork, so that a kill hits work)
import rich.progress  # noqa: F401
import workload

import edgeres.cli
import edgeres.foreign.export
import edgeres.inspect
import edgeres.pipeline
import edgeres.quantization.calibrate
import edgeres.report.terminal
from edgeres import disk, store
from edgeres.errors import EdgeresError
from edgeres.store import Sidecar

KILLED, FAILED = -signal.SIGKILL, 3
EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}
"""Of Python's audit hooks: what changes a file system. Flushing is no event, and is wrapped."""
FILLS = {"open", "os.rename", "os.mkdir", "write", "flush"}
"""What a full disk refuses."""


class Faults:
    """In the process that is to be hit: count its file operations, and at the n-th die or refuse."""

    def __init__(self, at: int, full: bool) -> None:
        self.left, self.full, self.seen = at, full, 0
        self.watching = True

    def install(self) -> None:
        sys.addaudithook(self._event)
        flush, write_bytes, write_text = os.fsync, Path.write_bytes, Path.write_text

        def flushing(handle: int) -> None:
            self._point("flush")
            flush(handle)

        def writing(path: Path, content: bytes) -> int:
            def half() -> None:
                write_bytes(path, content[: len(content) // 2])

            self._point("write", half)
            return write_bytes(path, content)

        def texting(path: Path, content: str, **options: Any) -> int:
            self._point("write", lambda: write_text(path, content[: len(content) // 2], **options) and None)
            return write_text(path, content, **options)

        os.fsync, Path.write_bytes, Path.write_text = flushing, writing, texting  # type: ignore[assignment, method-assign]

    def _event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.watching and event in EVENTS and (event != "open" or _writes(arguments)):
            self._point(event)

    def _point(self, what: str, half: Callable[[], None] = lambda: None) -> None:
        if self.full and what not in FILLS:
            return
        self.seen += 1
        if self.seen != self.left:
            return
        self.watching = False
        half()
        if not self.full:
            os.kill(os.getpid(), signal.SIGKILL)
        self.watching = True
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _writes(arguments: tuple[Any, ...]) -> bool:
    path, mode, flags = arguments
    if isinstance(path, int) or str(path).startswith("/dev/"):
        return False
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) if mode is None else not set(mode).isdisjoint("wax+")


def steps(folder: Path) -> int:
    """The least that is a run: an artifact, another made from it, and a report, without any runtime."""
    try:
        with disk.filling(folder, lambda text: None):
            first = store.make(folder / "one", Sidecar("one", {}), lambda path: path.write_bytes(b"one " * 99) and None)
            made_from = {"one": first.sidecar.digest}
            store.make(folder / "sub" / "two", Sidecar("two", made_from), lambda path: path.write_text("two") and None)
            disk.write_json(folder / "report.json", [1, 2, 3])
    except EdgeresError as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    return 0


class Bench:
    """Runs of one piece of work, each in a process of its own, and what they leave behind."""

    def __init__(self, root: Path, work: Callable[[Path], int]) -> None:
        self.root, self.scratch, self.work = root, root / "tmp", work
        self.scratch.mkdir(parents=True)
        tempfile.tempdir = str(self.scratch)
        self.mark = f"EDGERES_FAULTS={os.getpid()}"
        os.environ.update([self.mark.split("=")])
        self.expected = self.whole(root / "expected")
        start = time.monotonic()
        assert self.whole(root / "again") == self.expected, "two undisturbed runs differ"
        self.seconds = time.monotonic() - start

    def start(self, folder: Path, faults: Faults | None = None) -> int:
        """A run in a process of its own, by its id; what it says is beside the folder."""
        child = os.fork()
        if not child:
            self._run(folder, faults)
        return child

    def _run(self, folder: Path, faults: Faults | None) -> NoReturn:
        status = 70
        try:
            said = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(said, 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.chdir(self.root.parent)
            if faults:
                faults.install()
            status = self.work(folder)
            if faults:
                os.write(said, f"\noperations: {faults.seen}\n".encode())
        finally:
            os._exit(status)

    def whole(self, folder: Path) -> dict[str, bytes]:
        """What an undisturbed run leaves."""
        status = _ended(self.start(folder))
        said = folder.with_suffix(".log").read_text()
        assert status == 0, f"exit {status}\n{said}"
        assert not list(self.scratch.iterdir()), f"left: {list(self.scratch.iterdir())}"
        return workload.content(folder)

    def losses(self, folder: Path) -> list[str]:
        """How the folder differs after a rerun; what is still alive or left counts, too."""
        orphans = self.orphans()
        try:
            found = self.whole(folder)
        except AssertionError as error:
            return [str(error)]
        names = sorted({*found, *self.expected})
        return [*orphans, *(name for name in names if found.get(name) != self.expected.get(name))]

    def orphans(self) -> list[str]:
        """Child processes of a killed one that are there a second later."""
        end = time.monotonic() + 1
        while found := [one.parent.name for one in Path("/proc").glob("[0-9]*/environ") if self._mine(one)]:
            if time.monotonic() > end:
                return [f"process {name} is alive" for name in found]
            time.sleep(0.01)
        return []

    def _mine(self, environment: Path) -> bool:
        with suppress(OSError):
            return self.mark.encode() in environment.read_bytes()
        return False


def _ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kills(bench: Bench, count: int) -> int:
    """SIGKILL at random moments; how often anything was lost."""
    moments, hit, early, lost = random.Random(0), Counter[str](), 0, 0
    for number in range(count):
        folder = bench.root / f"kill{number}"
        while True:
            child = bench.start(folder)
            time.sleep(moments.uniform(0, bench.seconds))
            os.kill(child, signal.SIGKILL)
            if _ended(child) == KILLED:
                break
            early += 1  # it was done before
            shutil.rmtree(folder, ignore_errors=True)
        log = folder.with_suffix(".log")
        lines = log.read_text().splitlines() if log.exists() else []
        hit[lines[-1].split(":")[0] if lines else "the beginning"] += 1
        if wrong := bench.losses(folder):
            lost += 1
            print(f"kill {number}: {wrong[:3]}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{count} kills at random moments of a run of {bench.seconds:.2f} s, {early} more came too late")
    print("after " + ", ".join(f"{name} {times}" for name, times in hit.most_common()))
    print(f"{count} reruns, losses: {lost}")
    return lost


def writes(bench: Bench, every: int) -> int:
    """Each file operation of a run; how often anything was lost."""
    lost = 0
    for full in (False, True):
        folder, done, at, exits = bench.root / "write", 0, 1, Counter[int]()
        while True:
            faults = Faults(at, full)
            status = _ended(bench.start(folder, faults))
            said = folder.with_suffix(".log").read_text()
            if _operations(said) < at:
                break
            done, exits = done + 1, exits + Counter([status])
            wrong = ["traceback"] if "Traceback" in said else []
            if full and status == FAILED and "make room and run again" not in said:
                wrong.append(f"exit {status} says: {said[-300:]}")
            if wrong := [*wrong, *bench.losses(folder)]:
                lost += 1
                print(f"operation {at}, {'full' if full else 'killed'}: {wrong[:3]}", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            at += every
        shutil.rmtree(folder, ignore_errors=True)
        how = "told that the disk is full" if full else "killed"
        ends = ", ".join(f"{times} with {status}" for status, times in sorted(exits.items()))
        print(f"{done} runs {how} at every {every}. file operation, ended {ends}; {done} reruns, losses: {lost}")
    return lost


def _operations(said: str) -> int:
    """How many a run that came to its end counted."""
    last = said.rpartition("operations: ")
    return int(last[2]) if last[1] else sys.maxsize


def main() -> int:
    """0 where nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=500, help="random moments")
    parser.add_argument("--every", type=int, default=1, help="try each n-th file operation")
    parser.add_argument("--targets", default='[{target = "onnxruntime:cpu", precisions = ["int8"]}]')
    given = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        print("two artifacts and a report alone:")
        lost = writes(Bench(root / "steps", steps), 1)
        recipe = workload.recipe(root, given.targets)
        workload.unmeasured()
        edgeres.quantization.calibrate.DEEP = 0  # in ONNX Runtime, which starts the faster
        bench = Bench(root / "runs", lambda out: edgeres.cli.main(["run", str(recipe), "-o", str(out)]))
        print(f"`edgeres run`, which writes {len(bench.expected)} files in {bench.seconds:.2f} s:")
        lost += kills(bench, given.kills) + writes(bench, given.every)
    print(f"{time.monotonic() - start:.0f} s")
    return min(lost, 1)


if __name__ == "__main__":
    sys.exit(main())
