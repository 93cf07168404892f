"""Average precision against the definition, threshold by threshold."""

import numpy as np
import pytest

from edgeres.boxes import Boxes, overlaps
from edgeres.evaluate.detection import mean_average_precision


def some(count: int, rng: np.random.Generator) -> Boxes:
    corner, size = rng.uniform(0, 30, (count, 2)), rng.uniform(5, 25, (count, 2))
    boxes = np.concatenate([corner, corner + size], 1).astype(np.float32)
    return Boxes(boxes, np.sort(rng.uniform(0, 1, count).astype(np.float32))[::-1], rng.integers(0, 2, count))


def moved(given: Boxes, rng: np.random.Generator) -> Boxes:
    """The same boxes, moved and scored otherwise, some of them lost."""
    kept = np.flatnonzero(rng.uniform(size=len(given.scores)) < 0.8)
    scores = (given.scores[kept] + rng.normal(0, 0.2, len(kept))).astype(np.float32)
    kept, scores = kept[np.argsort(-scores)], np.sort(scores)[::-1]
    return Boxes((given.boxes[kept] + rng.normal(0, 1, (len(kept), 4))).astype(np.float32), scores, given.labels[kept])


def by_definition(found: list[Boxes], truth: list[Boxes], label: int, overlap: float) -> float:
    """At each of 101 recalls the best precision of any threshold that reaches it, counted anew for each threshold."""
    points = []
    for threshold in np.unique(np.concatenate([one.scores for one in found])):
        right = wrong = 0
        for mine, exact in zip(found, truth, strict=True):
            theirs = [box for box, kind in zip(exact.boxes, exact.labels, strict=True) if kind == label]
            for box, score, kind in zip(mine.boxes, mine.scores, mine.labels, strict=True):
                if kind != label or score < threshold:
                    continue
                near = [float(overlaps(box[None], other[None])[0, 0]) for other in theirs]
                if near and max(near) >= overlap:
                    right += 1
                    del theirs[int(np.argmax(near))]
                else:
                    wrong += 1
        total = sum(int((exact.labels == label).sum()) for exact in truth)
        if right + wrong:
            points.append((right / total, right / (right + wrong)))
    return float(np.mean([max((p for r, p in points if r >= at - 1e-12), default=0) for at in np.linspace(0, 1, 101)]))


@pytest.mark.parametrize("overlap", [0.5, 0.75])
def test_average_precision_is_that_of_the_definition(overlap: float) -> None:
    rng = np.random.default_rng(3)
    truth = [some(12, rng) for _ in range(4)]
    found = [moved(one, rng) for one in truth]
    wanted = np.mean([by_definition(found, truth, label, overlap) for label in (0, 1)])
    assert 0.1 < wanted < 0.9
    assert mean_average_precision(found, truth, overlap) == pytest.approx(wanted)


def test_the_same_boxes_are_perfect_and_none_are_worth_nothing() -> None:
    truth = [some(5, np.random.default_rng(1))]
    nothing = [Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))]
    assert mean_average_precision(truth, truth, 0.75) == 1
    assert mean_average_precision(nothing, truth, 0.5) == 0
    assert mean_average_precision(nothing, nothing, 0.5) == 1
    assert mean_average_precision(truth, nothing, 0.5) == 0


def test_all_boxes_count_however_many() -> None:
    """COCO's tools would look at the best 100 alone, none of which is right here."""
    corners = np.arange(150, dtype=np.float32)[:, None] * 20
    boxes = np.concatenate([corners, corners, corners + 10, corners + 10], 1)
    found = Boxes(boxes, np.linspace(1, 0.1, 150, dtype=np.float32), np.zeros(150, np.int64))
    truth = Boxes(boxes[100:], np.ones(50, np.float32), np.zeros(50, np.int64))
    assert mean_average_precision([found], [truth], 0.5) == pytest.approx(
        np.mean(
            [
                max(n / (100 + n) for n in range(max(1, int(np.ceil(at * 50 - 1e-9))), 51))
                for at in np.linspace(0, 1, 101)
            ]
        )
    )
