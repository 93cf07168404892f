"""Intervals of percentiles: against formulas, and how often they hold the truth where processes differ."""

import math

import numpy as np
import pytest

from edgeres.bootstrap import interval, over_images, student


@pytest.mark.parametrize(
    ("confidence", "freedom", "table"),
    [(95, 1, 12.7062), (95, 2, 4.3027), (99, 4, 4.6041), (99, 18, 2.8784), (99.9, 9, 4.7809), (95, 1000, 1.9623)],
)
def test_quantiles_of_student_are_those_of_the_tables(confidence, freedom, table):
    assert student(confidence, freedom) == pytest.approx(table, abs=1e-4)


def test_of_one_process_it_agrees_with_the_normal_approximation():
    """The standard error of the logarithm of a median of n log-normal samples is sigma sqrt(pi / 2n)."""
    sigma, n = 0.1, 2000
    low, high = interval([np.exp(sigma * np.random.default_rng(1).standard_normal(n))], 50)
    assert low < 1 < high
    assert math.log(high / low) == pytest.approx(2 * 1.96 * sigma * math.sqrt(math.pi / 2 / n), rel=0.2)


def test_calls_that_resemble_their_neighbours_tell_less():
    alike = np.repeat(np.exp(0.1 * np.random.default_rng(2).standard_normal(50)), 10)
    low, high = interval([alike], 50)
    narrow_low, narrow_high = interval([np.random.default_rng(3).permutation(alike)], 50)
    assert high - low > 1.5 * (narrow_high - narrow_low)


@pytest.mark.parametrize("processes", [3, 10])
def test_processes_that_differ_are_told_of(processes):
    """A 95 % interval of the median holds the truth in about 95 of 100 tries, be the processes few."""
    random = np.random.default_rng(4)
    held = 0
    for _ in range(100):
        rounds = np.exp(0.02 * random.standard_normal((processes, 1)) + 0.02 * random.standard_normal((processes, 60)))
        low, high = interval(list(rounds), 50)
        held += low < 1 < high
    assert held >= 88


def test_it_is_the_same_each_time():
    rounds = list(np.random.default_rng(5).gamma(9, 1, (3, 50)))
    assert interval(rounds, 90) == interval(rounds, 90)


def mean(values):
    return lambda weights: weights @ values / weights.sum(1)


@pytest.mark.parametrize("images", [4, 8, 64])
def test_of_the_mean_of_few_images_it_is_that_of_student(images):
    """t standard errors on either side: normal values, the quantiles of the t distribution from the tables."""
    values = np.random.default_rng(6).standard_normal(images)
    low, high = over_images(mean(values), images)
    wanted = {4: 3.1824, 8: 2.3646, 64: 1.9983}[images] * values.std(ddof=1) / math.sqrt(images)
    assert (high - low) / 2 == pytest.approx(wanted, rel=0.08)
    assert low < values.mean() < high


def test_few_images_hold_the_truth_as_often_as_promised():
    random = np.random.default_rng(8)
    found = [over_images(mean(random.standard_normal(8)), 8) for _ in range(1000)]
    assert sum(not low < 0 < high for low, high in found) <= 75


def test_what_cannot_be_larger_is_not_said_to_be():
    values = np.array([0.0] + [1.0] * 7)
    low, high = over_images(mean(values), 8, (0.0, 1.0))
    assert 0 <= low < 0.75
    assert high == 1
    assert over_images(mean(values), 8)[1] > 1


def test_of_one_image_nothing_is_known_and_without_a_figure_there_is_none():
    assert over_images(mean(np.array([3.0])), 1) == (3, 3)
    assert over_images(lambda weights: np.full(len(weights), math.nan), 5) is None
