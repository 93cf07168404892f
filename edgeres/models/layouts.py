"""Names that libraries give to the tensors of a ResNet, translated into those of `edgeres.models.resnet`.

A layout is known by the name of one tensor of the first block, behind whatever prefix wrappers put before it
(`module.`, `_orig_mod.`, `model.`, `backbone.`); what stands under the prefix and is part of no block is the head.

Sources of the names: torchvision, timm, transformers, and the CIFAR repositories named below.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgeres.errors import InputError

AVERAGED = re.compile(r"(?:^|[._])(?:ema|swa|averaged)(?:[._]|$)")
"""What the names of exponential moving averages and other averages of the weights have in common."""
COUNTERS = ("num_batches_tracked", "n_averaged")
BODY = re.compile(r"(?:conv1|bn1|norm|layer\d+)\.")
"""How the names of everything but the head begin."""
HEADS = ("fc", "classifier", "head", "linear", "last_linear", "output", "logits")
NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class Layout:
    """`sign`: a tensor of the first block; `rules`: patterns and their replacements, applied in turn behind the prefix;
    `row`: fields of the architecture that the layout tells."""

    sign: str
    rules: tuple[tuple[str, str], ...] = ()
    row: Mapping[str, str] = field(default_factory=dict)


def _next(pattern: str, shift: int, more: str = "") -> tuple[tuple[str, str], ...]:
    """Rules that number stages another way: those of `pattern`, which has the stage's number for `{}`."""
    return tuple((pattern.format(stage - shift), f"layer{stage}.{more}") for stage in range(1, 5))


def _convolutions(pattern: str, step: int, conv: str, norm: str) -> tuple[tuple[str, str], ...]:
    """Rules for the layers of a block that are counted instead of named."""
    parts = ((pattern.format(step * (i - 1)) + conv, f"conv{i}.") for i in (1, 2, 3))
    norms = ((pattern.format(step * (i - 1) + (step > 1)) + norm, f"bn{i}.") for i in (1, 2, 3))
    return (*parts, *norms)


STAGES = r"^stages\.{}\.blocks\."
V2 = (*((rf"\.norm{i}\.", f".bn{i}.") for i in (1, 2, 3)), *_next(STAGES, 1))
LAYOUTS = (
    # Cadene's pretrained-models, timm's legacy_seresnet; their pool rounds up.
    Layout(r"layer0\.conv1\.weight", ((r"^layer0\.", ""), (r"\.se_module\.", ".se.")), {"stem": "caffe"}),
    # torchvision, timm; with `shortcut` akamaster/pytorch_resnet_cifar10, kuangliu/pytorch-cifar; chenyaofo's.
    Layout(r"layer1\.0\.conv1\.weight", ((r"\.shortcut\.", ".downsample."),)),
    # transformers' ResNetForImageClassification
    Layout(
        r"encoder\.stages\.0\.layers\.0\.layer\.0\.convolution\.weight",
        (
            (r"^embedder\.embedder\.convolution\.", "conv1."),
            (r"^embedder\.embedder\.normalization\.", "bn1."),
            *_next(r"^encoder\.stages\.{}\.layers\.", 1),
            (r"\.shortcut\.convolution\.", ".downsample.0."),
            (r"\.shortcut\.normalization\.", ".downsample.1."),
            *_convolutions(r"(?<=\.)layer\.{}\.", 1, r"convolution\.", r"normalization\."),
        ),
    ),
    # weiaicunzai/pytorch-cifar100
    Layout(
        r"conv2_x\.0\.residual_function\.0\.weight",
        (
            (r"^conv1\.0\.", "conv1."),
            (r"^conv1\.1\.", "bn1."),
            *_next(r"^conv{}_x\.", -1),
            (r"\.shortcut\.", ".downsample."),
            *_convolutions(r"residual_function\.{}\.", 3, "", ""),
        ),
    ),
    # timm's ResNetV2: a deep stem has three convolutions, and comes with average-pool shortcuts.
    Layout(
        r"stem\.conv1\.weight",
        (
            *((rf"^stem\.conv{i}\.", f"conv1.{3 * i - 3}.") for i in (1, 2, 3)),
            *((rf"^stem\.norm{i}\.", f"conv1.{3 * i - 2}.") for i in (1, 2)),
            (r"\.downsample\.conv\.", ".downsample.1."),
            *V2,
        ),
    ),
    Layout(
        r"stages\.0\.blocks\.0\.conv1\.weight",
        ((r"^stem\.conv\.", "conv1."), (r"\.downsample\.conv\.", ".downsample.0."), *V2),
    ),
    # nn.Sequential(*list(torchvision_resnet.children())[:-1])
    Layout(r"4\.0\.conv1\.weight", ((r"^0\.", "conv1."), (r"^1\.", "bn1."), *_next(r"^{}\.", -3))),
)


