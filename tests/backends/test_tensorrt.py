"""Real ahead-of-time builds where the package is; a simulated GPU for what runs on one."""

import ctypes
import gc
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeres.backends import tensorrt, tensorrt_compile, tensorrt_layers
from edgeres.errors import BuildError, EdgeresError, InputError, MissingRuntime, UsageError
from edgeres.quantization.half import to_half
from edgeres.types import Target

CHANNELS = 64
SCALE = np.float32(0.05)
ZERO = np.int8(0)
RTX = tensorrt.backend("tensorrt-rtx")


@pytest.fixture(scope="session")
def rtx() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="the extra `tensorrt-rtx` is not installed")


def network(quantized: bool = False, batch: int | None = 1, point: Any = ZERO, bias: str = "float") -> Any:
    """A residual block with a head: (batch, 3, 16, 16) -> (batch, 10); a batch of None is free.

    `point` is the zero point of the activations, None leaves it out; `bias` may be `int32` for the first convolution.
    """
    random = np.random.default_rng(0)
    constants: dict[str, NDArray[Any]] = {}
    nodes: list[onnx.NodeProto] = []

    def node(op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def pair(tensor: str) -> str:
        if not quantized:
            return tensor
        constants[f"{tensor}.s"] = SCALE
        inputs = [f"{tensor}.s"]
        if point is not None:
            constants[f"{tensor}.z"] = np.array(point)
            inputs.append(f"{tensor}.z")
        return node(
            "DequantizeLinear", [node("QuantizeLinear", [tensor, *inputs], f"{tensor}.q"), *inputs], f"{tensor}.d"
        )

    def convolution(tensor: str, inputs: int, name: str) -> str:
        weight = random.normal(0, 0.1, (CHANNELS, inputs, 3, 3)).astype(np.float32)
        constants[f"{name}.b"] = random.normal(0, 0.1, CHANNELS).astype(np.float32)
        constants[f"{name}.w"] = weight
        weights, biases = f"{name}.w", f"{name}.b"
        if quantized:
            scale = (np.abs(weight).max((1, 2, 3)) / 127).astype(np.float32)
            constants[f"{name}.w"] = np.rint(weight / scale[:, None, None, None]).astype(np.int8)
            constants.update({f"{name}.ws": scale, f"{name}.wz": np.zeros(CHANNELS, np.int8)})
            weights = node("DequantizeLinear", [f"{name}.w", f"{name}.ws", f"{name}.wz"], f"{name}.wd", axis=0)
            if bias == "int32" and name == "first":
                integers = {f"{name}.b": np.ones(CHANNELS, np.int32), f"{name}.bz": np.zeros(CHANNELS, np.int32)}
                constants.update(integers)
                biases = node("DequantizeLinear", [f"{name}.b", f"{name}.ws", f"{name}.bz"], f"{name}.bd", axis=0)
        return node("Conv", [pair(tensor), weights, biases], name, pads=[1] * 4)

    stem = node("Relu", [convolution("image", 3, "first")], "stem")
    branch = convolution(stem, CHANNELS, "second")
    block = node("Relu", [node("Add", [branch, f"{stem}.d" if quantized else stem], "sum")], "block")
    pooled = node("Flatten", [node("GlobalAveragePool", [block], "pool")], "flat")
    constants["head.w"] = random.normal(0, 0.1, (10, CHANNELS)).astype(np.float32)
    node("Gemm", [pooled, "head.w"], "logits", transB=1)
    ends = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch or "n", 3, 16, 16]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch or "n", 10]),
    ]
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "residual", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def built(model: onnx.ModelProto, device: str, folder: Path) -> bytes:
    source, out = folder / "model.onnx", folder / "engine"
    onnx.save(model, source)
    out.unlink(missing_ok=True)
    RTX.build(source, Target("tensorrt-rtx", device), out)
    return out.read_bytes()


