"""The C++ program of pipelines/deploy: built against the runtimes that are here, it gives what Python gives."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from edgeres import engines, onnx_io
from edgeres.data import batches, open_images
from edgeres.types import Target

SOURCE = Path(__file__).parents[1] / "pipelines" / "deploy"
HEADERS = (os.environ.get("ONNXRUNTIME_INCLUDE", ""), "/usr/include/onnxruntime", "/usr/local/include/onnxruntime")


def openvino() -> list[str]:
    """What CMake needs to find OpenVINO; empty where it is not here."""
    try:
        from openvino.utils import get_cmake_path
    except ImportError:
        return []
    return [f"-DOpenVINO_DIR={get_cmake_path()}"]


def onnx_runtime() -> list[str]:
    """The same for ONNX Runtime, whose headers are no part of its Python package."""
    include = next((path for path in HEADERS if path and (Path(path) / "onnxruntime_cxx_api.h").is_file()), None)
    libraries = sorted(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))
    found = include is not None and libraries
    return [f"-DONNXRUNTIME_INCLUDE={include}", f"-DONNXRUNTIME_LIBRARY={libraries[0]}"] if found else []


FOUND = {"openvino": openvino(), "onnxruntime": onnx_runtime()}
MISSING = {
    "openvino": "the extra `openvino` is not installed",
    "onnxruntime": "the headers of ONNX Runtime are not here: libonnxruntime-dev of Debian 13, or ONNXRUNTIME_INCLUDE",
}


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


def frame(exported: Path, image_folder: Path) -> NDArray[np.uint8]:
    images = open_images(image_folder).take([7])
    (batch,) = batches(images, onnx_io.info(exported).preprocess, 1, frame="u8-nhwc")
    return batch.images


@pytest.fixture(scope="module")
def classify(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, with every runtime that is here."""
    if not (shutil.which("cmake") and shutil.which("c++")):
        pytest.skip("there is no cmake or C++ compiler")
    folder = tmp_path_factory.mktemp("build")
    given = [option for options in FOUND.values() for option in options]
    configured = run("cmake", "-S", SOURCE, "-B", folder, "-DCMAKE_BUILD_TYPE=None", *given)
    assert not configured.returncode, configured.stderr
    built = run("cmake", "--build", folder, "-j", 2)
    assert not built.returncode, built.stderr
    assert "warning" not in built.stderr
    return folder / "classify"


@pytest.mark.parametrize("runtime", FOUND)
def test_the_program_gives_what_python_gives(
    runtime: str, exported: Path, image_folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if not FOUND[runtime]:
        pytest.skip(MISSING[runtime])
    classify = request.getfixturevalue("classify")
    target, name = Target(runtime, "cpu"), f"engine{'.blob' if runtime == 'openvino' else '.onnx'}"
    engine = engines.build(exported, target, tmp_path / name, frame="u8-nhwc").path
    pixels = frame(exported, image_folder)
    (tmp_path / "frame.ppm").write_bytes(b"P6\n32 32\n255\n" + pixels.tobytes())
    (tmp_path / "frame.raw").write_bytes(pixels.tobytes())
    wanted = engines.load(engine, target).run(pixels)[0]
    for file in ("frame.ppm", "frame.raw"):
        told = run(classify, engine, tmp_path / file, "--threads", 1, "--logits")
        assert not told.returncode, told.stderr
        logits = np.array(told.stdout.split(), np.float32)
        np.testing.assert_allclose(logits, wanted, atol=1e-5 * float(np.abs(wanted).max()))
    shares = np.exp(wanted - wanted.max())
    names = onnx_io.info(engine).classes
    best = [f"{100 * shares[i] / shares.sum():5.1f} %  {names[i]}" for i in np.argsort(-wanted)[:5]]
    assert run(classify, engine, tmp_path / "frame.ppm").stdout.splitlines() == best

    floats = engines.build(exported, target, tmp_path / f"floats.{name}").path
    assert "takes no frames; build it with `--input u8-nhwc`" in run(classify, floats, tmp_path / "frame.ppm").stderr
    (tmp_path / "small.ppm").write_bytes(b"P6\n16 16\n255\n" + pixels.tobytes()[: 16 * 16 * 3])
    assert "is no frame of 32 x 32 pixels" in run(classify, engine, tmp_path / "small.ppm").stderr
