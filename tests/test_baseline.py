"""Baselines: they read back as the report, differ where a figure does, and refuse what would judge nothing."""

import pytest
from report.example import accuracy, cell, flip, latency, report, solar

from edgeres import baseline, gate
from edgeres import report as reports
from edgeres.errors import EdgeresError
from edgeres.schema import Score

RULES = {"top1_drop": 0.3, "size": "2%", "latency_p50": "5%"}


def one(**given):
    values = {"latency": latency(2.0), "accuracy": accuracy(900, 1000, agreement=0.99)} | given
    return report([cell("a:b", "int8", **values)], rules=RULES)


def lines(made):
    return baseline.render(made).splitlines()


def test_a_baseline_is_the_report_but_for_rounding_and_pictures(tmp_path):
    given = solar(rules=RULES)
    baseline.write(given, tmp_path / "a.json")
    found = reports.load(tmp_path / "a.json")
    assert gate.overall(gate.compare(given, found, RULES)) is gate.Outcome.PASSED
    assert gate.overall(gate.compare(found, given, RULES)) is gate.Outcome.PASSED
    assert baseline.render(found) == baseline.render(given)
    for mine, theirs in zip(found.cells, given.cells, strict=True):
        assert mine.digest == theirs.digest
        if mine.accuracy and mine.latency:
            assert mine.accuracy.top1 == pytest.approx(theirs.accuracy.top1, abs=1e-12)
            assert mine.latency.samples == pytest.approx(theirs.latency.samples, rel=1e-5)
            assert [x.name for x in mine.accuracy.flipped] == [x.name for x in theirs.accuracy.flipped]
            assert not any(x.thumbnail for x in mine.accuracy.flipped)


def test_a_drop_at_the_limit_is_still_at_it(tmp_path):
    """Of 654 images, 2 are 0.3058 points: rounding must not make more of them."""
    old, new = (one(accuracy=accuracy(right, 654)) for right in (503, 501))
    baseline.write(old, tmp_path / "a.json")
    limit = 100 * (old.cells[0].accuracy.top1 - new.cells[0].accuracy.top1)
    (verdict,) = gate.compare(new, reports.load(tmp_path / "a.json"), {"top1_drop": limit})
    assert verdict.outcome is gate.Outcome.PASSED


def test_each_process_has_a_line_and_what_does_not_change_stays():
    samples = [float(x) for x in range(10, 19)]
    timed = latency(2.0).model_copy(update={"samples": samples, "rounds": [4, 3, 2]})
    found = [line.strip() for line in lines(one(latency=timed))]
    assert {"10.0, 11.0, 12.0, 13.0,", "14.0, 15.0, 16.0,", "17.0, 18.0"} <= set(found)
    unknown = [line.strip() for line in lines(one(latency=timed.model_copy(update={"rounds": []})))]
    assert ", ".join(map(str, samples)) in unknown
    before, after = lines(one()), lines(one(size=12_000_000))
    assert len([1 for x, y in zip(before, after, strict=True) if x != y]) == 1


def test_flipped_images_take_a_line_each():
    flips = [flip(number) for number in range(3)]
    found = [line for line in lines(one(accuracy=accuracy(900, 1000, flipped=flips))) if "cell0" in line]
    assert len(found) == 3
    assert all("functional" in line for line in found)


def test_what_changes_is_told(tmp_path):
    out = tmp_path / "a.json"
    assert [change[:3] for change in baseline.changes(one(), out)][:1] == [("a:b int8", "p50 ms", "—")]
    baseline.write(one(), out)
    assert baseline.changes(one(), out) == []
    changed = one(size=12_000_000, accuracy=accuracy(901, 1000, agreement=0.99))
    assert baseline.changes(changed, out) == [
        ("a:b int8", "top-1 %", "90.00", "90.10"),
        ("a:b int8", "size MB", "11.4", "12.0"),
    ]
    assert ("a:b int8", "size MB", "11.4", "—") in baseline.changes(report([cell("n:w", "fp32")]), out)


def test_a_baseline_of_another_version_is_replaced_whole(tmp_path):
    (tmp_path / "a.json").write_text('{"schema_version": "edgeres.report/1"}')
    assert {change[2] for change in baseline.changes(one(), tmp_path / "a.json")} == {"—"}


@pytest.mark.parametrize(
    ("flaw", "said"),
    [
        ({"status": "failed", "message": "refused."}, r"a:b int8 failed \(refused\)"),
        ({"latency": latency(2.0, stable=False, notes=["Others ran."])}, r"doubtful \(Others ran\)"),
        ({"latency": latency(2.0).model_copy(update={"p50": float("nan")})}, "latency_p50"),
        ({"accuracy": None}, "top1_drop"),
    ],
)
def test_what_judges_nothing_is_no_baseline(flaw, said, tmp_path):
    with pytest.raises(EdgeresError, match=said):
        baseline.changes(one(**flaw), tmp_path / "a.json")


def test_without_a_rule_nothing_need_be_there(tmp_path):
    unsteady = one(latency=latency(2.0, stable=False), accuracy=None).model_copy(update={"rules": {}})
    assert baseline.changes(unsteady, tmp_path / "a.json")


def test_a_score_that_changes_is_told_once(tmp_path):
    def told(agreement, drop):
        given = {"images": 9, "dataset": "d", "unit": "share"}
        found = [Score(name="mAP", value=0.5 - drop, reference=0.5, **given)]
        return report([cell("a:b", "int8", scores=[*found, Score(name="agreement", value=agreement, **given)])])

    baseline.write(told(0.99, 0.0123456789), tmp_path / "b.json")
    assert baseline.changes(told(0.98, 0.0123456789), tmp_path / "b.json") == [
        ("a:b int8", "agreement %", "99.00", "98.00")
    ]
    assert reports.load(tmp_path / "b.json").cells[0].scores[0].value == pytest.approx(0.4876543211, abs=1e-12)
