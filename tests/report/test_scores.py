"""Scores of other tasks, wherever a report shows them."""

import csv
import io
import re

import pytest
from rich.console import Console

from edgeres.figures import MINUS
from edgeres.report import render, scores, table, terminal, words
from edgeres.schema import Cell, Report, Score

from .example import cell, latency, machine, report


def score(name: str, value: float, reference: float | None = None, interval: tuple[float, float] | None = None,
          unit: str = "share", **given: object) -> Score:  # fmt: skip
    values = {"unit": unit, "images": 800, "dataset": "5e" * 32} | given
    return Score.model_validate({"name": name, "value": value, "reference": reference, "interval": interval, **values})


def plain(lines: list[str]) -> list[str]:
    """With the hyphens of a keyboard."""
    return [line.replace(MINUS, "-") for line in lines]


def labels() -> Report:
    """A multi-label network on one runtime."""
    exact = cell("openvino:cpu", "fp32", latency=latency(12.0), scores=[score("mAP", 0.712, None, (0.69, 0.73))])
    found = [
        score("mAP", 0.7103, 0.712, (-0.004, -0.0001)),
        score("agreement", 0.9951, None, (0.993, 0.997)),
        score("exact agreement", 0.96),
    ]
    return made("multi-label", 12, [exact, cell("openvino:cpu", "int8", latency=latency(4.0), scores=found)])


def values() -> Report:
    def errors(mae: float, reference: float | None, interval: tuple[float, float]) -> list[Score]:
        return [score("MAE", mae, reference, interval, unit="", higher_is_better=False)]

    exact = cell("openvino:cpu", "fp32", latency=latency(12.0), scores=errors(0.0425, None, (0.04, 0.045)))
    int8 = cell("openvino:cpu", "int8", latency=latency(4.0), scores=errors(0.0438, 0.0425, (0.001, 0.0016)))
    return made("regression", 1, [exact, int8])


def vectors() -> Report:
    """Without labels: FP32 has no figure of its own."""
    int8 = [score("cosine", 0.998126, None, (0.998, 0.9983), unit=""), score("recall@1", 0.97)]
    cells = [
        cell("openvino:cpu", "fp32", latency=latency(12.0)),
        cell("openvino:cpu", "int8", latency=latency(4.0), scores=int8),
    ]
    return made("embedding", 2048, cells)


def maps() -> Report:
    """Feature maps, of which the second lost most; FP32 is all but exact."""
    cells = []
    for precision, ms, ratios in (("fp32", 12.0, (120.0, 118.0, 119.0)), ("int8", 4.0, (31.4, 22.6, 28.0))):
        given = [(name, value, "dB") for name, value in zip(("SQNR C2", "SQNR C3", "SQNR C4"), ratios, strict=True)]
        given.insert(1, ("cosine C2", 0.999, ""))
        found = [score(name, value, unit=unit) for name, value, unit in given]
        cells.append(cell("openvino:cpu", precision, latency=latency(ms), scores=found))
    return made("features", 3, cells)


def made(task: str, outputs: int, cells: list[Cell]) -> Report:
    found = report(cells, machine=machine())
    return found.model_copy(update={"model": found.model.model_copy(update={"task": task, "classes": outputs})})


def test_each_line_of_eval_says_how_sure_a_figure_is() -> None:
    assert plain(scores.lines(labels().cells[1].scores)) == [
        "mAP 71.03 %, FP32 71.20 %: -0.17 points (95 % -0.40 to -0.01), significant",
        "agreement 99.51 % (95 % 99.30 to 99.70)",
        "exact agreement 96.00 %",
    ]
    (line,) = plain(scores.lines(values().cells[1].scores))
    assert line == "MAE 0.0438, FP32 0.0425: +3.06 % (95 % +2.35 % to +3.76 %), significant"
    assert plain(scores.lines([score("mAP", 0.5, 0.5, (-0.01, 0.01))])) == [
        "mAP 50.00 %, FP32 50.00 %: 0.00 points (95 % -1.00 to +1.00), not significant"
    ]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.998126, "", "0.99813"), (0.9, "", "0.9"),
        (0.9999991, "", "1"), (1.0, "", "1"), (12.345678, "", "12.35"), (-0.00001, "", "-1e-05"),
        (0.5, "share", "50.00"), (31.46, "dB", "31.5"),
    ],
)  # fmt: skip
def test_figures_are_written_as_their_unit_asks(value: float, unit: str, text: str) -> None:
    assert plain([scores.write(value, unit)]) == [text]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (labels(), " and loses 0.17 points of mAP (71.03 % on 800 images)."),
        (values(), "; its MAE grows by 3.06 % (0.0438 on 800 images)."),
        (vectors(), "; its cosine is 0.99813 on 800 images."),
        (maps(), "; its SQNR C3 is 22.6 dB on 800 images."),
    ],
)
def test_the_verdict_is_about_the_headline(found: Report, said: str) -> None:
    (sentence,) = words.headlines(found)
    assert sentence.startswith("openvino:cpu int8 is 3.0")
    assert sentence.endswith(said)


