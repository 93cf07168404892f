"""What a terminal shows: width, markup, colour."""

import io

import pytest
from rich.console import Console

from edgeres.report import terminal
from report.example import accuracy, cell, latency, report, solar


def shown(made, width=80, **given):
    file = io.StringIO()
    terminal.show(made, Console(file=file, width=width, **given))
    return file.getvalue()


def test_fits_80_columns_with_every_target_whole():
    made = solar()
    text = shown(made)
    assert max(map(len, text.splitlines())) <= 80
    for found in made.cells:
        assert found.target in text
    assert "agree %" in text
    assert "size MB" in text
    assert "p99 ms" not in text


@pytest.mark.parametrize("width", [30, 60, 100, 200])
def test_folds(width):
    text = shown(solar(), width)
    assert max(map(len, text.splitlines())) <= width
    assert ("p99 ms" in text) == (width >= 100)


def test_speedup_over_fp16_does_not_squeeze_the_target_at_80_columns():
    target = "tensorrt-rtx:sm120"
    made = report(
        [
            cell(target, "fp16", latency=latency(4.0), accuracy=accuracy(545)),
            cell(target, "int8", latency=latency(2.0), accuracy=accuracy(540, agreement=0.99)),
        ]
    )
    assert target in shown(made).splitlines()[2]
    assert "vs fp16" in shown(made)


def test_each_message_once():
    assert " ".join(shown(solar()).split()).count("needs an NVIDIA GPU") == 1


def test_markup_in_names_is_printed_as_it_is():
    made = report([cell("a:[red]b[/]", "int8", status="failed", message="see [bold]x[/] and [nothing]")])
    text = shown(made, 120)
    assert "a:[red]b[/]" in text.splitlines()[2]
    assert "a:[red]b[/] int8 failed" in text
    assert "see [bold]x[/] and [nothing]" in text


def test_no_escape_codes_unless_the_console_has_them():
    assert "\x1b" not in shown(solar())
    assert "\x1b" in shown(solar(), force_terminal=True, color_system="standard", no_color=False)
