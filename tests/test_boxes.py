"""Anchors against the formula, suppression and average precision against brute force."""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeres import boxes
from edgeres.boxes import Boxes


def some(count: int, seed: int, labels: int = 3) -> Boxes:
    """Boxes that overlap one another, of different scores, best first."""
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 20, (count, 2)), rng.uniform(5, 20, (count, 2))
    scores = np.sort(rng.uniform(0.1, 1, count))[::-1]
    found = np.concatenate([corner, corner + size], 1).astype(np.float32)
    return Boxes(found, scores.astype(np.float32), rng.integers(0, labels, count))


def overlap(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Intersection over union by counting, of boxes with whole numbers, the pixels of each."""
    mine, theirs = (
        {(x, y) for x in range(int(b[0]), int(b[2])) for y in range(int(b[1]), int(b[3]))} for b in (one, other)
    )
    return len(mine & theirs) / len(mine | theirs)


def test_anchors_are_those_of_the_formula() -> None:
    sizes = boxes.OCTAVES["P3"]
    assert sizes == (32, 40, 50)
    found = boxes.anchors((3, 4), (24, 32), sizes)
    wanted = []
    for row, column, ratio, size in itertools.product(range(3), range(4), (0.5, 1.0, 2.0), sizes):
        height, width = size * math.sqrt(ratio), size / math.sqrt(ratio)
        shape = [round(-width / 2), round(-height / 2), round(width / 2), round(height / 2)]
        wanted.append([shape[0] + 8 * column, shape[1] + 8 * row, shape[2] + 8 * column, shape[3] + 8 * row])
    assert found.tolist() == wanted


def test_the_stride_of_an_uneven_map_is_a_whole_number() -> None:
    assert boxes.anchors((7, 7), (100, 100), (32,))[3].tolist() == [-23 + 14, -11, 23 + 14, 11]


def test_decoding_undoes_the_definition() -> None:
    anchor = np.array([[10, 20, 50, 40]], np.float32)
    wanted = np.array([[15, 10, 35, 70]], np.float32)
    width, height = 40, 20
    shift = [(25 - 30) / width, (40 - 30) / height, math.log(20 / width), math.log(60 / height)]
    np.testing.assert_allclose(boxes.decode(np.array([shift], np.float32), anchor), wanted, rtol=1e-5)


def test_a_box_is_never_more_than_sixty_times_its_anchor() -> None:
    found = boxes.decode(np.array([[0, 0, 50, 50]], np.float32), np.array([[0, 0, 2, 2]], np.float32))
    np.testing.assert_allclose(found, [[-61.5, -61.5, 63.5, 63.5]], rtol=1e-5)


def test_overlaps_are_shares_of_pixels() -> None:
    one, other = (np.rint(some(12, seed).boxes) for seed in (1, 2))
    wanted = [[overlap(a, b) for b in other] for a in one]
    np.testing.assert_allclose(boxes.overlaps(one, other), wanted, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_suppression_keeps_what_no_better_box_of_its_label_hides(seed: int) -> None:
    given = some(60, seed)
    shuffled = np.random.default_rng(seed).permutation(60)
    near = boxes.overlaps(given.boxes, given.boxes)
    kept: list[int] = []
    for index in range(60):
        if not any(near[index, other] > 0.4 and given.labels[index] == given.labels[other] for other in kept):
            kept.append(index)
    assert 10 < len(kept) < 60
    found = boxes.suppress(Boxes(given.boxes[shuffled], given.scores[shuffled], given.labels[shuffled]), 0.4, 100)
    np.testing.assert_array_equal(found.boxes, given.boxes[kept])
    np.testing.assert_array_equal(found.labels, given.labels[kept])
    assert len(boxes.suppress(given, 0.4, 3).scores) == 3


def test_retinanet_finds_the_box_that_its_maps_tell_of() -> None:
    """Two classes, nine anchors; the fifth anchor (ratio 1, second size) at row 2, column 1 of P4 is of class 1."""
    maps = {}
    for level, side in zip(boxes.OCTAVES, (16, 8, 4, 2, 1), strict=True):
        maps[f"cls_logits.{level}"] = np.full((2, 18, side, side), -9, np.float32)
        maps[f"bbox_regression.{level}"] = np.zeros((2, 36, side, side), np.float32)
    maps["cls_logits.P4"][1, 4 * 2 + 1, 2, 1] = 2.0
    maps["bbox_regression.P4"][1, 4 * 4 + 1, 2, 1] = 0.1  # down by a tenth of the anchor's height
    nothing, found = boxes.retinanet(maps, (128, 128))
    assert len(nothing.boxes) == 0
    assert found.labels.tolist() == [1]
    assert found.scores[0] == pytest.approx(1 / (1 + math.exp(-2)))
    side = 80  # the whole part of 64 * 2 ** (1 / 3), 16 pixels a position
    top = max(0, 32 - side / 2 + side / 10)
    np.testing.assert_allclose(found.boxes, [[0, top, 16 + side / 2, 32 + side / 2 + side / 10]], rtol=1e-6)
