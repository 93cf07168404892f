"""What several tests need: a small network and its ONNX file, a folder of images, the optional real data."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.fixture(scope="session")
def blobs_of_their_own() -> Callable[..., None]:
    """Building for OpenVINO as it is: in a process of its own, which takes half a second."""
    from edgeres.backends.openvino import OpenVino

    return OpenVino.build


@pytest.fixture(scope="session", autouse=True)
def _blobs_here(blobs_of_their_own: Callable[..., None]) -> Iterator[None]:
    """All tests but those of that process build here: the same but for the names of nodes in the blob."""
    from edgeres.backends.openvino import OpenVino

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OpenVino, "build", OpenVino._build)
        yield


@pytest.fixture(scope="session")
def lively() -> Callable[[Any], Any]:
    """Gives a ResNet seeded weights, batch norms that have seen images, and logits that differ; in evaluation mode."""
    torch = pytest.importorskip("torch", reason="the extra `export` is not installed")

    def enliven(model: Any) -> Any:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(20)
            for name, parameter in model.named_parameters():
                if parameter.dim() > 1:
                    torch.nn.init.kaiming_normal_(parameter)
                else:
                    torch.nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.2)
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.momentum = None  # the plain average of what it sees
            images = torch.nn.functional.interpolate(torch.randn(96, 3, 4, 4), size=32, mode="bicubic")
            model.train()
            for batch in images.split(16):
                model(batch + 0.1 * torch.randn_like(batch))
            model.eval()
            model.fc.bias -= model(images).mean(0)  # so that every class is sometimes the first
        return model

    return enliven


@pytest.fixture(scope="session")
def checkpoint(lively: Callable[[Any], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cifar_resnet20 of 10 classes, as `torch.save(model.state_dict())` writes it."""
    import torch

    from edgeres.models.resnet import build

    path = tmp_path_factory.mktemp("checkpoint") / "resnet20.pth"
    torch.save(lively(build("cifar_resnet20", len(CLASSES))).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file of `checkpoint`, free batch, with the names of CIFAR-10's classes."""
    from edgeres.export import export

    path = tmp_path_factory.mktemp("exported") / "resnet20.onnx"
    export(checkpoint, path, classes=CLASSES, preprocess=CIFAR)
    return path


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five classes of four images each, of many sizes, formats and colour modes; the names are CIFAR-10's."""
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(3)
    for position, name in enumerate(CLASSES[:5]):
        (root / name).mkdir()
        for index in range(4):
            height, width = (int(side) for side in random.integers(33, 90, 2))
            image = Image.fromarray(_picture(random, height, width))
            suffix = ("png", "jpg", "webp", "bmp")[(position + index) % 4]
            image.save(root / name / f"{index}.{suffix}")
    picture = _picture(random, 40, 50)
    for path in [*root.glob("airplane/0.*"), *root.glob("bird/1.*"), *root.glob("cat/2.*"), *root.glob("deer/3.*")]:
        path.unlink()
    Image.fromarray(picture).convert("L").save(root / "airplane" / "0.png")
    Image.fromarray(picture).convert("P", palette=Image.Palette.ADAPTIVE).save(root / "bird" / "1.png")
    Image.fromarray(picture).convert("RGBA").save(root / "cat" / "2.png")
    Image.fromarray(picture[:, :, 0].astype(np.uint16) * 257).save(root / "deer" / "3.png")
    return root


@pytest.fixture(scope="session")
def mirrored_folder(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of `image_folder` turned round: of the same classes, and other ones."""
    root = tmp_path_factory.mktemp("mirrored")
    for path in image_folder.rglob("*.*"):
        new = root / path.relative_to(image_folder).with_suffix(".png")
        new.parent.mkdir(exist_ok=True)
        with Image.open(path) as image:
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(new)
    return root


def _picture(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth patches of colour with a little noise: more like a photograph than noise alone."""
    coarse = random.integers(0, 256, (4, 4, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.float64)
    return np.clip(smooth + random.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def edgeres_data() -> Path:
    """The folder of real checkpoints and labelled images, for the tests that need them."""
    given = os.environ.get("EDGERES_DATA")
    path = Path(given) if given else Path(__file__).parents[2] / "shared" / "data"
    if not (path / "cifar10_resnets").is_dir():
        pytest.skip(f"the real data are not at {path}; set EDGERES_DATA to their folder")
    return path


@pytest.fixture(scope="session")
def networks(lively: Callable[[Any], Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """ONNX files of small networks with 7 classes for 64 x 64 pixels: `basic` blocks, `grouped` bottlenecks."""
    import torch

    from edgeres.export import export
    from edgeres.models.resnet import ARCHITECTURES, Architecture, build

    folder = tmp_path_factory.mktemp("networks")
    rows = {
        "basic": Architecture("basic", (2, 1), size=64),
        "grouped": Architecture("bottleneck", (2, 1), groups=32, base_width=4, size=64),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, row in rows.items():
            patch.setitem(ARCHITECTURES, name, row)
            torch.save(lively(build(name, 7)).state_dict(), folder / f"{name}.pth")
            export(folder / f"{name}.pth", folder / f"{name}.onnx", name)
    return {name: folder / f"{name}.onnx" for name in rows}


@pytest.fixture(scope="session")
def calibrated(exported: Path, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The statistics of `exported` on `image_folder`."""
    from edgeres.data import open_images
    from edgeres.quantization.calibrate import calibrate

    return calibrate(exported, open_images(image_folder), tmp_path_factory.mktemp("calibrated") / "resnet20.stats").path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first, so that other processes have something to do meanwhile."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")
