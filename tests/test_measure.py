"""Latency: the arithmetic on scripted clocks and samples, the process that measures, and one real measurement."""

import gc
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeres import measure as module
from edgeres.errors import EdgeresError
from edgeres.measure import Subject, measure, sample
from edgeres.types import Target

CPU = Target("onnxruntime", "cpu")


class Clock:
    """Stands in for the module `time`; only a call lets time pass, as many milliseconds as the script says."""

    def __init__(self, script: Iterable[float]) -> None:
        self.script: Iterator[float] = iter(script)
        self.now = 0.0
        self.calls = 0
        self.collecting: list[bool] = []

    def monotonic(self) -> float:
        return self.now / 1e3

    def perf_counter_ns(self) -> int:
        return round(self.now * 1e6)

    def call(self) -> None:
        self.now += next(self.script)
        self.calls += 1
        self.collecting.append(gc.isenabled())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterable[float]], Clock]:
    def make(script: Iterable[float]) -> Clock:
        made = Clock(script)
        monkeypatch.setattr(module, "time", made)
        return made

    return make


def test_the_samples_are_the_calls_after_the_warm_up(clock: Callable[[Iterable[float]], Clock]) -> None:
    timed = [float(10 + index % 7) for index in range(500)]
    made = clock(chain(repeat(12.0, 2 * module.WARM_WINDOW), timed))
    samples, warmup, steady = sample(made.call)
    assert (warmup, steady) == (2 * module.WARM_WINDOW, True)
    assert samples == pytest.approx(timed[: len(samples)])
    assert made.calls == warmup + len(samples)


def test_a_warm_up_goes_on_while_calls_get_faster(clock: Callable[[Iterable[float]], Clock]) -> None:
    falling = chain.from_iterable(repeat(value, module.WARM_WINDOW) for value in (40.0, 30.0, 20.0, 10.0))
    _, warmup, steady = sample(clock(chain(falling, repeat(10.0))).call)
    assert (warmup, steady) == (5 * module.WARM_WINDOW, True)


def test_a_warm_up_ends_after_a_while_and_says_that_it_was_not_steady(
    clock: Callable[[Iterable[float]], Clock],
) -> None:
    falling = (100 * 0.99**index for index in range(100_000))
    samples, warmup, steady = sample(clock(falling).call)
    assert not steady
    assert 1e3 * module.WARM_LONGEST <= sum(100 * 0.99**index for index in range(warmup)) < 2e3 * module.WARM_LONGEST
    assert samples


def test_one_slow_call_does_not_prolong_the_warm_up(clock: Callable[[Iterable[float]], Clock]) -> None:
    hiccup = [10.0] * 9 + [500.0]
    _, warmup, steady = sample(clock(chain(hiccup, repeat(10.0))).call)
    assert (warmup, steady) == (2 * module.WARM_WINDOW, True)


@pytest.mark.parametrize("milliseconds", [1.0, 10.0, 100.0])
def test_a_round_has_its_span_and_its_samples(milliseconds: float, clock: Callable[[Iterable[float]], Clock]) -> None:
    samples, _, _ = sample(clock(repeat(milliseconds)).call)
    assert len(samples) >= module.SAMPLES
    assert sum(samples) >= 1e3 * module.SECONDS
    assert len(samples) == module.SAMPLES or sum(samples[:-1]) < 1e3 * module.SECONDS


def test_a_very_slow_engine_is_let_off_with_five_samples(clock: Callable[[Iterable[float]], Clock]) -> None:
    samples, _, _ = sample(clock(repeat(9000.0)).call)
    assert len(samples) == 5


def test_no_garbage_is_collected_between_timed_calls(clock: Callable[[Iterable[float]], Clock]) -> None:
    made = clock(repeat(10.0))
    _, warmup, _ = sample(made.call)
    assert not any(made.collecting[warmup:])
    assert gc.isenabled()


def outcome(samples: Iterable[float], steady: bool = True, warmup: int = 20) -> dict[str, Any]:
    return {"samples": list(samples), "steady": steady, "warmup": warmup, "properties": {"runtime": "fake"}}


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[dict[str, Any]]], list[Subject]]:
    """Lets the measuring processes answer what a list says, one after the other; gives the subjects they were for."""

    def script(given: list[dict[str, Any]]) -> list[Subject]:
        asked: list[Subject] = []
        left = iter(given)

        def answer(subject: Subject) -> dict[str, Any]:
            asked.append(subject)
            return {"batch": subject.batch, **next(left)}

        monkeypatch.setattr(module, "_in_a_process", answer)
        return asked

    return script


