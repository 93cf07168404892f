"""Trained weights as people keep them, read without ever running a pickle."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from edgeres.errors import InputError, MissingRuntime, UsageError
from edgeres.models.resnet import ARCHITECTURES, ResNet, build

NESTED = ("state_dict", "model_state_dict", "model", "net", "network")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.")


@dataclass(frozen=True)
class Checkpoint:
    """A flat state dict, float32, and the text that was stored beside it (safetensors' metadata)."""

    path: Path
    state: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names stored beside the weights, empty where there are none."""
        found = self._stored("classes") or []
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise InputError(f"{self.path}: the stored `classes` are not a JSON list of names; save it again.")
        return tuple(found)

    @property
    def preprocess(self) -> Any:
        """The preprocessing stored beside the weights, as `Preprocess.parse` takes it; None where there is none."""
        return self._stored("preprocess")

    def _stored(self, key: str) -> Any:
        try:
            return json.loads(self.metadata.get(key) or "null")
        except ValueError as error:
            raise InputError(f"{self.path}: the stored `{key}` is not JSON ({error}); save it again.") from None


def read(path: Path) -> Checkpoint:
    """Read .pth, .pt, .th, .ckpt (tensors only, `weights_only=True`) or .safetensors.

    UsageError where there is no such file, InputError where it is damaged, holds objects other than tensors, or
    holds no state dict.
    """
    metadata: Mapping[str, str] = {}
    if not path.is_file():
        raise UsageError(f"there is no checkpoint at {path}; check --weights.")
    if path.suffix == ".safetensors":
        content, metadata = _safetensors(path)
    else:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what is then refused
                content = torch.load(path, map_location="cpu", weights_only=True)
        except UnpicklingError:
            raise InputError(
                f"{path} is refused: it holds pickled objects, which can run code, or is damaged; "
                "save `model.state_dict()` alone, or .safetensors."
            ) from None
        except Exception as error:  # a damaged file fails anywhere in torch's reader
            reason = (
                "it ends early" if isinstance(error, EOFError) else f"{type(error).__name__}: {error}".splitlines()[0]
            )
            raise InputError(f"{path} is not a checkpoint of torch ({reason}); give .pth or .safetensors.") from None
    state = _flat(content)
    if not state:
        raise InputError(f"{path} holds no state dict; save `model.state_dict()`.")
    broken = next((name for name, value in state.items() if not bool(torch.isfinite(value).all())), None)
    if broken:
        raise InputError(f"{path}: {broken} holds NaN or infinite values; take another checkpoint.")
    return Checkpoint(path, state, metadata)


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise MissingRuntime("reading .safetensors needs the package; `pip install 'edgeres[export]'`.") from None
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path} is not a whole safetensors file ({error}).") from None


def _flat(content: object) -> dict[str, Tensor]:
    """The state dict inside a checkpoint, in float32, without wrappers' prefixes; the head is called `fc`."""
    for _ in NESTED:  # one in the other, at most so deep
        known = content if isinstance(content, Mapping) else {}
        content = next((known[key] for key in NESTED if isinstance(known.get(key), Mapping)), content)
    if not isinstance(content, Mapping):
        return {}
    state = {str(k): v.float() for k, v in content.items() if isinstance(v, Tensor)}
    while prefix := next((p for p in PREFIXES if state and all(k.startswith(p) for k in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return {f"fc.{k.removeprefix('linear.')}" if k.startswith("linear.") else k: v for k, v in state.items()}


def load(arch: str | None, checkpoint: Checkpoint) -> tuple[str, ResNet]:
    """The network with its weights, in evaluation mode; the number of classes is read off the head.

    `arch` None takes the name stored beside the weights, or the row whose tensors fit. UsageError for an unknown
    name, InputError where the weights do not fit the row.
    """
    head = checkpoint.state.get("fc.weight")
    if head is None or head.dim() != 2:
        raise InputError(f"{checkpoint.path} has no classifier head `fc.weight`; is it a ResNet in torchvision layout?")
    name = arch or checkpoint.metadata.get("arch") or _recognise(checkpoint)
    if name not in ARCHITECTURES:
        raise UsageError(f"there is no architecture {name!r}; there are {', '.join(ARCHITECTURES)}.")
    model = build(name, head.shape[0])
    counters = "num_batches_tracked"
    wanted = {k: v for k, v in model.state_dict().items() if not k.endswith(counters)}
    given = {k: v for k, v in checkpoint.state.items() if not k.endswith(counters)}
    problems = [f"{k} is missing" for k in wanted if k not in given]
    problems += [f"{k} is not part of it" for k in given if k not in wanted]
    problems += [
        f"{k} has shape {tuple(given[k].shape)}, not {tuple(v.shape)}"
        for k, v in wanted.items()
        if k in given and given[k].shape != v.shape
    ]
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise InputError(f"{checkpoint.path} does not fit {name}: {problems[0]}{more}; check --arch.")
    model.load_state_dict(given, strict=False)
    return name, model.eval()


def _recognise(checkpoint: Checkpoint) -> str:
    """The first row of the table whose tensor names and shapes are those of the checkpoint."""
    shapes = {k: v.shape for k, v in checkpoint.state.items() if v.dim() > 1 and k != "fc.weight"}
    for name in ARCHITECTURES:
        with torch.device("meta"):
            model = build(name, 1)
        if shapes == {k: v.shape for k, v in model.state_dict().items() if v.dim() > 1 and k != "fc.weight"}:
            return name
    raise UsageError(
        f"{checkpoint.path} fits no architecture of the table; give --arch, or see `edgeres export --list`."
    )
