"""Names that other libraries give to a ResNet's tensors: all of them found again, and the head computes the same."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the extra `export` is not installed")
from torch import nn  # noqa: E402

from edgeres.errors import InputError  # noqa: E402
from edgeres.models.architectures import Architecture  # noqa: E402
from edgeres.models.checkpoint import _with_head  # noqa: E402
from edgeres.models.layouts import translate  # noqa: E402
from edgeres.models.resnet import ResNet  # noqa: E402

BASIC = Architecture("basic", (2, 1, 1, 1), width=4)
BOTTLENECK = replace(BASIC, block="bottleneck", base_width=64)


def state(row: Architecture) -> dict[str, Any]:
    torch.manual_seed(0)
    made = ResNet(row, 3).state_dict()
    return {k: torch.rand(v.shape) for k, v in made.items() if not k.endswith("num_batches_tracked")}


def renamed(names: Mapping[str, Any], *rules: tuple[str, Any]) -> dict[str, Any]:
    """Each name changed by the first of the rules that fits it."""
    made = {}
    for name, value in names.items():
        pattern, new = next((rule for rule in rules if re.match(rule[0], name)), ("^", ""))
        made[re.sub(pattern, new, name, count=1)] = value
    assert len(made) == len(names)
    return made


def shifted(text: str, stage: int, layer: int = 0) -> Callable[[re.Match[str]], str]:
    """`text` with the stage, the block and the layer of a name, the first and the last counted from another number."""
    return lambda m: text.format(int(m[1]) + stage, m[2], (int(m[3]) if len(m.groups()) > 2 else 0) + layer)


IN = r"layer(\d)\.(\d)\."
SPELLINGS: dict[str, tuple[tuple[str, Any], ...]] = {
    "torchvision": (),
    "akamaster": ((r"fc\.", "linear."), (IN + r"downsample\.", shifted("layer{}.{}.shortcut.", 0))),
    "transformers": (
        (r"conv1\.", "resnet.embedder.embedder.convolution."),
        (r"bn1\.", "resnet.embedder.embedder.normalization."),
        (IN + r"conv(\d)\.", shifted("resnet.encoder.stages.{}.layers.{}.layer.{}.convolution.", -1, -1)),
        (IN + r"bn(\d)\.", shifted("resnet.encoder.stages.{}.layers.{}.layer.{}.normalization.", -1, -1)),
        (IN + r"downsample\.0\.", shifted("resnet.encoder.stages.{}.layers.{}.shortcut.convolution.", -1)),
        (IN + r"downsample\.1\.", shifted("resnet.encoder.stages.{}.layers.{}.shortcut.normalization.", -1)),
        (r"fc\.", "classifier.1."),
    ),
    "weiaicunzai": (
        (r"conv1\.", "conv1.0."),
        (r"bn1\.", "conv1.1."),
        (IN + r"conv(\d)\.", lambda m: f"conv{int(m[1]) + 1}_x.{m[2]}.residual_function.{3 * int(m[3]) - 3}."),
        (IN + r"bn(\d)\.", lambda m: f"conv{int(m[1]) + 1}_x.{m[2]}.residual_function.{3 * int(m[3]) - 2}."),
        (IN + r"downsample\.", shifted("conv{}_x.{}.shortcut.", 1)),
    ),
    "children": (
        (r"conv1\.", "features.0."),
        (r"bn1\.", "features.1."),
        (IN, shifted("features.{}.{}.", 3)),
        (r"fc\.", "classifier."),
    ),
    "Cadene": ((r"(conv1|bn1)\.", r"layer0.\1."), (IN + r"se\.", shifted("layer{}.{}.se_module.", 0))),
}
BLOCKS_V2 = (
    (IN + r"bn(\d)\.", shifted("stages.{}.blocks.{}.norm{}.", -1)),
    (IN + r"conv(\d)\.", shifted("stages.{}.blocks.{}.conv{}.", -1)),
    (IN + r"downsample\.\d\.", shifted("stages.{}.blocks.{}.downsample.conv.", -1)),
    (r"fc\.", "head.fc."),
)
V2 = replace(BOTTLENECK, order="pre")
V2D = replace(V2, stem="deep", shortcut="pool")


@pytest.mark.parametrize("row", [BASIC, BOTTLENECK], ids=["basic", "bottleneck"])
@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.model."])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_tensor_is_found_under_the_names_of_a_library(row: Architecture, wrapper: str, spelling: str) -> None:
    wanted = state(replace(row, attention="se") if spelling == "Cadene" else row)
    given = {wrapper + name: value for name, value in renamed(wanted, *SPELLINGS[spelling]).items()}
    found = translate(given, "here")
    assert found.state.keys() == wanted.keys()
    assert all(torch.equal(found.state[name], value) for name, value in wanted.items())
    assert found.row == ({"stem": "caffe"} if spelling == "Cadene" else {})
    assert found.notes == ()


@pytest.mark.parametrize(
    ("row", "stem"),
    [
        (V2, ((r"conv1\.", "stem.conv."),)),
        (
            V2D,
            (
                (r"conv1\.(0|3|6)\.", lambda m: f"stem.conv{int(m[1]) // 3 + 1}."),
                (r"conv1\.(1|4)\.", lambda m: f"stem.norm{int(m[1]) // 3 + 1}."),
            ),
        ),
    ],
    ids=["plain", "deep"],
)
def test_every_tensor_is_found_under_the_names_of_timms_resnetv2(row: Architecture, stem: Any) -> None:
    wanted = state(row)
    given = renamed(wanted, *stem, *BLOCKS_V2)
    given["head.fc.weight"] = given["head.fc.weight"][:, :, None, None]  # a 1x1 convolution
    found = translate(given, "here").state
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


BODY = {name: value for name, value in state(BASIC).items() if not name.startswith("fc.")}
FEATURES = 4 * 2**3


def linear(inputs: int, outputs: int, **options: Any) -> Any:
    return nn.Linear(inputs, outputs, **options)


HEADS: dict[str, Any] = {
    "dropout": lambda: [nn.Dropout(), linear(FEATURES, 5)],
    "no bias": lambda: [linear(FEATURES, 5, bias=False)],
    "two layers": lambda: [linear(FEATURES, 6), nn.ReLU(), nn.Dropout(), linear(6, 5)],
    "three layers": lambda: [linear(FEATURES, 6), nn.ReLU(), linear(6, 7), nn.ReLU(), linear(7, 5)],
    "nothing between": lambda: [linear(FEATURES, 6), linear(6, 5)],
    "norm behind": lambda: [linear(FEATURES, 6), nn.BatchNorm1d(6), nn.ReLU(), linear(6, 5, bias=False)],
    "norm before": lambda: [nn.BatchNorm1d(FEATURES), nn.Dropout(), linear(FEATURES, 5, bias=False)],
    "norm behind an activation": lambda: [
        *[linear(FEATURES, 6, bias=False), nn.ReLU(), nn.BatchNorm1d(6), nn.Dropout(), linear(6, 5)]
    ],
    "norm at the end": lambda: [linear(FEATURES, 5), nn.BatchNorm1d(5, affine=False)],
}


@pytest.mark.parametrize("stem", ["fc.", "classifier.", "head.fc.", "net.linear."])
@pytest.mark.parametrize("name", HEADS)
def test_a_head_computes_what_it_did(name: str, stem: str) -> None:
    torch.manual_seed(1)
    head = nn.Sequential(*HEADS[name]()).eval()
    for value in head.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape) + 0.1)
    with torch.no_grad():
        for module in head:
            if isinstance(module, nn.Linear):
                module.weight.sub_(0.6)
    prefix = "net." if stem.startswith("net.") else ""
    given = {f"{prefix}{key}": value for key, value in BODY.items()}
    found = translate({**given, **{stem + key: value for key, value in head.state_dict().items()}}, "here")
    made = _with_head(ResNet(BASIC, 1), found.state).fc.eval()
    made.load_state_dict({k.removeprefix("fc."): v for k, v in found.state.items() if k.startswith("fc.")})
    features = torch.rand(9, FEATURES)
    with torch.no_grad():
        torch.testing.assert_close(made(features), head(features), rtol=1e-5, atol=1e-5)
    assumed = any(isinstance(module, nn.ReLU) for module in head)
    assert found.notes == (
        (f"the head has {name.startswith('three') + 2} linear layers, and ReLU is taken to stand between them",)
        if assumed
        else ()
    )


def test_a_head_of_named_layers_is_taken_in_their_order() -> None:
    head = {"fc.fc10.weight": torch.ones(5, 6), "fc.fc2.weight": torch.ones(6, FEATURES)}
    found = translate({**BODY, **head}, "here").state
    assert {name: value.shape[0] for name, value in found.items() if name.startswith("fc.") and value.dim() == 2} == {
        "fc.0.weight": 6,
        "fc.2.weight": 5,
    }


def test_a_head_of_another_name_is_told() -> None:
    found = translate({**BODY, "predict.weight": torch.ones(5, FEATURES)}, "here")
    assert found.notes == ("the head is `predict`",)
    assert found.state["fc.weight"].shape == (5, FEATURES)


def test_what_is_no_head_is_kept_under_its_name() -> None:
    weight = torch.ones(5, FEATURES)
    given = {**BODY, "fc.weight": weight, "fc_aux.weight": weight, "criterion.weight": torch.ones(5)}
    found = translate(given, "here").state
    assert {"fc.weight", "fc_aux.weight", "criterion.weight"} <= found.keys()


def twice(first: str, second: str) -> dict[str, Any]:
    plain = {**BODY, "fc.weight": torch.ones(5, FEATURES)}
    return {**{first + k: v for k, v in plain.items()}, **{second + k: v + 1 for k, v in plain.items()}}


@pytest.mark.parametrize(
    "prefixes", [("model.", "model_ema.module."), ("online_model.", "ema_model."), ("net.model.", "net.ema.module.")]
)
def test_averaged_weights_go_first_and_it_is_said(prefixes: tuple[str, str]) -> None:
    found = translate(twice(*prefixes), "here")
    assert torch.equal(found.state["conv1.weight"], BODY["conv1.weight"] + 1)
    assert len(found.state) == len(BODY) + 2
    (note,) = found.notes
    assert note.startswith(
        f"the averaged weights `{prefixes[1].removesuffix('module.')}` are taken, not `{prefixes[0]}"
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (twice("student.", "teacher."), r"holds 2 networks \(student\., teacher\.\); save one of them"),
        ({**BODY, "fc.weight": torch.ones(5, 4), "head.weight": torch.ones(5, 4)}, r"has 2 heads \(fc, head\)"),
        ({**BODY, "fc.0.weight": torch.ones(5, 4), "fc.2.weight": torch.ones(5)}, r"fc\.2 in the head is neither"),
        ({"features.0.weight": torch.ones(3)}, "are no ResNet's in a known layout"),
    ],
)
def test_what_cannot_be_told_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=f"^here.*{said}"):
        translate(given, "here")
