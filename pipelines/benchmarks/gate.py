"""How often the gate cries wolf, and how often it hears one: the same engine twice, and one that is 5 % slower.

    python pipelines/benchmarks/gate.py                                      simulated timings, seconds
    python pipelines/benchmarks/gate.py resnet8.onnx --target onnxruntime:cpu --runs 200 --raw FILE.jsonl    an engine

Simulated: `edgeres check` (`edgeres.gate.compare`, two reports of PROCESSES processes each, one made after the other)
and `edgeres check --ab` (`edgeres.ab.decide`, whose rounds are taken for processes that follow one another), with a
limit of LIMIT %; see `timings`. Real: `check --ab`, a fresh (forked) process a round, with fewer and shorter turns
(`edgeres.measure.child.in_turn`), beside one that burns a core at random times; a timed call is 20 calls of the engine,
that of the slower one 21. Finished comparisons are kept in the raw file: started again, it goes on. Prints Markdown.
"""

import argparse
import json
import multiprocessing
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeres import ab, engines, gate, machine
from edgeres.measure import child
from edgeres.schema import Cell, Latency, Machine, Model, Report
from edgeres.types import Precision, Target

LIMIT, SLOWER = 2.5, 1.05
PROCESSES = 10
INNER = 20
BURST, PAUSE = 0.1, 1.0
"""Mean seconds that the other process burns, and rests."""
REPORTS = (
    ("check, steady machine", True, LIMIT, SLOWER),
    ("check, unsteady machine", False, LIMIT, SLOWER),
    ("check, unsteady machine, limit 6 %, 10 % slower", False, 6.0, 1.1),
)
"""Comparisons of two reports: name, whether the machine is steady, limit in percent, how much slower B is."""
Rounds = Sequence[NDArray[np.float64]]


def timings(generator: np.random.Generator, processes: int, calls: int = 200, steady: bool = False) -> Rounds:
    """Milliseconds of one engine in processes that follow one another, as a machine with all faults gives them.

    Processes differ by 1 to 2 % (standard deviation), calls of one by 3 %, correlated by 0.9 from one to the next; 3 %
    of the calls are spikes, by half of their time on average. On two of three machines the clock has two speeds, 6 %
    apart, for 400 calls on average, which are two processes. All machines drift, by 0.2 % a process at random and by
    about 0.1 % steadily. A `steady` one does not, and changes its clock after 40 calls, so that two hours are alike.
    """
    shape = (processes, calls)
    logs = generator.uniform(0.01, 0.02) * generator.standard_normal((processes, 1)) + _alike(generator, shape)
    if not steady:
        steps = 0.002 * generator.standard_normal(processes) + 0.001 * generator.standard_normal()
        logs += np.cumsum(steps)[:, None]
    if generator.random() < 2 / 3:
        switches = generator.random(processes * calls) < 1 / (40 if steady else 400)
        logs += np.log(1.06) * ((np.cumsum(switches) + generator.integers(2)) % 2).reshape(shape)
    spikes = (generator.random(shape) < 0.03) * generator.exponential(0.5, shape)
    return list(2 * np.exp(logs) * (1 + spikes))


