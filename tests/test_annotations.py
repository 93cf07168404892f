"""Annotations, read as GitHub's runner reads them: https://github.com/actions/toolkit/blob/main/packages/core/src/command.ts."""

import re

import pytest

from edgeres import annotations
from edgeres.gate import Outcome, Verdict


def read(line: str) -> tuple[str, str, str]:
    """Kind, title and message of a workflow command."""
    found = re.fullmatch(r"::(\w+) title=([^:,]*)::(.*)", line)
    assert found, line
    kind, title, message = found.groups()
    for escaped, character in {"%0D": "\r", "%0A": "\n", "%3A": ":", "%2C": ",", "%25": "%"}.items():
        title = title.replace(escaped, character)
        message = message.replace(escaped, character)
    return kind, title, message


def verdict(outcome: Outcome, sentence: str = "it grew.", cell: str = "a:b int8") -> Verdict:
    return Verdict("size", cell, outcome, 1.0, 2.0, sentence)


def test_what_is_no_pass_is_annotated() -> None:
    made = [verdict(outcome) for outcome in (Outcome.REGRESSED, Outcome.PASSED, Outcome.INCONCLUSIVE)]
    assert [read(line) for line in annotations.render(made).splitlines()] == [
        ("error", "edgeres size a:b int8", "it grew."),
        ("warning", "edgeres size a:b int8", "it grew."),
    ]


@pytest.mark.parametrize("sentence", ["by 5 %, or 100%0A", "two\nlines\r\n::error::forged"])
def test_no_text_ends_its_line_or_begins_a_command(sentence: str) -> None:
    (line,) = annotations.render([verdict(Outcome.REGRESSED, sentence, cell="a,b:c")]).splitlines()
    assert read(line) == ("error", "edgeres size a,b:c", sentence)
