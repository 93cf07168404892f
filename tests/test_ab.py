"""Two engines in turn: the test against its definition, its error rates whatever the noise, the order of measuring."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from report.example import built, cell, latency, report

from edgeres import ab, disk
from edgeres.ab import LOOKS, compare, decide, interval
from edgeres.errors import UsageError
from edgeres.gate import Outcome

PASSED, REGRESSED, INCONCLUSIVE = Outcome.PASSED, Outcome.REGRESSED, Outcome.INCONCLUSIVE


@pytest.mark.parametrize("n", [5, 10])
@pytest.mark.parametrize("alpha", [0.002, 0.01, 0.05, 0.2])
def test_the_bound_is_broken_as_rarely_as_the_signs_of_chance_say(n, alpha):
    """Every one of the 2^n equally likely signs of n differences: how often the bound lies above nothing."""
    values = np.random.default_rng(0).gamma(2, 1, n)
    trimmed = ab._trimmed(n, alpha)
    signs = np.array(list(itertools.product((-1, 1), repeat=n)))
    broken = np.mean([ab._walsh(one * values)[trimmed] > 0 for one in signs]) if trimmed >= 0 else 0
    wider = np.mean([ab._walsh(one * values)[trimmed + 1] > 0 for one in signs])
    assert broken <= alpha < wider


def noises(runs):
    """Logarithms of medians (runs, rounds, 2) of one engine: even, with outliers, of two speeds, and drifting."""
    random = np.random.default_rng(1)
    shape = (runs, LOOKS[-1], 2)
    yield 0.02 * random.standard_normal(shape)
    yield 0.01 * random.standard_normal(shape) + (random.random(shape) < 0.15) * random.exponential(0.5, shape)
    yield 0.06 * (random.random(shape) < 0.4) + 0.001 * random.standard_normal(shape)
    places = np.arange(2 * LOOKS[-1]).reshape(-1, 2)
    places[1::2] = places[1::2, ::-1]
    yield 0.004 * places + 0.02 * random.standard_normal(shape)


def test_the_same_engine_is_not_slower_than_itself():
    for rounds in noises(400):
        outcomes = [decide(ratios, 0).outcome for ratios in np.exp(rounds[..., 1] - rounds[..., 0])]
        assert outcomes.count(REGRESSED) <= 6  # 0.5 % are two; seven or more come of that once in 200 tries


def test_five_percent_are_caught():
    even, _, two_speeds, drifting = (1.05 * np.exp(rounds[..., 1] - rounds[..., 0]) for rounds in noises(100))
    for rounds in (even, two_speeds, drifting):
        assert [decide(ratios, 2.5).outcome for ratios in rounds].count(REGRESSED) > 95


WIDE = [float(ratio) for ratio in np.random.default_rng(0).permutation(np.linspace(0.9, 1.13, 40))]


def rounds(ratios):
    """Rounds of these ratios, and how many of them were taken."""
    for ratio in ratios:
        rounds.taken += 1
        yield ratio


@pytest.mark.parametrize(
    ("ratios", "outcome", "taken"),
    [
        ([1.05] * 40, REGRESSED, 10),
        ([0.9] * 40, PASSED, 10),
        ([1.01, 1.02] * 20, PASSED, 10),
        (WIDE, INCONCLUSIVE, 40),
        ([1.5, 0.8] * 20, INCONCLUSIVE, 40),
        ([1.04] * 9 + [0.9] + [1.04] * 30, REGRESSED, 20),
    ],
)
def test_rounds_are_taken_until_it_is_decided(ratios, outcome, taken):
    rounds.taken = 0
    found = decide(rounds(ratios), 2.5)
    assert (found.outcome, found.rounds, rounds.taken) == (outcome, taken, taken)
    assert found.low <= found.growth <= found.high


def test_rounds_that_end_decide_nothing():
    rounds.taken = 0
    with pytest.raises(ValueError, match="39"):
        decide(rounds(WIDE[:39]), 2.5)


@pytest.fixture
def measured(monkeypatch):
    """Every subject that was measured, in order; those named `slow` take a tenth longer."""
    asked = []

    def ratio(*both):
        asked.extend(both)
        one, other = (2.2 if "slow" in subject.path.name else 2.0 for subject in both)
        return other / one

    monkeypatch.setattr(ab, "ratio", ratio)
    return asked


def test_engines_take_turns_at_being_the_first(measured):
    (verdict,) = compare(Path("a.onnx"), Path("slow.onnx"), 5, "onnxruntime:cpu", threads=3)
    assert verdict.outcome is REGRESSED
    assert verdict.measured == pytest.approx(10)
    names = [subject.path.stem for subject in measured]
    assert sorted(names) == ["a"] * 10 + ["slow"] * 10
    assert 3 <= names[::2].count("a") <= 7, "a coin says which is loaded first"
    assert {(str(subject.target), subject.threads) for subject in measured} == {("onnxruntime:cpu", 3)}
    assert compare(Path("slow.onnx"), Path("a.onnx"), 5, "onnxruntime:cpu")[0].outcome is PASSED


def folder(path, cells):
    path.mkdir()
    disk.write_json(path / "report.json", report(cells).model_dump(mode="json"))
    return path


def test_run_folders_are_compared_cell_by_cell(tmp_path, measured):
    fp32, int8 = (cell("a:b", p, engine=f"{p}.onnx", latency=latency(2.0, batch=2)) for p in ("fp32", "int8"))
    slow = int8.model_copy(update={"engine": "slow.onnx"})
    base = folder(tmp_path / "base", [fp32, int8, built("c:d", "int8"), cell("a:b", "fp16", latency=latency(1.0))])
    head = folder(tmp_path / "head", [slow, fp32, built("c:d", "int8")])
    found = {verdict.cell: verdict.outcome for verdict in compare(base, head, 5)}
    assert found == {"a:b fp32": PASSED, "a:b int8": REGRESSED, "a:b fp16": INCONCLUSIVE}
    assert {subject.path for subject in measured} == {
        base / "fp32.onnx", head / "fp32.onnx", base / "int8.onnx", head / "slow.onnx"
    }  # fmt: skip
    assert {subject.batch for subject in measured} == {2}


def test_what_cannot_be_compared_is_refused(tmp_path):
    nothing = folder(tmp_path / "nothing", [built("a:b", "int8")])
    with pytest.raises(UsageError, match="nothing has no measured engine"):
        compare(nothing, nothing, 5)
    for given in ((nothing, nothing, 5, "a:b"), (nothing, Path("a.onnx"), 5), (Path("a.onnx"), Path("a.onnx"), 5)):
        with pytest.raises(UsageError, match="two engines and their --target, or two run folders"):
            compare(*given)


def test_few_rounds_bound_nothing() -> None:
    ratios = [0.01 * turn for turn in range(10)]
    assert interval(ratios[:9])[1:] == (-100.0, np.inf)
    growth, low, high = interval(ratios)
    # Of ten, one case in 1024 has all ratios on one side: the bounds are the smallest and the largest of them.
    assert (low, high) == pytest.approx((0.0, 100 * np.expm1(0.09)))
    assert low < growth < high
