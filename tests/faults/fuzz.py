"""Spoilt files for every parser: each is refused in one sentence that names the file, or read; nothing is lost.

    python tests/faults/fuzz.py --cases 10000

A loss is an exception that is none of edgeres' own, a dead process, more than SECONDS or GIB, a sentence that names no
file, a warning of NumPy that nobody sees, or another answer than the whole file's where a checksum tells. Half of the
cases are spoilt blindly, half as the format would have it. Case i of a parser is the same on every machine.
"""

import argparse
import contextlib
import io
import json
import os
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import mutations
from parsers import PARSERS, Parser, beside, make

from edgeres.errors import EdgeresError

SECONDS, GIB = 20.0, 3
"""Longest case, and address space that a parser may take beyond what its libraries do."""


def case(parser: Parser, seeds: list[bytes], index: int, seed: object) -> tuple[int, bytes, bool]:
    """Which of the seeds a case spoils, its content, and whether it is spoilt blindly."""
    random = Random(f"{seed}/{index}")
    which, blindly = random.randrange(len(seeds)), index % 2 == 0
    return which, (mutations.blind if blindly else parser.mutate)(random, seeds[which]), blindly


def attempt(parser: Parser, path: Path, whole: object) -> tuple[str, str]:
    """`accepted`, `refused` or `loss`, and why; `whole` is what has to come out where something does, if not None."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            found = parser.read(path)
    except EdgeresError as error:
        said = str(error)
        names = {one.name for one in path.parent.iterdir()} | {path.parent.name}
        if not any(name in said for name in names):
            return "loss", f"names no file: {said[:300]}"
        return "refused", f"{type(error).__name__}: {said[:200]}"
    except BaseException as error:
        import traceback

        last = traceback.extract_tb(error.__traceback__)[-1]
        mine = [one for one in traceback.extract_tb(error.__traceback__) if "/edgeres/" in one.filename]
        place = f"{Path(mine[-1].filename).name}:{mine[-1].lineno}" if mine else f"{last.filename}:{last.lineno}"
        return "loss", f"{type(error).__name__} at {place}: {str(error)[:200]}"
    if whole is not None and repr(found) != whole:
        return "loss", "another answer than the whole file's"
    return "accepted", ""


def work(name: str, first: int, cases: int, seed: str, folder: Path) -> None:
    """A child: cases of one parser, a line before and after each."""
    parser = PARSERS[name]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    seeds = [(folder / one).read_bytes() for one in parser.seeds]
    with tempfile.TemporaryDirectory() as temporary:
        whole = []
        for at, one in enumerate(parser.seeds):
            place = Path(temporary) / str(at)
            beside(folder, parser, place)
            path = place / Path(one).name
            path.write_bytes(seeds[at])
            if parser.seeds[0].startswith("transformers"):
                for other in parser.seeds:
                    shutil.copy(folder / other, place / Path(other).name)
            whole.append(repr(parser.read(path)))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (GIB << 30), -1))
        for index in range(first, first + cases):
            which, content, blindly = case(parser, seeds, index, f"{seed}/{name}")
            path = Path(temporary) / str(which) / Path(parser.seeds[which]).name
            answers.write(f"{index}\n")
            path.write_bytes(content)
            told = attempt(parser, path, whole[which] if parser.checked and blindly else None)
            path.write_bytes(seeds[which])
            answers.write(json.dumps(told) + "\n")


def run(name: str, cases: int, seed: str, folder: Path) -> Iterator[tuple[int, str, str]]:
    """Every case of a parser, its outcome and why; a child that dies or hangs is a loss, and another goes on."""
    index = 0
    while index < cases:
        command = [sys.executable, __file__, "--child", name, str(index), str(cases - index), seed, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
            assert child.stdout is not None
            begun, ended = -1, "died"
            buffer, patience = b"", 120.0
            while True:
                if not select.select([child.stdout], [], [], patience)[0]:
                    child.kill()
                    ended = f"took more than {patience:g} s"
                    break
                if not (part := os.read(child.stdout.fileno(), 1 << 16)):
                    break
                *lines, buffer = (buffer + part).split(b"\n")
                for line in lines:
                    if line.isdigit():
                        begun, patience = int(line), SECONDS
                    else:
                        outcome, why = json.loads(line)
                        yield begun, outcome, why
                        index = begun + 1
            status = child.wait()
        if index < cases:
            if begun < 0:
                raise SystemExit(f"{name}: the child does not begin (status {status})")
            yield max(begun, index), "loss", f"the process {ended} (status {status})"
            index = max(begun, index) + 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000, help="for each parser")
    parser.add_argument("--only", default="", help="parsers whose name holds this")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--show", type=int, default=5, help="kinds of losses that are told for each parser")
    parser.add_argument("--keep", type=Path, help="folder for files that were lost, and for the whole ones")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (asked.keep or Path(temporary)) / "whole"
        make(folder)
        lost = 0
        print(f"{'parser':<30} {'cases':>7} {'refused':>8} {'read':>8} {'losses':>7} {'seconds':>8}", flush=True)
        for name in (name for name in PARSERS if asked.only in name):
            start, counts, kinds = time.monotonic(), Counter[str](), dict[str, list[int]]()
            for index, outcome, why in run(name, asked.cases, asked.seed, folder):
                counts[outcome] += 1
                if outcome == "loss":
                    kinds.setdefault(why, []).append(index)
            row = f"{counts.total():>7} {counts['refused']:>8} {counts['accepted']:>8} {counts['loss']:>7}"
            print(f"{name:<30} {row} {time.monotonic() - start:>8.0f}", flush=True)
            for why, cases in sorted(kinds.items(), key=lambda one: -len(one[1]))[: asked.show]:
                print(f"    {len(cases)} times, first case {cases[0]}: {why}", flush=True)
                if asked.keep:
                    _keep(asked.keep, folder, name, cases[0], asked.seed)
            lost += counts["loss"]
    print(f"losses: {lost}")
    return min(lost, 1)


def _keep(kept: Path, folder: Path, name: str, index: int, seed: Any) -> None:
    parser = PARSERS[name]
    seeds = [(folder / one).read_bytes() for one in parser.seeds]
    which, content, _ = case(parser, seeds, index, f"{seed}/{name}")
    place = kept / name.replace(" ", "-") / str(index)
    beside(folder, parser, place)
    (place / Path(parser.seeds[which]).name).write_bytes(content)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        work(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5], Path(sys.argv[6]))
    else:
        sys.exit(main())
