"""Races whose runners are known: who wins, who is called off, and how much is measured for it."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from edgeres.tune import race as racing
from edgeres.tune.race import FEWEST, MOST, race


def runner(times: dict[str, float], noise: float, seed: int = 0) -> tuple[Callable[[str], float], list[str]]:
    """Gives each its time, disturbed; and who was measured, in order."""
    random, called = np.random.default_rng(seed), []

    def measure(name: str) -> float:
        called.append(name)
        return float(times[name] * np.exp(noise * random.standard_normal()))

    return measure, called


def test_the_fastest_wins_and_the_slow_are_called_off_early() -> None:
    measure, called = runner({"a": 10, "b": 9, "c": 20, "d": 9.9}, 0.005)
    first, *others = race("abcd", measure)
    assert first.candidate == "b"
    assert (first.ratio, first.dropped) == (1.0, False)
    assert all(lane.dropped for lane in others)
    assert [lane.candidate for lane in others] == ["d", "a", "c"]
    assert {lane.candidate: round(lane.ratio, 1) for lane in others} == {"a": 1.1, "c": 2.2, "d": 1.1}
    assert called.count("c") == FEWEST


def test_a_machine_that_slows_down_changes_nothing() -> None:
    """Every measurement takes one per cent longer than the one before; the order turns, so that no place is worse."""
    times, count = {"a": 10.0, "b": 9.0, "c": 11.0}, iter(range(1000))
    lanes = race("abc", lambda name: times[name] * 1.01 ** next(count))
    assert [lane.candidate for lane in lanes] == ["b", "a", "c"]


@pytest.mark.parametrize("noise", [0.002, 0.05])
def test_equals_are_not_called_off_and_the_first_wins(noise: float) -> None:
    wrong = 0
    for seed in range(200):
        measure, called = runner(dict.fromkeys("abc", 10.0), noise, seed)
        lanes = race("abc", measure)
        wrong += any(lane.dropped for lane in lanes) or (noise < 0.01 and lanes[0].candidate != "a")
        assert len(called) <= 3 * MOST
    assert wrong <= 6  # of 1 % come two; seven or more come of that once in 200 tries


def test_a_real_advantage_of_two_percent_is_found_in_moderate_noise() -> None:
    found = [race("ab", runner({"a": 10, "b": 9.8}, 0.005, seed)[0])[0].candidate for seed in range(40)]
    assert found.count("b") >= 38


def test_rounds_that_are_known_are_not_measured_again() -> None:
    measure, called = runner({"a": 10, "b": 10}, 0.05)
    known = {"a": [10.0, 10.1, 9.9, 10.0, 10.2, 9.8], "b": [10.1, 9.9]}
    lanes = race("ab", measure, lambda name: tuple(known[name]))
    assert {lane.candidate: list(lane.times[: len(known[lane.candidate])]) for lane in lanes} == known
    assert called.count("a") == MOST - 6
    assert called.count("b") == MOST - 2


def test_when_time_is_up_each_has_run_often_enough_to_compare() -> None:
    measure, called = runner({"a": 10, "b": 9}, 0.3)
    race("ab", measure, enough=lambda: True)
    assert [called.count(name) for name in "ab"] == [FEWEST, FEWEST]


def test_one_alone_wins_without_a_full_race() -> None:
    measure, called = runner({"a": 10}, 0.1)
    (lane,) = race("a", measure)
    assert lane.candidate == "a"
    assert len(called) == FEWEST


def test_the_interval_holds_the_true_ratio_as_often_as_it_says() -> None:
    def covered(ratio: float, lanes: Sequence[racing.Lane[str]]) -> bool:
        return lanes[1].interval[0] <= ratio <= lanes[1].interval[1]

    held = 0
    for seed in range(200):
        times = {"a": 10.0, "b": 10.5}
        held += covered(1.05, race("ab", runner(times, 0.1, seed)[0])) or covered(
            1 / 1.05, race("ab", runner(times, 0.1, seed)[0])
        )
    assert held >= 198
