"""Engines as files: what stands beside them, when they are made again, and which are refused."""

import json
import platform
import re
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import onnx
import pytest

from edgeres import backends, cli, disk, engines, machine, measure, onnx_io, store
from edgeres.backends import tensorrt
from edgeres.errors import BuildError, EdgeresError, InputError, MissingRuntime, UsageError
from edgeres.types import Target

CPU = Target("onnxruntime", "cpu")
OPENVINO = Target("openvino", "cpu")


@pytest.fixture
def blob(exported: Path, tmp_path: Path) -> Path:
    """An engine that is not an ONNX file."""
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    return engines.build(exported, OPENVINO, tmp_path / "x.blob").path


def test_the_sidecar_says_what_the_engine_was_made_from(exported: Path, tmp_path: Path) -> None:
    made = engines.build(exported, CPU, tmp_path / "x.onnx")
    sidecar = store.read_sidecar(made.path)
    assert sidecar is not None
    assert sidecar.key == made.sidecar.key
    assert sidecar.kind == "engine"
    assert sidecar.inputs == {"model": disk.digest(exported)}
    assert sidecar.parameters["target"] == "onnxruntime:cpu"
    assert set(sidecar.versions) == {"edgeres", "onnxruntime"}
    assert sidecar.digest == disk.digest(made.path)


def test_an_engine_is_not_built_of_an_engine(blob: Path, tmp_path: Path) -> None:
    """OpenVINO would take its own blob, without the description that the network carries."""
    with pytest.raises(UsageError, match=r"x\.blob is not named \.onnx; give the file that `edgeres export`"):
        engines.build(blob, OPENVINO, tmp_path / "y.blob")


def test_an_engine_carries_the_description_of_its_model(exported: Path, blob: Path) -> None:
    assert onnx_io.info(blob) == onnx_io.info(exported)


