"""The plugin inside a suite of somebody else: what passes, fails and is skipped there."""

from collections.abc import Callable
from pathlib import Path

import pytest
from report.example import report, solar

from edgeres import baseline, pipeline
from edgeres.errors import InputError
from edgeres.schema import Report

pytest_plugins = ("pytester",)

RECIPE = """
targets = ["openvino:cpu"]
[model]
weights = "x.pth"
[data]
calibration = "images"
evaluation = "images"
[check]
top1_drop = 0.3
size = "+2%"
"""
SUITE = "def test_cells(edgeres_report): assert [cell.target for cell in edgeres_report.cells]"


def ruled(made: Report) -> Report:
    """With the rules of RECIPE."""
    return made.model_copy(update={"rules": {"top1_drop": 0.3, "size": "+2%"}})


Runs = Callable[..., pytest.RunResult]


@pytest.fixture
def runs(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Runs a suite of one test beside an accepted report; the recipe gives `made`, or raises it."""
    pytester.makepyfile(SUITE)
    Path("mine.toml").write_text(RECIPE, encoding="utf-8")
    Path("bare.toml").write_text(RECIPE.partition("[check]")[0], encoding="utf-8")
    baseline.write(ruled(solar()), Path("accepted.json"))
    calls: list[Path] = []

    def run(made: Report | Exception, *arguments: str) -> pytest.RunResult:
        def answer(path: Path) -> Report:
            calls.append(path)
            if isinstance(made, Exception):
                raise made
            return ruled(made)

        monkeypatch.setattr(pipeline, "run", answer)
        found = pytester.runpytest_inprocess(*arguments)
        assert len(calls) <= 1, "once a session"
        return found

    return run


BOTH = ("--edgeres", "mine.toml", "--edgeres-baseline", "accepted.json")


def test_without_a_recipe_its_tests_are_skipped(runs: Runs) -> None:
    runs(solar()).assert_outcomes(skipped=1)


def test_the_report_is_a_fixture(runs: Runs) -> None:
    runs(solar(), "--edgeres", "mine.toml").assert_outcomes(passed=1)


def test_each_rule_is_a_test(runs: Runs) -> None:
    found = runs(solar(), *BOTH, "-v")
    found.assert_outcomes(passed=3)
    found.stdout.fnmatch_lines(["mine.toml::top1_drop PASSED*", "mine.toml::size PASSED*"])


def test_what_regressed_fails_with_its_sentence(runs: Runs) -> None:
    larger = report([cell.model_copy(update={"size": 2 * (cell.size or 1)}) for cell in solar().cells])
    found = runs(larger, *BOTH)
    found.assert_outcomes(passed=2, failed=1)
    found.stdout.fnmatch_lines(["regressed: openvino:cpu int8: *"])


def test_what_is_inconclusive_is_no_pass(runs: Runs) -> None:
    bare = report([cell.model_copy(update={"accuracy": None}) for cell in solar().cells])
    found = runs(bare, *BOTH)
    found.assert_outcomes(passed=2, failed=1)
    found.stdout.fnmatch_lines(["inconclusive: *"])


def test_rules_are_chosen_by_name(runs: Runs) -> None:
    runs(solar(), *BOTH, "-k", "size").assert_outcomes(passed=1, deselected=2)


def test_a_run_that_fails_is_told_without_a_traceback(runs: Runs) -> None:
    found = runs(InputError("images is empty; give others."), *BOTH)
    assert found.ret == 1
    found.stdout.fnmatch_lines(["images is empty; give others."])
    found.stdout.no_fnmatch_line("*another exception*")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--edgeres-baseline", "accepted.json"), "*needs the recipe*"),
        (("--edgeres", "absent.toml", "--edgeres-baseline", "accepted.json"), "*absent.toml cannot be read*"),
        (("--edgeres", "absent.toml", "-k", "nothing"), "*absent.toml cannot be read*"),
        (("--edgeres", "mine.toml", "--edgeres-baseline", "absent.json"), "*absent.json holds no report.json*"),
        (("--edgeres", "mine.toml", "--edgeres-baseline", "mine.toml"), "*mine.toml is not JSON*"),
        (("--edgeres", "bare.toml", "--edgeres-baseline", "accepted.json"), "*there is nothing to check*"),
    ],
)
def test_what_is_missing_is_an_error_of_usage_before_anything_runs(
    runs: Runs, arguments: tuple[str, ...], said: str
) -> None:
    found = runs(AssertionError("it ran"), *arguments)
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    found.stderr.fnmatch_lines([said])