def weight(name: str, model: onnx.ModelProto) -> NDArray[Any]:
    return next(numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == name)


def reference(model: onnx.ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
    return outputs(model, images)[0]


def outputs(model: onnx.ModelProto, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[NDArray[np.float32]] = session.run(None, {"image": images})
    return found


# --- building without a GPU


@pytest.mark.parametrize("quantized", [False, True])
def test_the_engine_holds_the_weights_in_the_type_of_the_file(rtx: Any, tmp_path: Path, quantized: bool) -> None:
    engine = built(network(quantized), "sm86", tmp_path)
    held = {
        kind: weight("second.w", network(kind == "int8")).transpose(0, 2, 3, 1).tobytes() in engine
        for kind in ("int8", "float32")
    }
    assert held == {"int8": quantized, "float32": not quantized}


def test_an_engine_is_made_for_one_gpu_and_reproducible(rtx: Any, tmp_path: Path) -> None:
    model = network(quantized=True)
    first = built(model, "sm86", tmp_path)
    assert first == built(model, "sm86", tmp_path)
    assert first != built(model, "sm120", tmp_path)


def test_a_failed_build_does_not_spoil_the_next(rtx: Any, tmp_path: Path) -> None:
    model = network(quantized=True)
    alone = built(model, "sm86", tmp_path)
    with pytest.raises(BuildError):
        built(model, "sm75", tmp_path)
    assert built(model, "sm86", tmp_path) == alone


def test_a_free_batch_is_compiled_for_a_range(rtx: Any, tmp_path: Path) -> None:
    assert built(network(batch=None), "sm89", tmp_path) != built(network(), "sm89", tmp_path)


def operator_file() -> onnx.ModelProto:
    """ONNX's integer operators instead of Q/DQ."""
    inputs = ["image", *(f"{of}.{what}" for of in "iwo" for what in ("s", "z"))]
    inputs.insert(3, "w")
    constants = {name: SCALE if name.endswith("s") else np.int8(0) for name in inputs if "." in name}
    constants["w"] = np.ones((4, 3, 3, 3), np.int8)
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "i.s", "i.z"], ["q"], "q"),
        helper.make_node("QLinearConv", ["q", *inputs[1:]], ["y"], "integer"),
        helper.make_node("DequantizeLinear", ["y", "o.s", "o.z"], ["logits"], "d"),
    ]
    ends = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4, 6, 6]),
    ]
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "integers", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize(
    ("model", "device", "said"),
    [
        (network(True, bias="int32"), "sm86", ["DequantizeLinear first.bd", "INT32", "--scheme tensorrt"]),
        (network(True, point=np.uint8(0)), "sm86", ["QuantizeLinear image.q", "INT8", "--scheme tensorrt"]),
        (network(True, point=None), "sm86", ["QuantizeLinear image.q", "INT8", "--scheme tensorrt"]),
        (network(True, point=np.int8(3)), "sm86", ["QuantizeLinear image.q", "zero point 0", "--scheme tensorrt"]),
        (operator_file(), "sm86", ["QLinearConv integer", "Q/DQ", "--scheme tensorrt"]),
        (network(), "sm75", ["logits", "FP32", "--scheme fp16"]),
        (to_half(network(True)), "sm75", ["none of the 2 quantized convolutions", "INT8", "--scheme fp16"]),
    ],
    ids=["int32 bias", "uint8", "no zero point", "asymmetric", "integer operators", "FP32 on Turing", "INT8 on Turing"],
)
def test_a_refusal_is_one_sentence_and_leaves_no_engine(
    rtx: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], model: onnx.ModelProto, device: str, said: list[str]
) -> None:
    with pytest.raises(BuildError) as caught:
        built(model, device, tmp_path)
    text = str(caught.value)
    assert text.startswith(f"target tensorrt-rtx:{device}: ")
    assert "\n" not in text
    assert [part for part in said if part not in text] == []
    assert not (tmp_path / "engine").exists()
    assert capfd.readouterr() == ("", "")


