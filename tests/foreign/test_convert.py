"""Small classifiers as other exporters write them, and their one spelling; ONNX Runtime, unoptimised, judges."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgeres.errors import InputError, UsageError
from edgeres.foreign import affine, ends
from edgeres.foreign import convert as converting
from edgeres.foreign.convert import Converted, _inlined, _shaped, convert

RANDOM = np.random.default_rng(0)
WHERE = Path("theirs.onnx")
NORM = np.array([0.9, 1.1, 1.3, 0.7]), np.array([0.1, -0.2, 0.3, 0.0]), np.array([0.2, 0.0, -0.1, 0.4])


class Writer:
    """Writes a graph node by node; a tensor is named by its number."""

    def __init__(self, *shape: Any, dtype: int = TensorProto.FLOAT) -> None:
        self.inputs = [helper.make_tensor_value_info("x", dtype, shape)]
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def add(self, op: str, *given: Any, **attributes: Any) -> str:
        """A node; arrays among its inputs become initializers."""
        names = [given_ if isinstance(given_, str) else self.constant(given_) for given_ in given]
        self.nodes.append(helper.make_node(op, names, [f"t{len(self.nodes)}"], **attributes))
        return str(self.nodes[-1].output[0])

    def constant(self, value: Any, name: str = "") -> str:
        array = np.asarray(value)
        name = name or f"c{len(self.constants)}"
        self.constants[name] = array.astype(np.float32) if array.dtype.kind == "f" else array
        return name

    def conv(self, x: str, inputs: int = 3, outputs: int = 4, kernel: int = 3, bias: bool = False, **kw: Any) -> str:
        weight = RANDOM.standard_normal((outputs, inputs // kw.get("group", 1), kernel, kernel)) / 3
        return self.add("Conv", x, weight, *([RANDOM.standard_normal(outputs)] if bias else []), **kw)

    def head(self, x: str, channels: int = 4) -> str:
        pooled = self.add("Flatten", self.add("GlobalAveragePool", x))
        return self.add("Gemm", pooled, RANDOM.standard_normal((5, channels)), RANDOM.standard_normal(5), transB=1)

    def model(
        self, *outputs: str, opset: int = 13, batch: Any = "n", old: bool = False, domain: str = ""
    ) -> ModelProto:
        made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 5]) for name in outputs]
        tensors = [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        inputs = [*self.inputs]
        if old:
            inputs += [helper.make_tensor_value_info(one.name, one.data_type, one.dims) for one in tensors]
        graph = helper.make_graph(self.nodes, "theirs", inputs, made, tensors)
        opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
        return helper.make_model(graph, opset_imports=opsets, ir_version=3 if old else 8)


def operators(made: Converted) -> list[str]:
    return [node.op_type for node in made.model.graph.node]


def session(model: ModelProto, level: Any) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def converted(source: ModelProto, given: Callable[[np.ndarray], np.ndarray] = lambda x: x, **options: Any) -> Converted:
    """Converted, and computing what the source computes; `given` makes the source's images of ours."""
    made = convert(source, WHERE, **options)
    onnx.checker.check_model(made.model, full_check=True)
    images = np.random.default_rng(1).uniform(-1, 1, (made.batch or 2, 3, made.image.side, made.image.side))
    images = images.astype(np.float32)
    size = made.image.batch or len(images)
    cut = ModelProto()
    cut.CopyFrom(source)
    cut.graph.output[0].CopyFrom(helper.make_tensor_value_info(made.output.tensor, TensorProto.FLOAT, None))
    original = session(cut, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
    parts = [given(images[first : first + size]) for first in range(0, len(images), size)]
    wanted = np.concatenate([original.run([made.output.tensor], {"x": part})[0] for part in parts])
    ours = session(made.model, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL)
    found = ours.run(["logits"], {"input": images})[0]
    assert found.std() > 0.05
    assert np.abs(found - wanted.reshape(len(wanted), -1)).max() <= 1e-4 * np.abs(wanted).max()
    return made


# Affine functions of each channel


def batch_norm(net: Writer, x: str) -> str:
    return net.add("BatchNormalization", x, *NORM, NORM[0] + 0.5, epsilon=1e-3)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("opset", [9, 13, 17, 22])
def test_a_batch_norm_and_a_scale_go_into_the_convolution_before(bias: bool, opset: int) -> None:
    net = Writer("n", 3, 8, 8)
    x = batch_norm(net, net.conv("x", bias=bias, pads=[1, 1, 1, 1]))
    x = net.add("Add", net.add("Mul", x, NORM[0].reshape(4, 1, 1)), NORM[1].reshape(1, 4, 1, 1))
    made = converted(net.model(net.head(net.add("Relu", x)), opset=opset, old=opset == 9))
    assert operators(made) == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
    assert made.batch is None


def test_a_batch_norm_before_a_padded_convolution_stays_one_batch_norm() -> None:
    net = Writer("n", 3, 8, 8)
    x = net.add("Relu", net.conv("x"))
    x = net.add("Sub", net.add("Div", batch_norm(net, x), NORM[0].reshape(4, 1, 1)), NORM[1].reshape(4, 1, 1))
    made = converted(net.model(net.head(net.conv(x, 4, pads=[1, 1, 1, 1]))))
    assert operators(made)[:4] == ["Conv", "Relu", "BatchNormalization", "Conv"]


def test_a_batch_norm_before_an_unpadded_convolution_or_a_gemm_goes_into_it() -> None:
    net = Writer("n", 3, 8, 8)
    x = net.conv(batch_norm(net, net.add("Relu", net.conv("x"))), 4)
    x = net.add("Flatten", net.add("GlobalAveragePool", net.add("Relu", x)))
    x = net.add("Add", net.add("Mul", x, NORM[0]), NORM[1].reshape(1, 4))
    made = converted(net.model(net.add("Gemm", x, RANDOM.standard_normal((4, 5)), alpha=0.5)))
    assert operators(made) == ["Conv", "Relu", "Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]


def test_what_two_nodes_read_is_not_scaled_for_one_of_them() -> None:
    net = Writer("n", 3, 8, 8)
    x = net.conv("x")
    made = converted(net.model(net.head(net.add("Add", net.add("Relu", x), batch_norm(net, x)))))
    assert "BatchNormalization" in operators(made)


def test_weights_that_two_convolutions_share_are_scaled_for_one_of_them() -> None:
    net = Writer("n", 3, 8, 8)
    weight = net.constant(RANDOM.standard_normal((4, 3, 3, 3)))
    x = net.add("Add", batch_norm(net, net.add("Conv", "x", weight)), net.add("Conv", "x", weight, NORM[0]))
    assert operators(converted(net.model(net.head(x))))[:2] == ["Conv", "Conv"]


@pytest.mark.parametrize(("scale", "mean"), [(1 / 127.5, 127.5), (1 / 0.226, 0.45)])
def test_a_normalisation_of_the_image_becomes_preprocessing(scale: float, mean: float) -> None:
    net = Writer("n", 3, 8, 8)
    x = net.add("Mul", net.add("Sub", "x", np.full((3, 1, 1), mean)), np.float32(scale))
    made = converted(net.model(net.head(net.conv(x, pads=[1, 1, 1, 1]))), lambda y: (y / scale + mean).astype("f"))
    assert operators(made)[0] == "Conv"
    assert made.normalisation is not None
    assert made.normalisation.scale == pytest.approx([scale] * 3)
    assert made.normalisation.shift == pytest.approx([-mean * scale] * 3)


def test_an_image_that_is_also_read_as_it_is_is_normalised_in_the_graph() -> None:
    net = Writer("n", 3, 8, 8)
    x = net.add(
        "Add", net.conv(net.add("Sub", "x", np.full((3, 1, 1), 0.5)), pads=[1] * 4), net.conv("x", pads=[1] * 4)
    )
    made = converted(net.model(net.head(x)))
    assert made.normalisation is None
    assert operators(made)[0] == "Sub"


# Spellings


@pytest.mark.parametrize("kind", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize(("side", "stride"), [(8, 2), (7, 2), (9, 1)])
def test_automatic_pads_are_written_out(kind: str, side: int, stride: int) -> None:
    net = Writer("n", 3, side, side)
    x = net.conv("x", strides=[stride, stride], auto_pad=kind)
    x = net.add("MaxPool", net.add("Relu", x), kernel_shape=[2, 2], strides=[2, 2], auto_pad=kind)
    made = converted(net.model(net.head(x)))
    assert not any(one.name == "auto_pad" and one.s != b"NOTSET" for n in made.model.graph.node for one in n.attribute)


def test_a_pad_goes_into_its_convolution_and_uneven_pads_stay() -> None:
    net = Writer("n", 3, 8, 8)
    x = net.add("Pad", "x", np.array([0, 0, 0, 1, 0, 0, 2, 3]), mode="constant")
    made = converted(net.model(net.head(net.conv(x, strides=[2, 2]))))
    assert operators(made) == ["Conv", "GlobalAveragePool", "Flatten", "Gemm"]
    assert helper.get_attribute_value(next(a for a in made.model.graph.node[0].attribute if a.name == "pads")) == [
        *(0, 1),
        *(2, 3),
    ]


HEADS: dict[str, Callable[[Writer, str], str]] = {
    "average pool, Reshape": lambda net, x: net.add(
        "Reshape", net.add("AveragePool", x, kernel_shape=[6, 6]), np.array([1, 4])
    ),
    "mean, Squeeze": lambda net, x: net.add("Squeeze", net.add("GlobalAveragePool", x), np.array([2, 3])),
    "mean without its axes": lambda net, x: net.add("ReduceMean", x, axes=[-1, 2], keepdims=0),
    "shape arithmetic": lambda net, x: net.add(
        "Reshape",
        net.add("GlobalAveragePool", x),
        net.add(
            "Concat",
            net.add("Unsqueeze", net.add("Gather", net.add("Shape", x), np.array(0), axis=0), np.array([0])),
            np.array([-1]),
            axis=0,
        ),
    ),
    "dropout and identities": lambda net, x: net.add(
        "Dropout", net.add("Identity", net.add("Flatten", net.add("GlobalAveragePool", net.add("Cast", x, to=1))))
    ),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("product", ["Gemm", "MatMul"])
@pytest.mark.parametrize("batch", [1, "n"])
def test_every_head_is_pool_flatten_gemm_and_takes_any_batch(head: str, product: str, batch: Any) -> None:
    net = Writer(batch, 3, 8, 8)
    x = HEADS[head](net, net.add("Relu", net.conv("x")))
    weight, bias = RANDOM.standard_normal((4, 5)), RANDOM.standard_normal(5)
    if product == "Gemm":
        x = net.add("Gemm", x, weight, bias, alpha=2.0, beta=0.5)
    else:
        x = net.add("Add", bias, net.add("MatMul", x, weight))
    if head.startswith("average") and batch == "n":
        pytest.skip("its Reshape is for a batch of 1")
    made = converted(net.model(x, batch=batch))
    assert operators(made) == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
    assert made.batch is None
    shapes = {tensor.name: tensor.dims for tensor in made.model.graph.initializer}
    assert list(shapes["gemm.weight"]) == [5, 4]


def test_other_operators_get_the_usual_names() -> None:
    net = Writer("n", 3, 8, 8)
    x = net.add("Clip", net.conv("x"), np.float32(0), np.float32(3.4e38))
    x = net.add("Sum", net.add("Max", np.float32(0), net.conv(x, 4, 4, 1)), x)
    x = net.add("Clip", x, np.float32(0), np.float32(6))
    made = converted(net.model(net.head(x)))
    assert operators(made)[:5] == ["Conv", "Relu", "Conv", "Relu", "Add"]
    assert operators(made)[5] == "Clip"


def test_channels_last_becomes_channels_first() -> None:
    net = Writer("n", 8, 8, 3)
    x = net.add("Sub", "x", np.array([0.1, 0.2, 0.3]))
    for inputs in (3, 4):
        kernel = net.add("Transpose", RANDOM.standard_normal((3, 3, inputs, 4)) / 3, perm=[3, 2, 0, 1])
        x = net.add("Pad", x, np.array([0, 0, 0, 0, 0, 1, 1, 0]))
        x = net.add("Conv", net.add("Transpose", x, perm=[0, 3, 1, 2]), kernel, strides=[2, 2])
        x = net.add("Transpose", batch_norm(net, x), perm=[0, 2, 3, 1])
        x = net.add("Relu", net.add("Add", x, NORM[1]))
    x = net.add("Reshape", x, np.array([-1, 2 * 2 * 4]))
    x = net.add("Add", net.add("MatMul", x, RANDOM.standard_normal((16, 5))), RANDOM.standard_normal(5))
    shift = np.array([0.1, 0.2, 0.3])
    made = converted(net.model(x), lambda y: (y.transpose(0, 2, 3, 1) + shift).astype("f"))
    assert made.image.last
    assert operators(made) == ["Conv", "Relu", "Conv", "Relu", "Flatten", "Gemm"]


def test_a_mean_of_channels_last_needs_no_transpose() -> None:
    net = Writer("n", 8, 8, 3)
    x = net.add("Transpose", net.conv(net.add("Transpose", "x", perm=[0, 3, 1, 2])), perm=[0, 2, 3, 1])
    x = net.add("ReduceMean", net.add("Relu", x), axes=[1, 2], keepdims=0)
    made = converted(net.model(net.add("MatMul", x, RANDOM.standard_normal((4, 5)))), lambda y: y.transpose(0, 2, 3, 1))
    assert operators(made) == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]


# Ends


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_a_softmax_at_the_end_is_left_out_and_told(op: str) -> None:
    net = Writer("n", 3, 8, 8)
    x = net.conv(net.add("GlobalAveragePool", net.add("Relu", net.conv("x"))), 4, 5, 1)
    made = converted(net.model(net.add("Reshape", net.add(op, x, axis=1), np.array([-1, 5]))))
    assert (made.output.dropped, operators(made)[-1]) == (op, "Flatten")


@pytest.mark.parametrize(
    ("opset", "options", "dropped"),
    [
        (13, {"axis": 0}, False),
        (13, {"axis": -2}, False),
        (13, {"axis": -1}, True),
        (13, {}, True),
        (11, {"axis": 0}, False),
        (11, {"axis": -1}, True),
        (11, {}, True),
    ],
)
def test_only_a_softmax_over_the_classes_is_left_out(opset: int, options: dict[str, int], dropped: bool) -> None:
    net = Writer("n", 3, 16, 16)
    source = net.model(net.add("Softmax", net.head(net.conv("x")), **options), opset=opset)
    assert ends.output(_shaped(_inlined(source)), "classification", WHERE).dropped == ("Softmax" if dropped else None)


@pytest.mark.parametrize(
    ("opset", "options", "dropped"),
    [(13, {}, False), (13, {"axis": 1}, True), (11, {}, True), (11, {"axis": 2}, False)],
)
def test_a_softmax_before_the_classes_are_flattened(opset: int, options: dict[str, int], dropped: bool) -> None:
    net = Writer("n", 3, 16, 16)
    pooled = net.add("GlobalAveragePool", net.conv("x", outputs=5))
    source = net.model(net.add("Flatten", net.add("Softmax", pooled, **options)), opset=opset)
    assert ends.output(_shaped(_inlined(source)), "classification", WHERE).dropped == ("Softmax" if dropped else None)


@pytest.mark.parametrize("op", ["Mul", "Add", "Sub"])
def test_one_channel_that_becomes_many_is_no_affine_of_each_channel(op: str) -> None:
    net = Writer("n", 1, 16, 16)
    net.add(op, "x", np.ones((1, 4, 1, 1)))
    net.add(op, "x", np.ones((1, 1, 1, 1)))
    many, one = _shaped(_inlined(net.model()))
    assert affine.of(many) is None
    assert affine.of(one) is not None


def test_of_logits_and_their_softmax_the_logits_are_taken() -> None:
    net = Writer("n", 3, 8, 8)
    x = net.head(net.conv("x"))
    probabilities = net.add("Softmax", x, axis=1)
    made = converted(net.model(probabilities, x))
    assert (made.output.dropped, made.output.others) == (None, (probabilities,))


def test_a_size_left_open_is_taken_from_the_option() -> None:
    net = Writer("n", 3, "h", "w")
    source = net.model(net.head(net.conv("x")))
    assert converted(source, size=12).image.side == 12
    with pytest.raises(UsageError, match=r"theirs.onnx takes images of any size; .*--size"):
        convert(source, WHERE)


def test_a_batch_that_the_graph_mixes_stays_fixed() -> None:
    net = Writer(2, 3, 8, 8)
    x = net.conv(net.add("Reshape", net.conv("x"), np.array([1, 8, 6, 6])), 8, 8)
    source = net.model(net.head(net.add("Reshape", x, np.array([2, 4, 4, 4]))), batch=2)
    assert converted(source).batch == 2
    with pytest.raises(InputError, match="does not take batches of 3"):
        convert(source, WHERE, batch=3)


def test_a_batch_may_be_fixed() -> None:
    net = Writer("n", 3, 8, 8)
    made = converted(net.model(net.head(net.conv("x"))), batch=4)
    assert made.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == made.batch == 4


def loop(net: Writer) -> str:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Relu", ["y"], ["z"])],
        "body",
        [helper.make_tensor_value_info(name, kind, []) for name, kind in (("i", 7), ("c", 9))]
        + [helper.make_tensor_value_info("y", 1, None)],
        [helper.make_tensor_value_info("d", 9, []), helper.make_tensor_value_info("z", 1, None)],
    )
    return net.add("Loop", net.add("Cast", net.add("ReduceMax", "x", keepdims=0), to=7), "", net.conv("x"), body=body)


def lstm(net: Writer) -> str:
    x = net.add("Reshape", net.conv("x"), np.array([36, -1, 4]))
    weights = [RANDOM.standard_normal(shape) for shape in ((1, 8, 4), (1, 8, 2))]
    return net.add("Reshape", net.add("LSTM", x, *weights, hidden_size=2), np.array([-1, 4, 3, 6]))


REFUSED: dict[str, tuple[Callable[[Writer], str], str]] = {
    "a loop": (loop, "is Loop, control flow"),
    "a recurrence": (lstm, "is LSTM, a recurrent operator"),
    "INT8": (
        lambda net: net.add("DequantizeLinear", net.add("QuantizeLinear", net.conv("x"), np.float32(1)), np.float32(1)),
        "is QuantizeLinear, quantized already",
    ),
    "half precision": (
        lambda net: net.add("Cast", net.add("Relu", net.add("Cast", net.conv("x"), to=TensorProto.FLOAT16)), to=1),
        "is Relu, in float16",
    ),
    "a custom operator": (
        lambda net: net.add("Swish", net.conv("x"), domain="org.example"),
        "is Swish, an operator of org.example",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_handled_is_named(what: str) -> None:
    write, said = REFUSED[what]
    net = Writer("n", 3, 8, 8)
    node = write(net)
    source = net.model(net.head(node), domain="org.example" if "custom" in what else "")
    with pytest.raises(InputError, match=rf"theirs.onnx: node t\d+ {said}"):
        convert(source, WHERE)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (("n", 1, 8, 8), "has 1 channels; edgeres feeds RGB"),
        (("n", 3, 8, 10), "images of 8 x 10 go in"),
        (("n", 3, 8), "not a batch of images"),
    ],
)
def test_an_input_that_is_no_square_rgb_image_is_refused(shape: tuple[Any, ...], said: str) -> None:
    net = Writer(*shape)
    with pytest.raises(InputError, match=said):
        convert(net.model(net.head(net.conv("x", shape[1]))), WHERE)


def test_another_number_of_inputs_or_of_outputs_is_refused_by_name() -> None:
    net = Writer("n", 3, 8, 8)
    first, second = net.head(net.conv("x")), net.head(net.conv("x"))
    with pytest.raises(InputError, match=rf"the outputs {first} .*, {second} .*; 2 could be the classes"):
        convert(net.model(first, second), WHERE)
    net.inputs.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["n", 4, 6, 6]))
    with pytest.raises(InputError, match=r"has 2 inputs \(x, mask\)"):
        convert(net.model(net.head(net.add("Mul", net.conv("x"), "mask"))), WHERE)


