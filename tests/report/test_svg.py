"""The pictures of one cell: bars, dots and marks where the figures are."""

import re

import numpy as np
import pytest

from edgeres.report import svg
from edgeres.schema import LayerError
from report.example import latency, timed


def test_histogram_bars_stand_for_all_calls_but_the_slowest():
    made = timed([*np.linspace(1, 2, 1000), 50.0])
    heights = [float(h) for h in re.findall(r"v-([\d.]+)", svg.distribution(made, height=80))]
    first, last = svg.extent(made)
    counted = np.histogram(made.samples, bins=40, range=(first, last))[0]
    assert first == 1
    assert made.p99 < last < 50
    filled = counted[counted > 0]
    assert np.allclose(np.array(heights) / max(heights), filled / filled.max(), atol=0.02)


def test_constant_timings_have_a_picture():
    assert "NaN" not in svg.distribution(timed([2.0] * 10))
    assert "nan" not in svg.distribution(timed([2.0] * 10))


def dots(picture):
    path = re.search(r'class="calls" d="([^"]+)"', picture)[1]
    return [tuple(map(float, pair)) for pair in re.findall(r"M([\d.]+) ([\d.]+)h0", path)]


def test_each_call_is_a_dot_where_its_time_is_in_the_order_of_the_calls():
    made = timed([1.0, 2.0, 1.5, 3.0])
    (first, last) = svg.extent(made)
    found = dots(svg.distribution(made, width=480))
    wanted = [480 * (min(sample, last) - first) / (last - first) for sample in made.samples]
    assert [x for x, _ in found] == pytest.approx(wanted, abs=0.06)
    assert [y for _, y in found] == sorted(y for _, y in found)


def test_many_calls_are_thinned_but_never_the_slowest():
    made = latency(2.0, calls=30_000)
    samples = made.samples
    found = dots(svg.distribution(made, width=480))
    assert svg.DOTS <= len(found) <= svg.DOTS + svg.SLOWEST
    first, last = svg.extent(made)
    slowest = sorted(480 * (min(sample, last) - first) / (last - first) for sample in samples)[-svg.SLOWEST :]
    assert sorted(x for x, _ in found)[-svg.SLOWEST :] == pytest.approx(slowest, abs=0.06)


@pytest.mark.parametrize("rounds", [[], [400], [100, 300], [100, 200, 100]])
def test_a_line_parts_two_processes(rounds):
    picture = svg.distribution(latency(2.0, rounds=rounds), height=80, below=96)
    lines = [float(y) for y in re.findall(r'class="base" x1="0.0" y1="([\d.]+)"', picture)][1:]
    shares = [float(share) for share in np.cumsum(rounds)[:-1] / 400] if rounds else []
    assert lines == pytest.approx([88 + 92 * share for share in shares], abs=0.06)


def tensors(*decibels):
    return [LayerError(name=f"t{i}", role="inner", sqnr_db=value) for i, value in enumerate(decibels)]


@pytest.mark.parametrize(
    ("decibels", "wanted"),
    [((12.0, 33.0), (0, 40)), ((40.0,), (0, 40)), ((-3.0, 200.0), (-10, 60)), ((0.0,), (0, 10)), ((-25.0,), (-30, 10))],
)
def test_the_axis_of_a_profile_is_in_whole_tens(decibels, wanted):
    assert svg.bounds(tensors(*decibels)) == wanted


def test_a_profile_stands_in_the_order_of_the_network_and_marks_the_worst_tenth():
    values = [30.0 - (7 * i) % 20 for i in range(20)]
    picture = svg.profile(tensors(*values))
    found = re.findall(r'class="(tensor|worst)" d="M([\d.]+) ([\d.]+)h0"><title>t(\d+)', picture)
    assert [int(number) for *_, number in found] == list(range(20))
    assert [float(x) for _, x, _, _ in found] == sorted(float(x) for _, x, _, _ in found)
    worst = {int(number) for kind, *_, number in found if kind == "worst"}
    assert worst == set(np.argsort(values)[:2].tolist())
    downs = np.array([float(y) for *_, y, _ in found])
    assert np.corrcoef(downs, values)[0, 1] == pytest.approx(-1, abs=1e-3)
