"""How far edgeres' pixels are from those of torchvision's, timm's and transformers' own evaluation transforms.

    python pipelines/benchmarks/pixels.py > table.md

Each image is written to a file, read by the library's own loader and prepared by its own transforms, those of `both`,
and by edgeres; differences are in grey levels of 256 (before mean and std), the largest of all pixels and transforms,
then the share of values that differ by more than one. Prints Markdown. Needs timm, torchvision and transformers.
"""

import io
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from libraries import timm, torchvision, transformers
from numpy.typing import NDArray

from edgeres.data import batches, open_images
from edgeres.models import config
from edgeres.types import Preprocess

Pixels = NDArray[np.float32]
PHOTO = Path(__file__).parents[2] / "edgeres" / "images" / "coffee.jpg"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def images() -> dict[str, tuple[PIL.Image.Image, str, dict[str, Any]]]:
    """Name -> picture, suffix, options of saving."""
    with PIL.Image.open(PHOTO) as file:
        photo = file.convert("RGB")
    noise = np.random.default_rng(0).integers(0, 256, (301, 403, 3), np.uint8)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    red = photo.resize((320, 241)).getchannel("R")
    deep = PIL.Image.fromarray(np.asarray(red).astype(np.uint16) * 257)
    palette = photo.resize((320, 241)).quantize(64)
    alpha = photo.resize((320, 241)).copy()
    alpha.putalpha(red)
    made: dict[str, tuple[PIL.Image.Image, str, dict[str, Any]]] = {
        f"{width} x {height}": (photo.resize((width, height)), "png", {})
        for width, height in [
            (500, 375),
            (375, 500),
            (501, 333),
            (257, 255),
            (225, 301),
            (224, 224),
            (100, 75),
            (37, 41),
        ]
    }
    return made | {
        "noise, 403 x 301": (PIL.Image.fromarray(noise), "png", {}),
        "narrow, 1200 x 40": (photo.resize((1200, 40)), "png", {}),
        "narrow, 3 x 700": (photo.resize((3, 700)), "png", {}),
        "one pixel": (photo.resize((1, 1)), "png", {}),
        "JPEG": (photo, "jpg", {"quality": 90}),
        "JPEG, grey": (photo.convert("L"), "jpg", {}),
        "JPEG, CMYK": (photo.resize((320, 241)).convert("CMYK"), "jpg", {}),
        "JPEG, EXIF says turn": (photo.resize((320, 241)), "jpg", {"exif": exif.tobytes()}),
        "PNG, 1 bit": (red.convert("1"), "png", {}),
        "PNG, 16-bit grey": (deep, "png", {}),
        "PNG, palette": (palette, "png", {}),
        "PNG, palette, transparent": (palette, "png", {"transparency": 3}),
        "PNG, RGBA": (alpha, "png", {}),
        "PNG, grey and alpha": (alpha.convert("LA"), "png", {}),
        "WebP": (photo, "webp", {}),
    }


def of_torchvision(resize: int, crop: int, interpolation: str) -> tuple[Callable[[Path], Pixels], Preprocess]:
    t = torchvision.transforms
    mode = t.InterpolationMode(interpolation)
    prepare = t.Compose(
        [t.Resize(resize, interpolation=mode), t.CenterCrop(crop), t.ToTensor(), t.Normalize(MEAN, STD)]
    )

    def read(path: Path) -> Pixels:
        made: Pixels = prepare(torchvision.datasets.folder.pil_loader(path)).numpy()
        return made

    return read, Preprocess(resize, crop, MEAN, STD, interpolation)  # type: ignore[arg-type]


def of_timm(**known: Any) -> tuple[Callable[[Path], Pixels], Preprocess]:
    """By way of the `config.json` that edgeres reads."""
    known = {"input_size": [3, 224, 224], "mean": MEAN, "std": STD, **known}
    prepare = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=known))

    def read(path: Path) -> Pixels:
        with PIL.Image.open(path) as file:
            made: Pixels = prepare(file.convert("RGB")).numpy()
        return made

    made = config._timm({"architecture": "resnet50", "pretrained_cfg": known}, Path("config.json"))
    return read, Preprocess.parse(made.preprocess, "timm")


def of_transformers(processor: Any) -> tuple[Callable[[Path], Pixels], Preprocess]:
    """By way of the `preprocessor_config.json` that it writes."""

    def read(path: Path) -> Pixels:
        with PIL.Image.open(path) as file:
            picture = file.convert("RGB")
        made: Pixels = np.asarray(processor(picture, return_tensors="np")["pixel_values"][0])
        return made

    made = config._processed(processor.to_dict(), Path("preprocessor_config.json"))
    return read, Preprocess.parse(made, "transformers")


def both() -> dict[str, list[tuple[Callable[[Path], Pixels], Preprocess]]]:
    """What is compared, by library: ways of preparing an image, and the same for edgeres."""
    tensors, pil = transformers.ConvNextImageProcessor, transformers.ConvNextImageProcessorPil
    options: list[dict[str, Any]] = [
        {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3},
        {"size": {"shortest_edge": 224}, "crop_pct": 0.95, "resample": 2},
        {"size": {"shortest_edge": 384}, "resample": 3},
    ]
    imagenet = {"image_mean": list(MEAN), "image_std": list(STD)}
    return {
        "torchvision": [
            of_torchvision(256, 224, "bilinear"),
            of_torchvision(232, 224, "bilinear"),
            of_torchvision(235, 224, "bicubic"),
            of_torchvision(224, 224, "nearest"),
        ],
        "timm": [
            of_timm(crop_pct=0.95, interpolation="bicubic"),
            of_timm(crop_pct=0.875, interpolation="bilinear"),
            of_timm(crop_pct=0.9, interpolation="bicubic", crop_mode="squash"),
            of_timm(crop_pct=0.9, interpolation="bicubic", crop_mode="border"),
        ],
        "transformers, PIL": [of_transformers(pil(**option, **imagenet)) for option in options],
        "transformers, tensors": [of_transformers(tensors(**option, **imagenet)) for option in options],
    }


def difference(path: Path, read: Callable[[Path], Pixels], preprocess: Preprocess) -> NDArray[np.float32]:
    (batch,) = batches(open_images(path.parent), preprocess, 1)
    std = np.array(preprocess.std, np.float32)[:, None, None]
    made: NDArray[np.float32] = np.abs(batch.images[0] - read(path)) * std * 255
    return made


def cell(found: list[NDArray[np.float32]]) -> str:
    values = np.concatenate([one.ravel() for one in found])
    return f"{values.max():.2f}" + (f" ({(values > 1.01).mean():.1e})" if values.max() > 1.01 else "")


def main() -> None:
    warnings.simplefilter("ignore")
    transforms = both()
    print(f"| image | {' | '.join(transforms)} |")
    print(f"|---|{'--:|' * len(transforms)}")
    for name, (picture, suffix, options) in images().items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"image.{suffix}"
            content = io.BytesIO()
            picture.save(content, {"jpg": "JPEG"}.get(suffix, suffix), **options)
            path.write_bytes(content.getvalue())
            cells = [cell([difference(path, *way) for way in ways]) for ways in transforms.values()]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
