"""What INT8 costs a network with several labels an image, one that gives values, and one that gives embeddings.

    python pipelines/benchmarks/tasks.py resnet20.pth train.npz test.npz --photos FOLDER --photos-weights resnet50.pth

The checkpoint is a CIFAR-10 ResNet, the arrays are CIFAR-10's images with their classes. Its pooled features stay as
they are; two heads are fitted to them on the training images (ridge regression, in closed form) and saved as a user
saves a finetuned network: attributes of the ten classes, several an image, and the mean brightness of the image. Those
two, and the features themselves, then take the whole way of `edgeres run`: 512 training images calibrate, the test
images evaluate. With `--photos`, a folder with one folder a class, the embedding of another checkpoint, too: 64 images
of one half calibrate, of the other those evaluate whose class has several. Prints Markdown. Needs
edgeres[export,openvino].
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgeres import evaluate, machine, pipeline
from edgeres.data import open_images
from edgeres.export import export
from edgeres.models import checkpoint
from edgeres.progress import Terminal
from edgeres.report import scores
from edgeres.schema import Report, Score
from edgeres.types import Precision, Target

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ATTRIBUTES = {
    "animal": {"bird", "cat", "deer", "dog", "frog", "horse"},
    "flies": {"airplane", "bird"},
    "hoofed": {"deer", "horse"},
    "pet": {"cat", "dog"},
    "wheeled": {"airplane", "automobile", "truck"},
}
RIDGE = 1.0
TARGETS = ("onnxruntime:cpu", "openvino:cpu")

Array = NDArray[np.float64]


def attributes(classes: NDArray[np.integer]) -> NDArray[np.int64]:
    """Zeros and ones (N, 5)."""
    table = np.array([[name in members for members in ATTRIBUTES.values()] for name in CLASSES])
    return table[classes].astype(np.int64)


def brightness(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The mean of all values of an image, 0 to 1: (N, 1)."""
    return (images.reshape(len(images), -1).mean(1, keepdims=True) / 255).astype(np.float32)


def ridge(features: Array, wanted: Array) -> tuple[Array, Array]:
    """Weights (K, D) and biases (K,) with the smallest squared error, the weights held small."""
    centre, mean = features.mean(0), wanted.mean(0)
    apart = features - centre
    solved = np.linalg.solve(apart.T @ apart + RIDGE * np.eye(apart.shape[1]), apart.T @ (wanted - mean))
    return solved.T, mean - centre @ solved


def finetuned(weights: Path, head: tuple[Array, Array], out: Path) -> Path:
    """The checkpoint with another head."""
    state = dict(checkpoint.read(weights).state)
    state["fc.weight"], state["fc.bias"] = (torch.tensor(part, dtype=torch.float32) for part in head)
    torch.save(state, out)
    return out


def recipe(folder: Path, name: str, model: str, calibration: Path, evaluation: Path, samples: int) -> Path:
    """The recipe of one task, on both runtimes."""
    path = folder / f"{name}.toml"
    path.write_text(
        f"targets = {list(TARGETS)}\n[model]\n{model}\n[data]\ncalibration = {str(calibration.resolve())!r}\n"
        f"evaluation = {str(evaluation.resolve())!r}\nsamples = {samples}\n[bench]\nrounds = 1\nthreads = 2\n"
    )
    return path


def lines(name: str, report: Report) -> Iterator[str]:
    """A row for each score of INT8: both figures and what is between them, on each runtime."""
    cells = [cell for cell in report.cells if cell.precision is Precision.INT8]
    for first in cells[0].scores:
        found = [next(score for score in cell.scores if score.name == first.name) for cell in cells]
        figure = f"{first.name}{scores.symbol(first.unit)}"
        yield f"| {name} | {figure} | {first.images} | {' | '.join(map(_cell, found))} |"