def test_the_source_is_not_changed() -> None:
    net = Writer(1, 3, 8, 8)
    source = net.model(net.head(batch_norm(net, net.conv("x"))), batch=1)
    before = source.SerializeToString()
    convert(source, WHERE)
    assert source.SerializeToString() == before


@pytest.mark.parametrize("axes", [[2, 3], [-1, -2]])
@pytest.mark.parametrize("shape", [[-1, 4], [0, -1], [0, 4]])
def test_a_mean_that_keeps_its_axes_and_a_reshape_are_pool_and_flatten(axes: list[int], shape: list[int]) -> None:
    net = Writer("n", 3, 8, 8)
    x = net.add("ReduceMean", net.add("Relu", net.conv("x")), axes=axes, keepdims=1)
    x = net.add("Gemm", net.add("Reshape", x, np.array(shape)), np.ones((4, 5)) + np.arange(5), np.zeros(5))
    assert operators(converted(net.model(x))) == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]


@pytest.mark.parametrize(("raised", "told"), [(OSError(28, "No space left"), OSError), (KeyError("x"), InputError)])
def test_a_full_disk_is_not_blamed_on_the_graph(
    raised: Exception, told: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Converted:
        raise raised

    monkeypatch.setattr(converting, "_converted", fail)
    with pytest.raises(told) as caught:
        convert(ModelProto(), Path("x.onnx"))
    assert ("no graph" in str(caught.value)) == (told is InputError)