def mixed() -> onnx.ModelProto:
    """A bias in float16 under a float32 convolution."""
    model = network()
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "second.b")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias).astype(np.float16), bias.name))
    return model


def unknown() -> onnx.ModelProto:
    model = network()
    model.graph.node[1].op_type, model.graph.node[1].domain = "Celu2", "mine"
    model.opset_import.append(helper.make_opsetid("mine", 1))
    return model


@pytest.mark.parametrize(("model", "where"), [(unknown(), "Celu2 stem"), (mixed(), "Conv second")])
def test_another_refusal_quotes_tensorrt(rtx: Any, tmp_path: Path, model: onnx.ModelProto, where: str) -> None:
    reason = "of type Half" if where == "Conv second" else "Plugin not found"
    expected = rf"^target tensorrt-rtx:sm86: {where} is refused: (?!Invalid).+{reason}.+; export .+\.$"
    with pytest.raises(BuildError, match=expected) as caught:
        built(model, "sm86", tmp_path)
    assert "\n" not in str(caught.value)
    assert "CUDA driver" not in str(caught.value)


@pytest.mark.parametrize(("content", "error"), [(None, UsageError), (b"\x01no model", InputError)])
def test_errors_keep_their_type_across_the_process(
    rtx: Any, tmp_path: Path, content: bytes | None, error: type[EdgeresError]
) -> None:
    source = tmp_path / "model.onnx"
    if content:
        source.write_bytes(content)
    with pytest.raises(error, match=r"model\.onnx"):
        RTX.build(source, Target("tensorrt-rtx", "sm86"), tmp_path / "engine")


def test_a_crash_of_the_compiler_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = [sys.executable, "-c", "import sys; sys.exit('Segmentation fault')"]
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **options: run(script, **options))
    with pytest.raises(BuildError, match="Segmentation fault"):
        RTX.build(tmp_path / "model.onnx", Target("tensorrt-rtx", "sm86"), tmp_path / "engine")


@pytest.mark.parametrize("target", ["tensorrt-rtx:sm90", "tensorrt:sm86"])
def test_an_unknown_device_is_refused_with_the_known_ones(tmp_path: Path, target: str) -> None:
    parsed = Target.parse(target)
    for use in (tensorrt.backend(parsed.backend).build, tensorrt.backend(parsed.backend).load):
        with pytest.raises(UsageError, match="current"):
            use(tmp_path / "model.onnx", parsed, tmp_path / "engine")  # type: ignore[arg-type]


def test_the_scheme_of_a_target_is_one_that_it_compiles() -> None:
    schemes = {device: RTX.scheme(Target("tensorrt-rtx", device)) for device in tensorrt.DEVICES["tensorrt-rtx"]}
    assert schemes.pop("sm75") == "fp16"
    assert {*schemes.values(), tensorrt.backend("tensorrt").scheme(Target("tensorrt", "current"))} == {"tensorrt"}


# --- what an engine is made of


def test_the_layers_of_a_model_are_told_without_a_gpu(
    rtx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "_gpu", lambda: "no driver")
    onnx.save(network(quantized=True), tmp_path / "model.onnx")
    layers = RTX.inspect(tmp_path / "model.onnx", Target("tensorrt-rtx", "sm86"))
    told = [(layer.origins[0], layer.precision, layer.weight_bytes) for layer in layers if "Conv" in layer.operators]
    # The three channels of the image are filled up to four.
    assert told == [("first", "int8", CHANNELS * 4 * 9), ("second", "int8", CHANNELS * CHANNELS * 9)]
    assert [layer.precision for layer in layers if "logits" in layer.origins] == ["fp32"]
    with pytest.raises(MissingRuntime, match=r"inspect the ONNX file that engine was built from"):
        RTX.inspect(tmp_path / "engine", Target("tensorrt-rtx", "sm86"))


