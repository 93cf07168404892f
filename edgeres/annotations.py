"""Verdicts as annotations of GitHub Actions: lines that its runner shows beside the job and in the pull request.

The format is that of GitHub's "Workflow commands"; one step shows ten errors and ten warnings at most.
"""

from collections.abc import Sequence

from edgeres.figures import plain
from edgeres.gate import Outcome, Verdict

KINDS = {Outcome.REGRESSED: "error", Outcome.INCONCLUSIVE: "warning"}


def render(verdicts: Sequence[Verdict]) -> str:
    """A line for each verdict that is no pass: what regressed is an error, what is inconclusive a warning."""
    return "".join(
        f"::{KINDS[one.outcome]} title={_property(f'edgeres {one.rule} {one.cell}'.rstrip())}::{_text(one.sentence)}\n"
        for one in verdicts
        if one.outcome in KINDS
    )


def _text(text: str) -> str:
    return plain(text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A"))


def _property(text: str) -> str:
    return _text(text).replace(":", "%3A").replace(",", "%2C")
