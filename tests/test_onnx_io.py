"""ONNX files with a description: what is read back, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper

from edgeres import onnx_io, store
from edgeres.errors import InputError, UsageError
from edgeres.onnx_io import ModelInfo
from edgeres.store import Sidecar
from edgeres.types import Preprocess

INFO = ModelInfo("resnet18", Preprocess(resize=36, crop=32, interpolation="bicubic"), 3, ("cat", "dog", "été"))


def model(inputs: int = 1, outputs: int = 1, batch: int | str = "batch") -> ModelProto:
    shape = [batch, 3, 32, 32]
    ends = [helper.make_tensor_value_info(f"in{index}", TensorProto.FLOAT, shape) for index in range(inputs)]
    nodes = [helper.make_node("Relu", ["in0"], [f"out{index}"]) for index in range(outputs)]
    starts = [helper.make_tensor_value_info(f"out{index}", TensorProto.FLOAT, shape) for index in range(outputs)]
    graph = helper.make_graph(nodes, "graph", ends, starts)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])


def described(**changed: Any) -> ModelProto:
    """A model whose description has some raw values replaced; None removes one."""
    made = model()
    onnx_io.describe(made, INFO)
    raw = {entry.key: entry.value for entry in made.metadata_props}
    raw |= {f"edgeres.{key}": value for key, value in changed.items()}
    del made.metadata_props[:]
    helper.set_model_props(made, {key: value for key, value in raw.items() if value is not None})
    return made


def test_a_description_is_read_back_from_the_file(tmp_path: Path) -> None:
    made = model()
    onnx_io.describe(made, INFO)
    onnx_io.save(made, tmp_path / "model.onnx")
    assert onnx_io.info(tmp_path / "model.onnx") == INFO
    onnx_io.describe(made, ModelInfo("resnet50", Preprocess(), 2))
    assert onnx_io.description(made, tmp_path) == ModelInfo("resnet50", Preprocess(), 2)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_class_names_may_be_any_text(classes: list[str]) -> None:
    info = ModelInfo("a", Preprocess(), len(classes), tuple(classes))
    made = model()
    onnx_io.describe(made, info)
    assert onnx_io.description(onnx.load_model_from_string(made.SerializeToString()), Path("m.onnx")) == info
    assert ModelInfo.parse(json.loads(json.dumps(info.to_json())), Path("m.onnx")) == info


def test_a_file_that_says_nothing_of_itself_is_refused(tmp_path: Path) -> None:
    onnx_io.save(model(), tmp_path / "model.onnx")
    with pytest.raises(
        InputError, match=r"model\.onnx says nothing of its preprocessing; make it with `edgeres export`"
    ):
        onnx_io.info(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "changed",
    [
        {"arch": None},
        {"outputs": None},
        {"outputs": '"many"'},
        {"outputs": "[1]"},
        {"classes": None},
        {"classes": "3"},
        {"preprocess": None},
        {"preprocess": "{"},
        {"preprocess": "[]"},
        {"preprocess": '{"crop": "big"}'},
        {"preprocess": '{"mean": [0]}'},
    ],
)
def test_a_damaged_description_is_refused_with_the_file(changed: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^m\.onnx: "):
        onnx_io.description(described(**changed), Path("m.onnx"))


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(UsageError, match=r"model\.onnx cannot be read"):
        onnx_io.load(path)
    with pytest.raises(UsageError, match="cannot be read"):
        onnx_io.load(tmp_path)
    whole = described().SerializeToString()
    for content in (b"this is text", b"\x00" * 100, b"", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"model\.onnx (is not an ONNX model|has 0 inputs)"):
            onnx_io.load(path)


def test_a_model_of_several_inputs_is_refused(tmp_path: Path) -> None:
    onnx_io.save(model(2, 1), tmp_path / "model.onnx")
    with pytest.raises(InputError, match="has 2 inputs and 1 outputs; edgeres takes networks with one image input"):
        onnx_io.load(tmp_path / "model.onnx")


def test_the_task_is_kept_and_a_model_without_one_classifies(tmp_path: Path) -> None:
    made = model()
    onnx_io.describe(made, replace(INFO, task="multi-label"))
    assert onnx_io.description(made, tmp_path).task == "multi-label"
    stored = {key: value for key, value in INFO.to_json().items() if key != "task"}
    assert ModelInfo.parse(stored, tmp_path) == INFO
    with pytest.raises(InputError, match="no task 'guessing'"):
        ModelInfo.parse({**stored, "task": "guessing"}, tmp_path)


def test_a_graph_that_the_checker_refuses_is_not_written(tmp_path: Path) -> None:
    wrong_input, wrong_shape = model(), model()
    wrong_input.graph.node[0].input[0] = "nowhere"
    wrong_shape.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4
    for broken in (wrong_input, wrong_shape):
        with pytest.raises(InputError, match=r"model\.onnx: the ONNX checker refuses the graph: \S+"):
            onnx_io.save(broken, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def engine(tmp_path: Path, parameters: dict[str, Any]) -> Path:
    path = tmp_path / "model.engine"
    store.make(path, Sidecar("engine", {}, parameters), lambda where: where.write_bytes(b"program") and None)
    return path


def test_an_engine_is_described_by_its_sidecar(tmp_path: Path) -> None:
    path = engine(tmp_path, {"model": INFO.to_json()})
    assert onnx_io.info(path) == INFO
    path.write_bytes(b"Program")
    with pytest.raises(InputError, match="is not the file that its sidecar describes"):
        onnx_io.info(path)


@pytest.mark.parametrize("parameters", [{}, {"model": []}, {"model": {"arch": "resnet18"}}, {"model": None}])
def test_an_engine_without_a_description_is_refused(tmp_path: Path, parameters: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"model\.engine\.json: the description of the model is damaged"):
        onnx_io.info(engine(tmp_path, parameters))


def test_the_input_shape_tells_a_free_batch_from_a_fixed_one() -> None:
    assert onnx_io.input_shape(model()) == (None, 3, 32, 32)
    assert onnx_io.input_shape(model(batch=4)) == (4, 3, 32, 32)


def test_a_short_batch_is_filled_up_with_zeros() -> None:
    images = np.ones((2, 3, 4, 4), np.float32)
    filled = onnx_io.padded(images, 5)
    assert (filled.shape, filled.dtype) == ((5, 3, 4, 4), np.float32)
    assert filled[:2].min() == 1
    assert filled[2:].any() == np.False_
    assert onnx_io.padded(images, 2) is images
