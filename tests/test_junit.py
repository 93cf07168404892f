"""JUnit XML, read back."""

from xml.etree import ElementTree

import pytest

from edgeres import junit
from edgeres.gate import Outcome, Verdict


def verdict(outcome: Outcome, sentence: str = "a:b int8: size grew.", cell: str = "a:b int8") -> Verdict:
    return Verdict("size", cell, outcome, 1.0, 2.0, sentence)


def test_one_case_a_verdict_and_the_totals_are_theirs() -> None:
    made = [
        verdict(outcome) for outcome in (Outcome.PASSED, Outcome.REGRESSED, Outcome.INCONCLUSIVE, Outcome.REGRESSED)
    ]
    suite = ElementTree.fromstring(junit.render(made, "solar"))
    assert suite.attrib == {"name": "solar", "tests": "4", "failures": "2", "errors": "1"}
    cases = suite.findall("testcase")
    assert [(case.get("classname"), case.get("name")) for case in cases] == [("a:b int8", "size")] * 4
    assert [case[0].tag for case in cases] == ["system-out", "failure", "error", "failure"]
    for case, one in zip(cases, made, strict=True):
        assert one.sentence in (case[0].text, case[0].get("message"))


def test_a_rule_without_a_cell_is_a_case_of_the_report() -> None:
    (case,) = ElementTree.fromstring(junit.render([verdict(Outcome.INCONCLUSIVE, cell="")], "solar"))
    assert case.get("classname") == "solar"


@pytest.mark.parametrize("text", ["<a> & 'b' \"c\"", "]]>", "é \N{GREEK SMALL LETTER MU}", "a\nb"])
def test_any_text_survives(text: str) -> None:
    (case,) = ElementTree.fromstring(junit.render([verdict(Outcome.REGRESSED, text)], text))
    assert case[0].get("message") == text


@pytest.mark.parametrize("character", ["\0", "\x1b", "\ud800", "\ufffe"])
def test_what_xml_cannot_hold_is_replaced(character: str) -> None:
    (case,) = ElementTree.fromstring(junit.render([verdict(Outcome.PASSED, f"a{character}b")], "solar"))
    assert case[0].text == "a\N{REPLACEMENT CHARACTER}b"
