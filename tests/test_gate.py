"""The gate: each rule, each reason for not knowing, and its error rates in simulated comparisons."""

import math

import numpy as np
import pytest
from report.example import accuracy, built, cell, latency, machine, report, solar, timed

from edgeres import gate
from edgeres.errors import UsageError
from edgeres.gate import Outcome, Verdict

PASSED, REGRESSED, INCONCLUSIVE = Outcome.PASSED, Outcome.REGRESSED, Outcome.INCONCLUSIVE
ALL = {
    "top1_drop": 0.3,
    "agreement": 0.97,
    "latency_p50": "5%",
    "latency_p90": "10%",
    "latency_p99": "+20 %",
    "size": "+2%",
}


def one(**given):
    """A report of one INT8 cell."""
    values = {"latency": latency(2.0), "accuracy": accuracy(900, 1000, agreement=0.99)} | given
    return report([cell("a:b", "int8", **values)])


def judged(made, baseline, **rules):
    """The only verdict."""
    (verdict,) = gate.compare(made, baseline, rules)
    return verdict


def test_a_report_passes_against_itself_by_every_rule():
    verdicts = gate.compare(solar(), solar(), ALL)
    assert gate.overall(verdicts) is PASSED
    assert {(v.rule, v.cell) for v in verdicts} >= {(rule, "openvino:cpu int8") for rule in ALL}
    # What neither report measured is held to nothing but its size.
    assert {v.rule for v in verdicts if v.cell.startswith("tensorrt")} == {"size"}
    assert {v.cell for v in verdicts if v.rule == "agreement"} == {"onnxruntime:cpu int8", "openvino:cpu int8"}


@pytest.mark.parametrize(
    ("rule", "limit", "worse", "measured"),
    [
        ("top1_drop", 0.3, {"accuracy": accuracy(896, 1000, agreement=0.99)}, 0.4),
        ("agreement", 0.98, {"accuracy": accuracy(900, 1000, agreement=0.979)}, 0.979),
        ("latency_p50", "5%", {"latency": latency(2.2)}, 10),
        ("latency_p90", "5%", {"latency": latency(2.2)}, 10),
        ("latency_p99", "5%", {"latency": latency(2.2, calls=1200)}, None),
        ("size", "+2%", {"size": 11_700_000}, 100 * 3 / 114),
    ],
)
def test_each_rule_catches_its_regression_and_no_other_does(rule, limit, worse, measured):
    made, baseline = one(**worse), one(latency=latency(2.0, calls=len(worse.get("latency", latency(2)).samples)))
    verdict = judged(made, baseline, **{rule: limit})
    assert verdict.outcome is REGRESSED
    assert measured is None or verdict.measured == pytest.approx(measured, abs=0.05)
    assert verdict.cell == "a:b int8"
    assert verdict.sentence.startswith("a:b int8: ")
    assert judged(baseline, made, **{rule: limit}).outcome is PASSED
    kind = rule.split("_")[0]
    others = {other: value for other, value in ALL.items() if other.split("_")[0] != kind}
    assert gate.overall(gate.compare(made, baseline, others)) is PASSED