def prefixes(names: Iterable[str]) -> dict[str, Layout]:
    """The networks that are among the tensors: what stands before the names of each, and its layout."""
    known = list(names)
    for layout in LAYOUTS:
        sign = re.compile(rf"((?:.*\.)?){layout.sign}")
        if found := [match[1] for name in known if (match := sign.fullmatch(name))]:
            return dict.fromkeys(found, layout)
    return {}


_DETECTOR = re.compile(r"(.*?)(backbone\.)?body\.layer1\.0\.conv1\.weight")


def detector(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The residual network inside a detector of torchvision, and everything else under its name there, without
    wrappers' prefixes; of any other state dict all of it, and nothing."""
    found = next((match for name in state if (match := _DETECTOR.fullmatch(name))), None)
    if found is None:
        return dict(state), {}
    wrapper, inside = found[1], f"{found[1]}{found[2] or ''}body."
    body = {name.removeprefix(inside): value for name, value in state.items() if name.startswith(inside)}
    rest = {name.removeprefix(wrapper): value for name, value in state.items() if not name.startswith(inside)}
    return body, {name if found[2] else f"backbone.{name}": value for name, value in rest.items()}


@dataclass(frozen=True)
class Translated:
    """A network's tensors under the names of `edgeres.models.resnet`: the head is `fc`, or `fc.0`, `fc.2`, ... where
    it has several layers, a missing number being a ReLU. `row` as in `Layout`; `notes` are sentences for the user."""

    state: dict[str, Tensor]
    row: Mapping[str, str]
    notes: tuple[str, ...]


def translate(state: Mapping[str, Tensor], where: str) -> Translated:
    """InputError naming `where` if there is no ResNet in a known layout, more than one, or a head that is no chain of
    linear layers."""
    found = prefixes(state)
    if not found:
        raise InputError(
            f"{where}: its tensors ({', '.join(list(state)[:3])}, ...) are no ResNet's in a known layout; save the "
            "state dict of a torchvision, timm or Hugging Face ResNet."
        )
    notes: list[str] = []
    prefix, layout = next(iter(found.items()))
    if len(found) > 1:
        averaged = [one for one in found if AVERAGED.search(one)]
        if len(averaged) != 1:
            raise InputError(f"{where} holds {len(found)} networks ({', '.join(sorted(found))}); save one of them.")
        prefix = averaged[0]
        others = [one for one in found if one != prefix]
        root = _root(prefix, others)
        state = {name: value for name, value in state.items() if name.startswith(root)}
        notes.append(f"the averaged weights `{root}` are taken, not `{', '.join(others)}`")
    body: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.endswith(COUNTERS):
            continue
        inside = name.startswith(prefix)
        short = _renamed(name.removeprefix(prefix), layout) if inside else _below(name, prefix)
        (body if inside and BODY.match(short) else rest)[short] = value
    head, others_left, said = _head(rest, where)
    return Translated({**body, **head, **others_left}, layout.row, (*notes, *said))


def _root(prefix: str, others: Iterable[str]) -> str:
    """The beginning of `prefix`, whole parts, that none of the others has."""
    parts = prefix.split(".")
    for count in range(1, len(parts)):
        root = ".".join(parts[:count]) + "."
        if not any(one.startswith(root) for one in others):
            return root
    return prefix


def _renamed(name: str, layout: Layout) -> str:
    for pattern, replacement in layout.rules:
        name = re.sub(pattern, replacement, name)
    return name


def _below(name: str, prefix: str) -> str:
    """The name without the parts it shares with the prefix: `module.fc.weight` and `module.body.` -> `fc.weight`."""
    for part in prefix.split("."):
        if not (part and name.startswith(f"{part}.")):
            break
        name = name.removeprefix(f"{part}.")
    return name


def _head(rest: Mapping[str, Tensor], where: str) -> tuple[dict[str, Tensor], dict[str, Tensor], list[str]]:
    """The head among tensors that are part of no block, under the names of `Translated`; and the others."""
    groups: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for name in sorted(rest, key=_natural):
        groups[name.split(".")[0]][name] = rest[name]
    fitting = {stem: group for stem, group in groups.items() if any(_linear(value) for value in group.values())}
    named = [stem for stem in HEADS if stem in fitting] or list(fitting)[: len(fitting) == 1]
    if len(named) != 1:
        if named:
            raise InputError(f"{where} has {len(named)} heads ({', '.join(named)}); save a network with one of them.")
        return {}, dict(rest), []
    (stem,) = named
    modules: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, value in groups.pop(stem).items():
        path, _, kind = name.rpartition(".")
        modules[path][kind] = value
    chain, gaps = _chain(modules, where)
    others = {name: value for group in groups.values() for name, value in group.items()}
    notes = [] if stem in HEADS else [f"the head is `{stem}`"]
    if len(chain) == 1:
        return {f"fc.{kind}": value for kind, value in chain[0].items()}, others, notes
    if any(gaps):
        notes.append(f"the head has {len(chain)} linear layers, and ReLU is taken to stand between them")
    made, index = {}, 0
    for module, gap in zip(chain, [False, *gaps], strict=True):
        index += gap
        made.update({f"fc.{index}.{kind}": value for kind, value in module.items()})
        index += 1
    return made, others, notes


def _natural(name: str) -> list[int | str]:
    """Sorts layer2 before layer10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _linear(value: Tensor) -> bool:
    """Whether this is the weight of a linear layer, or of a 1x1 convolution in the place of one."""
    return value.dim() == 2 or (value.dim() == 4 and value.shape[2:] == (1, 1))


def _chain(modules: Mapping[str, Mapping[str, Tensor]], where: str) -> tuple[list[dict[str, Tensor]], list[bool]]:
    """The linear layers of a head, batch norms folded into them, and whether something stands between two of them.

    A batch norm belongs to the linear layer right before it, or else to the next.
    """
    chain: list[dict[str, Tensor]] = []
    gaps: list[bool] = []
    waiting: Mapping[str, Tensor] | None = None
    before: int | None = None
    gap = False
    for path, module in modules.items():
        index = int(path.rpartition(".")[2]) if path.rpartition(".")[2].isdecimal() else None
        adjacent = index is not None and before is not None and index == before + 1
        before = index
        weight = module.get("weight")
        if weight is not None and _linear(weight) and set(module) <= {"weight", "bias"}:
            if chain:
                gaps.append(gap or not adjacent)
            layer = {"weight": weight.flatten(1), "bias": module.get("bias", torch.zeros(len(weight)))}
            chain.append(_norm_first(layer, waiting) if waiting else layer)
            waiting, gap = None, False
        elif {"running_mean", "running_var"} <= set(module) and not waiting:
            if adjacent and chain and not gap:
                chain[-1] = _norm_last(chain[-1], module)
            else:
                waiting, gap = module, bool(chain)
        else:
            raise InputError(
                f"{where}: {path} in the head is neither a linear layer nor a batch norm; save a network whose head "
                "is made of those."
            )
    if waiting:
        raise InputError(f"{where}: the head ends with a batch norm behind an activation; save one that does not.")
    return chain, gaps


def _scale(norm: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What a batch norm multiplies by and adds, float64."""
    mean, var = norm["running_mean"].double(), norm["running_var"].double()
    scale = norm.get("weight", torch.ones_like(mean)).double() / (var + NORM_EPSILON).sqrt()
    return scale, norm.get("bias", torch.zeros_like(mean)).double() - mean * scale


def _norm_last(linear: Mapping[str, Tensor], norm: Mapping[str, Tensor]) -> dict[str, Tensor]:
    scale, shift = _scale(norm)
    weight, bias = linear["weight"].double(), linear["bias"].double()
    return {"weight": (weight * scale[:, None]).float(), "bias": (bias * scale + shift).float()}


def _norm_first(linear: Mapping[str, Tensor], norm: Mapping[str, Tensor]) -> dict[str, Tensor]:
    scale, shift = _scale(norm)
    weight, bias = linear["weight"].double(), linear["bias"].double()
    return {"weight": (weight * scale).float(), "bias": (bias + weight @ shift).float()}
