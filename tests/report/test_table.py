"""Speed-ups and drops against plain division and subtraction; how values are written."""

import numpy as np
import pytest

from edgeres import figures
from edgeres.report import table
from edgeres.types import Precision
from report.example import accuracy, built, cell, latency, report, solar


def row(made, name):
    return next(row for row in table.rows(made) if row.name == name)


def test_speedup_and_drop_are_against_fp32_of_the_same_target():
    made = solar()
    p50 = {f"{c.target} {c.precision}": c.latency.p50 for c in made.cells if c.latency}
    for target in ("onnxruntime:cpu", "openvino:cpu"):
        assert row(made, f"{target} int8").speedup == pytest.approx(p50[f"{target} fp32"] / p50[f"{target} int8"])
        assert row(made, f"{target} fp32").speedup == 1
        assert row(made, f"{target} fp32").drop is None
    assert row(made, "onnxruntime:cpu int8").drop == pytest.approx(100 * (545 - 544) / 656)
    assert row(made, "openvino:cpu int8").drop == pytest.approx(100 * (545 - 542) / 656)


def test_order_of_cells_does_not_matter():
    made = solar()
    turned = report(made.cells[::-1])
    assert sorted(table.rows(made), key=lambda r: r.name) == sorted(table.rows(turned), key=lambda r: r.name)


def test_speedup_without_fp32_is_against_fp16_and_says_so():
    fp16, int8 = cell("a:b", "fp16", latency=latency(4.0)), cell("a:b", "int8", latency=latency(2.0))
    found = row(report([int8, fp16]), "a:b int8")
    assert found.speedup == pytest.approx(fp16.latency.p50 / int8.latency.p50)
    assert found.speedup_over is Precision.FP16
    assert "fp16" in table.COLUMNS["speedup"].text(found)


@pytest.mark.parametrize(
    "other",
    [
        cell("x:y", "fp32", latency=latency(4.0)),
        cell("a:b", "fp32", latency=latency(4.0, batch=8)),
        built("a:b", "fp32"),
    ],
    ids=["another target", "another batch", "not measured"],
)
def test_no_speedup_against_what_cannot_be_compared(other):
    assert row(report([other, cell("a:b", "int8", latency=latency(2.0))]), "a:b int8").speedup is None


def test_drop_falls_back_to_the_first_fp32_on_the_same_images():
    cells = [
        cell("x:y", "fp32", accuracy=accuracy(90, 100, dataset="other")),
        cell("x:z", "fp32", accuracy=accuracy(80, 100)),
        cell("x:w", "fp32", accuracy=accuracy(70, 100)),
        cell("a:b", "int8", accuracy=accuracy(82, 100)),
        cell("a:c", "int8", accuracy=accuracy(40, 50)),
    ]
    found = row(report(cells), "a:b int8")
    assert (found.drop, found.drop_against) == (pytest.approx(-2), "x:z")
    assert row(report(cells), "a:c int8").drop is None


def test_values_are_written_to_three_digits():
    for value in np.geomspace(0.1, 900, 50):
        assert float(figures.number(value)) == pytest.approx(value, rel=0.0051)
    assert [figures.number(v) for v in (0.0456, 1.234, 12.34, 123.4)] == ["0.046", "1.23", "12.3", "123"]
    assert figures.points(-0.001) == "0.00"
    assert figures.points(-0.3) == "\N{MINUS SIGN}0.30"
    assert figures.megabytes(11_400_000) == "11.4"


@pytest.mark.parametrize(
    ("status", "written"), [("built", "not run"), ("failed", "failed"), ("measured", "not available")]
)
def test_what_was_not_measured_says_why_and_has_no_value(status, written):
    (found,) = table.rows(report([cell("a:b", "int8", status=status, size=None)]))
    for key in ("p50", "p99", "speedup", "top1", "interval", "drop", "agreement", "size"):
        assert table.COLUMNS[key].value(found) is None
        assert table.COLUMNS[key].text(found) == "—"
        assert table.COLUMNS[key].words(found) == written


def test_fp32_is_the_reference_of_what_is_against_it():
    found = row(solar(), "openvino:cpu fp32")
    for key in ("drop", "agreement", "agreement_interval", "lost", "p"):
        assert table.COLUMNS[key].words(found) == "reference"
    assert table.COLUMNS["device"].words(row(solar(), "onnxruntime:cpu fp32")) == "not available"


def test_spread_covers_the_whole_interval():
    (found,) = table.rows(report([cell("a:b", "fp32", accuracy=accuracy(99, 100))]))
    low, high = found.top1_interval
    written, half = table.COLUMNS["spread"].text(found).split(" ±")
    assert float(written) - float(half) <= low + 0.05
    assert float(written) + float(half) >= high - 0.05


def test_value_and_text_share_their_unit():
    for found in table.rows(solar()):
        for key in ("p50", "p90", "p99", "throughput", "top1", "agreement", "size"):
            value = table.COLUMNS[key].value(found)
            assert value is None or float(table.COLUMNS[key].text(found)) == pytest.approx(value, rel=0.01)
