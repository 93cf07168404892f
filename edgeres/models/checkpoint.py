"""Trained weights as people keep them: found in files and folders, and matched to the table of architectures."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeres import disk
from edgeres.errors import InputError, MissingRuntime, UsageError
from edgeres.models import config as configs
from edgeres.models import pickled
from edgeres.models.architectures import ARCHITECTURES, Architecture
from edgeres.models.config import Config
from edgeres.models.layouts import AVERAGED, BODY, COUNTERS, HEADS, detector, prefixes, translate
from edgeres.models.resnet import ResNet, build

NESTED = ("state_dict", "model_state_dict", "model", "net", "network")
"""Where a training loop keeps the weights that are to be used, the first of these first."""
SAVED = ("model.safetensors", "pytorch_model.bin")
"""What timm and transformers call weights in a folder; `.index.json` behind it lists the files of large ones."""
INDEX = ".index.json"
SUFFIXES = (".safetensors", ".pth", ".pt", ".th", ".ckpt", ".bin")

BLOCK = re.compile(r"layer(\d+)\.(\d+)\.")
LATER = re.compile(r"layer\d+\.0*[1-9]\d*\.")
"""A block of a stage, and one that is not its first."""
EXTRA = " is no part of it"
LEARNED = (".weight", ".bias", ".running_mean", ".running_var")


@dataclass(frozen=True)
class Checkpoint:
    """A state dict under the names of `edgeres.models.resnet`, float32, and what is known of the network beside it.

    `detector` is what a detector of torchvision has around that network, under torchvision's names;
    `files` are all that was read, the weights first; `notes` are sentences that tell the user what was chosen.
    """

    path: Path
    state: Mapping[str, Tensor]
    detector: Mapping[str, Tensor] = field(default_factory=dict)
    config: Config = field(default_factory=Config)
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        """How many numbers the head gives; InputError where there is no head."""
        weights = [value for name, value in self.state.items() if name.startswith("fc.") and value.dim() == 2]
        if not weights:
            raise InputError(
                f"{self.path} has no classifier head ({', '.join(HEADS)}): it is a backbone alone; save the network "
                "that was trained with it, or give its vector with --embedding or its maps with --features."
            )
        return len(weights[-1])

    @cached_property
    def rows(self) -> tuple[str, ...]:
        """The architectures whose tensors these are, in the order of the table: the first is the guess."""
        body = _shapes(self.state)
        first, depths = {name: shape for name, shape in body.items() if not LATER.match(name)}, _depths(body)
        same = [name for name, row in ARCHITECTURES.items() if row.depths == depths and _first(row) == first]
        return tuple(name for name in same if self.config.row.items() <= vars(ARCHITECTURES[name]).items())


def read(path: Path) -> Checkpoint:
    """Read .pth, .pt, .th, .ckpt, .bin (tensors only, `weights_only=True`), .safetensors, or a folder that timm or
    transformers saved.

    UsageError where there is no such file, InputError where it is damaged, holds objects other than tensors, or holds
    no state dict of a ResNet.
    """
    weights = _files(path)
    folder, saved = weights[0].parent, path.is_dir() or re.match(r"(pytorch_)?model[.-]", path.name)
    config = configs.beside(folder) if saved else configs.published(path)
    content: Any = {}
    for file in weights:
        if file.suffix == ".safetensors":
            part, metadata = _safetensors(file)
            own = configs.stored(metadata, file)
            config = own if own != Config() else config
        else:
            part = pickled.read(file)
        content = {**content, **part} if len(weights) > 1 and isinstance(part, Mapping) else part
    state, notes = _chosen(content, path)
    whole = next((n for n, v in state.items() if n.endswith(LEARNED) and not v.is_floating_point()), None)
    if whole:
        raise InputError(f"{path}: {whole} holds whole numbers ({state[whole].dtype}); save floating point weights.")
    body, around = detector({name: value.float() for name, value in state.items()})
    network = translate(body, str(path))
    both = {**network.state, **around}
    broken = next((name for name, value in both.items() if not bool(torch.isfinite(value).all())), None)
    if broken:
        raise InputError(f"{path}: {broken} holds NaN or infinite values; take another checkpoint.")
    negative = next((n for n, v in both.items() if n.endswith("running_var") and bool((v < 0).any())), None)
    if negative:
        raise InputError(f"{path}: {negative} holds negative variances; take another checkpoint.")
    beside = [file for name in (configs.CONFIG, configs.PROCESSOR) if saved and (file := folder / name).is_file()]
    config = replace(config, row={**config.row, **network.row})
    return Checkpoint(path, network.state, around, config, (*weights, *beside), (*notes, *network.notes, *config.notes))


def _files(path: Path) -> list[Path]:
    """The files that hold the tensors."""
    if path.is_dir():
        here = [file for name in SAVED for end in ("", INDEX) if (file := path / f"{name}{end}").is_file()]
        here = here[:1] or [file for file in path.iterdir() if file.suffix in SUFFIXES]
        if not here:
            raise UsageError(f"there is no checkpoint at {path} ({', '.join(SUFFIXES)}); check --weights.")
        if len(here) > 1:
            raise UsageError(f"{path} holds {len(here)} checkpoints, none called {' or '.join(SAVED)}; name a file.")
        (path,) = here
    if not path.is_file():
        raise UsageError(f"there is no checkpoint at {path}; check --weights.")
    if not path.name.endswith(INDEX):
        return [path]
    index = disk.read_json(path)
    listed = index.get("weight_map") if isinstance(index, dict) else None
    parts = list(listed.values()) if isinstance(listed, dict) else []
    if not parts or not all(isinstance(name, str) and Path(name).name == name for name in parts):
        raise InputError(f"{path} does not list files beside it in `weight_map`; save the checkpoint again.")
    names = sorted(set(parts))
    if absent := [name for name in names if not os.path.isfile(path.parent / name)]:
        raise InputError(f"{path} lists {absent[0]}, which is not beside it; get the whole checkpoint.")
    return [path.parent / name for name in names]


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


def _tensors(content: object, place: str = "", depth: int = 4) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Each dictionary of named tensors inside a checkpoint, and where it stands in it: `model.state_dict`."""
    if isinstance(content, Mapping) and depth:
        if found := {key: value for key, value in content.items() if isinstance(key, str) and _is_weight(value)}:
            yield place, found
        for key, value in content.items():
            yield from _tensors(value, f"{place}.{key}" if place else str(key), depth - 1)


