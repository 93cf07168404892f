"""Latency: the arithmetic on scripted clocks and samples, the process that measures, and one real measurement."""

import gc
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, groupby, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeres import measure as measuring
from edgeres.errors import EdgeresError, UsageError
from edgeres.measure import Subject, measure
from edgeres.measure import child as module
from edgeres.measure.child import timed, warm_up
from edgeres.measure.show import text
from edgeres.measure.summary import BLOCKS, trend
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
    script = [float(10 + index % 7) for index in range(500)]
    made = clock(chain(repeat(12.0, 2 * module.WARM_WINDOW), script))
    warmup, steady, milliseconds = warm_up(made.call)
    samples, inner = timed(made.call, lambda: 1.0)
    assert (warmup, steady, milliseconds) == (2 * module.WARM_WINDOW, True, pytest.approx(12.0))
    assert samples == pytest.approx(script[: len(samples)])
    assert inner == [1.0] * len(samples)
    assert made.calls == warmup + len(samples)


def test_a_warm_up_goes_on_while_calls_get_faster(clock: Callable[[Iterable[float]], Clock]) -> None:
    falling = chain.from_iterable(repeat(value, module.WARM_WINDOW) for value in (40.0, 30.0, 20.0, 10.0))
    warmup, steady, _ = warm_up(clock(chain(falling, repeat(10.0))).call)
    assert (warmup, steady) == (5 * module.WARM_WINDOW, True)


def test_a_warm_up_ends_after_a_while_and_says_that_it_was_not_steady(
    clock: Callable[[Iterable[float]], Clock],
) -> None:
    falling = (100 * 0.99**index for index in range(100_000))
    warmup, steady, _ = warm_up(clock(falling).call)
    assert not steady
    assert 1e3 * module.WARM_LONGEST <= sum(100 * 0.99**index for index in range(warmup)) < 2e3 * module.WARM_LONGEST


def test_one_slow_call_does_not_prolong_the_warm_up(clock: Callable[[Iterable[float]], Clock]) -> None:
    hiccup = [10.0] * 9 + [500.0]
    warmup, steady, _ = warm_up(clock(chain(hiccup, repeat(10.0))).call)
    assert (warmup, steady) == (2 * module.WARM_WINDOW, True)


@pytest.mark.parametrize("milliseconds", [1.0, 10.0, 100.0])
def test_a_round_has_its_span_and_its_samples(milliseconds: float, clock: Callable[[Iterable[float]], Clock]) -> None:
    samples, inner = timed(clock(repeat(milliseconds)).call)
    assert inner == []
    assert len(samples) >= module.SAMPLES
    assert sum(samples) >= 1e3 * module.SECONDS
    assert len(samples) == module.SAMPLES or sum(samples[:-1]) < 1e3 * module.SECONDS


def test_a_very_slow_engine_is_let_off_with_five_samples(clock: Callable[[Iterable[float]], Clock]) -> None:
    assert len(timed(clock(repeat(9000.0)).call)[0]) == 5


def test_no_garbage_is_collected_between_timed_calls(clock: Callable[[Iterable[float]], Clock]) -> None:
    made = clock(repeat(10.0))
    timed(made.call)
    assert not any(made.collecting)
    assert gc.isenabled()


QUIET = {"cores": 2, "others": 0.01, "stolen": 0.0, "switches": 3.0, "threads": 2}


def outcome(samples: Iterable[float], steady: bool = True, warmup: int = 20, **more: Any) -> dict[str, Any]:
    """What a measuring process answers; `more` replaces what stands for a quiet machine."""
    conditions = {**QUIET, **{name: more.pop(name) for name in list(more) if name in QUIET}}
    usual = {"device": [], "properties": {"runtime": "fake"}, "peak_rss_mb": None, "energy_mj": None}
    return {"samples": list(samples), "steady": steady, "warmup": warmup, "conditions": conditions, **usual, **more}


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[dict[str, Any]]], list[Subject]]:
    """Lets the measuring processes answer what a list says, one after the other; gives the subjects they were for."""

    def script(given: list[dict[str, Any]]) -> list[Subject]:
        asked: list[Subject] = []
        left = iter(given)

        def answer(task: str, subject: Subject) -> dict[str, Any]:
            asked.append(subject)
            return {"batch": subject.batch, **next(left)}

        monkeypatch.setattr(measuring, "_in_a_process", answer)
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
    assert latency.rounds == [80, 80, 80]
    assert latency.p50_interval is not None
    assert latency.p50_interval[0] < latency.p50 < latency.p50_interval[1]
    assert (latency.p999, latency.device_p50, latency.peak_rss_mb, latency.energy_mj) == (None, None, None, None)


@pytest.mark.parametrize("calls", [999, 1000])
def test_the_last_percentile_takes_a_thousand_calls(
    calls: int, answers: Callable[[list[dict[str, Any]]], list[Subject]]
) -> None:
    samples = np.random.default_rng(0).gamma(50, 0.2, calls)
    answers([outcome(samples)])
    (found,) = measure([Subject(Path("x.onnx"), CPU)], rounds=1)
    assert found.latency.p999 == (None if calls < 1000 else pytest.approx(np.percentile(samples, 99.9)))


