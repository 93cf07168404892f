"""The nouns that the steps hand to each other: plain frozen values, no behaviour beyond parsing and printing."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import InputError, UsageError

LARGEST = 1 << 13
"""Pixels of a side that an image may be resized to."""
Settings = Mapping[str, str]
"""Options of a runtime by its own names."""
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
CropMode = Literal["center", "floor", "squash", "border"]
Task = Literal["classification", "multi-label", "regression", "embedding", "features", "detection"]
"""What the outputs of a model are for, which decides how its accuracy is told."""
Frame = Literal["u8-nhwc", "u8-nhwc-bgr"]
"""Camera bytes, uint8 (N, H, W, 3), resized and cropped: RGB, or BGR as OpenCV has it."""
Images = NDArray[Any]
"""What an engine takes: float32 (N, 3, H, W), normalised, or frames."""


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes the model's input, as torchvision's evaluation transforms do it.

    The shorter side is resized to `resize` pixels, the centre `crop` x `crop` is cut out, values are scaled to
    [0, 1], then `(x - mean) / std` per RGB channel; the result is float32 in `layout`. The defaults are ImageNet's.

    `crop_mode` has timm's names: "center" as above; "squash" resizes both sides; "border" resizes the longer side and
    fills the crop with the mean. "floor" is "center" for transformers, which does not round where the centre falls
    between two pixels.
    """

    resize: int = 256
    crop: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: Interpolation = "bilinear"
    crop_mode: CropMode = "center"
    layout: Literal["NCHW"] = "NCHW"

    @classmethod
    def parse(cls, values: object, where: str) -> "Preprocess":
        """Read from a JSON object; InputError naming `where` on an unknown key or an impossible value."""
        if not isinstance(values, Mapping):
            raise InputError(f"{where}: preprocessing is {values!r}, not keys with values.")
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise InputError(f"{where}: preprocessing has an unknown key {sorted(unknown)[0]!r}; remove it.")
        made = cls(**{**values, **{key: _three(values[key]) for key in ("mean", "std") if key in values}})
        if not (made.mean and made.std and min(made.std) > 0):
            raise InputError(f"{where}: mean and std take three numbers each, std above zero.")
        if not (type(made.crop) is type(made.resize) is int and 0 < made.crop <= made.resize):
            raise InputError(f"{where}: crop {made.crop} must lie between 1 and resize {made.resize}; change one.")
        if made.resize > LARGEST:
            raise InputError(f"{where}: resize {made.resize} is more than {LARGEST} pixels; give a smaller one.")
        for field, choices in (("interpolation", get_args(Interpolation)), ("crop_mode", get_args(CropMode))):
            if (value := getattr(made, field)) not in choices:
                raise InputError(f"{where}: there is no {field} {value!r}; there are {', '.join(choices)}.")
        if made.layout != "NCHW":
            raise InputError(f"{where}: layout {made.layout!r} is not supported; edgeres exports NCHW.")
        return made

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _three(values: Any) -> tuple[float, ...]:
    """Three finite numbers, or none where the values are anything else."""
    try:
        made = tuple(map(float, values))
    except (TypeError, ValueError):
        return ()
    return made if len(made) == 3 and all(map(math.isfinite, made)) else ()


@dataclass(frozen=True)
class Batch:
    """`images` float32 (N, 3, H, W), or frames; `labels` int64 (N,), -1 where unknown; `names` of the N images."""

    images: Images
    labels: NDArray[np.int64]
    names: tuple[str, ...]


class Precision(str, Enum):
    """The arithmetic that the convolutions of an engine are asked to use."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Target:
    """A runtime and the device it runs on, written `backend:device`, as in `openvino:cpu`, `tensorrt-rtx:sm86`, and
    `onnxruntime:cpu@haswell` for a CPU that is emulated."""

    backend: str
    device: str

    @classmethod
    def parse(cls, text: str) -> "Target":
        """UsageError where the text is not `backend:device`."""
        backend, colon, device = text.strip().lower().partition(":")
        if not (backend and colon and device):
            raise UsageError(f"target {text!r} is not written backend:device; `edgeres targets` lists them.")
        return cls(backend, device)

    def __str__(self) -> str:
        return f"{self.backend}:{self.device}"

    @property
    def emulated(self) -> bool:
        """Whether accuracy on it is real and latency is not."""
        return "@" in self.device

    @property
    def slug(self) -> str:
        """The target as part of a file name."""
        return f"{self.backend}-{self.device}".replace("@", "-")


@dataclass(frozen=True)
class TensorError:
    """What INT8 does to one tensor. `sqnr`: dB of the tensor as the INT8 network has it, all errors before it
    included; `rounding`: dB of what its own Q/DQ pair adds; `outliers`: channel and how many times the median channel's
    peak it reaches, the largest first. Tensors stand in the order of the network by `position`."""

    name: str
    role: str
    position: int
    sqnr: float
    rounding: float
    outliers: tuple[tuple[int, float], ...]
