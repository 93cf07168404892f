"""The fastest engine that is still right: what can be varied, measured on the target itself.

    space.py    what a candidate is, and which there are for a target
    race.py     candidates measured in turn, the slower ones dropped as soon as that is sure
    trials.py   every measurement kept, so that a run that was stopped goes on
    search.py   files first, then how the runtime runs the best of them; the choice with its reasons
    show.py     what was found, as text and as JSON; page.py as HTML

A search bounds the loss of top-1, which only classification has.
"""

from pathlib import Path
from typing import Any

from edgeres import disk, onnx_io, pipeline
from edgeres.data import open_images
from edgeres.errors import UsageError
from edgeres.progress import Progress, Silent
from edgeres.recipe import Recipe, TargetPart
from edgeres.tune.search import FITTED, Trial, Tuned, tune
from edgeres.types import Precision, Target

__all__ = ["Trial", "Tuned", "tune", "tune_recipe"]


def tune_recipe(
    recipe: Recipe, target: Target, folder: Path, *, max_drop: float, minutes: float, progress: Progress | None = None
) -> tuple[Recipe, Tuned]:
    """`tune` the network of a recipe on its own images: the recipe that makes what was found, for this one target.

    `folder` gets the engines and all measurements.
    """
    data = recipe.data
    calibration, validation = open_images(data.calibration), open_images(data.evaluation)
    calibration = calibration.draw(data.samples) if data.samples else calibration
    told = progress or Silent()
    with disk.filling(folder, told.say):
        model = pipeline.exported(recipe.model, folder / "model.onnx").path
        if (task := onnx_io.info(model).task) != "classification":
            raise UsageError(
                f"{recipe.name} is for {task}; tune holds a bound of top-1, which only classification has."
            )
        frame = next((part.input for part in recipe.targets if part.target == str(target)), None)
        limits: dict[str, Any] = {"max_drop": max_drop, "minutes": minutes, "frame": frame}
        found = tune(model, target, calibration, validation, folder, **limits, progress=told)
    chosen = found.best.candidate
    part = TargetPart(
        target=str(target),
        precisions=[Precision.FP32, Precision.INT8] if chosen.choice.scheme else [Precision.FP32],
        scheme=chosen.choice.scheme,
        input=frame,
        keep=list(chosen.choice.keep),
        batch=chosen.batch,
        threads=chosen.threads,
        settings=dict(chosen.settings),
    )
    quantization = recipe.quantization.model_copy(update={"level": FITTED, "method": found.method})
    return recipe.model_copy(update={"targets": [part], "quantization": quantization}), found