def test_what_the_runtime_and_the_machine_tell_is_shown_and_what_they_do_not_is_said_to_be_absent(
    answers: Callable[[list[dict[str, Any]]], list[Subject]],
) -> None:
    rates = [
        {"batch": batch, "streams": streams, "images_per_second": 100.0 * batch}
        for streams in (1, 2)
        for batch in (1, 4)
    ]
    told = {"device": [9.0] * 50, "peak_rss_mb": 120.0, "energy_mj": 30.0}
    answers(
        [outcome([10.0] * 50, **told), outcome([10.0] * 50, **{**told, "peak_rss_mb": 90.0}), {"throughputs": rates}]
    )
    (full,) = measure([Subject(Path("x.onnx"), CPU)], rounds=2, throughputs=True)
    assert (full.latency.device_p50, full.latency.peak_rss_mb, full.latency.energy_mj) == (9.0, 120.0, 30.0)
    assert [one.model_dump() for one in full.latency.throughputs] == rates
    shown = text(full)
    assert "not available" in shown.splitlines()[0]  # p99.9
    assert shown.count("not available") == 1
    for figure in (
        "p50 9.00 ms",
        "images/s 100.0 at batch 1, 400.0 at batch 4; 2 calls at once",
        "120 MB",
        "30.0 mJ an image",
    ):
        assert figure in shown
    answers([outcome([10.0, 20.0] * 40)])
    (bare,) = measure([Subject(Path("x.onnx"), CPU)], rounds=1)
    assert text(bare).count("not available") == 4
    assert text(bare).splitlines()[-1].strip() == bare.latency.notes[0]


def test_a_trend_is_kendalls_and_only_within_series() -> None:
    random = np.random.default_rng(1)
    rising = [[10.0 * start + step for step in range(BLOCKS)] for start in (3, 1, 2)]
    # S is n (n - 1) / 2 a series where all pairs agree; its variance n (n - 1) (2 n + 5) / 18.
    assert trend(rising) == pytest.approx(3 * 28 / np.sqrt(3 * 8 * 7 * 21 / 18))
    assert trend([one[::-1] for one in rising]) == pytest.approx(-trend(rising))
    assert trend([[1.0] * BLOCKS]) == 0.0
    steady = [abs(trend(random.normal(size=(5, BLOCKS)))) > 2.58 for _ in range(500)]
    assert np.mean(steady) < 0.03


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
        (
            [outcome([value] * 50) for value in (10.0, 10.3, 10.6)],
            "The median drifts by +6% from the first round to the last: clock or heat.",
        ),
        ([outcome(np.linspace(12.0, 10.0, 800))] * 3, "Calls drift by -15% within a round: clock or heat."),
        (
            [outcome([10.0] * 50, properties={"runtime": "fake", "version": version}) for version in ("1", "2")],
            "The rounds did not run alike: version was 1 and 2.",
        ),
        (
            [outcome([10.0] * 50, properties={"threads": "1"})],
            "The runtime took 1 threads, not the 2 that were asked for.",
        ),
        ([outcome([10.0] * 50, threads=4, switches=900.0)], "4 threads shared 2 cores: ask for fewer, with --threads."),
        ([outcome([10.0] * 50, threads=2, cores=1.5)] * 2, ""),
        (
            [outcome([10.0] * 50, threads=1, cores=1, properties={"threads": "2"})],
            "2 threads shared 1 cores: ask for fewer, with --threads.",
        ),
        (
            [outcome([10.0] * 50, others=0.7, switches=900.0), outcome([10.0] * 50)],
            "Other processes kept up to 0.7 of 2 cores busy.",
        ),
        ([outcome([10.0] * 50, stolen=0.2)], "Other guests of the host took up to 0.20 of 2 cores."),
        ([outcome([10.0] * 50, switches=400.0)], "Threads were put off their cores 400 times a second."),
        ([outcome([10.0] * 50, others=None, stolen=None, switches=None)], ""),
    ],
)
def test_what_makes_figures_doubtful_is_noted(
    rounds: list[dict[str, Any]], note: str, answers: Callable[[list[dict[str, Any]]], list[Subject]]
) -> None:
    answers(rounds)
    (found,) = measure([Subject(Path("x.onnx"), CPU, threads=2)], rounds=len(rounds))
    assert found.latency.notes == ([note] if note else [])
    assert found.latency.stable == (not note)


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
    assert 30 < (latency.peak_rss_mb or 0) < 1000


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_throughput_is_measured_at_each_batch_with_one_stream_and_with_one_for_each_thread(
    backend: str, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(backend)
    monkeypatch.setattr(module, "THROUGHPUT_SECONDS", 0.0)
    found = module.throughput(Subject(exported, Target(backend, "cpu"), threads=2))["throughputs"]
    assert [(one["streams"], one["batch"]) for one in found] == [(n, batch) for n in (1, 2) for batch in (1, 4, 16)]
    assert all(one["images_per_second"] > 0 for one in found)


def test_throughput_counts_the_images_of_the_timed_calls(
    clock: Callable[[Iterable[float]], Clock], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "THROUGHPUT_SECONDS", 0.45)
    made = clock(repeat(100.0))

    class Fake:
        streams = 1

        def stream(self, batches: Iterable[Any]) -> Iterator[Any]:
            for images in batches:
                made.call()
                yield images

    rate = module.images_per_second(Fake(), np.zeros((4, 3, 2, 2), np.float32))  # type: ignore[arg-type]
    assert rate == pytest.approx(4 / 0.1)
    assert made.calls == 1 + 5


@pytest.mark.parametrize("period", [300.0, 1000.0, 7000.0])
def test_what_slows_the_machine_for_longer_than_a_turn_slows_both_of_two_engines(
    period: float, clock: Callable[[Iterable[float]], Clock]
) -> None:
    """Half of the time a core is 1.4 times as slow: of seconds of either that would be any ratio from 0.79 to 1.54."""
    made = clock(())
    order = []

    def engine(milliseconds: float) -> Callable[[], None]:
        def call() -> None:
            slow = made.now % period > period / 2
            made.now += milliseconds * (1.4 if slow else 1)
            order.append(milliseconds)

        return call

    assert module.in_turn(engine(5.0), engine(5.5)) == pytest.approx(1.1)
    assert len(list(groupby(order))) == 2 * module.FOURS + 1, "A B B A A B B A ..."


def test_what_a_turn_leaves_behind_falls_out(clock: Callable[[Iterable[float]], Clock]) -> None:
    """The first four calls behind the other's, which are most of a turn, are slower."""
    made = clock(())
    row: list[float] = []

    def engine(milliseconds: float) -> Callable[[], None]:
        def call() -> None:
            if milliseconds not in row:
                row.clear()
            row.append(milliseconds)
            made.now += milliseconds * (1.3 if len(row) <= 4 else 1)

        return call

    assert module.in_turn(engine(5.0), engine(5.5)) == pytest.approx(1.1)


def test_slow_engines_get_fewer_turns(clock: Callable[[Iterable[float]], Clock]) -> None:
    made = clock(repeat(1000.0))
    assert module.in_turn(made.call, made.call) == 1
    assert made.calls == (1 + 3 * 4) * 3


def test_engines_of_two_batches_do_not_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"ratio": 1.25, "batches": [1, 1]}
    monkeypatch.setattr(measuring, "_in_a_process", lambda task, *subjects: found)
    both = [Subject(Path(name), CPU) for name in ("a.onnx", "big.onnx")]
    assert measuring.ratio(*both) == 1.25
    found["batches"] = [1, 4]
    with pytest.raises(UsageError, match=r"a\.onnx runs 1 images a call, big\.onnx 4"):
        measuring.ratio(*both)