def _is_weight(value: object) -> bool:
    """Whether it is a tensor of plain numbers, all of which the file holds: strides can repeat a few without end."""
    if not isinstance(value, Tensor) or value.is_quantized or value.is_complex():
        return False
    plain = value.layout is torch.strided and value.device.type == "cpu"
    return plain and value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _chosen(content: object, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state dict that is to be used, and a note where there was a choice: averaged weights go first."""
    every = dict(_tensors(content))
    if not every:
        raise InputError(f"{path} holds no state dict; save `model.state_dict()`.")
    networks = {place: state for place, state in every.items() if prefixes(state)}
    if len(networks) < 2:
        return next(iter(networks.values()), max(every.values(), key=len)), ()
    averaged = [place for place in networks if AVERAGED.search(place)]
    plain = [place for place in networks if place not in averaged]
    usual = [place for name in NESTED for place in plain if place.rpartition(".")[2] == name]
    whole = len(averaged) == 1 and all(len(networks[averaged[0]]) >= len(networks[place]) for place in plain)
    if not whole and not usual:
        raise InputError(f"{path} holds {len(networks)} networks ({', '.join(networks)}); save one of them.")
    taken, kind = (averaged[0], "averaged ") if whole else (usual[0], "")
    others = ", ".join(f"`{place}`" for place in networks if place != taken)
    return networks[taken], (f"the {kind}weights `{taken}` are taken, not {others}",)


def load(arch: str | None, checkpoint: Checkpoint, head: bool = True) -> tuple[str, ResNet]:
    """The network with its weights, in evaluation mode, and the name of its row; the head is made as the tensors say,
    or, where it is not wanted, left out if there is one.

    `arch` None takes the name stored beside the weights, or the first of `rows`. UsageError for an unknown name or
    where no row fits, InputError where the weights do not fit the row.
    """
    if not head:
        body = {name: value for name, value in checkpoint.state.items() if not name.startswith("fc.")}
        checkpoint = replace(checkpoint, state=body)
    outputs, stored = checkpoint.outputs if head else 1, checkpoint.config.arch
    if arch is None and stored is not None and stored not in ARCHITECTURES:
        raise InputError(
            f"{checkpoint.path} is of a {stored}, which is no architecture of the table; where it computes what one of "
            "them does, give --arch."
        )
    name = arch or stored or next(iter(checkpoint.rows), None)
    if name is None:
        closest = _closest(checkpoint)
        with torch.device("meta"):
            problems = _problems(_with_head(build(closest, outputs), checkpoint.state), checkpoint.state)
        raise UsageError(
            f"{checkpoint.path} fits no architecture of the table; the closest is {closest}, but {_few(problems)}; "
            "see `edgeres export --list`."
        )
    if name not in ARCHITECTURES:
        alike = sorted((one for one in ARCHITECTURES if name in one), key=lambda one: not one.endswith(name))[:3]
        alike = alike or get_close_matches(name, ARCHITECTURES)
        meant = f"did you mean {' or '.join(alike)}? " if alike else ""
        raise UsageError(
            f"{checkpoint.path}: there is no architecture {name!r}; {meant}`edgeres export --list` lists them, and "
            "where none is named it is recognised."
        )
    model = _with_head(build(name, outputs), checkpoint.state)
    problems = _problems(model, checkpoint.state)
    if problems and all(problem.endswith(EXTRA) and not BODY.match(problem) for problem in problems):
        names = [problem.removesuffix(EXTRA) for problem in problems]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise InputError(
            f"{checkpoint.path} holds a {name} and also {', '.join(names[:3])}{more}, which the network of the table "
            "does not use; where that is right, take them out of the state dict."
        )
    if problems:
        rows, closest = checkpoint.rows, _closest(checkpoint)
        fits = f"these are tensors of {rows[0]}" if rows else f"the closest architecture is {closest}"
        fits = fits if closest != name else "see how it was saved"
        raise InputError(f"{checkpoint.path} does not fit {name}: {_few(problems)}; {fits}.")
    model.load_state_dict(checkpoint.state, strict=False)
    return name, model.eval()


def _with_head(model: ResNet, state: Mapping[str, Tensor]) -> ResNet:
    """The network with linear layers, and ReLU between them, as the names and shapes of the head's tensors say."""
    layers = {name: len(value) for name, value in state.items() if re.fullmatch(r"fc(\.\d+)?\.weight", name)}
    features = model.fc.in_features
    if not layers:
        model.add_module("fc", nn.Identity())
        return model
    if "fc.weight" in layers:
        model.add_module("fc", nn.Linear(features, layers["fc.weight"]))
        return model
    head: list[nn.Module] = []
    for index in range(1 + max(int(name.split(".")[1]) for name in layers)):
        if outputs := layers.get(f"fc.{index}.weight"):
            head.append(nn.Linear(features, outputs))
            features = outputs
        else:
            head.append(nn.ReLU())
    model.add_module("fc", nn.Sequential(*head))
    return model


def _problems(model: ResNet, given: Mapping[str, Tensor]) -> list[str]:
    wanted = {name: value for name, value in model.state_dict().items() if not name.endswith(COUNTERS)}
    return [
        *(f"{name} is missing" for name in wanted if name not in given),
        *(
            f"{name} has shape {tuple(given[name].shape)}, not {tuple(value.shape)}"
            for name, value in wanted.items()
            if name in given and given[name].shape != value.shape
        ),
        *(f"{name}{EXTRA}" for name in given if name not in wanted and not name.endswith(COUNTERS)),
    ]


def _few(problems: list[str]) -> str:
    return problems[0] + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: v.shape for name, v in state.items() if BODY.match(name) and not name.endswith(COUNTERS)}


def _depths(names: Iterable[str]) -> tuple[int, ...]:
    blocks = {(int(found[1]), int(found[2])) for name in names if (found := BLOCK.match(name))}
    stages = [stage for stage, _ in blocks]
    return tuple(stages.count(stage) for stage in sorted(set(stages)))


@cache
def _first(row: Architecture) -> dict[str, torch.Size]:
    """The tensors of a row without its blocks but the first of each stage, which tell all but the depths: quick."""
    with torch.device("meta"):
        return _shapes(ResNet(replace(row, depths=(1,) * len(row.depths)), 1).state_dict())


def _closest(checkpoint: Checkpoint) -> str:
    """The row that has the most tensors in common."""
    body = _shapes(checkpoint.state)
    depths = _depths(body)

    def distance(name: str) -> int:
        row = ARCHITECTURES[name]
        first = {key: shape for key, shape in body.items() if not LATER.match(key)}
        blocks = abs(sum(depths) - sum(row.depths)) + abs(len(depths) - len(row.depths))
        return len(first.items() ^ _first(row).items()) + blocks + (depths != row.depths)

    return min(ARCHITECTURES, key=distance)
