"""Names that files bring, wherever they are shown: no terminal obeys them, no page and no spreadsheet runs them."""

import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from report.example import cell, report, solar
from rich.console import Console

from edgeres import annotations
from edgeres import report as reports
from edgeres.cli import main
from edgeres.figures import plain
from edgeres.gate import Outcome, Verdict
from edgeres.progress import Terminal
from edgeres.report import errors, html, terminal
from edgeres.schema import Report, Score
from edgeres.types import TensorError

CONTROLS = [*map(chr, [*range(9), *range(11, 32), *range(127, 160)]), "\u202e", "\u2066", "\u2028", "\udcff"]
EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\u202e"
"""Clears a screen, names a window, colours, goes back to the start of the line, turns it round."""
MARKUP = (
    """x"y'z</script></title></desc><script>alert(1)</script><img src=x onerror=alert(2)><svg onload=alert(3)>]]>-->"""
)
HARMLESS = re.sub(r"""[<>"'&/=()\]]""", "x", MARKUP)
FIXED = ("schema_version", "status", "precision", "unit", "task", "thumbnail")


def named(value: Any, name: str) -> Any:
    """A report whose every text that is free is `name`."""
    if isinstance(value, dict):
        return {key: one if key in FIXED else named(one, name) for key, one in value.items()}
    if isinstance(value, list):
        return [named(one, name) for one in value]
    return name if isinstance(value, str) else value


def spoilt(name: str) -> Report:
    content = solar().model_dump(mode="json")
    scored = Score(name="mAP", value=0.5, images=4, dataset="x").model_dump()
    content["cells"][-1] |= {"accuracy": None, "scores": [scored]}
    return Report.model_validate(named(content, name))


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[Any] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, [name for name, _ in attrs]))

    def handle_endtag(self, tag: str) -> None:
        self.found.append(tag)


def test_no_name_changes_what_a_page_is_made_of() -> None:
    """Every text of a report at once, in elements, in attributes and inside SVG."""
    evil, harmless = (Tags(html.render(spoilt(name))).found for name in (MARKUP, HARMLESS))
    assert evil == harmless
    assert len(evil) > 500


@pytest.mark.parametrize("control", CONTROLS, ids=ascii)
def test_what_a_terminal_would_obey_is_spelled_out(control: str) -> None:
    assert plain(f"a{control}b") == f"a{control.encode('unicode_escape').decode()}b"


@pytest.mark.parametrize("name", ["schön", "日本語", "a\u00a0b", "क्\u200dष", "🙂", "two\nlines\ttab"])
def test_other_names_stay_as_they_are(name: str) -> None:
    assert plain(name) == name


def obeyed(shown: str) -> list[str]:
    return [character for character in shown if character in CONTROLS]


def test_no_table_brings_controls_to_a_terminal() -> None:
    file = io.StringIO()
    console = Console(file=file, width=120)
    terminal.show(spoilt(EVIL), console)
    errors.show([TensorError(EVIL, EVIL, 0, 9.0, 9.0, ())], console)
    progress = Terminal()
    progress.console = console
    progress.say(EVIL)
    shown = file.getvalue()
    assert obeyed(shown) == []
    assert shown.count("\\x1b") > 10


@pytest.mark.parametrize("suffix", [".html", ".md", ".csv"])
def test_no_file_brings_controls_to_whoever_shows_it(suffix: str) -> None:
    shown = reports.render(spoilt(EVIL), suffix).replace("\r\n", "\n")
    assert obeyed(shown) == []
    assert "\\x1b" in shown


def test_no_annotation_is_another_command() -> None:
    said = Verdict("size", f"{EVIL}\n::error::no", Outcome.REGRESSED, 3.0, 2.0, f"{EVIL}\n::error::no")
    assert obeyed(annotations.render([said])) == []
    assert annotations.render([said]).count("\n") == 1


def test_no_sentence_and_no_json_brings_controls_to_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.json").write_text(spoilt("a\x9b2Jb").model_dump_json())
    assert main(["report", str(tmp_path / "no\x1b[2J\nthing")]) == 2
    assert main(["report", str(tmp_path / "no\udcffthing")]) == 2
    assert main(["check", str(tmp_path), "-b", str(tmp_path), "--json"]) in (2, 4)
    shown = capsys.readouterr()
    assert obeyed(shown.out + shown.err) == []
    assert len(shown.err.splitlines()) == 3
    assert "no\\x1b[2J thing" in shown.err


def test_a_sentence_is_as_long_as_a_line_of_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "a" * 5000]) == 2
    said = capsys.readouterr().err
    assert len(said) < 1100
    assert said.endswith(".\n")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\N{FULLWIDTH EQUALS SIGN}"])
def test_no_heading_of_the_csv_is_a_formula(start: str) -> None:
    score = Score(name=f"{start}1+1", value=0.5, images=4, dataset="x")
    made = reports.render(report([cell("a:b", "fp32", scores=[score])]), ".csv")
    headings, line = csv.reader(io.StringIO(made, newline=""))
    assert any("1+1" in text for text in headings)
    assert not any(text.startswith(start) for text in (*headings, *line))


def test_a_picture_is_xml_whatever_tensors_are_called() -> None:
    made = errors.svg([TensorError(f"{EVIL}\0{MARKUP}", "x", 0, 9.0, 9.0, ())])
    assert f"\\x00{MARKUP}" in "".join(part.text or "" for part in ElementTree.fromstring(made).iter())