def test_a_plan_is_read_whatever_tensorrt_calls_its_parts() -> None:
    (layer,) = tensorrt_layers.read(
        "Layers:\nName: c + r, LayerType: CaskConvolution, Inputs: [ { Name: x, Dimensions: [1,8,4,4], "
        "Format/Datatype: Half }], Outputs: [ { Name: y, Dimensions: [1,8,4,4], Format/Datatype: Half }], "
        "TacticName: t, Metadata: [ONNX Layer: c]\x1e[ONNX Layer: r]\n"
        "Name: w, LayerType: wait, Inputs: [], Outputs: []\n"
    )
    assert (layer.operators, layer.kernel, layer.precision) == (("Conv",), "CaskConvolution", "fp16")
    assert layer.origins == ("c", "r")
    assert tensorrt_layers.read("") == []


# --- what a machine can do


@pytest.mark.parametrize("error", [ImportError("no module"), OSError("libcudart.so: cannot open")])
@pytest.mark.parametrize("name", list(tensorrt.DEVICES))
def test_a_missing_package_is_told_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, name: str, error: Exception
) -> None:
    def fail(module: str) -> None:
        raise error

    monkeypatch.setattr(tensorrt_compile, "import_module", fail)
    found = tensorrt.backend(name).available()
    assert [one.target.device for one in found] == list(tensorrt.DEVICES[name])
    for one in found:
        assert not one.builds
        assert not one.runs
        assert str(error) in one.note
        assert f"edgeres[{name}]" in one.note


def test_without_a_gpu_rtx_builds_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_compile, "load", lambda name: SimpleNamespace(__version__="1.7"))
    monkeypatch.setattr(tensorrt, "_gpu", lambda: "no driver")
    able = {one.target.device: (one.builds, one.runs) for one in RTX.available()}
    assert able.pop("current") == (False, False)
    assert set(able.values()) == {(True, False)}
    with pytest.raises(MissingRuntime, match="edgeres bench"):
        RTX.load(Path("engine"), Target("tensorrt-rtx", "sm86"))
    with pytest.raises(MissingRuntime, match="edgeres build"):
        RTX.build(Path("model"), Target("tensorrt-rtx", "current"), Path("engine"))


def test_a_gpu_runs_only_its_own_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_compile, "load", lambda name: SimpleNamespace(__version__="1.7"))
    monkeypatch.setattr(tensorrt, "_gpu", lambda: tensorrt.Gpu(None, "RTX 4090", "sm89"))
    assert {one.target.device for one in RTX.available() if one.runs} == {"sm89", "current"}
    with pytest.raises(MissingRuntime, match="RTX 4090, sm89"):
        RTX.load(Path("engine"), Target("tensorrt-rtx", "sm86"))


# --- running, on a GPU that is main memory and ONNX Runtime

PLAN = "Layers:\nName: a, LayerType: correlation, Inputs: [ { Name: x, Datatype: Int8, Format: (NHWC) }], Outputs: []"


