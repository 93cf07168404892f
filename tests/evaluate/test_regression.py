"""Errors of values against their formulas."""

from collections.abc import Callable

import numpy as np
import pytest

from edgeres.errors import UsageError
from edgeres.evaluate import Predictions, regression, scores

RANDOM = np.random.default_rng(4)
LABELS = RANDOM.normal(5, (1, 20), (200, 2))
EXACT, OTHER = (LABELS + RANDOM.normal(0, noise, LABELS.shape) for noise in (0.5, 0.6))


def made(outputs: np.ndarray, labels: np.ndarray = LABELS, dataset: str = "d") -> Predictions:
    names = tuple(str(index) for index in range(len(outputs)))
    return Predictions(
        outputs.astype(np.float32), labels.astype(np.float32), names, ("x", "y"), dataset, task="regression"
    )


def r2(outputs: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(1 - ((outputs - labels) ** 2).sum(0) / ((labels - labels.mean(0)) ** 2).sum(0)))


FORMULAS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "MAE": lambda outputs, labels: float(np.abs(outputs - labels).mean()),
    "RMSE": lambda outputs, labels: float(np.sqrt(((outputs - labels) ** 2).mean(0)).mean()),
    "R²": r2,
}


def test_each_error_is_that_of_its_formula() -> None:
    found = {score.name: score for score in scores(made(OTHER), made(EXACT))}
    assert list(found) == ["MAE", "RMSE", "R²", "deviation"]
    for name, formula in FORMULAS.items():
        assert found[name].value == pytest.approx(formula(OTHER, LABELS), rel=1e-5)
        assert found[name].reference == pytest.approx(formula(EXACT, LABELS), rel=1e-5)
        assert found[name].higher_is_better is (name == "R²")
    apart = np.mean(np.abs(OTHER - EXACT).mean(0) / LABELS.std(0))
    assert found["deviation"].value == pytest.approx(apart, rel=1e-5)


def test_weights_are_images_drawn_several_times() -> None:
    weights = RANDOM.integers(0, 3, (4, len(LABELS)))
    parts = (regression._absolute, regression._squared, regression._determination)
    for of, formula in zip(parts, FORMULAS.values(), strict=True):
        wanted = [formula(np.repeat(OTHER, drawn, 0), np.repeat(LABELS, drawn, 0)) for drawn in weights]
        np.testing.assert_allclose(of(made(OTHER))(weights.astype(float)), wanted, rtol=1e-5)


def test_the_interval_of_a_mean_difference_is_that_of_the_normal_limit() -> None:
    change = np.abs(OTHER - LABELS).mean(1) - np.abs(EXACT - LABELS).mean(1)
    half = 1.96 * change.std() / len(change) ** 0.5
    interval = scores(made(OTHER), made(EXACT))[0].interval
    assert interval == pytest.approx((change.mean() - half, change.mean() + half), abs=0.15 * half)


def test_labels_that_are_all_alike_have_no_share_that_is_explained() -> None:
    alike = np.full((5, 1), 3.0)
    found = scores(made(alike + 1, alike), made(alike, alike))
    assert [(score.name, score.value) for score in found] == [("MAE", 1.0), ("RMSE", 1.0)]


def test_only_the_same_images_and_kinds_of_output_are_compared() -> None:
    with pytest.raises(UsageError, match="other images"):
        scores(made(OTHER), made(EXACT, dataset="e"))
    with pytest.raises(UsageError, match="another kind of model"):
        scores(made(OTHER), made(EXACT[:, :1], LABELS[:, :1]))