def test_two_engines_are_measured_in_one_process(exported: Path) -> None:
    assert 0.2 < measuring.ratio(Subject(exported, CPU, threads=1), Subject(exported, CPU, threads=1)) < 5


def test_the_ratio_is_the_second_engines_to_the_first(
    clock: Callable[[Iterable[float]], Clock], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = clock(())

    class Scripted:
        def __init__(self, milliseconds: float) -> None:
            self.milliseconds = milliseconds

        def run(self, images: Any) -> None:
            made.now += self.milliseconds

    both = {"a": (Scripted(5.0), np.zeros(1)), "b": (Scripted(5.5), np.zeros(4))}
    monkeypatch.setattr(module, "_loaded", lambda subject: both[subject.path.name])
    found = module.ratio(Subject(Path("a"), CPU), Subject(Path("b"), CPU))
    assert found == {"ratio": pytest.approx(1.1), "batches": [1, 4]}


def test_an_engine_that_is_gone_is_named(exported: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.onnx"):
        measuring.ratio(Subject(exported, CPU), Subject(exported.with_name("gone.onnx"), CPU))


def test_a_fixed_batch_is_the_one_that_is_reported_and_no_other_can_be_asked_for(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgeres.export import export

    for name, value in {"SAMPLES": 5, "SECONDS": 0.0, "WARM_LONGEST": 0.05, "THROUGHPUT_SECONDS": 0.0}.items():
        monkeypatch.setattr(module, name, value)

    def request(path: Path, batch: int) -> str:
        return json.dumps({"path": str(path), "target": "onnxruntime:cpu", "batch": batch, "threads": 1})

    path = export(checkpoint, tmp_path / "four.onnx", batch=4).path
    for batch, wanted in ((1, 4), (4, 4)):
        module.main("in_place", request(path, batch))
        answer = json.loads(capsys.readouterr().out)
        assert answer["batch"] == wanted
        assert answer["device"], "ONNX Runtime's own part takes calls of its own"
    module.main("throughput", request(path, 1))
    assert {one["batch"] for one in json.loads(capsys.readouterr().out)["throughputs"]} == {4}
    module.main("latency", request(path, 1))
    assert json.loads(capsys.readouterr().out)["device"] == [], "nobody asked for it"
    module.main("latency", request(path, 5))
    assert json.loads(capsys.readouterr().out)["error"] == "UsageError"
