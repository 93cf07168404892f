"""Layers against the machine's limits: the formula, what the runtimes' own profiles say, the networks of the peaks."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edgeres import backends, cli, engines, machine, measure, onnx_io, qdq
from edgeres.backends import Engine, LayerTime, RuntimeLayer
from edgeres.errors import UsageError
from edgeres.limits import picture, roofline, show
from edgeres.limits.roofline import Roofline
from edgeres.measure import Measured, Subject, child, peaks
from edgeres.measure.peaks import Limits, Peak
from edgeres.quantization.quantize import quantize
from edgeres.schema import Latency
from edgeres.types import Target

LIMITS = Limits({"int8": Peak(200e9, "best"), "fp32": Peak(50e9, "best")}, ((10**6, 50e9), (10**8, 10e9)))
CPU = Target("onnxruntime", "cpu")
RUNTIMES = ["onnxruntime", "openvino"]


@pytest.fixture(scope="module")
def int8(exported: Path, calibrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("int8")
    return lambda scheme: quantize(exported, calibrated, folder / f"{scheme}.onnx", scheme=scheme).path


def times(path: Path, runtime: str, batch: int) -> list[LayerTime]:
    pytest.importorskip(runtime)
    images = np.zeros((batch, 3, 32, 32), np.float32)
    return engines.profile(path, Target(runtime, "cpu"), lambda engine: images, 1)


def whole(ms: float = 10.0) -> Measured:
    return Measured(
        Latency(p50=ms, p90=ms, p99=ms, batch=1, throughput=100, samples=[ms], warmup=1, stable=True), {"runtime": "x"}
    )


@pytest.mark.parametrize(
    ("precision", "macs", "moved", "ms"),
    [
        ("int8", 400_000_000, 10**5, 2.0),  # its arithmetic: 0.4 G at 200 G/s
        ("fp32", 400_000_000, 10**5, 8.0),
        ("int8", 0, 10**6, 0.02),  # its bytes, at what a cache gives
        ("int8", 10**6, 2 * 10**7, 2.0),  # its bytes, at what memory gives
        ("int8", 0, 10**9, 100.0),
        ("fp16", 400_000_000, 10**5, 2.0),  # not measured: the highest peak
    ],
)
def test_a_layer_is_bound_by_its_arithmetic_or_by_its_bytes(precision: str, macs: int, moved: int, ms: float) -> None:
    assert roofline.attainable(LIMITS, precision, macs, moved) == pytest.approx(ms)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("batch", [1, 3])
def test_layers_have_the_arithmetic_and_the_bytes_of_the_network(
    runtime: str, batch: int, int8: Callable[[str], Path]
) -> None:
    path = int8(runtime)
    network = qdq.Network(onnx_io.load(path))
    found = roofline.joined(network, times(path, runtime, batch), LIMITS, whole(), batch)
    assert sum(layer.macs for layer in found.layers) == batch * sum(network.arithmetic.values())
    layers = {layer.name: layer for layer in found.layers}
    # 3 x 3 from 32 to 32 channels on 16 x 16, uint8 in and out, int8 weights; no sum is fused into it.
    one = layers["layer2.1.conv1"]
    assert (one.precision, one.macs) == ("int8", batch * 32 * 32 * 9 * 16 * 16)
    assert one.moved == batch * 2 * 32 * 16 * 16 + 32 * 32 * 9
    assert all(layer.ms >= layer.attainable >= 0 for layer in found.layers)
    assert [layer.lost for layer in found.worst] == sorted((layer.lost for layer in found.layers), reverse=True)


def test_a_profile_loads_the_engine_once(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = type(backends.find(CPU))
    made, original = [], runtime._session  # type: ignore[attr-defined]
    monkeypatch.setattr(runtime, "_session", lambda *args, **more: made.append(1) or original(*args, **more))
    found = child.profile(Subject(exported, CPU, 2, 1))
    assert found["batch"] == 2
    assert found["layers"]
    assert len(made) == 1


def test_a_layer_that_beats_the_peak_is_the_peak(exported: Path) -> None:
    network = qdq.Network(onnx_io.load(exported))
    conv = next(node for node in network.layers if node.name == "layer1.0.conv1")
    macs = network.arithmetic[conv.name]
    given = RuntimeLayer("x", ("Conv",), "kernel", "float32", (conv.name,))
    fast = 1e3 * macs / 60e9
    found = roofline.joined(network, [LayerTime(given, fast, fast, 1000)], LIMITS, whole(), 1)
    assert found.limits.peaks["fp32"] == Peak(pytest.approx(60e9), "layer1.0.conv1")  # type: ignore[arg-type]
    assert found.limits.peaks["int8"] == LIMITS.peaks["int8"]
    assert found.layers[0].share == pytest.approx(1.0)
    assert found.share == pytest.approx(fast / 10)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_networks_of_the_peaks_run_in_the_arithmetic_that_they_are_for(
    runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(runtime)
    monkeypatch.setattr(peaks, "STAGES", ((16, 8), (16, 8), (32, 4)))
    monkeypatch.setattr(peaks, "SIDES", (16, 64))
    monkeypatch.setattr(machine, "describe", lambda: replace_features(["avx2"]))
    asked: list[Subject] = []

    def given(engine: Engine) -> NDArray[np.float32]:
        return np.ones([side or 1 for side in engine.input_shape], np.float32)

    def profile(subject: Subject) -> tuple[int, list[LayerTime]]:
        """A clock by which each layer takes as long as it has bytes of activations, and what only reorders them no time
        at all to speak of: ONNX Runtime names that by the layer before it."""
        asked.append(subject)
        taken = engines.profile(subject.path, subject.target, given, 1, subject.settings)
        times = ((one, 1e-9 if "ReorderOutput" in one.layer.operators else one.moved / 1e6) for one in taken)
        return 1, [replace(one, ms=9e9, least=least) for one, least in times]

    monkeypatch.setattr(measure, "profile", profile)
    found = peaks.limits(Target(runtime, "cpu"), 1)
    assert len(asked) == peaks.processes(Target(runtime, "cpu")) == 4
    assert set(found.peaks) == {"int8", "fp32"}
    for precision, size in (("int8", 1), ("fp32", 4)):
        # 3 x 3 from 32 to 32 channels on 4 x 4 has the most arithmetic for its activations.
        assert found.peaks[precision].layer == "stage 3, 3 x 3, 32 to 32 channels, 4 x 4 (2)"
        macs, moved = 32 * 32 * 9 * 16, size * 2 * 32 * 16
        assert found.peaks[precision].rate == pytest.approx(macs / moved * 1e9)
    sizes = [2 * 4 * prod((4, side, side)) for side in (16, 64)]
    assert [size for size, _ in found.bandwidths] == sizes
    assert [rate for _, rate in found.bandwidths] == pytest.approx([1e9, 1e9])


def replace_features(features: list[str]) -> object:
    return machine.Machine(
        system="", architecture="", cpu="", cores=1, memory_gib=1, features=features, python="", packages={}
    )


def test_the_picture_and_the_table_name_what_costs_most(int8: Callable[[str], Path]) -> None:
    path = int8("onnxruntime")
    network = qdq.Network(onnx_io.load(path))
    given: Sequence[LayerTime] = times(path, "onnxruntime", 1)
    slow = next(one for one in given if "layer3.0.conv2" in one.layer.name)
    given = [replace(one, ms=50.0) if one is slow else one for one in given]
    found: Roofline = roofline.joined(network, given, LIMITS, whole(), 1)
    text = show.roofline(found)
    table = text.splitlines()[text.splitlines().index("") + 2 :]
    assert table[0].startswith("layer3.0.conv2")
    assert "10 ms" not in table[0]
    drawn = ElementTree.fromstring(picture.roofline(found))
    titles = [one.text or "" for one in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert sum(name.startswith("layer3.0.conv2: 50.000 ms") for name in titles) == 1
    circles = list(drawn.iter("{http://www.w3.org/2000/svg}circle"))
    assert len(circles) == len(network.layers)
    told = show.roofline_json(found)
    assert sum(one["ms"] for one in told["layers"]) == pytest.approx(told["profiled_ms"])


def test_a_built_engine_and_a_wrong_picture_are_refused(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give --roofline the ONNX file"):
        roofline.roofline(Subject(tmp_path / "x.blob", Target("openvino", "cpu")))
    common = ["bench", str(exported), "--target", "onnxruntime:cpu"]
    assert cli.main([*common, "--roofline", "-o", str(tmp_path / "x.png")]) == 2
    for asked in (["--roofline", "--p99", "20"], ["--roofline", "--rounds", "2"], ["--p99", "20", "--batch", "4"]):
        assert cli.main([*common, *asked]) == 2


def test_a_runtime_without_a_clock_says_so(tmp_path: Path) -> None:
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "x", [], [])), tmp_path / "x.onnx")
    with pytest.raises(UsageError, match="tensorrt-rtx does not tell here how long each layer takes"):
        engines.profile(
            tmp_path / "x.onnx", Target("tensorrt-rtx", "sm86"), lambda engine: np.zeros((1, 3, 8, 8), np.float32)
        )
