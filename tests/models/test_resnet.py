"""The family against published parameter counts, torchvision's names, and a plain functional reference."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the extra `export` is not installed")

from torch.nn import functional  # noqa: E402

from edgeres.models.architectures import Architecture  # noqa: E402
from edgeres.models.resnet import Block, PadShortcut, ResNet, SqueezeExcitation, build, size  # noqa: E402

PUBLISHED = {
    # torchvision's documentation
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
    # timm's model cards
    "resnet50d": 25_576_264,
    "seresnet50": 28_088_024,
}
"""Parameters at 1,000 classes."""
TIMM = {
    "legacy_seresnet101": (49.33, 7.61),
    "legacy_seresnet152": (66.82, 11.33),
    "legacy_seresnet50": (28.09, 3.88),
    "legacy_seresnext101_32x4d": (48.96, 8.02),
    "legacy_seresnext50_32x4d": (27.56, 4.26),
    "resnet101": (44.55, 7.83),
    "resnet101c": (44.57, 8.08),
    "resnet101d": (44.57, 8.08),
    "resnet10t": (5.44, 1.10),
    "resnet14t": (10.08, 1.69),
    "resnet152": (60.19, 11.56),
    "resnet152c": (60.21, 11.80),
    "resnet152d": (60.21, 11.80),
    "resnet18": (11.69, 1.82),
    "resnet18d": (11.71, 2.06),
    "resnet200": (64.67, 15.07),
    "resnet26": (16.00, 2.36),
    "resnet26d": (16.01, 2.60),
    "resnet34": (21.80, 3.67),
    "resnet34d": (21.82, 3.91),
    "resnet50": (25.56, 4.11),
    "resnet50c": (25.58, 4.35),
    "resnet50d": (25.58, 4.35),
    "resnet50t": (25.57, 4.32),
    "resnetv2_101": (44.54, 7.83),
    "resnetv2_101d": (44.56, 8.07),
    "resnetv2_152": (60.19, 11.55),
    "resnetv2_152d": (60.20, 11.80),
    "resnetv2_50": (25.55, 4.11),
    "resnetv2_50d": (25.57, 4.35),
    "resnetv2_50t": (25.57, 4.32),
    "resnext101_32x16d": (194.03, 36.27),
    "resnext101_32x4d": (44.18, 8.01),
    "resnext101_32x8d": (88.79, 16.48),
    "resnext101_64x4d": (83.46, 15.52),
    "resnext50_32x4d": (25.03, 4.26),
    "resnext50d_32x4d": (25.05, 4.50),
    "seresnet101": (49.33, 7.84),
    "seresnet152": (66.82, 11.57),
    "seresnet18": (11.78, 1.82),
    "seresnet34": (21.96, 3.67),
    "seresnet50": (28.09, 4.11),
    "seresnet50t": (28.10, 4.32),
    "seresnext101_32x4d": (48.96, 8.02),
    "seresnext101_32x8d": (93.57, 16.48),
    "seresnext101_64x4d": (88.23, 15.53),
    "seresnext26d_32x4d": (16.81, 2.73),
    "seresnext26t_32x4d": (16.81, 2.70),
    "seresnext50_32x4d": (27.56, 4.26),
    "wide_resnet101_2": (126.89, 22.80),
    "wide_resnet50_2": (68.88, 11.43),
}
"""Millions of parameters and billions of multiply-accumulates at 224 pixels, from timm's published benchmarks."""
CIFAR = {
    "cifar_resnet20": 269_722,
    "cifar_resnet32": 464_154,
    "cifar_resnet44": 658_586,
    "cifar_resnet56": 853_018,
    "cifar_resnet110": 1_727_962,
}
"""Parameters at 10 classes, with the parameter-free shortcut."""
CIFAR_MILLIONS = {"cifar_resnet1202": 19.4, "cifar_preresnet164": 1.7, "cifar_preresnet1001": 10.2}
"""As the papers round them."""


def on_paper(name: str, classes: int) -> Any:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return build(name, classes)


@pytest.mark.parametrize(("name", "count"), [*PUBLISHED.items(), *CIFAR.items()])
def test_the_number_of_parameters_is_the_published_one(name: str, count: int) -> None:
    assert size(name).parameters == count


@pytest.mark.parametrize(("name", "published"), TIMM.items())
def test_parameters_and_arithmetic_round_to_the_published_figures(name: str, published: tuple[float, float]) -> None:
    found = size(name)
    assert round(found.parameters / 1e6, 2) == published[0]
    assert found.macs / 1e9 == pytest.approx(published[1], rel=0.015)  # theirs counts pools and norms, too


@pytest.mark.parametrize(("name", "millions"), CIFAR_MILLIONS.items())
def test_the_number_of_parameters_rounds_to_that_of_the_paper(name: str, millions: float) -> None:
    assert size(name).parameters / 1e6 == pytest.approx(millions, rel=0.02)


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


def strides(name: str) -> dict[str, int]:
    modules = on_paper(name, 10).named_modules()
    return {path: module.stride[0] for path, module in modules if isinstance(module, torch.nn.Conv2d)}


def test_a_bottleneck_strides_where_the_row_says() -> None:
    torchvision, paper = strides("resnet50"), strides("resnet50_v1")
    for stage in (2, 3, 4):
        block = f"layer{stage}.0"
        assert [torchvision[f"{block}.conv{i}"] for i in (1, 2, 3)] == [1, 2, 1]
        assert [paper[f"{block}.conv{i}"] for i in (1, 2, 3)] == [2, 1, 1]
        assert torchvision[f"{block}.downsample.0"] == paper[f"{block}.downsample.0"] == 2
    assert sum(torchvision.values()) == sum(paper.values())


