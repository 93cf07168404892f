"""What is stored beside weights: the architecture's name, class names, and how images are to be prepared.

Three forms: edgeres' own (text in a safetensors file), timm's `config.json`, and `config.json` with
`preprocessor_config.json` of transformers.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeres import disk
from edgeres.errors import InputError

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's codes."""
HARMLESS = {"num_classes", "in_chans", "img_size", "drop_rate", "drop_path_rate", "drop_block_rate", "global_pool"}
"""Arguments of a timm model that change nothing in inference, or that the tensors' shapes tell."""
RESIZE_232 = {
    "11ad3fa6", "cd907fc2", "f82ba261", "1a0047aa", "110c445d", "173b62eb", "9ba9bcbe", "d733dc28",
}  # fmt: skip
"""Ends of the names of torchvision's files whose weights are evaluated on images resized to 232, not 256, pixels."""


@dataclass(frozen=True)
class Config:
    """`preprocess` as `Preprocess.parse` takes it; `row`: fields of the architecture, where they are stored instead of
    its name; `notes`: sentences for the user."""

    arch: str | None = None
    row: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    preprocess: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()


def stored(metadata: Mapping[str, str], where: Path) -> Config:
    """What edgeres stores in a safetensors file: `arch`, `classes` and `preprocess`, the latter two as JSON."""

    def parsed(key: str) -> Any:
        try:
            return json.loads(metadata.get(key) or "null")
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: the stored `{key}` is not JSON ({error}); save it again.") from None

    classes = parsed("classes") or []
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise InputError(f"{where}: the stored `classes` are not a JSON list of names; save it again.")
    return Config(metadata.get("arch"), {}, tuple(classes), parsed("preprocess"))


def published(path: Path) -> Config:
    """What torchvision says of the weights that it publishes, by the file's name; an empty one for all other files."""
    name, _, end = path.stem.rpartition("-")
    if not name or end not in RESIZE_232:
        return Config()
    return Config(
        preprocess={"resize": 232}, notes=("its name is of weights that torchvision evaluates at 232 pixels",)
    )


def beside(folder: Path) -> Config:
    """What timm or transformers stored in a folder; an empty one where there is no `config.json`.

    InputError where it describes a network that is no ResNet of edgeres', or preprocessing that edgeres does not do.
    """
    path = folder / CONFIG
    if not path.is_file():
        return Config()
    config = disk.read_json(path)
    try:
        if "architecture" in config:
            return _timm(config, path)
        return _transformers(config, folder) if "model_type" in config else Config()
    except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}); save it again.") from None


def _timm(config: Mapping[str, Any], path: Path) -> Config:
    """Keys as timm's `push_to_hf_hub` writes them; the crop as its `create_transform` makes it."""
    arguments = config.get("model_args") or {}
    if odd := sorted(set(arguments) - HARMLESS):
        raise InputError(f"{path}: the network was made with {odd[0]}={arguments[odd[0]]!r}, which edgeres has not.")
    if (pool := arguments.get("global_pool") or config.get("global_pool") or "avg") != "avg":
        raise InputError(f"{path}: the network pools by {pool!r}, edgeres by the mean alone; train it so.")
    known = config.get("pretrained_cfg") or config
    crop = _side(known.get("input_size", (3, 224, 224))[1:], path)
    preprocess = {
        "resize": math.floor(crop / (known.get("crop_pct") or 0.875)),
        "crop": crop,
        "crop_mode": known.get("crop_mode") or "center",
        "interpolation": known.get("interpolation") or "bicubic",
        **{key: known[key] for key in ("mean", "std") if known.get(key)},
    }
    tested = known.get("test_input_size")
    notes = (f"its test size is {tested[1]} pixels (--size), its own {crop}",) if tested and tested[1] != crop else ()
    classes = _names(config.get("label_names") or known.get("label_names") or ())
    return Config(str(config["architecture"]).split(".")[0], {}, classes, preprocess, notes)


def _transformers(config: Mapping[str, Any], folder: Path) -> Config:
    """Keys of `ResNetConfig`."""
    path = folder / CONFIG
    if (kind := config["model_type"]) != "resnet":
        raise InputError(f"{path}: the network is of type {kind!r}, no ResNet; edgeres exports ResNets.")
    for key, needed in (("hidden_act", "relu"), ("downsample_in_first_stage", False)):
        if (value := config.get(key, needed)) != needed:
            raise InputError(f"{path}: the network has {key}={value!r}, which edgeres has not; {needed!r} is known.")
    classes = _names(config.get("id2label") or ())
    row = {"stride": "1x1" if config.get("downsample_in_bottleneck") else "3x3"}
    processor = folder / PROCESSOR
    preprocess = _processed(disk.read_json(processor), processor) if processor.is_file() else None
    return Config(None, row, classes, preprocess)


def _names(labels: Any) -> tuple[str, ...]:
    """Class names that are listed, or stand by index ({"0": "tench", ...})."""
    if isinstance(labels, Mapping):
        known = {int(index): name for index, name in labels.items()}
        labels = [known[index] for index in range(len(known))]
    names = tuple(str(name) for name in labels)
    unknown = tuple(f"LABEL_{index}" for index in range(len(names)))  # as transformers says that there are none
    return () if names == unknown else names


def _processed(config: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Keys of transformers' image processors. ResNets come with ConvNext's, which resizes to size / crop_pct and crops
    below 384 pixels, and squashes the image into the square from there on."""
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "ConvNext")
    convnext, centre = kind.startswith("ConvNext"), bool(config.get("do_center_crop"))
    size = config.get("size", 224)
    short = size.get("shortest_edge") if isinstance(size, Mapping) else size if convnext or centre else None
    if not config.get("do_resize", True):
        raise InputError(f"{path}: images are not resized, so that their sizes differ; set do_resize.")
    if short and convnext and short < 384:
        made = {"resize": int(short / (config.get("crop_pct") or 224 / 256)), "crop": short, "crop_mode": "floor"}
    elif short and not convnext:
        if not centre:
            raise InputError(f"{path}: images are not cropped to one size; set do_center_crop and crop_size.")
        made = {"resize": short, "crop": short, "crop_mode": "floor"}
    else:
        side = short or _side(size, path)
        made = {"resize": side, "crop": side, "crop_mode": "squash"}
    if centre and "crop_size" in config:
        made["crop"] = _side(config["crop_size"], path)
    factor = 255 * (config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1)
    normalised = config.get("do_normalize", True)
    mean, std = (config.get(f"image_{key}") if normalised else None for key in ("mean", "std"))
    return {
        **made,
        "interpolation": RESAMPLE[config.get("resample", 2)],
        "mean": [value / factor for value in mean or (0.0, 0.0, 0.0)],
        "std": [value / factor for value in std or (1.0, 1.0, 1.0)],
    }


def _side(size: Any, path: Path) -> int:
    """The side of a square that is given as a number, as height and width, or as a list of both."""
    sides = (size["height"], size["width"]) if isinstance(size, Mapping) else size
    height, width = sides if isinstance(sides, tuple | list) else (sides, sides)
    if height != width:
        raise InputError(f"{path}: images are {height} x {width}, edgeres takes square ones alone; train it so.")
    return int(height)