class Cuda:
    """The calls of cuda.bindings.runtime that the backend makes, with their answers; `fail` makes one call fail."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815

    def __init__(self) -> None:
        self.blocks: dict[int, Any] = {}
        self.fail = ""

    def _answer(self, call: str, *values: Any) -> tuple[Any, ...]:
        return (SimpleNamespace(name="cudaErrorUnknown"),) if call == self.fail else (0, *values)

    def cudaStreamCreate(self) -> tuple[Any, ...]:  # noqa: N802
        return self._answer("cudaStreamCreate", 7)

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:  # noqa: N802
        block = ctypes.create_string_buffer(size)
        self.blocks[ctypes.addressof(block)] = block
        return self._answer("cudaMalloc", ctypes.addressof(block))

    def cudaFree(self, pointer: int) -> tuple[Any, ...]:  # noqa: N802
        del self.blocks[pointer]
        return self._answer("cudaFree")

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: int) -> tuple[Any, ...]:  # noqa: N802
        device = self.blocks[to if kind == 1 else source]
        assert size <= len(device)
        assert stream == 7
        ctypes.memmove(to, source, size)
        return self._answer("cudaMemcpyAsync")

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        return self._answer("cudaStreamSynchronize")


class Runtime:
    """A TensorRT whose engines are ONNX files."""

    float32 = "float32"
    nptype = staticmethod(np.dtype)
    __version__ = "0"
    ILogger = type("ILogger", (), {"ERROR": 1, "INTERNAL_ERROR": 0})
    TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
    LayerInformationFormat = SimpleNamespace(ONELINE=0)
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        def deserialize_cuda_engine(content: bytes) -> Any:
            if not content:
                logger.log(1, "not an engine")
                return None
            return FakeEngine(onnx.load_from_string(content))

        return SimpleNamespace(deserialize_cuda_engine=deserialize_cuda_engine)


class FakeEngine:
    """ICudaEngine and IExecutionContext over an ONNX model; the output is listed first, for good measure."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.values = {value.name: value for value in (*model.graph.output, *model.graph.input)}
        self.num_io_tensors = len(self.values)
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()
        self.config = SimpleNamespace()

    def create_runtime_config(self) -> Any:
        return self.config

    def create_execution_context(self, config: Any) -> "FakeEngine":
        assert config.dynamic_shapes_kernel_specialization_strategy == "eager"
        return self

    def get_tensor_name(self, index: int) -> str:
        return list(self.values)[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "image" else "out"

    def get_tensor_dtype(self, name: str) -> str:
        kind = self.values[name].type.tensor_type.elem_type
        return str(helper.tensor_dtype_to_np_dtype(kind))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        dims = [dim.dim_value or -1 for dim in self.values[name].type.tensor_type.shape.dim]
        return (self.shape[0], *dims[1:]) if self.shape else tuple(dims)

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        return [(size, *self.get_tensor_shape(name)[1:]) for size in (1, 1, 4)]

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda style: PLAN)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        size = int(np.prod(self.shape))
        images = np.ctypeslib.as_array((ctypes.c_float * size).from_address(self.addresses["image"]))
        for value, made in zip(self.model.graph.output, outputs(self.model, images.reshape(self.shape)), strict=True):
            ctypes.memmove(self.addresses[value.name], made.ctypes.data, made.nbytes)
        return True


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    made, trt = Cuda(), Runtime()
    monkeypatch.setattr(tensorrt, "_gpu", lambda: tensorrt.Gpu(made, "RTX 4090", "sm89"))
    monkeypatch.setattr(tensorrt_compile, "load", lambda name: trt)
    return made


def loaded(model: onnx.ModelProto | None, folder: Path) -> Any:
    path = folder / "engine"
    path.write_bytes(model.SerializeToString() if model else b"")
    return RTX.load(path, Target("tensorrt-rtx", "sm89"))


def test_run_copies_in_computes_and_copies_out(cuda: Cuda, tmp_path: Path) -> None:
    model = network(batch=None)
    engine = loaded(model, tmp_path)
    assert engine.input_shape == (None, 3, 16, 16)
    assert engine.properties["precision"] == "1 convolutions in int8"
    assert engine.properties["device"] == "RTX 4090 (sm89)"
    random = np.random.default_rng(1)
    for batch in (4, 1, 3):
        images = random.standard_normal((batch, 3, 16, 32), np.float32)[..., ::2]
        np.testing.assert_array_equal(engine.run(images), reference(model, images))
    with pytest.raises(InputError, match="up to 4"):
        engine.run(np.zeros((5, 3, 16, 16), np.float32))