def _cell(score: Score) -> str:
    value, sure = scores.write(score.value, score.unit), scores.between(score)
    changed = scores.change(score)
    if changed is None or score.reference is None:
        return f" | {value} | {sure}"
    return f"{scores.write(score.reference, score.unit)} | {value} | {scores.signed(score, changed)} ({sure})"


def cifar(weights: Path, train: Path, test: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Fit and save the heads, and give the recipe of each task."""
    backbone = export(weights, folder / "backbone.onnx", task="embedding").path
    features = evaluate.predict(backbone, Target.parse(TARGETS[0]), open_images(train)).outputs.astype(np.float64)
    sets = {}
    for source in (train, test):
        with np.load(source) as arrays:
            images, classes = arrays["images"], arrays["labels"]
        for name, labels in (("attributes", attributes(classes)), ("brightness", brightness(images))):
            sets[name, source] = folder / f"{name}.{source.stem}.npz"
            np.savez(sets[name, source], images=images, labels=labels)
            if source == train:
                wanted = 2.0 * labels - 1 if name == "attributes" else labels.astype(np.float64)
                finetuned(weights, ridge(features, wanted), folder / f"{name}.pth")
    tasks = {"attributes": ("multi-label", list(ATTRIBUTES)), "brightness": ("regression", ["brightness"])}
    for name, (task, names) in tasks.items():
        model = f"weights = '{name}.pth'\ntask = '{task}'\nclasses = {names}"
        yield f"{task}: {name}", recipe(folder, name, model, sets[name, train], sets[name, test], 512)
    model = f"weights = {str(weights.resolve())!r}\ntask = 'embedding'"
    yield "embedding: CIFAR-10", recipe(folder, "embedding", model, train, test, 512)


def photos(weights: Path, source: Path, folder: Path, count: int) -> tuple[str, Path]:
    """Manifests of every other image, of the second half where a class has several, and the recipe of an embedding."""
    images = open_images(source)
    other = images.take(range(1, len(images), 2))
    several = [index for index, label in enumerate(other.labels) if other.labels.count(label) > 1]
    halves = images.take(range(0, len(images), 2)), other.take(several[:count])
    paths = [folder / "photos.calibration.csv", folder / "photos.test.csv"]
    for half, path in zip(halves, paths, strict=True):
        rows = [f"{name},,{label or ''}" for name, label in zip(half.names, half.labels, strict=True)]
        path.write_text("\n".join([f"# root = {images.root.resolve()}", "path,sha256,label", *rows]) + "\n")
    model = f"weights = {str(weights.resolve())!r}\ntask = 'embedding'"
    return "embedding: photos", recipe(folder, "photos", model, paths[0], paths[1], 64)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="checkpoint of a CIFAR-10 ResNet")
    parser.add_argument("train", type=Path, help=".npz: fits the heads, calibrates")
    parser.add_argument("test", type=Path, help=".npz: evaluates")
    parser.add_argument("--photos", type=Path, help="folder with one folder a class")
    parser.add_argument("--photos-weights", type=Path, help="checkpoint for the photos")
    parser.add_argument("--photos-count", type=int, default=200, help="photos that evaluate [200]")
    parser.add_argument("--out", type=Path, default=Path("build/tasks"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    recipes = list(cifar(options.weights, options.train, options.test, options.out))
    if options.photos and options.photos_weights:
        recipes.append(photos(options.photos_weights, options.photos, options.out, options.photos_count))
    reports = {name: pipeline.run(path, options.out / path.stem, Terminal()) for name, path in recipes}
    here = machine.describe()
    packages = ", ".join(f"{name} {here.packages[name]}" for name in ("onnxruntime", "openvino"))
    print(f"{here.cpu}, {here.cores} cores, {' '.join(here.features)}; {packages}\n")
    columns = [f"{target.partition(':')[0]} {what}" for target in TARGETS for what in ("FP32", "INT8", "difference")]
    head = ["task", "figure", "images", *columns]
    print("\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|"]))
    for name, report in reports.items():
        print("\n".join(lines(name, report)), flush=True)


if __name__ == "__main__":
    main()
