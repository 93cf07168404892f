"""Accuracy, told as each task tells it, and INT8 against FP32 on the same images."""

from edgeres.evaluate import embedding, multilabel, regression
from edgeres.evaluate.classification import GUESSES, accuracy, guesses, illustrated, mcnemar, wilson
from edgeres.evaluate.predicted import BATCH, Predict, Predictions, evaluate, predict, predictions, same_images, truth
from edgeres.schema import Score

__all__ = [
    "BATCH",
    "GUESSES",
    "Predict",
    "Predictions",
    "accuracy",
    "evaluate",
    "guesses",
    "illustrated",
    "mcnemar",
    "predict",
    "predictions",
    "scores",
    "truth",
    "wilson",
]
_TASKS = {"multi-label": multilabel.scores, "regression": regression.scores, "embedding": embedding.scores}


def scores(found: Predictions, reference: Predictions | None = None) -> list[Score]:
    """The figures of a task other than classification, the headline first, and what differs from a reference on the
    same images; UsageError where they are others."""
    if reference is not None:
        same_images(found, reference)
    return _TASKS[found.task](found, reference)
