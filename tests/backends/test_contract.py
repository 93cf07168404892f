"""What every backend promises, one class for all of them; what this machine cannot run is skipped with its reason."""

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeres import backends, engines, onnx_io
from edgeres.backends import Backend, Engine, RuntimeLayer
from edgeres.errors import BuildError, InputError, MissingRuntime, UsageError
from edgeres.quantization import schemes
from edgeres.quantization.quantize import quantize
from edgeres.types import Target

TARGETS = {
    "onnxruntime": Target("onnxruntime", "cpu"),
    "openvino": Target("openvino", "cpu"),
    "tensorrt-rtx": Target("tensorrt-rtx", "sm86"),
    "tensorrt": Target("tensorrt", "current"),
}


def test_every_backend_is_held_to_the_contract() -> None:
    assert set(TARGETS) == set(backends.BACKENDS)


def test_an_unknown_backend_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=f"no backend 'tflite'; there are {', '.join(TARGETS)}"):
        backends.find(Target("tflite", "cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module")
def images() -> NDArray[np.float32]:
    return np.random.default_rng(5).standard_normal((6, 3, 32, 32), np.float32)


@pytest.fixture(scope="module")
def expected(checkpoint: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Torch's logits of the images."""
    torch = pytest.importorskip("torch", reason="the extra `export` is not installed")
    from edgeres.models import checkpoint as checkpoints

    _, model = checkpoints.load("cifar_resnet20", checkpoints.read(checkpoint))
    with torch.inference_mode():
        logits: NDArray[np.float32] = model(torch.from_numpy(images)).numpy()
    return logits


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the import of a package fail."""

    def hide(name: str) -> None:
        for loaded in [one for one in sys.modules if one == name or one.startswith(f"{name}.")]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, name, None)

    return hide


@pytest.mark.parametrize("name", TARGETS)
class TestContract:
    @pytest.fixture
    def backend(self, name: str) -> Backend:
        return backends.find(TARGETS[name])

    @pytest.fixture
    def target(self, name: str, backend: Backend) -> Target:
        """A target that this machine runs, if it runs any."""
        return next((one.target for one in backend.available() if one.runs), TARGETS[name])

    @pytest.fixture
    def engine(self, name: str, target: Target, exported: Path, folder: Path) -> Path:
        """The FP32 engine of the small network, built once."""
        return self.built(exported, target, folder / f"{name}.fp32")

    @staticmethod
    def built(model: Path, target: Target, out: Path) -> Path:
        try:
            return engines.build(model, target, out.with_name(out.name + backends.find(target).suffix)).path
        except MissingRuntime as error:
            pytest.skip(str(error))

    @staticmethod
    def loaded(path: Path, target: Target, threads: int | None = None) -> Engine:
        try:
            return engines.load(path, target, threads)
        except MissingRuntime as error:
            pytest.skip(str(error))

    def test_its_targets_are_listed(self, backend: Backend, target: Target) -> None:
        listed = backend.available()
        assert target in [one.target for one in listed]
        assert len({one.target for one in listed}) == len(listed)
        for one in listed:
            assert one.note
            assert one.builds or not one.runs
            assert Target.parse(str(one.target)) == one.target
            assert backends.find(one.target).name == backend.name

    def test_each_target_has_a_scheme_and_precisions(self, backend: Backend) -> None:
        for one in backend.available():
            assert backend.scheme(one.target) in schemes.SCHEMES
        assert backend.precisions
        assert backend.packages
        assert backend.suffix.startswith(".")

    def test_an_unknown_device_names_the_known_ones(
        self, backend: Backend, target: Target, exported: Path, tmp_path: Path
    ) -> None:
        wrong = Target(target.backend, "abacus")
        for attempt in (lambda: backend.build(exported, wrong, tmp_path / "x"), lambda: backend.load(exported, wrong)):
            with pytest.raises(UsageError, match=f"'abacus'; it has .*{target.device}"):
                attempt()

    def test_without_its_package_it_says_how_to_get_it(
        self, backend: Backend, target: Target, exported: Path, tmp_path: Path, without: Callable[[str], None]
    ) -> None:
        name = target.backend
        without(name.replace("-", "_"))
        listed = backend.available()
        assert target in [one.target for one in listed]
        for one in listed:
            assert not one.builds
            assert not one.runs
            assert re.search(rf"`pip install .*\b{name}\b", one.note)
        with pytest.raises(MissingRuntime, match=r"pip install|needs an NVIDIA GPU"):
            backend.load(exported, target)
        if name == "openvino":
            with pytest.raises(MissingRuntime, match=r"pip install 'edgeres\[openvino\]'"):
                engines.build(exported, target, tmp_path / f"x{backend.suffix}")
            assert not list(tmp_path.iterdir())

    def test_the_logits_are_those_of_torch(
        self, engine: Path, target: Target, images: NDArray[np.float32], expected: NDArray[np.float32]
    ) -> None:
        loaded = self.loaded(engine, target)
        assert loaded.input_shape == (None, 3, 32, 32)
        tolerance = 1e-3 * float(np.abs(expected).max())
        for batch in (1, 6, 2):  # one after the other: no state is left behind
            logits = loaded.run(images[:batch])
            assert logits.dtype == np.float32
            np.testing.assert_allclose(logits, expected[:batch], atol=tolerance)

    @pytest.mark.parametrize(
        "asked", [{}, {"bf16": True, "streams": 0}, {"streams": 2, "threads": 2}, {"streams": 0, "threads": 3}]
    )
    def test_a_stream_gives_what_single_runs_give_in_their_order(
        self, asked: dict[str, Any], engine: Path, target: Target, images: NDArray[np.float32]
    ) -> None:
        try:
            loaded = backends.find(target).load(engine, target, **asked)
        except MissingRuntime as error:
            pytest.skip(str(error))
        if target.device == "cpu" and asked.get("streams", 1):
            assert loaded.streams == asked.get("streams", 1)
        given = [np.roll(images[index % 6], index, 2)[None] for index in range(37)]
        outputs = list(loaded.stream(iter(given)))
        assert [output.shape for output in outputs] == [(1, 10)] * len(given)
        single = np.concatenate([loaded.run(image) for image in given])
        largest = float(np.abs(single).max())
        np.testing.assert_allclose(np.concatenate(outputs), single, atol=1e-5 * largest)
        assert np.abs(np.diff(single, axis=0)).max(1).min() > 1e-3 * largest  # no two are alike
        assert list(loaded.stream(iter(given[:0]))) == []

    def test_the_devices_own_time_is_a_part_of_the_call(
        self, engine: Path, target: Target, images: NDArray[np.float32]
    ) -> None:
        loaded = self.loaded(engine, target)
        start = time.perf_counter()
        loaded.run(images[:1])
        whole = 1e3 * (time.perf_counter() - start)
        inner = loaded.device_ms()
        assert (inner is None) == (target.backend != "openvino")
        assert inner is None or 0 < inner <= whole
        in_place = loaded.in_place(images[:1])
        assert (in_place is None) == (target.backend != "onnxruntime")
        if in_place:
            in_place()

    def test_results_are_the_callers_to_keep(self, engine: Path, target: Target, images: NDArray[np.float32]) -> None:
        loaded = self.loaded(engine, target)
        first = loaded.run(images[:2])
        kept, given = first.copy(), images[2:4].copy()
        loaded.run(given)
        np.testing.assert_array_equal(first, kept)
        np.testing.assert_array_equal(given, images[2:4])

    def test_images_need_not_be_contiguous_or_writeable(
        self, engine: Path, target: Target, images: NDArray[np.float32]
    ) -> None:
        loaded = self.loaded(engine, target)
        turned = np.asfortranarray(images[:2])
        np.testing.assert_allclose(loaded.run(turned), loaded.run(images[:2]), atol=1e-6)
        np.testing.assert_allclose(loaded.run(images[::2]), loaded.run(images[::2].copy()), atol=1e-6)
        fixed = images[:2].copy()
        fixed.flags.writeable = False
        np.testing.assert_array_equal(loaded.run(fixed), loaded.run(images[:2]))

    def test_its_own_scheme_keeps_the_logits_near_fp32(
        self,
        backend: Backend,
        name: str,
        target: Target,
        exported: Path,
        calibrated: Path,
        folder: Path,
        images: NDArray[np.float32],
        expected: NDArray[np.float32],
    ) -> None:
        int8 = quantize(exported, calibrated, folder / f"{name}.onnx", scheme=backend.scheme(target)).path
        logits = self.loaded(self.built(int8, target, folder / f"{name}.int8"), target).run(images)
        noise = np.square(logits - expected).sum() / np.square(expected).sum()
        assert -10 * np.log10(noise) > 10  # on noise as images; nothing is left at 5
        assert noise > 0

    def test_an_onnx_file_is_compiled_in_memory(
        self, target: Target, exported: Path, images: NDArray[np.float32], expected: NDArray[np.float32]
    ) -> None:
        loaded = self.loaded(exported, target)
        np.testing.assert_allclose(loaded.run(images), expected, atol=1e-3 * float(np.abs(expected).max()))

    def test_a_fixed_batch_is_shown_and_kept(
        self, name: str, target: Target, exported: Path, folder: Path, images: NDArray[np.float32]
    ) -> None:
        model = onnx_io.load(exported)
        for value in (model.graph.input[0], model.graph.output[0]):
            value.type.tensor_type.shape.dim[0].dim_value = 2
        onnx_io.save(model, folder / "fixed.onnx")
        loaded = self.loaded(self.built(folder / "fixed.onnx", target, folder / f"{name}.fixed"), target)
        assert loaded.input_shape == (2, 3, 32, 32)
        assert loaded.run(images[:2]).shape == (2, 10)
        with pytest.raises(InputError, match=re.escape("takes float32 (2, 3, 32, 32), the images are float32 (3,")):
            loaded.run(images[:3])

    @pytest.mark.parametrize(
        "wrong",
        [
            np.zeros((1, 3, 31, 32), np.float32),
            np.zeros((1, 1, 32, 32), np.float32),
            np.zeros((3, 32, 32), np.float32),
            np.zeros((1, 3, 32, 32), np.float64),
            np.zeros((1, 3, 32, 32), np.uint8),
        ],
        ids=lambda images: f"{images.dtype}{images.shape}",
    )
    def test_images_that_do_not_fit_are_refused(self, engine: Path, target: Target, wrong: NDArray[Any]) -> None:
        loaded = self.loaded(engine, target)
        shown = re.escape(f"takes float32 ('N', 3, 32, 32), the images are {wrong.dtype} {wrong.shape}")
        with pytest.raises(InputError, match=shown):
            loaded.run(wrong)

    def test_its_properties_say_what_runs(self, engine: Path, target: Target) -> None:
        properties = self.loaded(engine, target).properties
        assert properties["runtime"] == target.backend
        assert properties["version"][0].isdecimal()
        assert target != Target("openvino", "cpu") or properties["precision"] == "f32"
        assert all(isinstance(key, str) and isinstance(value, str) and value for key, value in properties.items())

    @staticmethod
    def inspected(path: Path, target: Target) -> list[RuntimeLayer]:
        try:
            return engines.inspect(path, target)
        except MissingRuntime as error:
            pytest.skip(str(error))

    def test_it_tells_that_fp32_is_fp32(self, target: Target, exported: Path) -> None:
        layers = self.inspected(exported, target)
        assert [layer.precision for layer in layers if "Conv" in layer.operators] == ["fp32"] * 19
        assert [layer.precision for layer in layers if "Gemm" in layer.operators] == ["fp32"]
        assert all(layer.kernel and layer.name for layer in layers)

    def test_it_tells_which_layers_of_its_own_scheme_run_in_int8(
        self, backend: Backend, name: str, target: Target, exported: Path, calibrated: Path, folder: Path
    ) -> None:
        int8 = quantize(exported, calibrated, folder / f"{name}.onnx", scheme=backend.scheme(target)).path
        layers = self.inspected(int8, target)
        assert [layer.precision for layer in layers if "Conv" in layer.operators] == ["int8"] * 19

    def test_an_engine_is_inspected_like_its_model(self, engine: Path, target: Target, exported: Path) -> None:
        from_file, from_engine = self.inspected(exported, target), self.inspected(engine, target)
        for operator in ("Conv", "Gemm"):
            told = [
                [(layer.precision, layer.weight_bytes) for layer in layers if operator in layer.operators]
                for layers in (from_file, from_engine)
            ]
            assert told[0] == told[1]

    def test_an_unknown_device_is_not_inspected(self, backend: Backend, target: Target, exported: Path) -> None:
        with pytest.raises(UsageError, match=f"'abacus'; it has .*{target.device}"):
            backend.inspect(exported, Target(target.backend, "abacus"))

    def test_threads_are_set_where_a_cpu_computes(self, engine: Path, target: Target) -> None:
        loaded = self.loaded(engine, target, 1)
        assert target.device != "cpu" or loaded.properties["threads"] == "1"

    @pytest.mark.parametrize("damage", ["empty", "text", "cut"])
    def test_a_damaged_engine_is_refused_by_the_runtime(
        self, damage: str, backend: Backend, engine: Path, target: Target, tmp_path: Path
    ) -> None:
        content = engine.read_bytes()
        path = tmp_path / engine.name
        path.write_bytes({"empty": b"", "text": b"an engine", "cut": content[: len(content) // 2]}[damage])
        try:
            backend.load(path, target)
        except MissingRuntime as error:
            pytest.skip(str(error))
        except (BuildError, InputError):
            return
        pytest.fail("it was loaded")

    def test_what_is_no_model_is_not_built(self, backend: Backend, target: Target, tmp_path: Path) -> None:
        (tmp_path / "x.onnx").write_bytes(b"not a model")
        with pytest.raises((BuildError, InputError, MissingRuntime)):
            backend.build(tmp_path / "x.onnx", target, tmp_path / "out")
        with pytest.raises((BuildError, InputError, MissingRuntime)):
            backend.load(tmp_path / "x.onnx", target)

    def test_a_tampered_engine_is_refused_before_it_is_loaded(
        self, backend: Backend, engine: Path, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / engine.name
        content = bytearray(engine.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        path.with_name(f"{path.name}.json").write_bytes(engine.with_name(f"{engine.name}.json").read_bytes())
        monkeypatch.setattr(type(backend), "load", lambda *_: pytest.fail("it was loaded"))
        with pytest.raises(InputError, match="is not the file that its sidecar describes; build the engine again"):
            engines.load(path, target)

    def test_an_engine_of_another_target_is_refused(self, backend: Backend, engine: Path, target: Target) -> None:
        if backend.suffix == ".onnx":
            pytest.skip("an ONNX file runs everywhere")
        other = Target(target.backend, "elsewhere")
        with pytest.raises(UsageError, match=f"was built for {target}, not for {other}"):
            engines.load(engine, other)