def test_the_terminal_has_the_headline_where_top1_would_be() -> None:
    written = io.StringIO()
    terminal.show(labels(), Console(file=written, width=100))
    head, _, exact, int8, *_ = plain(written.getvalue().splitlines())
    assert re.split(r"\s{2,}", head.strip())[-4:] == ["mAP %", "change", "agreement %", "size MB"]
    assert exact.split()[-4:] == ["71.20", "—", "—", "44.8"]
    assert int8.split()[-4:] == ["71.03", "-0.17", "99.51", "11.4"]


def test_of_maps_the_table_shows_the_worst() -> None:
    written = io.StringIO()
    terminal.show(maps(), Console(file=written, width=100))
    head, _, exact, int8, *_ = written.getvalue().splitlines()
    assert "SQNR C3 dB" in head
    assert ("118.0" in exact, "22.6" in int8) == (True, True)
    assert '<text class="axis" x="0.0" y="12.0">SQNR of the worst map, dB</text>' in render(maps(), ".html")


def test_csv_has_a_column_for_each_score() -> None:
    exact, int8 = csv.DictReader(io.StringIO(render(labels(), ".csv")))
    assert (exact["mAP %"], exact["change"], exact["agreement %"]) == ("71.2", "", "")
    assert float(int8["mAP %"]) == pytest.approx(71.03)
    assert float(int8["change"]) == pytest.approx(-0.17)
    assert float(int8["exact agreement %"]) == 96


def test_markdown_has_a_line_for_each_score() -> None:
    (text,) = plain([render(labels(), ".md")])
    assert "| mAP % | change | agreement % | size MB |" in text
    assert "| `openvino:cpu` | int8 | mAP % | 71.03 | 71.20 | -0.17 | -0.40 to -0.01 | 800 |" in text
    assert "top-1" not in text.lower()
    assert "mAP: average precision of each label" in text


@pytest.mark.parametrize(
    ("found", "marks", "axis"), [(labels(), 2, "mAP, %"), (values(), 2, "MAE"), (vectors(), 1, "cosine")]
)
def test_the_page_draws_what_has_a_figure_and_is_about_no_top1(found: Report, marks: int, axis: str) -> None:
    page = render(found, ".html")
    picture = page[page.index('<svg class="pareto"') : page.index("</svg>", page.index('<svg class="pareto"'))]
    assert f'<text class="axis" x="0.0" y="12.0">{axis}</text>' in picture
    assert len(re.findall('<(?:circle class="int8"|rect class="fp32")', picture)) == marks
    assert "top-1" not in page.lower()
    assert {"multi-label": "12 labels", "regression": "1 value", "embedding": "2048 dimensions"}[
        found.model.task
    ] in page


def test_less_is_better_where_it_is_and_up_all_the_same() -> None:
    page = render(values(), ".html")
    places = dict(
        re.findall(r"<title>openvino:cpu (int8|fp32)[^<]*</title><(?:circle|rect)[^>]* c?y=\"([\d.]+)\"", page)
    )
    assert float(places["fp32"]) < float(places["int8"]), "the larger error stands lower"


def test_a_score_that_fp32_is_the_reference_of_is_called_so() -> None:
    first, second = table.rows(vectors())
    column = scores.columns([first, second])["cosine"]
    assert (column.words(first), column.words(second)) == ("reference", "0.99813")
