"""edgeres inside a suite that a team already has: `pytest --edgeres RECIPE [--edgeres-baseline REPORT]`.

The fixture `edgeres_report` is the report of that recipe, which is run once a session. With a baseline each rule of the
recipe's [check] becomes a test of its own, which passes where `edgeres check` does: inconclusive is no pass.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from edgeres.schema import Report

RECIPE, BASELINE = "--edgeres", "--edgeres-baseline"
_ACCEPTED = pytest.StashKey["Report"]()
_MADE = pytest.StashKey["Report | str"]()
"""The report, or why there is none: a run that fails is not repeated for each test."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("edgeres", "INT8 engines, made and held to a baseline")
    group.addoption(RECIPE, metavar="RECIPE", type=Path, help="The recipe (.toml) of the fixture edgeres_report.")
    group.addoption(BASELINE, metavar="REPORT", type=Path, help="An accepted report: each rule becomes a test.")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Read what is named before anything runs, and add the rules first, so that `-k` chooses among them too."""
    path, accepted = config.getoption(RECIPE), config.getoption(BASELINE)
    if not (path or accepted):
        return
    from edgeres import gate, recipe, report
    from edgeres.errors import EdgeresError

    if not path:
        raise pytest.UsageError(f"{BASELINE} needs the recipe that is held to it; give {RECIPE}.")
    try:
        rules = recipe.read(path).check
        if accepted:
            config.stash[_ACCEPTED] = report.load(accepted)
            gate.limits(rules)
            items += [Rule.from_parent(session, name=rule, nodeid=f"{path}::{rule}") for rule in rules]
    except EdgeresError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.fixture(scope="session")
def edgeres_report(request: pytest.FixtureRequest) -> "Report":
    """The report of the recipe after `--edgeres`, in build/NAME as `edgeres run` leaves it; skips without it."""
    if not request.config.getoption(RECIPE):
        pytest.skip(f"no recipe; give {RECIPE} RECIPE")
    return _report(request.config)


class Rule(pytest.Item):
    """One rule of [check], on all cells."""

    def runtest(self) -> None:
        from edgeres import gate

        found = _report(self.config)
        rules = {self.name: found.rules[self.name]}
        verdicts = gate.compare(found, self.config.stash[_ACCEPTED], rules)
        broken = [f"{one.outcome}: {one.sentence}" for one in verdicts if one.outcome is not gate.Outcome.PASSED]
        if broken:
            pytest.fail("\n".join(broken), pytrace=False)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.config.getoption(RECIPE), None, f"edgeres {self.name}"


def _report(config: pytest.Config) -> "Report":
    from edgeres import pipeline
    from edgeres.errors import EdgeresError

    if _MADE not in config.stash:
        try:
            config.stash[_MADE] = pipeline.run(config.getoption(RECIPE))
        except EdgeresError as error:
            config.stash[_MADE] = str(error)
    made = config.stash[_MADE]
    if isinstance(made, str):
        pytest.fail(made, pytrace=False)
    return made
