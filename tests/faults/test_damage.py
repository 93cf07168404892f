"""Damage that no parser sees is told by a sidecar; networks that are degenerate are refused, not measured."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeres import engines, evaluate, onnx_io, store
from edgeres.data import ImageSet, open_images
from edgeres.errors import BuildError, InputError
from edgeres.quantization import place
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.quantize import quantize
from edgeres.quantization.statistics import TensorStatistics
from edgeres.types import Target

HERE = Target("onnxruntime", "cpu")


@pytest.fixture
def images(image_folder: Path) -> ImageSet:
    return open_images(image_folder).take([0, 5])


def copied(source: Path, folder: Path, name: str) -> Path:
    shutil.copy(source, folder / name)
    shutil.copy(store.sidecar_path(source), folder / f"{name}.json")
    return folder / name


def flipped(path: Path, at: int = -1000) -> Path:
    """One bit is another: of a weight, for one, which any parser takes."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    return path


def test_a_weight_that_flipped_is_told_by_the_sidecar(exported: Path, tmp_path: Path, images: ImageSet) -> None:
    model = flipped(copied(exported, tmp_path, "model.onnx"))
    assert onnx_io.load(model) != onnx_io.load(exported)
    said = r"model\.onnx is not the file that (model\.onnx\.json|its sidecar) describes"
    with pytest.raises(InputError, match=said):
        calibrate(model, images, tmp_path / "model.stats")
    with pytest.raises(InputError, match=said):
        quantize(model, None, tmp_path / "half.onnx", scheme="fp16")
    with pytest.raises(InputError, match=said):
        engines.build(model, HERE, tmp_path / "engine.onnx")
    with pytest.raises(InputError, match=said):
        engines.load(model, HERE)
    store.sidecar_path(model).unlink()
    engines.load(model, HERE)


def test_statistics_of_another_calibration_are_told_by_the_sidecar(
    exported: Path, calibrated: Path, tmp_path: Path
) -> None:
    stats = copied(calibrated, tmp_path, "model.stats")
    with stats.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(InputError, match=r"model\.stats is not the file that model\.stats\.json describes"):
        quantize(exported, stats, tmp_path / "int8.onnx")


def test_predictions_that_changed_are_told_by_the_sidecar(exported: Path, tmp_path: Path, images: ImageSet) -> None:
    path = evaluate.evaluate(exported, HERE, images, tmp_path / "found.npz").path
    evaluate.predictions(path)
    with path.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(InputError, match=r"found\.npz is not a predictions file \(it is not the file that its sidecar"):
        evaluate.predictions(path)


def changed(source: Path, path: Path, factor: float) -> Path:
    """The network with its first weights multiplied."""
    model = onnx.load(source)
    weight = model.graph.initializer[[one.name for one in model.graph.initializer].index("conv1.weight")]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), weight.name))
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    ("factor", "said"), [(np.nan, "is NaN or infinite on"), (1e15, "is larger than any trained network's on")]
)
def test_a_degenerate_network_is_refused_without_a_warning(
    factor: float, said: str, exported: Path, tmp_path: Path, images: ImageSet
) -> None:
    with pytest.raises(InputError, match=rf"odd\.onnx: \S+ {said} airplane.*; mend the weights"):
        calibrate(changed(exported, tmp_path / "odd.onnx", factor), images, tmp_path / "odd.stats")
    assert not list(tmp_path.glob("*.stats*"))


def test_sums_that_would_wrap_around_are_refused() -> None:
    """At 2**20 to one, int64 holds means of up to 2**43."""

    def of(mean: float) -> TensorStatistics:
        one = np.full((1, 1), mean, np.float32)
        return TensorStatistics.of(one, one, one, one, one)

    most = of(2.0**42)
    assert most.means == [2.0**42]
    with pytest.raises(ValueError, match="larger than any"):
        most + most
    with pytest.raises(ValueError, match="larger than any"):
        of(2.0**43)


@pytest.mark.parametrize("shape", [[], [1, 3], ["n", 3, "h", "w"], [0, 3, 32, 32]])
def test_a_network_without_an_image_of_one_size_is_refused(shape: list[Any], exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    given = model.graph.input[0].type.tensor_type
    given.CopyFrom(onnx.helper.make_tensor_type_proto(given.elem_type, shape).tensor_type)
    (tmp_path / "odd.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"odd\.onnx"):
        onnx_io.load(tmp_path / "odd.onnx")


@pytest.mark.parametrize("stored", ["", "[]", '{"a": 1}', '{"a": "AAA"}', '{"a": "AACAvw=="}', "[" * 100_000])
def test_damaged_scales_of_channels_are_refused(stored: str, exported: Path) -> None:
    model = onnx.load(exported)
    model.metadata_props.add(key=place.SCALES, value=stored)
    with pytest.raises(InputError, match=r"x\.onnx: the scales of its channels are damaged"):
        place.remembered(model, Path("x.onnx"))


def test_an_engine_that_cannot_run_is_an_error_of_the_engine(exported: Path, tmp_path: Path) -> None:
    """Its sum asks for another batch than its image."""
    model = onnx.load(exported)
    name = model.graph.output[0].name
    model.graph.node[-1].output[0] = "before"
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((7, 10), np.float32), "seven"))
    model.graph.node.append(onnx.helper.make_node("Add", ["before", "seven"], [name]))
    (tmp_path / "odd.onnx").write_bytes(model.SerializeToString())
    loaded = engines.load(tmp_path / "odd.onnx", HERE)
    with pytest.raises(BuildError, match=r"onnxruntime cannot run .*odd\.onnx: "):
        loaded.run(np.zeros((2, 3, 32, 32), np.float32))


def test_a_sidecar_of_another_kind_is_refused(tmp_path: Path) -> None:
    store.make(tmp_path / "a", store.Sidecar("x", {}), lambda path: path.write_bytes(b"a") and None)
    whole = json.loads((tmp_path / "a.json").read_text())
    for change in ({"calibration": 3}, {"calibration": [3]}, {"digest": None}, {"kind": []}, {"inputs": "x"}):
        (tmp_path / "a.json").write_text(json.dumps(whole | change))
        with pytest.raises(InputError, match=r"a\.json is not a sidecar"):
            store.verify(tmp_path / "a")