@pytest.mark.parametrize(
    ("rule", "limit", "given"),
    [
        ("top1_drop", 0.3, {"accuracy": accuracy(897, 1000)}),
        ("top1_drop", 0, {}),
        ("agreement", 0.99, {}),
        ("size", "2%", {"size": 11_400_000 * 102 // 100}),
        ("latency_p50", "0%", {}),
    ],
)
def test_at_the_limit_is_within_it(rule, limit, given):
    assert judged(one(**given), one(), **{rule: limit}).outcome is PASSED


UNLIKE = {
    "cpu": machine(cpu="another"),
    "cores": machine(cores=64),
    "features": machine(features=["avx2"]),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_another_machine_says_nothing_of_latency_only(name):
    made = one(latency=latency(9.0), size=12_000_000)
    other = one().model_copy(update={"machine": UNLIKE[name]})
    assert judged(made, other, latency_p50="5%").outcome is INCONCLUSIVE
    assert judged(made, other, latency_p50="5%").measured is None
    assert judged(made, other, size="2%").outcome is REGRESSED
    assert judged(made, other, top1_drop=0.3).outcome is PASSED


def test_packages_may_differ_on_one_machine():
    other = one().model_copy(update={"machine": machine(packages={"openvino": "2027"})})
    assert judged(one(), other, latency_p50="5%").outcome is PASSED


@pytest.mark.parametrize("other", [accuracy(900, 1000, dataset="other"), accuracy(450, 500)])
def test_other_images_say_nothing_of_top1(other):
    made = one(accuracy=other.model_copy(update={"agreement": 0.9}))
    assert judged(made, one(), top1_drop=0.3).outcome is INCONCLUSIVE
    assert judged(made, one(), agreement=0.98).outcome is REGRESSED
    assert judged(made, one(), latency_p50="5%").outcome is PASSED


@pytest.mark.parametrize("rule", ["top1_drop", "latency_p50", "size"])
def test_another_number_of_classes_is_another_task(rule):
    other = one()
    other = other.model_copy(update={"model": other.model.model_copy(update={"classes": 1000})})
    assert judged(one(), other, **{rule: ALL[rule]}).outcome is INCONCLUSIVE


@pytest.mark.parametrize("rule", ALL)
def test_what_the_baseline_has_must_be_there(rule):
    gone = [
        report([]),
        report([cell("a:b", "int8", status="failed", message="refused.")]),
        report([cell("a:b", "fp16")]),
    ]
    if rule != "size":
        gone += [report([built("a:b", "int8")]), one(latency=None, accuracy=None)]
    for made in gone:
        verdicts = gate.compare(made, one(), {rule: ALL[rule]})
        assert gate.overall(verdicts) is INCONCLUSIVE
        assert "a:b int8" in [verdict.cell for verdict in verdicts]
    (failed, *_) = gate.compare(gone[1], one(), {rule: ALL[rule]})
    assert "refused" in failed.sentence


@pytest.mark.parametrize("rule", ALL)
def test_a_new_cell_passes_with_a_note_beside_what_was_compared(rule):
    new = cell("n:w", "int8", latency=latency(1.0), accuracy=accuracy(1, 1000, agreement=0.99))
    made = report([*one().cells, new])
    found = {verdict.cell: verdict for verdict in gate.compare(made, one(), {rule: ALL[rule]})}
    assert found["a:b int8"].measured is not None
    assert found["n:w int8"].outcome is PASSED
    assert "new, the baseline has n" in found["n:w int8"].sentence
    assert (found["n:w int8"].measured is None) == (rule != "agreement")


def test_agreement_is_asked_of_quantized_cells_only():
    made = report([*one().cells, cell("a:b", "fp16", accuracy=accuracy(900, 1000, agreement=0.5))])
    assert judged(made, made, agreement=0.98).cell == "a:b int8"


def test_a_new_cell_is_held_to_the_rule_that_needs_no_baseline():
    made = report([cell("n:w", "int8", accuracy=accuracy(900, 1000, agreement=0.5))])
    assert judged(made, report([]), agreement=0.98).outcome is REGRESSED


@pytest.mark.parametrize("rule", ALL)
def test_a_rule_that_judged_nothing_is_not_a_pass(rule):
    nothing = report([cell("a:b", "int8", status="failed")])
    assert gate.overall(gate.compare(nothing, nothing, {rule: ALL[rule]})) is INCONCLUSIVE
    if rule != "agreement":
        assert gate.overall(gate.compare(one(), report([]), {rule: ALL[rule]})) is INCONCLUSIVE


def test_batches_are_not_compared():
    made = one(latency=latency(9.0, batch=4))
    assert judged(made, one(), latency_p50="5%").outcome is INCONCLUSIVE


@pytest.mark.parametrize("figure", [float("nan"), float("inf"), 0.0])
def test_a_figure_that_is_none_is_missing(figure):
    bad = one(latency=latency(2.0).model_copy(update={"p50": figure}))
    assert judged(bad, one(), latency_p50="5%").outcome is INCONCLUSIVE
    assert gate.overall(gate.compare(one(), bad, {"latency_p50": "5%"})) is INCONCLUSIVE


def test_growth_of_unsteady_or_few_samples_is_inconclusive():
    slow = latency(3.0)
    assert judged(one(latency=slow), one(), latency_p50="5%").outcome is REGRESSED
    unsteady = slow.model_copy(update={"stable": False})
    assert judged(one(latency=unsteady), one(), latency_p50="5%").outcome is INCONCLUSIVE
    assert judged(one(latency=slow), one(latency=latency(2.0, stable=False)), latency_p50="5%").outcome is INCONCLUSIVE
    assert judged(one(latency=latency(3.0, calls=19)), one(), latency_p50="5%").outcome is INCONCLUSIVE
    assert judged(one(latency=latency(3.0, calls=20)), one(), latency_p50="5%").outcome is REGRESSED
    assert judged(one(latency=slow), one(), latency_p99="5%").outcome is INCONCLUSIVE
    assert judged(one(latency=slow.model_copy(update={"samples": []})), one(), latency_p50="5%").outcome is INCONCLUSIVE


def test_growth_without_significance_is_inconclusive():
    """Two speeds in turn, 1 and 2 ms: the median may be either."""
    ours = timed([1.0, 2.0] * 50 + [2.0])
    theirs = timed([1.0, 2.0] * 50 + [1.0])
    verdict = judged(one(latency=ours), one(latency=theirs), latency_p50="5%")
    assert verdict.outcome is INCONCLUSIVE
    assert verdict.measured == pytest.approx(100)


def test_regressed_wins_over_inconclusive():
    def verdict(outcome):
        return Verdict("size", "a:b int8", outcome, 1.0, 2.0, "")

    assert gate.overall([verdict(PASSED), verdict(INCONCLUSIVE), verdict(REGRESSED)]) is REGRESSED
    assert gate.overall([verdict(PASSED), verdict(INCONCLUSIVE)]) is INCONCLUSIVE
    assert gate.overall([verdict(PASSED)]) is PASSED
    assert gate.overall([]) is INCONCLUSIVE


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({}, r"\[check\]"),
        ({"latency_p51": "5%"}, "latency_p99"),
        ({"latency_p50": 5}, "percentage"),
        ({"latency_p50": "5"}, "percentage"),
        ({"latency_p50": "-5%"}, "percentage"),
        ({"latency_p50": "five%"}, "percentage"),
        ({"size": "nan%"}, "percentage"),
        ({"top1_drop": "0.3%"}, "points"),
        ({"top1_drop": -1}, "points"),
        ({"top1_drop": True}, "points"),
        ({"top1_drop": math.inf}, "points"),
        ({"agreement": 98}, "share"),
        ({"agreement": math.nan}, "share"),
        ({"agreement": []}, "share"),
    ],
)
def test_rules_that_cannot_be_read(rules, said):
    with pytest.raises(UsageError, match=said):
        gate.compare(one(), one(), rules)


def test_interval_agrees_with_the_normal_approximation():
    """The standard error of the logarithm of a median of n log-normal samples is sigma sqrt(pi / 2n)."""
    sigma, n = 0.1, 2000
    random = np.random.default_rng(1)
    ours, theirs = np.exp(sigma * random.standard_normal((2, n)))
    low, high = gate.ratio_interval(1.2 * ours, theirs, 50)
    half = 2.5758 * sigma * math.sqrt(math.pi / n)
    assert low < 1.2 < high
    assert math.log(high / low) == pytest.approx(2 * half, rel=0.2)


def test_interval_widens_for_calls_that_resemble_their_neighbours():
    random = np.random.default_rng(2)
    lone = np.exp(0.1 * random.standard_normal((2, 50)))
    alike = np.repeat(lone, 10, axis=1)
    low, high = gate.ratio_interval(*alike, 50)
    shuffled = [random.permutation(series) for series in alike]
    narrow_low, narrow_high = gate.ratio_interval(*shuffled, 50)
    assert high - low > 1.5 * (narrow_high - narrow_low)


def test_interval_is_the_same_each_time():
    ours, theirs = latency(2.0, seed=1).samples, latency(2.0, seed=2).samples
    assert gate.ratio_interval(ours, theirs, 90) == gate.ratio_interval(ours, theirs, 90)


def test_long_series_are_resampled_in_pieces():
    series = np.random.default_rng(0).gamma(50, 0.02, 30_000)
    low, high = gate.ratio_interval(series, series, 50)
    assert 0.99 < low < 1 < high < 1.01


NOISES = {
    "skewed": lambda random, n: 2 + 0.1 * random.gamma(2, 1, n),
    "spikes": lambda random, n: 2 + 0.05 * random.gamma(2, 1, n) + (random.random(n) < 0.05) * random.exponential(5, n),
    "two modes": lambda random, n: np.where(random.random(n) < 0.7, 2.0, 2.6) * (1 + 0.02 * random.standard_normal(n)),
    "wide": lambda random, n: 2 * np.exp(0.3 * random.standard_normal(n)),
}


def outcomes(noise, factor, count, n=200):
    """Verdicts on `count` pairs of reports whose timings differ by a factor, and by noise."""
    random = np.random.default_rng(11)
    found = []
    for _ in range(count):
        theirs, ours = noise(random, n), factor * noise(random, n)
        found.append(judged(one(latency=timed(ours)), one(latency=timed(theirs)), latency_p50="5%").outcome)
    return found


def test_the_same_engine_measured_twice_is_not_a_regression():
    found = [outcome for noise in NOISES.values() for outcome in outcomes(noise, 1.0, 100)]
    assert found.count(REGRESSED) / len(found) < 0.01


@pytest.mark.parametrize("noise", ["skewed", "spikes"])
def test_a_slowdown_of_ten_percent_is_caught(noise):
    found = outcomes(NOISES[noise], 1.1, 100)
    assert found.count(REGRESSED) / len(found) > 0.95
