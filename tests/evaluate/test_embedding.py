"""Nearest neighbours against a search without any shortcut."""

import numpy as np
import pytest

from edgeres.evaluate import Predictions, embedding, scores
from edgeres.evaluate.embedding import cosine, neighbours

RANDOM = np.random.default_rng(6)
EXACT = RANDOM.normal(0, 1, (40, 6)).astype(np.float32)
OTHER = (EXACT + RANDOM.normal(0, 0.4, EXACT.shape)).astype(np.float32)
LABELS = np.array([-1, 7, *[index % 5 for index in range(38)]])


def made(outputs: np.ndarray, labels: np.ndarray = LABELS) -> Predictions:
    return Predictions(outputs, labels, tuple(map(str, range(len(outputs)))), (), "d", task="embedding")


def nearest(vectors: np.ndarray, index: int) -> list[int]:
    """All others, the most alike first."""
    alike = {
        other: float(one @ vectors[index]) / float(np.linalg.norm(one) * np.linalg.norm(vectors[index]))
        for other, one in enumerate(vectors.astype(np.float64))
        if other != index
    }
    return sorted(alike, key=lambda other: (-alike[other], other))


@pytest.mark.parametrize("block", [7, 1024])
def test_neighbours_are_the_most_alike(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "BLOCK", block)
    assert neighbours(EXACT, 10).tolist() == [nearest(EXACT, index)[:10] for index in range(len(EXACT))]


def test_of_equals_the_first_is_nearer_and_few_images_have_few_neighbours() -> None:
    same = np.ones((3, 2), np.float32)
    assert neighbours(same, 10).tolist() == [[1, 2], [0, 2], [0, 1]]


def test_cosines_are_those_of_pairs_and_zero_of_a_zero() -> None:
    one = np.array([[3, 0], [1, 1], [0, 0], [1, 0]], np.float32)
    other = np.array([[2, 0], [1, -1], [1, 1], [-5, 0]], np.float32)
    assert cosine(one, other).tolist() == pytest.approx([1, 0, 0, -1])


def test_recall_counts_what_is_still_found() -> None:
    found = {score.name: score for score in scores(made(OTHER), made(EXACT))}
    for k in (1, 5, 10):
        kept = [len({*nearest(OTHER, i)[:k]} & {*nearest(EXACT, i)[:k]}) / k for i in range(len(EXACT))]
        assert found[f"recall@{k}"].value == pytest.approx(np.mean(kept))
        assert found[f"recall@{k}"].reference is None
        asked = [i for i, label in enumerate(LABELS) if label >= 0 and list(LABELS).count(label) > 1]
        now, before = (
            np.mean([any(LABELS[j] == LABELS[i] for j in nearest(vectors, i)[:k]) for i in asked])
            for vectors in (OTHER, EXACT)
        )
        score = found[f"class recall@{k}"]
        assert (score.value, score.reference) == pytest.approx((now, before))
        assert score.images == len(asked) == 38, "one has no label, one has a label of its own"
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(OTHER, EXACT, strict=True)]
    assert found["cosine"].value == pytest.approx(np.mean(cosines))
    assert found["worst cosine"].value == pytest.approx(min(cosines))
    assert next(iter(found)) == "class recall@1", "it is the headline"


def test_without_labels_only_the_comparison_is_left() -> None:
    none = np.full(40, -1)
    assert scores(made(EXACT, none)) == []
    assert scores(made(OTHER, none), made(EXACT, none))[0].name == "cosine"


def test_of_few_images_no_recall_at_ten() -> None:
    few = made(EXACT[:6], LABELS[2:8])
    assert [s.name for s in scores(few, few)] == ["class recall@1", "class recall@5", "cosine", "worst cosine",
                                                  "recall@1", "recall@5"]  # fmt: skip