@pytest.mark.parametrize(("channels", "reduced"), [(16, 8), (64, 8), (256, 16), (320, 24), (2048, 128)])
def test_the_gate_is_the_sigmoid_of_two_layers_of_the_means(channels: int, reduced: int) -> None:
    torch.manual_seed(1)
    module, x = SqueezeExcitation(channels), torch.randn(2, channels, 3, 5)
    first, second = module.fc1.weight[:, :, 0, 0], module.fc2.weight[:, :, 0, 0]
    assert first.shape == (reduced, channels)
    squeezed = torch.clamp(x.mean((2, 3)) @ first.T + module.fc1.bias, min=0)
    gate = 1 / (1 + torch.exp(-(squeezed @ second.T + module.fc2.bias)))
    assert torch.allclose(module(x), x * gate[:, :, None, None], atol=1e-6)


@pytest.mark.parametrize("side", [6, 7, 9])
def test_an_average_pool_shortcut_rounds_up_and_averages_what_is_there(side: int) -> None:
    torch.manual_seed(2)
    block = Block(Architecture("basic", (1,), shortcut="pool"), 4, 8, 2).eval()
    assert list(block.downsample.state_dict())[:1] == ["1.weight"]
    x = torch.randn(1, 4, side, side)
    half = -(-side // 2)
    pooled = torch.stack(
        [x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((2, 3)) for i in range(half) for j in range(half)], 2
    ).reshape(1, 4, half, half)
    projected = torch.einsum("oi,nihw->nohw", block.downsample[1].weight[:, :, 0, 0], pooled)
    assert torch.allclose(block.downsample(x), projected / (1 + 1e-5) ** 0.5, atol=1e-5)
    assert block(x).shape == (1, 8, half, half)


def test_a_deep_stem_has_three_convolutions_and_a_tiered_one_grows() -> None:
    for name, channels in (("resnet50d", [32, 32, 64]), ("resnet50t", [24, 32, 64])):
        state = on_paper(name, 10).state_dict()
        assert [len(state[f"conv1.{index}.weight"]) for index in (0, 3, 6)] == channels
        assert len(state["bn1.weight"]) == 64


def test_a_pre_activation_network_computes_what_the_paper_says(lively: Any) -> None:
    """x + F(x) without a ReLU behind the sum; a projection reads the activated input (arXiv:1603.05027, appendix)."""
    model = lively(ResNet(Architecture("basic", (2, 1), stem="cifar", order="pre", width=8), 5))
    state = model.state_dict()
    images = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    x = functional.conv2d(images, state["conv1.weight"], padding=1)
    for block, stride in (("layer1.0", 1), ("layer1.1", 1), ("layer2.0", 2)):
        active = functional.relu(normalised(state, f"{block}.bn1", x))
        out = functional.conv2d(active, state[f"{block}.conv1.weight"], stride=stride, padding=1)
        out = functional.relu(normalised(state, f"{block}.bn2", out))
        out = functional.conv2d(out, state[f"{block}.conv2.weight"], padding=1)
        if stride > 1:
            x = functional.conv2d(active, state[f"{block}.downsample.0.weight"], stride=stride)
        x = x + out
    x = functional.relu(normalised(state, "norm", x)).mean((2, 3))
    wanted = functional.linear(x, state["fc.weight"], state["fc.bias"])
    with torch.inference_mode():
        found = model(images)
    assert float((found - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())


def test_resnet8_pads_as_tensorflow_does_and_its_projections_have_biases_and_no_norm() -> None:
    model = build("resnet8", 10).eval()
    state = model.state_dict()
    assert {"conv1.bias", "layer1.0.conv2.bias", "layer3.0.downsample.0.bias"} <= set(state)
    assert "layer2.0.downsample.1.weight" not in state
    x = torch.randn(1, 16, 8, 8)
    # Keras counts the running means and variances, too.
    assert sum(value.numel() for name, value in state.items() if not name.endswith("tracked")) == 78_666
    block = model.get_submodule("layer2.0")
    weight, bias = state["layer2.0.conv1.weight"], state["layer2.0.conv1.bias"]
    # At a stride of 2 the window of output 0 begins at pixel 0, and the last one reaches one pixel over the end.
    padded = functional.pad(x, (0, 1, 0, 1))
    windows = padded.unfold(2, 3, 2).unfold(3, 3, 2)
    wanted = torch.einsum("nihwab,oiab->nohw", windows, weight) + bias[None, :, None, None]
    assert torch.allclose(block.get_submodule("conv1")(x), wanted, atol=1e-5)
    port = build("resnet8_torch", 10).eval()
    port.load_state_dict(state)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert model(images).shape == port(images).shape == (2, 10)
        assert not torch.allclose(model(images), port(images))


@pytest.mark.parametrize("order", ["post", "pre"])
def test_stages_and_pooled_features_are_there_for_others(order: Any) -> None:
    model = ResNet(Architecture("bottleneck", (1, 2, 1), order=order, width=8), 5).eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        stages = model.features(images)
        assert [tuple(stage.shape[1:]) for stage in stages] == [(32, 16, 24), (64, 8, 12), (128, 4, 6)]
        pooled = model.forward_head(stages[-1], pre_logits=True)
        assert pooled.shape == (2, 128)
        assert torch.equal(model.fc(pooled), model(images))


def test_an_unknown_row_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        build("resnet19", 10)
