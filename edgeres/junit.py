"""Verdicts as JUnit XML, which CI servers show: one test case for each rule and cell.

The elements are those of the Ant task, as Jenkins, GitLab and GitHub's actions read them.
"""

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from edgeres.gate import Outcome, Verdict


def render(verdicts: Sequence[Verdict], name: str) -> str:
    """A suite `name`: what regressed failed, what is inconclusive is an error, for it is no pass."""
    count = {outcome: str(sum(verdict.outcome is outcome for verdict in verdicts)) for outcome in Outcome}
    totals = {"failures": count[Outcome.REGRESSED], "errors": count[Outcome.INCONCLUSIVE]}
    suite = ElementTree.Element("testsuite", {"name": _text(name), "tests": str(len(verdicts)), **totals})
    kinds = {Outcome.REGRESSED: "failure", Outcome.INCONCLUSIVE: "error"}
    for verdict in verdicts:
        named = {"classname": _text(verdict.cell or name), "name": verdict.rule}
        case = ElementTree.SubElement(suite, "testcase", named)
        if verdict.outcome in kinds:
            said = {"type": verdict.outcome.value, "message": _text(verdict.sentence)}
            ElementTree.SubElement(case, kinds[verdict.outcome], said)
        else:
            ElementTree.SubElement(case, "system-out").text = _text(verdict.sentence)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _text(text: str) -> str:
    """Without the characters that XML 1.0 cannot hold, even escaped."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\N{REPLACEMENT CHARACTER}", text)