def test_every_output_comes_back(cuda: Cuda, tmp_path: Path) -> None:
    model = network(batch=None)
    inner = next(node.output[0] for node in model.graph.node if node.op_type == "Relu")
    shape = ["batch", CHANNELS, 16, 16]
    model.graph.output.append(helper.make_tensor_value_info(inner, onnx.TensorProto.FLOAT, shape))
    engine = loaded(model, tmp_path)
    images = np.random.default_rng(1).standard_normal((3, 3, 16, 16), np.float32)
    assert engine.outputs == ("logits", inner)
    for found, wanted in zip(engine.maps(images), outputs(model, images), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_an_engine_is_inspected_through_the_inspector(cuda: Cuda, tmp_path: Path) -> None:
    (tmp_path / "engine").write_bytes(network().SerializeToString())
    (layer,) = RTX.inspect(tmp_path / "engine", Target("tensorrt-rtx", "sm89"))
    assert (layer.name, layer.operators, layer.kernel, layer.precision) == ("a", ("Conv",), "correlation", "int8")


def test_memory_goes_back_with_the_engine(cuda: Cuda, tmp_path: Path) -> None:
    engine = loaded(network(batch=2), tmp_path)
    assert engine.input_shape == (2, 3, 16, 16)
    assert sorted(len(block) for block in cuda.blocks.values()) == [2 * 10 * 4, 2 * 3 * 16 * 16 * 4]
    del engine
    gc.collect()
    assert cuda.blocks == {}


@pytest.mark.parametrize("call", ["cudaStreamCreate", "cudaMalloc", "cudaMemcpyAsync", "cudaStreamSynchronize"])
def test_no_answer_of_cuda_is_ignored(cuda: Cuda, tmp_path: Path, call: str) -> None:
    cuda.fail = call
    with pytest.raises(MissingRuntime, match="cudaErrorUnknown"):
        loaded(network(), tmp_path).run(np.zeros((1, 3, 16, 16), np.float32))


def test_an_engine_that_does_not_load_says_why(cuda: Cuda, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="not an engine"):
        loaded(None, tmp_path)


def test_an_engine_of_half_inputs_is_refused(cuda: Cuda, tmp_path: Path) -> None:
    model = network()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    with pytest.raises(InputError, match="float32"):
        loaded(model, tmp_path)


def test_the_simulated_api_is_the_real_one(rtx: Any) -> None:
    used = {
        rtx.ICudaEngine: "create_runtime_config create_execution_context num_io_tensors get_tensor_name "
        "get_tensor_mode get_tensor_dtype get_tensor_shape get_tensor_profile_shape create_engine_inspector",
        rtx.IExecutionContext: "get_tensor_shape set_tensor_address set_input_shape execute_async_v3",
        rtx.Runtime: "deserialize_cuda_engine",
        rtx.EngineInspector: "get_engine_information",
        rtx.IRuntimeConfig: "dynamic_shapes_kernel_specialization_strategy",
        rtx.LayerInformationFormat: "ONELINE",
        rtx.TensorIOMode: "INPUT OUTPUT",
        rtx.DynamicShapesKernelSpecializationStrategy: "EAGER",
        rtx.ILogger: "ERROR INTERNAL_ERROR",
    }
    assert [(owner, name) for owner, names in used.items() for name in names.split() if not hasattr(owner, name)] == []


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(tensorrt.DEVICES))
@pytest.mark.parametrize("quantized", [False, True])
def test_logits_on_the_gpu(name: str, quantized: bool, tmp_path: Path) -> None:
    pytest.importorskip(name.replace("-", "_"), reason=f"the extra `{name}` is not installed")
    gpu = tensorrt._gpu()
    if isinstance(gpu, str):
        pytest.skip(f"no GPU: {gpu}")
    model = network(quantized, batch=None)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    engine = tensorrt.backend(name).load(path, Target(name, "current"))
    images = np.random.default_rng(2).standard_normal((3, 3, 16, 16), np.float32)
    np.testing.assert_allclose(engine.run(images), reference(model, images), atol=0.02)
