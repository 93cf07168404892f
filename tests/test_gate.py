"""The gate: each rule, each reason for not knowing, and its error rates in simulated comparisons."""

import math

import numpy as np
import pytest
from report.example import accuracy, built, cell, latency, machine, report, solar, timed

from edgeres import gate, significance
from edgeres.errors import UsageError
from edgeres.gate import Outcome, Verdict
from edgeres.schema import McNemar, Score

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
    verdicts = gate.compare(solar(), solar(), ALL | {"agreement": 0.95})
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
    """Processes of two speeds, 1 and 2 ms: the median may be either."""
    ours = timed([1.0] * 20 + [2.0] * 21, rounds=[10, 10, 10, 11])
    theirs = timed([1.0] * 21 + [2.0] * 20, rounds=[11, 10, 10, 10])
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


def test_interval_is_students_of_what_each_process_says():
    """Worked by hand: logs of the medians 0, 1, 2 and 3, 4, 5 percent; pooled variance 1, t of 99 % and 4 is 4.604."""
    base, head = ([np.full(9 * x + 5, math.exp(x / 100)) for x in logs] for logs in ((0, 1, 2), (3, 4, 5)))
    low, high = significance.ratio_interval(head, base, 50)
    half = 4.6041 * math.sqrt(2 / 3)
    assert [100 * math.log(low), 100 * math.log(high)] == pytest.approx([3 - half, 3 + half], abs=1e-3)


@pytest.mark.parametrize("rounds", [[], [400], [200, 200], [399, 0, 1], [200, 200, 200]])
def test_growth_is_not_sure_where_processes_are_few_or_not_told_apart(rounds):
    slow, usual = (latency(ms).model_copy(update={"rounds": rounds}) for ms in (3.0, 2.0))
    for ours, theirs in ((slow, usual), (slow, latency(2.0)), (latency(3.0), usual)):
        verdict = judged(one(latency=ours), one(latency=theirs), latency_p50="5%")
        assert verdict.outcome is INCONCLUSIVE
        assert "3 processes" in verdict.sentence


@pytest.mark.parametrize(("p", "outcome"), [(0.3, INCONCLUSIVE), (0.04, REGRESSED), (None, REGRESSED)])
def test_a_drop_of_a_cell_that_is_not_surely_worse_than_fp32_is_inconclusive(p, outcome):
    mcnemar = McNemar(lost=9, gained=5, p=p) if p else None
    made = one(accuracy=accuracy(896, 1000, mcnemar=mcnemar))
    assert judged(made, one(), top1_drop=0.3).outcome is outcome
    assert judged(made, one(), top1_drop=0.5).outcome is PASSED
    other = one()  # of another network: FP32 beside it says nothing of the loss
    other = other.model_copy(update={"model": other.model.model_copy(update={"digest": "0" * 64})})
    assert judged(made, other, top1_drop=0.3).outcome is REGRESSED


def outcomes(factor, count, shift, n=200, processes=5):
    """Verdicts on `count` pairs of reports: processes differ by `shift`, calls follow their neighbours (0.9)."""
    random = np.random.default_rng(11)
    logs = 0.03 * random.standard_normal((count, 2, processes, n))
    for call in range(1, n):
        logs[..., call] = 0.9 * logs[..., call - 1] + (1 - 0.9**2) ** 0.5 * logs[..., call]
    logs += shift * random.standard_normal((count, 2, processes, 1))
    spikes = (random.random(logs.shape) < 0.05) * random.exponential(1, logs.shape)
    found = []
    for theirs, ours in 2 * np.exp(logs) * (1 + spikes):
        made = (timed(x.ravel(), rounds=[n] * processes) for x in (factor * ours, theirs))
        ours, theirs = (one(latency=x) for x in made)
        found.append(judged(ours, theirs, latency_p50="2.5%").outcome)
    return found


@pytest.mark.parametrize("shift", [0.0, 0.02])
def test_the_same_engine_measured_twice_is_not_a_regression(shift):
    assert outcomes(1.0, 400, shift).count(REGRESSED) <= 4


def test_a_slowdown_is_caught_and_more_of_it_in_more_processes():
    assert outcomes(1.1, 100, 0.01).count(REGRESSED) > 95
    assert outcomes(1.05, 100, 0.01, processes=10).count(REGRESSED) > 95


def told(name, value, reference=None, interval=None, **given):
    """A report of one INT8 cell that is told by a score."""
    values = {"name": name, "value": value, "reference": reference, "interval": interval, "images": 500} | given
    return report([cell("a:b", "int8", scores=[Score(dataset="d", **values)])])


def share(name, value, reference=None, interval=(-0.02, -0.01)):
    return told(name, value, reference, interval, unit="share")


def error(value, interval=(0.1, 0.2), **given):
    return told("MAE", value, 2.0, interval, higher_is_better=False, **given)


@pytest.mark.parametrize(
    ("rule", "limit", "good", "bad", "measured", "said"),
    [
        ("map_drop", 0.3, share("mAP", 0.9, 0.9), share("mAP", 0.89, 0.9), 1.0, "mAP lost 1.00 points, more than 0.3"),
        ("mae_rise", "1%", error(2.0), error(2.1), 5.0, "MAE grew by 5.0 %, more than 1 % (2 to 2.1)"),
        ("cosine", 0.99, told("cosine", 0.9901), told("cosine", 0.9899), 0.9899, "cosine to FP32 of 0.98990, below"),
        ("recall_at_1", 0.95, share("recall@1", 0.95), share("recall@1", 0.9), 0.9, "for 90.00%, below 95.00%"),
        ("agreement", 0.95, share("agreement", 0.95), share("agreement", 0.9), 0.9, "agrees with FP32 on 90.00%"),
    ],
)
def test_each_task_has_its_rules(rule, limit, good, bad, measured, said):
    assert judged(good, good, **{rule: limit}).outcome is PASSED
    assert judged(bad, good, **{rule: limit}).outcome is REGRESSED
    assert judged(bad, good, **{rule: limit}).measured == pytest.approx(measured)
    assert said in judged(bad, good, **{rule: limit}).sentence
    assert judged(good, bad, **{rule: limit}).outcome is PASSED
    assert gate.overall(gate.compare(solar(), solar(), {rule: limit})) is (
        PASSED if rule == "agreement" else INCONCLUSIVE
    )


@pytest.mark.parametrize(
    ("made", "baseline", "rule"),
    [
        (share("mAP", 0.89, 0.9, (-0.02, 0.001)), share("mAP", 0.9, 0.9), {"map_drop": 0.3}),
        (error(2.1, (-0.01, 0.2)), error(2.0), {"mae_rise": "1%"}),
    ],
)
def test_a_score_that_is_not_surely_worse_than_fp32_is_inconclusive(made, baseline, rule):
    assert judged(made, baseline, **rule).outcome is INCONCLUSIVE
    assert "not surely worse than FP32" in judged(made, baseline, **rule).sentence
    other = made.model_copy(update={"model": made.model.model_copy(update={"digest": "0" * 64})})
    assert judged(other, baseline, **rule).outcome is REGRESSED, "another network: FP32 itself may be worse"


def test_scores_of_other_images_or_another_task_say_nothing():
    assert judged(error(2.1, images=400), error(2.0), mae_rise="1%").outcome is INCONCLUSIVE
    other = error(2.0)
    other = other.model_copy(update={"model": other.model.model_copy(update={"task": "regression"})})
    assert (
        "the model is for classification, the baseline's for regression"
        in judged(error(2.1), other, mae_rise="1%").sentence
    )
