"""A recipe: one TOML file that says what to make, from what, for which targets, and what it is held to."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from edgeres import disk
from edgeres.errors import InputError, UsageError
from edgeres.types import Frame, Precision, Target, Task


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelPart(Part):
    """[model]: the checkpoint, or in its place an ONNX file from elsewhere, and how it is exported; see
    `edgeres.export.export`."""

    weights: Path | None = None
    onnx: Path | None = None
    arch: str | None = None
    classes: list[str] = []
    task: Task = "classification"
    features: list[str] = []
    opset: int = 19
    batch: int | None = Field(default=None, ge=1, le=65536)
    preprocess: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_source(self) -> "ModelPart":
        if (self.weights is None) == (self.onnx is None):
            raise ValueError("give either weights or onnx")
        return self

    @property
    def source(self) -> Path:
        """The file that is exported."""
        source = self.weights or self.onnx
        assert source is not None
        return source


class DataPart(Part):
    """[data]: image sources (see `edgeres.data.open_images`). `samples` draws that many of the calibration images."""

    calibration: Path
    evaluation: Path
    samples: int | None = Field(default=None, ge=1)


class QuantizationPart(Part):
    """[quantization]: the range method and the level of every scheme; see `edgeres.quantization.quantize`."""

    method: str = "mse"
    level: str = "balanced"


class BenchPart(Part):
    """[bench]: how latency is measured; see `edgeres.measure`."""

    batch: int = Field(default=1, ge=1, le=65536)
    threads: int | None = Field(default=None, ge=1, le=1024)
    rounds: int = Field(default=5, ge=1)


class TargetPart(Part):
    """[[targets]]: `target` as in `openvino:cpu`; the precisions and the scheme default to the runtime's best; `input`
    lets the engines take camera bytes, see `edgeres.engines.build`.

    The rest is what `edgeres tune` finds, for the INT8 engine: layers to `keep` in float, a fixed `batch`, `threads`,
    and `settings`, the runtime's own options.
    """

    target: Annotated[str, AfterValidator(lambda text: str(Target.parse(text)))]
    precisions: list[Precision] | None = None
    scheme: str | None = None
    input: Frame | None = None
    keep: list[str] = []
    batch: int | None = Field(default=None, ge=1, le=65536)
    threads: int | None = Field(default=None, ge=1, le=1024)
    settings: dict[str, str] = {}


def _short(value: object) -> object:
    """`targets = ["openvino:cpu"]` is short for a table with that one key."""
    return {"target": value} if isinstance(value, str) else value


def _no_flag(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError('a rule is a number or a percentage, as in 0.3 or "5%"')
    return value


class Recipe(Part):
    """A whole recipe; paths are absolute once read. `name` defaults to the file's."""

    name: str = Field(pattern=r"^\w[\w.-]*$")
    model: ModelPart
    data: DataPart
    quantization: QuantizationPart = Field(default_factory=QuantizationPart)
    bench: BenchPart = Field(default_factory=BenchPart)
    targets: list[Annotated[TargetPart, BeforeValidator(_short)]] = Field(min_length=1)
    check: dict[str, Annotated[float | str, BeforeValidator(_no_flag)]] = {}


_PARTS: Mapping[str, type[Part]] = {
    "model": ModelPart,
    "data": DataPart,
    "quantization": QuantizationPart,
    "bench": BenchPart,
    "targets": TargetPart,
}


def read(path: Path) -> Recipe:
    """Read a recipe, paths from its own folder on; UsageError where it is absent, InputError where it is wrong."""
    content = disk.parse_toml(disk.read_text(path), path)
    try:
        recipe = Recipe.model_validate({"name": path.stem, **content})
    except ValidationError as error:
        # An unknown key is often why another one is missing.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            part = _PARTS.get(str(first["loc"][0]), Recipe) if len(first["loc"]) > 1 else Recipe
            raise InputError(f"{path}: there is no key {place}; there are {', '.join(part.model_fields)}.") from None
        raise InputError(f"{path}: {place}: {first['msg']}; mend the recipe.") from None
    except UsageError as error:  # of a target
        raise InputError(f"{path}: {error}") from None
    named = [part.target for part in recipe.targets]
    if twice := next((name for name in named if named.count(name) > 1), None):
        raise InputError(f"{path}: target {twice} is listed twice; give it one entry with all its precisions.")
    here = path.resolve().parent
    return recipe.model_copy(
        update={
            "model": _absolute(recipe.model, here, "weights" if recipe.model.weights else "onnx"),
            "data": _absolute(recipe.data, here, "calibration", "evaluation"),
        }
    )


def write(recipe: Recipe, path: Path) -> None:
    """Write a recipe that `read` reads alike, paths from its own folder on; what is left at its default is left out."""
    content = recipe.model_dump(mode="json", exclude_defaults=True)
    here = path.resolve().parent
    content["model"]["onnx" if recipe.model.onnx else "weights"] = os.path.relpath(recipe.model.source, here)
    content["data"] |= {
        name: os.path.relpath(getattr(recipe.data, name), here) for name in ("calibration", "evaluation")
    }
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in content.items() if not isinstance(value, dict | list)]
    for key, table in tables.items():
        lines += ["", f"[{key}]", *(f"{name} = {toml_value(value)}" for name, value in table.items())]
    for target in content["targets"]:
        lines += ["", "[[targets]]", *(f"{name} = {toml_value(value)}" for name, value in target.items())]
    disk.write_bytes(path, ("\n".join(lines) + "\n").encode())


def toml_value(value: Any) -> str:
    """A value in TOML, whose strings, numbers and lists of them are written as JSON's are."""
    if not isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return f"{{ {', '.join(f'{json.dumps(key)} = {toml_value(one)}' for key, one in value.items())} }}"


def _absolute(part: Part, here: Path, *names: str) -> Part:
    moved: Mapping[str, Path] = {name: here / getattr(part, name) for name in names}
    return part.model_copy(update=moved)