def test_an_engine_is_built_once_and_again_for_another_model(
    exported: Path, networks: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "x.onnx"
    assert engines.build(exported, CPU, out).made
    assert not engines.build(exported, CPU, out).made
    assert engines.build(networks["basic"], CPU, out).made
    assert onnx_io.info(out).outputs == 7


def test_an_engine_that_was_tampered_with_is_built_again(exported: Path, tmp_path: Path) -> None:
    out = engines.build(exported, CPU, tmp_path / "x.onnx").path
    content = out.read_bytes()
    out.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert engines.build(exported, CPU, out).made
    assert out.read_bytes() == content


def test_a_file_name_that_does_not_fit_is_refused_with_one_that_does(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"an engine of openvino:cpu is a \.blob file; name it .*x\.blob"):
        engines.build(exported, OPENVINO, tmp_path / "x.engine")


@pytest.mark.parametrize("name", ["x.onnx", "x.blob"])
def test_a_file_that_is_not_there_is_a_usage_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{name} cannot be read .*check the path"):
        engines.load(tmp_path / name, CPU if name == "x.onnx" else OPENVINO)


def test_an_engine_without_its_sidecar_is_refused(blob: Path) -> None:
    store.sidecar_path(blob).unlink()
    with pytest.raises(InputError, match=r"x\.blob has no sidecar x\.blob\.json; copy that along"):
        engines.load(blob, OPENVINO)


def test_an_engine_of_another_target_is_refused(blob: Path) -> None:
    with pytest.raises(UsageError, match=r"was built for openvino:cpu, not for openvino:npu; change --target or build"):
        engines.load(blob, Target("openvino", "npu"))


def test_one_changed_bit_is_refused(blob: Path) -> None:
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.blob is not the file that its sidecar describes"):
        engines.load(blob, OPENVINO)


def test_an_onnx_engine_that_was_changed_is_refused_too(
    exported: Path, networks: dict[str, Path], tmp_path: Path
) -> None:
    out = engines.build(exported, CPU, tmp_path / "x.onnx").path
    out.write_bytes(networks["basic"].read_bytes())
    with pytest.raises(InputError, match=r"x\.onnx is not the file that its sidecar describes"):
        engines.load(out, CPU)


def test_an_onnx_file_needs_no_sidecar_and_fits_any_target(exported: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    (tmp_path / "x.onnx").write_bytes(exported.read_bytes())
    for target in (CPU, OPENVINO):
        assert engines.load(tmp_path / "x.onnx", target).input_shape == (None, 3, 32, 32)


def edit(engine: Path, **changes: Any) -> None:
    """Change the sidecar of an engine: a dictionary of it is updated."""
    path = store.sidecar_path(engine)
    sidecar = disk.read_json(path)
    for key, values in changes.items():
        sidecar[key] |= values
    disk.write_json(path, sidecar)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"versions": {"openvino": "2025.0.0"}}, rf"by openvino 2025\.0\.0, and {version('openvino')} is installed"),
        (
            {"parameters": {"hardware": "x86_64 avx512_unheard_of"}},
            "hardware with x86_64 avx512_unheard_of, and here is .*",
        ),
    ],
)
def test_an_engine_of_another_version_or_cpu_is_recognised_and_built_again(
    changes: dict[str, Any], told: str, exported: Path, blob: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(blob, **changes)
    with monkeypatch.context() as patched:
        for step in ("load", "inspect"):
            patched.setattr(type(backends.find(OPENVINO)), step, lambda *_, **__: pytest.fail("it was loaded"))
            with pytest.raises(MissingRuntime, match=f"x.blob was built .*{told}; build it here: `edgeres ") as error:
                getattr(engines, step)(blob, OPENVINO)
    (command,) = re.findall("`edgeres (.*)`", str(error.value))
    assert cli.main(shlex.split(command.replace("MODEL.onnx", str(exported)))) == 0
    engines.load(blob, OPENVINO)


def test_the_sidecar_of_a_blob_tells_its_cpu_and_an_older_one_is_loaded(blob: Path) -> None:
    sidecar = store.read_sidecar(blob)
    assert sidecar is not None
    assert sidecar.parameters["hardware"].split() == [platform.machine(), *machine.describe().features]
    path = store.sidecar_path(blob)
    told = disk.read_json(path)
    del told["parameters"]["hardware"]
    disk.write_json(path, told)
    engines.load(blob, OPENVINO)


def test_an_onnx_engine_fits_every_version(exported: Path, tmp_path: Path) -> None:
    """It is the plain ONNX file, which the runtime fuses when it loads it."""
    out = engines.build(exported, CPU, tmp_path / "x.onnx").path
    assert out.read_bytes() == exported.read_bytes()
    edit(out, versions={"onnxruntime": "1.20.0"})
    engines.load(out, CPU)


@pytest.mark.parametrize(
    ("built", "told"),
    [
        ({"versions": {"tensorrt-rtx": "1.6.0"}}, r"was built by tensorrt-rtx 1\.6\.0, and 1\.7\.1 is installed"),
        (
            {"parameters": {"hardware": "sm86"}},
            "was built on hardware with sm86, and here is sm89; build it here: `edgeres build ",
        ),
        ({}, "the engine reached the runtime"),
    ],
)
def test_a_tensorrt_plan_of_another_version_or_gpu_is_never_deserialised(
    built: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target("tensorrt-rtx", "current")
    monkeypatch.setattr(tensorrt, "_gpu", lambda: tensorrt.Gpu(None, "RTX 4090", "sm89"))
    monkeypatch.setattr(store, "versions", lambda *packages: dict.fromkeys(packages, "1.7.1"))

    def load(*_: Any, **__: Any) -> None:
        raise BuildError("the engine reached the runtime")

    monkeypatch.setattr(tensorrt.TensorRT, "load", load)
    path, hardware = tmp_path / "x.engine", backends.find(target).hardware(target)
    parameters = {"target": str(target), "hardware": hardware}
    sidecar = store.Sidecar("engine", {}, parameters, store.versions("tensorrt-rtx"))
    store.make(path, sidecar, lambda temporary: temporary.write_bytes(b"plan") and None)
    edit(path, **built)
    with pytest.raises(EdgeresError, match=told):
        engines.load(path, target)


def test_the_packages_of_a_target_decide_what_it_computes() -> None:
    assert engines.packages(CPU) == ("onnxruntime",)
    assert engines.packages(Target("tensorrt-rtx", "sm86")) == ("tensorrt-rtx",)


@pytest.mark.parametrize("target", [CPU, OPENVINO], ids=str)
def test_a_batch_that_is_fixed_is_the_engines(target: Target, exported: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    free = engines.load(exported, target)
    made = engines.build(exported, target, tmp_path / f"x{'.blob' if target == OPENVINO else '.onnx'}", batch=2)
    fixed = engines.load(made.path, target)
    assert (free.input_shape[0], fixed.input_shape[0]) == (None, 2)
    np.testing.assert_allclose(fixed.run(images), free.run(images), atol=1e-4)
    assert made.sidecar.key != engines.build(exported, target, made.path).sidecar.key
    if target == CPU:
        engines.build(exported, target, made.path, batch=2)
        with pytest.raises(UsageError, match="has a fixed batch of 2, not 4; export it again"):
            engines.build(made.path, target, tmp_path / "y.onnx", batch=4)


def test_settings_reach_the_runtime(exported: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    compiled = engines.load(exported, OPENVINO, settings={"INFERENCE_NUM_THREADS": "1"})
    assert compiled.properties["threads"] == "1"
    made = engines.build(exported, OPENVINO, tmp_path / "x.blob", settings={"INFERENCE_NUM_THREADS": "1"})
    assert made.sidecar.parameters["settings"] == {"INFERENCE_NUM_THREADS": "1"}
    plain, basic = (
        len(_optimized(exported, tmp_path, settings)) for settings in ({}, {"graph_optimization_level": "disable_all"})
    )
    assert plain < basic


def test_an_engine_runs_with_the_settings_that_it_was_built_with(exported: Path, tmp_path: Path) -> None:
    """Whoever loads it, `edgeres bench` and `check --ab` among them; not where it is loaded for another target."""
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    blob = engines.build(exported, OPENVINO, tmp_path / "x.blob", settings={"INFERENCE_NUM_THREADS": "1"}).path
    (found,) = measure.measure([measure.Subject(blob, OPENVINO)], 1)
    assert found.properties["threads"] == "1"
    assert engines.load(blob, OPENVINO, settings={"INFERENCE_NUM_THREADS": "2"}).properties["threads"] == "2"
    basic = {"graph_optimization_level": "disable_all"}
    plain, built = (
        engines.build(exported, CPU, tmp_path / f"{len(one)}.onnx", settings=one).path for one in ({}, basic)
    )
    assert len(engines.inspect(built, CPU)) > len(engines.inspect(plain, CPU))
    images = np.zeros((1, *engines.load(built, CPU).input_shape[1:]), np.float32)
    assert len(engines.profile(built, CPU, lambda engine: images)) > len(
        engines.profile(plain, CPU, lambda engine: images)
    )
    assert engines.load(built, OPENVINO).run(images).shape == engines.load(plain, OPENVINO).run(images).shape


@pytest.mark.parametrize(("device", "hint"), [("cpu", "f32"), ("gpu", "f32"), ("npu", None)])
def test_floats_stay_fp32_where_a_device_has_it(
    device: str, hint: str | None, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU or NPU is here: a core that notes what it is asked for."""
    core = MagicMock(available_devices=["CPU", "GPU.0", "NPU"])
    core.compile_model.side_effect = RuntimeError("seen")
    monkeypatch.setattr("edgeres.backends.openvino._core", lambda: core)
    with pytest.raises(BuildError, match="seen"):
        engines.load(exported, Target("openvino", device))
    _, where, config = core.compile_model.call_args.args
    assert (where, config.get("INFERENCE_PRECISION_HINT")) == (device.upper(), hint)


def test_settings_in_a_sidecar_that_are_none_are_refused(exported: Path, tmp_path: Path) -> None:
    made = engines.build(exported, CPU, tmp_path / "x.onnx", settings={"execution_mode": "parallel"}).path
    sidecar = store.sidecar_path(made)
    told = json.loads(sidecar.read_text(encoding="utf-8"))
    told["parameters"]["settings"] = ["parallel"]
    sidecar.write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(InputError, match="its settings are no texts by name"):
        engines.load(made, CPU)


def _optimized(path: Path, folder: Path, settings: dict[str, str]) -> list[onnx.NodeProto]:
    """What ONNX Runtime runs."""
    out = folder / "optimized.onnx"
    backends.find(CPU)._session(path, CPU, None, out, settings)  # type: ignore[attr-defined]
    return list(onnx.load(out).graph.node)


def test_a_file_that_is_damaged_is_no_refusal_by_the_runtime(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"this is no ONNX file")
    with pytest.raises(InputError, match=rf"^{re.escape(str(tmp_path))}/x\.onnx is not an ONNX model"):
        engines.load(tmp_path / "x.onnx", CPU)


def test_settings_that_are_none_are_refused(exported: Path) -> None:
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    with pytest.raises(UsageError, match="'fastest' is not one of onnxruntime's: disable_all, basic"):
        engines.load(exported, CPU, settings={"graph_optimization_level": "fastest"})
    with pytest.raises(UsageError, match="enable_cpu_mem_arena 'off' is not one of onnxruntime's: 0, 1"):
        engines.load(exported, CPU, settings={"enable_cpu_mem_arena": "off"})
    with pytest.raises(UsageError, match="execution_mode 'serial' is not one of onnxruntime's: sequential, parallel"):
        engines.load(exported, CPU, settings={"execution_mode": "serial"})
    with pytest.raises(BuildError, match=r"openvino refuses .*for CPU"):
        engines.load(exported, OPENVINO, settings={"NO_SUCH_THING": "1"})
    with pytest.raises(UsageError, match="tensorrt-rtx takes no settings such as fast; leave them out"):
        engines.build(exported, Target("tensorrt-rtx", "sm86"), exported.with_suffix(".engine"), settings={"fast": "1"})
