"""The sentences: what they claim must be what the rows hold."""

import pytest

from edgeres.report import table, words
from report.example import GPUS, accuracy, built, cell, latency, report, solar, timed


def pair(fp32, int8, right=(80, 80)):
    """An FP32 and an INT8 cell of constant latency."""
    return report(
        [
            cell("a:b", "fp32", latency=timed([fp32] * 30), accuracy=accuracy(right[0], 100)),
            cell("a:b", "int8", latency=timed([int8] * 30), accuracy=accuracy(right[1], 100)),
        ]
    )


@pytest.mark.parametrize(
    ("fp32", "int8", "said"),
    [
        (6.0, 2.0, "3.00\N{MULTIPLICATION SIGN} faster than fp32 (2.00 ms against 6.00 ms)"),
        (2.0, 3.0, "1.50\N{MULTIPLICATION SIGN} slower than fp32 (3.00 ms against 2.00 ms)"),
        (2.0, 2.004, "1.00\N{MULTIPLICATION SIGN} as fast as fp32"),
    ],
)
def test_pace(fp32, int8, said):
    assert said in words.verdict(pair(fp32, int8))[0]


@pytest.mark.parametrize(
    ("right", "said"),
    [
        ((80, 77), "loses 3.00 points of top-1 (77.00 % on 100 images)"),
        ((80, 81), "gains 1.00 points of top-1 (81.00 % on 100 images)"),
        ((80, 80), "keeps its top-1 (80.00 % on 100 images)"),
    ],
)
def test_loss(right, said):
    assert said in words.verdict(pair(2.0, 1.0, right))[0]


@pytest.mark.parametrize("unsteady", [0, 1])
def test_a_claim_on_unsteady_latency_says_so(unsteady):
    made = pair(2.0, 1.0)
    assert "not steady" not in words.verdict(made)[0]
    cells = list(made.cells)
    cells[unsteady] = cell("a:b", ("fp32", "int8")[unsteady], latency=timed([1.0] * 30, stable=False))
    assert words.verdict(report(cells))[0].endswith("The latency was not steady: measure again on a quiet machine.")


def test_best_is_the_fastest_of_each_runtime():
    cells = [
        cell("openvino:gpu", "int8", latency=latency(3.0)),
        cell("openvino:cpu", "int8", latency=latency(2.0)),
        cell("openvino:cpu", "fp32", latency=latency(1.0)),
        cell("onnxruntime:cpu", "int8", latency=latency(5.0)),
        built("tensorrt-rtx:sm86", "int8"),
    ]
    assert [row.name for row in words.best(table.rows(report(cells)))] == ["openvino:cpu int8", "onnxruntime:cpu int8"]


def test_nothing_measured_is_said():
    assert words.verdict(report([built("tensorrt-rtx:sm86", "int8")])) == [
        "No INT8 engine was measured.",
        "Built, not run on this machine: tensorrt-rtx:sm86 int8.",
    ]


def test_failures_are_in_the_verdict():
    made = report([cell("a:b", "int8", status="failed", message="no.")])
    assert words.verdict(made)[-1] == "Failed: a:b int8."


def test_another_targets_fp32_is_named():
    made = report(
        [
            cell("x:y", "fp32", accuracy=accuracy(80, 100)),
            cell("a:b", "int8", latency=latency(2.0), accuracy=accuracy(79, 100)),
        ]
    )
    assert "against x:y fp32" in words.verdict(made)[0]


def test_notes_are_said_once_for_all_cells_they_are_true_of():
    made = solar()
    (note,) = [note for note in words.notes(made) if "NVIDIA" in note]
    assert all(gpu in note for gpu in GPUS)
    assert "fp16, int8" in note


def test_built_without_a_message_and_unsteady_latency_are_noted():
    cells = [cell("a:b", "int8", status="built"), cell("a:c", "int8", latency=latency(2.0, stable=False))]
    notes = words.notes(report(cells))
    assert any("a:b" in note and "no reason" in note for note in notes)
    assert any("a:c" in note and "not steady" in note for note in notes)


def test_several_does_not_join_cells_of_unlike_precision():
    rows = table.rows(report([built("t:1", "fp16"), built("t:1", "int8"), built("t:2", "int8"), built("u:3", "int8")]))
    assert words.several(rows) == "t:1 (fp16, int8); t:2 int8; u:3 int8"


def test_every_digest_of_the_report_is_listed():
    made = solar()
    listed = {value for _, value in words.digests(made)}
    wanted = {made.model.digest, made.calibration["dataset"], *(cell.digest for cell in made.cells)}
    assert listed == wanted | {cell.accuracy.dataset for cell in made.cells if cell.accuracy}


def test_moment():
    assert words.moment("2026-01-15T10:30:59.123Z") == "2026-01-15 10:30 UTC"
    assert words.moment("yesterday") == "yesterday"


def test_an_emulated_engine_has_an_accuracy_and_no_latency():
    note = "its latency is not measured: emulated."
    emulated = cell("a:b@c", "int8", accuracy=accuracy(79, 100), message=note)
    made = report([*pair(2.0, 1.0).cells, emulated])
    assert (
        words.headlines(made)[1]
        == "a:b@c int8 has no latency and loses 1.00 points of top-1 against a:b fp32 (79.00 % on 100 images)."
    )
    assert f"a:b@c int8: {note}" in words.notes(made)
