"""The family against published parameter counts, torchvision's names, and a plain functional reference."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the extra `export` is not installed")

from torch.nn import functional  # noqa: E402

from edgeres.models.resnet import ARCHITECTURES, PadShortcut, build  # noqa: E402

TORCHVISION = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
}
"""Parameters at 1,000 classes, as torchvision's documentation lists them."""
CIFAR = {
    "cifar_resnet20": 269_722,
    "cifar_resnet32": 464_154,
    "cifar_resnet44": 658_586,
    "cifar_resnet56": 853_018,
    "cifar_resnet110": 1_727_962,
}
"""Parameters at 10 classes, with the parameter-free shortcut."""


def on_paper(name: str, classes: int) -> Any:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return build(name, classes)


def test_every_row_of_the_table_is_checked() -> None:
    assert {*TORCHVISION, *CIFAR} == set(ARCHITECTURES)


@pytest.mark.parametrize(("name", "count"), [*TORCHVISION.items(), *CIFAR.items()])
def test_the_number_of_parameters_is_the_published_one(name: str, count: int) -> None:
    model = on_paper(name, 10 if name in CIFAR else 1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize(("name", "count"), [("resnet18", 122), ("resnet34", 218), ("resnet50", 320)])
def test_the_state_dict_has_as_many_entries_as_torchvisions(name: str, count: int) -> None:
    assert len(on_paper(name, 1000).state_dict()) == count


def test_names_and_shapes_are_torchvisions() -> None:
    state = {name: tuple(value.shape) for name, value in on_paper("resnet50", 1000).state_dict().items()}
    wanted: dict[str, tuple[int, ...]] = {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_mean": (64,),
        "bn1.num_batches_tracked": (),
        "layer1.0.conv1.weight": (64, 64, 1, 1),
        "layer1.0.conv2.weight": (64, 64, 3, 3),
        "layer1.0.conv3.weight": (256, 64, 1, 1),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.0.downsample.1.running_var": (256,),
        "layer2.0.downsample.0.weight": (512, 256, 1, 1),
        "layer4.2.bn3.bias": (2048,),
        "fc.weight": (1000, 2048),
        "fc.bias": (1000,),
    }
    assert {name: state.get(name) for name in wanted} == wanted
    assert "layer1.1.downsample.0.weight" not in state
    grouped = on_paper("resnext50_32x4d", 1000).state_dict()
    assert tuple(grouped["layer1.0.conv2.weight"].shape) == (128, 4, 3, 3)


def normalised(state: Any, norm: str, x: Any) -> Any:
    parts = ("running_mean", "running_var", "weight", "bias")
    return functional.batch_norm(x, *(state[f"{norm}.{part}"] for part in parts))


def logits(state: Any, images: Any, groups: int = 1) -> Any:
    """A torchvision-layout ImageNet network, written out from its state dict with functions alone."""
    x = normalised(state, "bn1", functional.conv2d(images, state["conv1.weight"], stride=2, padding=3))
    x = functional.max_pool2d(functional.relu(x), 3, 2, 1)
    blocks = sorted({tuple(map(int, name[5:].split(".")[:2])) for name in state if name.startswith("layer")})
    for stage, index in blocks:
        block = f"layer{stage}.{index}"
        stride = 2 if stage > 1 and index == 0 else 1
        bottleneck = f"{block}.conv3.weight" in state
        shortcut, residual = x, x
        for number in (1, 2, 3) if bottleneck else (1, 2):
            weight = state[f"{block}.conv{number}.weight"]
            spatial = weight.shape[2] == 3
            residual = functional.conv2d(
                residual,
                weight,
                stride=stride if number == (2 if bottleneck else 1) else 1,
                padding=1 if spatial else 0,
                groups=groups if bottleneck and spatial else 1,
            )
            residual = normalised(state, f"{block}.bn{number}", residual)
            if number < (3 if bottleneck else 2):
                residual = functional.relu(residual)
        if f"{block}.downsample.0.weight" in state:
            shortcut = functional.conv2d(x, state[f"{block}.downsample.0.weight"], stride=stride)
            shortcut = normalised(state, f"{block}.downsample.1", shortcut)
        x = functional.relu(residual + shortcut)
    return functional.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


@pytest.mark.parametrize(("name", "groups"), [("resnet18", 1), ("resnet50", 1), ("resnext50_32x4d", 32)])
def test_the_network_computes_what_its_definition_says(name: str, groups: int, lively: Any) -> None:
    model = lively(build(name, 7))
    images = torch.randn(2, 3, 65, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, wanted = model(images), logits(model.state_dict(), images, groups)
    assert found.shape == (2, 7)
    assert float((found - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 2))
def test_the_shortcut_without_parameters_subsamples_and_pads(
    inputs: int, growth: int, height: int, width: int, stride: int
) -> None:
    outputs = inputs + 2 * growth
    x = np.random.default_rng(0).standard_normal((2, inputs, height, width)).astype(np.float32)
    found = PadShortcut(inputs, outputs, stride)(torch.from_numpy(x)).numpy()
    wanted = np.zeros((2, outputs, -(-height // stride), -(-width // stride)), np.float32)
    for channel in range(inputs):
        for row in range(wanted.shape[2]):
            for column in range(wanted.shape[3]):
                wanted[:, growth + channel, row, column] = x[:, channel, row * stride, column * stride]
    assert np.array_equal(found, wanted)


def test_a_cifar_network_shrinks_twice_and_has_no_projection() -> None:
    model = build("cifar_resnet20", 10).eval()
    assert not any("downsample" in name for name in model.state_dict())
    sides = []
    for stage in ("conv1", "layer1", "layer2", "layer3"):
        model.get_submodule(stage).register_forward_hook(lambda _, __, made: sides.append(tuple(made.shape[1:])))
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert sides == [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_an_unknown_row_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        build("resnet19", 10)
