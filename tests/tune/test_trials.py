"""Trials outlive the process that made them, and are of use to the same search alone."""

import json
from pathlib import Path

import pytest

from edgeres.errors import InputError
from edgeres.tune.space import Candidate, Choice
from edgeres.tune.trials import Quality, Trials

PLAIN, OTHER = Candidate(Choice("openvino")), Candidate(Choice("openvino", ("conv1",)), batch=1, threads=2)


def test_what_was_kept_is_there_again(tmp_path: Path) -> None:
    path, key = tmp_path / "deep" / "trials.jsonl", {"model": "1"}
    first = Trials(path, key)
    for ms in (1.5, 1.25):
        first.timed("files", PLAIN, ms)
    first.timed("settings", PLAIN, 9.0)
    first.judged(OTHER, Quality(0.75, 0.5, 0.99))
    again = Trials(path, key)
    assert again.of("files", PLAIN) == first.of("files", PLAIN) == (1.5, 1.25)
    assert again.of("settings", PLAIN) == (9.0,)
    assert again.of("files", OTHER) == ()
    assert again.qualities == {OTHER.name: Quality(0.75, 0.5, 0.99)}


def test_another_search_sees_none_of_it(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    Trials(path, {"model": "1"}).timed("files", PLAIN, 1.5)
    other = Trials(path, {"model": "2"})
    assert other.of("files", PLAIN) == ()
    other.timed("files", PLAIN, 3.0)
    assert Trials(path, {"model": "1"}).of("files", PLAIN) == (1.5,)


def test_a_line_that_was_cut_off_is_forgotten_and_the_next_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    Trials(path, {}).timed("files", PLAIN, 1.5)
    path.write_text(path.read_text() + '{"key": {"mach')
    Trials(path, {}).timed("files", PLAIN, 2.5)
    assert Trials(path, {}).of("files", PLAIN) == (1.5, 2.5)
    assert all(json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.parametrize("line", ["no JSON", "{}", '{"key": 1, "ms": 2}'])
def test_what_is_no_trial_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_text(f"{line}\n")
    if line.startswith('{"key"'):  # of another search
        assert Trials(path, {}).of("files", PLAIN) == ()
    else:
        with pytest.raises(InputError, match=r"trials\.jsonl holds a line that is no trial"):
            Trials(path, {})


def test_names_tell_candidates_apart() -> None:
    candidates = [
        *(PLAIN, OTHER, Candidate(Choice(None)), Candidate(PLAIN.choice, threads=1), Candidate(PLAIN.choice, batch=1)),
        *(Candidate(PLAIN.choice, settings=(("ENABLE_CPU_PINNING", value),)) for value in ("YES", "NO")),
    ]
    assert len({one.name for one in candidates}) == len(candidates)
    assert OTHER.name == "openvino but conv1, batch fixed at 1, 2 threads"
