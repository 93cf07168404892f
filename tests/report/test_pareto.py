"""Speed against accuracy: labels that do not collide, marks where the figures are."""

import itertools
import re

import numpy as np
import pytest

from edgeres.report import pareto, svg, table
from report.example import accuracy, cell, latency, report, solar, timed


def measured(count, seed=0):
    """Cells of random speed and accuracy, three precisions a target."""
    random = np.random.default_rng(seed)
    cells = [
        cell(f"runtime:device{number // 3}", precision, latency=latency(median), accuracy=accuracy(right))
        for number, (precision, median, right) in enumerate(
            zip(
                itertools.cycle(("fp32", "fp16", "int8")),
                random.lognormal(1, 1, count),
                random.integers(500, 560, count).tolist(),
                strict=False,
            )
        )
    ]
    return table.rows(report(cells))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("width", "count"), [(1040, 18), (360, 9)])
def test_labels_do_not_collide(seed, width, count, monkeypatch):
    frame = []
    placed = []
    original = pareto.place

    def spy(names, marks, inside, crossed=()):
        frame.append(inside)
        placed.append((marks, original(names, marks, inside, crossed)))
        return placed[-1][1]

    monkeypatch.setattr(pareto, "place", spy)
    pareto.pareto(measured(count, seed), width, 400)
    ((marks, labels),) = placed
    assert len(labels) == count
    for one, other in itertools.combinations(labels, 2):
        assert one.overlap(other) == 0
    assert all(label.overlap(mark) == 0 for label in labels for mark in marks)
    for label in labels:
        assert frame[0].left <= label.left < label.right <= frame[0].right
        assert frame[0].top <= label.top < label.bottom <= frame[0].bottom


def test_labels_of_a_crowd_in_a_corner_stay_inside():
    frame = svg.Box(0, 0, 400, 300)
    marks = [svg.Box(x, y, x + 12, y + 12) for x in range(0, 60, 12) for y in range(0, 36, 12)]
    labels = pareto.place([f"device{i}" for i in range(len(marks))], marks, frame)
    assert all(frame.top <= label.top < label.bottom <= frame.bottom for label in labels)
    assert all(frame.left <= label.left < label.right <= frame.right for label in labels)


def test_overlap_is_the_shared_area():
    one = svg.Box(0, 0, 4, 3)
    assert one.overlap(svg.Box(2, 1, 9, 9)) == 4
    assert one.overlap(svg.Box(4, 0, 5, 3)) == 0
    assert one.overlap(svg.Box(7, 7, 8, 8)) == 0


def centres(picture):
    found = {"circle": r'<circle class="int8" cx="([\d.]+)" cy="([\d.]+)"'}
    return [tuple(map(float, pair)) for pair in re.findall(found["circle"], picture)]


def test_marks_stand_where_the_figures_are():
    """Equal factors of latency are equal distances; equal points of top-1 too, upwards."""
    cells = [
        cell(f"a:{i}", "int8", latency=timed([p50] * 5), accuracy=accuracy(right, 100))
        for i, (p50, right) in enumerate([(1, 80), (2, 82), (4, 84)])
    ]
    (x1, y1), (x2, y2), (x3, y3) = centres(pareto.pareto(table.rows(report(cells)), 1000, 400))
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.11)
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.11)
    assert x1 < x2
    assert y1 > y2


def test_front_joins_only_what_no_other_beats():
    points = [(1.0, 80), (2.0, 79), (3.0, 90), (3.5, 90), (9.0, 95)]
    cells = [
        cell(f"a:{i}", "int8", latency=timed([p50] * 5), accuracy=accuracy(right, 100))
        for i, (p50, right) in enumerate(points)
    ]
    picture = pareto.pareto(table.rows(report(cells)), 1000, 400)
    path = re.search(r'class="front" d="([^"]+)"', picture)[1]
    corners = [centres(picture)[i] for i in (0, 2, 4)]
    wanted = f"M{corners[0][0]:.1f} {corners[0][1]:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in corners[1:])
    assert path == wanted


@pytest.mark.parametrize("p50", [0.07, 0.2, 1.0, 2.2, 45.0, 900.0])
@pytest.mark.parametrize("factor", [1.0, 1.5, 40.0])
def test_the_axis_of_latency_has_two_ticks_or_more_and_not_too_many(p50, factor):
    cells = [
        cell(f"a:{i}", "int8", latency=timed([p50 * scale] * 5), accuracy=accuracy(80, 100))
        for i, scale in enumerate((1.0, factor))
    ]
    picture = pareto.pareto(table.rows(report(cells)), 360, 400)
    ticks = [float(tick) for tick in re.findall(r'class="axis middle"[^>]*>([\d.]+)<', picture)]
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(ticks)
    assert p50 / 1.31 <= ticks[0] <= ticks[-1] <= p50 * factor * 1.31


def test_every_measured_cell_is_drawn_and_no_other():
    picture = pareto.pareto(table.rows(solar()), 360, 400)
    labels = re.findall(r'class="label[^"]*"[^>]*>([^<]+)<', picture)
    assert sorted(labels) == sorted(f"{c.target} {c.precision}" for c in solar().cells if c.latency)
