"""The bootstrap: against the formula where there is one, and how often it holds the truth."""

import numpy as np
import pytest

from edgeres.bootstrap import interval, percentiles


def test_the_median_of_independent_calls_varies_as_the_formula_says() -> None:
    random = np.random.default_rng(0)
    found = percentiles([random.normal(10, 1, 2000)], 50, np.random.default_rng(1))
    assert len(found) == 1000
    assert found.std() == pytest.approx(np.sqrt(np.pi / 2 / 2000), rel=0.25)


def test_neighbouring_calls_that_are_alike_widen_it() -> None:
    random = np.random.default_rng(0)
    calls = np.repeat(random.normal(10, 1, 200), 10)
    apart = calls.copy()
    random.shuffle(apart)
    low, high = interval(percentiles([calls], 50, np.random.default_rng(1)), 95)
    narrow_low, narrow_high = interval(percentiles([apart], 50, np.random.default_rng(1)), 95)
    assert high - low > 2 * (narrow_high - narrow_low)


def test_processes_that_differ_widen_it_as_few_of_them_do() -> None:
    """Calls without noise: the resampled medians' variance is that of the mean of the processes, with n - 1."""
    levels = np.array([9.0, 10.0, 10.5, 12.0])
    found = percentiles(
        [np.full(n, level) for level, n in zip(levels, (100, 90, 110, 100), strict=True)], 50, np.random.default_rng(0)
    )
    assert set(found) <= set(levels)
    two = np.array([9.0, 11.0])
    spread = percentiles([np.full(50, level) for level in two], 50, np.random.default_rng(0))
    assert spread.var() == pytest.approx(two.var(ddof=1) / 2, rel=0.05)


@pytest.mark.parametrize(("between", "least"), [(0.0, 0.93), (0.02, 0.8)])
def test_it_holds_the_truth_about_as_often_as_it_says(between: float, least: float) -> None:
    """Five processes, as `bench` measures; where they differ much, five are still few."""
    random = np.random.default_rng(2)
    held = 0
    for _ in range(100):
        noise = random.normal(size=(5, 101))
        processes = [
            level + 0.3 * (row[1:] + 0.5 * row[:-1])
            for level, row in zip(10 * (1 + between * random.normal(size=5)), noise, strict=True)
        ]
        low, high = interval(percentiles(processes, 50, np.random.default_rng(0)), 95)
        held += low <= 10 <= high
    assert held >= 100 * least