def _alike(generator: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Standard deviation 0.03, correlation 0.9 of neighbours."""
    found = 0.03 * generator.standard_normal(shape)
    for call in range(1, shape[1]):
        found[:, call] = 0.9 * found[:, call - 1] + (1 - 0.9**2) ** 0.5 * found[:, call]
    return found


def report(rounds: Rounds) -> Report:
    """A report of one measured cell."""
    pooled = np.concatenate(rounds)
    p50, p90, p99 = (float(p) for p in np.percentile(pooled, (50, 90, 99)))
    latency = Latency(
        p50=p50,
        p90=p90,
        p99=p99,
        batch=1,
        throughput=1e3 / float(pooled.mean()),
        samples=[float(sample) for sample in pooled],
        rounds=[len(one) for one in rounds],
        warmup=0,
        stable=True,
    )
    here = Machine(system="", architecture="", cpu="", cores=1, memory_gib=1, python="")
    model = Model(arch="resnet20", classes=10, digest="", parity={})
    cell = Cell(target="any:cpu", precision=Precision.INT8, status="measured", latency=latency)
    return Report(name="gate", created="", machine=here, model=model, calibration={}, cells=[cell])


def check(base: Rounds, head: Rounds, limit: float = LIMIT) -> tuple[str, int]:
    """The outcome, and how many processes of each it took."""
    (verdict,) = gate.compare(report(head), report(base), {"latency_p50": f"{limit}%"})
    return str(verdict.outcome), len(head)


def check_ab(ratios: Iterable[float]) -> tuple[str, int]:
    found = ab.decide(ratios, LIMIT)
    return str(found.outcome), found.rounds


def simulated(runs: int) -> dict[str, list[tuple[str, int]]]:
    generator = np.random.default_rng(0)
    found: dict[str, list[tuple[str, int]]] = {}

    def add(name: str, outcome: tuple[str, int]) -> None:
        found.setdefault(name, []).append(outcome)

    for _ in range(runs):
        for kind, worse in (("A/A", 0), ("A/B", 1)):
            for name, steady, limit, slower in REPORTS:
                both = timings(generator, 2 * PROCESSES, steady=steady)
                base, head = both[:PROCESSES], [slower**worse * one for one in both[PROCESSES:]]
                add(f"{name}, {kind}", check(base, head, limit))
            medians = np.median(timings(generator, 2 * ab.LOOKS[-1]), axis=1).reshape(-1, 2)
            medians[1::2] = medians[1::2, ::-1]
            add(f"check --ab, unsteady machine, {kind}", check_ab(medians[:, 1] / medians[:, 0] * SLOWER**worse))
    return found


def real(engine: Path, target: Target, threads: int, runs: int, raw: Path) -> dict[str, list[tuple[str, int]]]:
    done = [json.loads(line) for line in raw.read_text().splitlines()] if raw.exists() else []
    import_module(target.backend)  # once, for all the processes that are forked
    child.WARM_WINDOW, child.FOURS, child.TURN = 2, 5, 0.0
    context = multiprocessing.get_context("fork")
    burner = context.Process(target=burn, daemon=True)
    burner.start()

    def ratios(slow: bool) -> Iterator[float]:
        for turn in count():
            receiver, sender = context.Pipe(duplex=False)
            calls = (INNER, INNER + slow)[:: -1 if turn % 2 else 1]
            process = context.Process(target=measured, args=(sender, engine, target, threads, calls))
            process.start()
            sender.close()
            found = receiver.recv()
            process.join()
            yield 1 / found if turn % 2 else found

    for run in range(len(done), runs):
        done.append({f"check --ab, {kind}": check_ab(ratios(slow)) for kind, slow in (("A/A", False), ("A/B", True))})
        with raw.open("a") as file:
            file.write(json.dumps(done[-1]) + "\n")
        print(f"{run + 1} of {runs}: {done[-1]}", file=sys.stderr, flush=True)
    burner.kill()
    return {name: [outcomes[name] for outcomes in done[:runs]] for name in done[0]}


def measured(
    sender: "multiprocessing.connection.Connection", engine: Path, target: Target, threads: int, calls: tuple[int, int]
) -> None:
    """In a process of its own: the ratio of two engines, of which so many calls are timed as one."""

    def many(number: int) -> Callable[[], None]:
        loaded = engines.load(engine, target, threads)
        images = child.pixels(loaded, 1)

        def call() -> None:
            for _ in range(number):
                loaded.run(images)

        child.warm_up(call)
        return call

    sender.send(child.in_turn(*map(many, calls)))


def burn() -> None:
    """Another process's work: nothing, for a while, then a core, for a while."""
    while True:
        time.sleep(random.expovariate(1 / PAUSE))
        end = time.monotonic() + random.expovariate(1 / BURST)
        while time.monotonic() < end:
            pass


def table(found: dict[str, list[tuple[str, int]]]) -> str:
    """Markdown; processes are those of each engine."""
    lines = ["| | regressed | inconclusive | passed | processes |", "|---|---|---|---|---|"]
    for name in sorted(found, key=lambda name: (name.endswith("B"), name)):
        outcomes = [outcome for outcome, _ in found[name]]
        shares = (
            f"{outcomes.count(str(outcome))} of {len(outcomes)}"
            for outcome in (gate.Outcome.REGRESSED, gate.Outcome.INCONCLUSIVE, gate.Outcome.PASSED)
        )
        lines.append(f"| {name} | {' | '.join(shares)} | {np.mean([used for _, used in found[name]]):.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", type=Path, nargs="?")
    parser.add_argument("--target", default="onnxruntime:cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--raw", type=Path, default=Path("build/gate.ab.jsonl"))
    options = parser.parse_args()
    heading = f"A/B is {SLOWER - 1:.0%} slower, the limit is {LIMIT} %."
    if options.engine is None:
        print(f"Simulated. {heading}\n\n{table(simulated(options.runs))}")
        return
    here = machine.describe()
    options.raw.parent.mkdir(parents=True, exist_ok=True)
    found = real(options.engine, Target.parse(options.target), options.threads, options.runs, options.raw)
    print(
        f"{options.engine.name}, {options.target}, {here.cpu}, {here.cores} cores, {options.threads} thread. {heading}"
    )
    print(f"\n{table(found)}")


if __name__ == "__main__":
    main()
