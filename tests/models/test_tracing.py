"""Each kind of network becomes an ONNX graph that computes the same in ONNX Runtime and in OpenVINO."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="the extra `export` is not installed")

from edgeres.canonical import canonical  # noqa: E402
from edgeres.models.architectures import ARCHITECTURES, Architecture  # noqa: E402
from edgeres.models.resnet import ResNet  # noqa: E402
from edgeres.models.tracing import trace  # noqa: E402

SMALL = Architecture("basic", (1, 1), width=16)
KINDS = {
    "v1": replace(SMALL, block="bottleneck", stride="1x1"),
    "grouped": replace(SMALL, block="bottleneck", groups=4, base_width=16),
    "deep stem, average-pool shortcut": replace(SMALL, stem="deep", shortcut="pool"),
    "tiered stem, bottleneck": replace(SMALL, block="bottleneck", stem="tiered", shortcut="pool"),
    "squeeze-and-excitation": replace(SMALL, stem="caffe", attention="se"),
    "pre-activation": replace(SMALL, block="bottleneck", depths=(2, 1), order="pre"),
    "pre-activation, average-pool shortcut": replace(SMALL, stem="deep", shortcut="pool", order="pre"),
    "identity shortcut": replace(SMALL, stem="cifar", shortcut="pad"),
    "MLPerf Tiny": ARCHITECTURES["resnet8"],
}


def traced(model: Any, side: int) -> onnx.ModelProto:
    made = canonical(trace(model, (1, 3, side, side), free=True), 19)
    onnx.checker.check_model(made, full_check=True)
    return made


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"input": images})[0]
    return found


@pytest.mark.parametrize("side", [64, 72])
@pytest.mark.parametrize("kind", KINDS)
def test_runtimes_compute_what_torch_does(kind: str, side: int, lively: Any, tmp_path: Path) -> None:
    """At 72 pixels the maps have odd sides: pools round up there."""
    model = lively(ResNet(KINDS[kind], 5))
    images = np.random.default_rng(0).standard_normal((2, 3, side, side)).astype(np.float32)
    with torch.inference_mode():
        wanted = model(torch.from_numpy(images)).numpy()
    made = traced(model, side)
    assert np.abs(run(made, images) - wanted).max() <= 1e-5 * np.abs(wanted).max()
    openvino = pytest.importorskip("openvino")
    onnx.save(made, tmp_path / "model.onnx")
    compiled = openvino.Core().compile_model(tmp_path / "model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert np.abs(compiled(images)[0] - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_a_batch_norm_is_folded_where_a_convolution_and_nothing_else_feeds_it(lively: Any) -> None:
    made = traced(lively(ResNet(KINDS["pre-activation, average-pool shortcut"], 5)), 64)
    left = [node.name for node in made.graph.node if node.op_type == "BatchNormalization"]
    assert left == ["layer1.0.bn1", "layer2.0.bn1", "norm"]
    layers = [node.name for node in made.graph.node if node.op_type == "Conv"]
    assert layers[:3] == ["conv1.0", "conv1.3", "conv1.6"]
    assert "layer2.0.downsample.1" in layers
    for kind in set(KINDS) - {name for name in KINDS if name.startswith("pre")}:
        nodes = traced(lively(ResNet(KINDS[kind], 5)), 64).graph.node
        assert not any(node.op_type == "BatchNormalization" for node in nodes), kind


@pytest.mark.parametrize("order", ["one after the other", "side by side", "one without", "the same norm"])
def test_each_call_of_a_shared_convolution_has_weights_of_its_own(order: str) -> None:
    class Shared(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)
            self.bn1, self.bn2 = torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)
            for norm in (self.bn1, self.bn2):
                torch.nn.init.uniform_(norm.running_var, 0.2, 3)
                torch.nn.init.normal_(norm.running_mean)

        def forward(self, x: Any) -> Any:
            if order == "one after the other":
                return self.bn2(self.conv(self.bn1(self.conv(x))))
            one, other = self.conv(x), self.conv(x + x)
            if order == "one without":
                return self.bn1(one) + other
            return self.bn1(one) + (self.bn1 if order == "the same norm" else self.bn2)(other)

    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(4)
        model, images = Shared().eval(), torch.randn(2, 3, 8, 8)
        wanted = model(images).numpy()
    made = traced(model, 8)
    assert not any(node.op_type == "BatchNormalization" for node in made.graph.node)
    assert np.abs(run(made, images.numpy()) - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_the_source_keeps_its_weights(lively: Any) -> None:
    model = lively(ResNet(KINDS["grouped"], 5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trace(model, (1, 3, 64, 64), free=True)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_inputs_and_outputs_have_the_shapes_asked_for(lively: Any) -> None:
    def sides(value: onnx.ValueInfoProto) -> list[Any]:
        return [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]

    model = lively(ResNet(KINDS["v1"], 5))
    free, fixed = (trace(model, (3, 3, 64, 48), free=free).graph for free in (True, False))
    assert [sides(free.input[0]), sides(free.output[0])] == [["batch", 3, 64, 48], ["batch", 5]]
    assert [sides(fixed.input[0]), sides(fixed.output[0])] == [[3, 3, 64, 48], [3, 5]]


def test_a_module_or_function_that_the_table_has_not_is_named() -> None:
    for odd in (torch.nn.GELU(), torch.nn.AdaptiveAvgPool2d(2)):
        with pytest.raises(NotImplementedError, match=f"0: {type(odd).__name__}"):
            trace(torch.nn.Sequential(odd), (1, 3, 8, 8), free=True)

    class Odd(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return torch.exp(x)

    with pytest.raises(NotImplementedError, match="exp"):
        trace(Odd(), (1, 3, 8, 8), free=True)