def test_figures_come_from_the_samples_of_all_rounds(answers: Callable[[list[dict[str, Any]]], list[Subject]]) -> None:
    random = np.random.default_rng(0)
    rounds = [random.gamma(50, 0.2, 80) for _ in range(3)]
    answers([outcome(one) for one in rounds])
    (found,) = measure([Subject(Path("x.onnx"), CPU, batch=4)], rounds=3)
    pooled = np.concatenate(rounds)
    latency = found.latency
    assert (latency.p50, latency.p90, latency.p99) == pytest.approx(tuple(np.percentile(pooled, [50, 90, 99])))
    assert latency.throughput == pytest.approx(4 * 240 / (pooled.sum() / 1e3))
    assert latency.samples == pytest.approx(pooled.tolist(), abs=1e-4)
    assert (latency.batch, latency.warmup, latency.stable, latency.notes) == (4, 60, True, [])
    assert found.properties == {"runtime": "fake"}


def test_engines_are_measured_in_turn(answers: Callable[[list[dict[str, Any]]], list[Subject]]) -> None:
    asked = answers([outcome(repeat(float(value), 50)) for value in (1, 10, 2, 20)])
    one, other = (Subject(Path(name), CPU) for name in ("one.onnx", "other.onnx"))
    told: list[int] = []
    found = measure([one, other], rounds=2, progress=told.append)
    assert asked == [one, other, one, other]
    assert told == [1, 1, 1, 1]
    assert [set(each.latency.samples) for each in found] == [{1.0, 2.0}, {10.0, 20.0}]


@pytest.mark.parametrize(
    ("rounds", "note"),
    [
        ([outcome([10.0, 20.0] * 40)], "The middle half of the calls spreads over 67% of the median."),
        (
            [outcome([10.0] * 90), outcome([14.0] * 10)],
            "The medians of the rounds lie between 10.00 and 14.00 ms.",
        ),
        ([outcome([10.0] * 50, steady=False)], "A warm-up was not steady after 5 s."),
    ],
)
def test_what_makes_figures_doubtful_is_noted(
    rounds: list[dict[str, Any]], note: str, answers: Callable[[list[dict[str, Any]]], list[Subject]]
) -> None:
    answers(rounds)
    (found,) = measure([Subject(Path("x.onnx"), CPU)], rounds=len(rounds))
    assert not found.latency.stable
    assert found.latency.notes == [note]


def test_a_few_slow_calls_are_no_doubt(answers: Callable[[list[dict[str, Any]]], list[Subject]]) -> None:
    answers([outcome([10.0] * 95 + [80.0] * 5)])
    (found,) = measure([Subject(Path("x.onnx"), CPU)], rounds=1)
    assert found.latency.stable
    assert found.latency.p99 == 80.0


@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
def test_a_process_that_dies_is_an_error_with_its_last_words(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = tmp_path / "python"
    stand_in.write_text("#!/bin/sh\necho 'loading' >&2\necho 'Illegal instruction' >&2\nkill -9 $$\n")
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    with pytest.raises(EdgeresError, match=r"measuring .*onnx on onnxruntime:cpu died with status -9: Illegal instr"):
        measure([Subject(exported, CPU)], rounds=1)


def test_an_error_in_the_process_arrives_with_its_sentence(tmp_path: Path) -> None:
    with pytest.raises(EdgeresError, match=r"^\S+absent\.onnx cannot be read \(No such file or directory\); check"):
        measure([Subject(tmp_path / "absent.onnx", CPU)], rounds=1)


def test_a_real_engine_gives_plausible_samples(exported: Path) -> None:
    (found,) = measure([Subject(exported, CPU, batch=2, threads=1)], rounds=1)
    latency, samples = found.latency, np.array(found.latency.samples)
    assert len(samples) >= module.SAMPLES
    assert samples.min() > 0
    assert latency.p50 == pytest.approx(np.median(samples), abs=1e-3)
    assert samples.min() <= latency.p50 <= latency.p90 <= latency.p99 <= samples.max()
    assert latency.throughput == pytest.approx(2e3 * len(samples) / samples.sum(), rel=1e-3)
    assert latency.warmup >= 2 * module.WARM_WINDOW
    assert latency.batch == 2
    assert (found.properties["runtime"], found.properties["threads"]) == ("onnxruntime", "1")


def test_a_fixed_batch_is_the_one_that_is_reported_and_no_other_can_be_asked_for(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgeres.export import export

    for name, value in {"SAMPLES": 5, "SECONDS": 0.0, "WARM_LONGEST": 0.05}.items():
        monkeypatch.setattr(module, name, value)
    path = export(checkpoint, tmp_path / "four.onnx", batch=4).path
    for batch, wanted in ((1, 4), (4, 4)):
        module.main(str(path), "onnxruntime:cpu", str(batch), "1")
        assert json.loads(capsys.readouterr().out)["batch"] == wanted
    module.main(str(path), "onnxruntime:cpu", "5", "1")
    assert json.loads(capsys.readouterr().out)["error"] == "UsageError"
