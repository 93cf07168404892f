"""The scripts beside this file, for a moment each; their own command lines do it thoroughly."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeres import onnx_io, store
from edgeres.data import open_images
from edgeres.errors import BuildError, InputError, UsageError
from edgeres.foreign.export import export as foreign
from edgeres.quantization import calibrate, dense
from edgeres.quantization.quantize import quantize
from edgeres.types import Target

HERE = Path(__file__).parent
ANEW = """
import sys
from pathlib import Path
from edgeres.data import open_images
from edgeres.quantization import calibrate
from edgeres.quantization.quantize import quantize
model, images, out = map(Path, sys.argv[1:])
calibrate.DEEP = 0
calibrate.calibrate(model, open_images(images), out / "model.stats")
quantize(model, out / "model.stats", out / "int8.onnx", level="balanced", images=open_images(images))
"""


def script(name: str, *options: str) -> str:
    done = subprocess.run([sys.executable, HERE / name, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="for Linux")
def test_what_was_killed_or_filled_the_disk_ends_with_the_same_report() -> None:
    said = script("kill.py", "--kills", "5", "--every", "80")
    assert "5 reruns, losses: 0" in said
    assert said.count("losses: 0") == 5


def test_files_depend_on_content_alone(
    exported: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process, other threads, hash seed, time zone, umask, names of folders, order of files on the disk."""
    here, there, copied = tmp_path / "here", tmp_path / "an other / ü", tmp_path / "copied"
    there.mkdir(parents=True)
    for path in sorted(image_folder.rglob("*.*"), reverse=True):
        new = copied / path.relative_to(image_folder)
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(path.read_bytes())
    environment = {"PYTHONHASHSEED": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    for name, value in {**environment, "LC_ALL": "C", "TZ": "Asia/Kathmandu"}.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-c", ANEW, str(exported), str(copied), str(there)]
    subprocess.run(command, check=True, umask=0o077)
    monkeypatch.setattr(calibrate, "DEEP", 0)
    images = open_images(image_folder)
    calibrate.calibrate(exported, images, here / "model.stats")
    quantize(exported, here / "model.stats", here / "int8.onnx", level="balanced", images=images)
    for name in ("model.stats", "int8.onnx"):
        assert (here / name).read_bytes() == (there / name).read_bytes(), name
        assert (here / name).stat().st_mode == (there / name).stat().st_mode
        assert store.read_sidecar(here / name).key == store.read_sidecar(there / name).key  # type: ignore[union-attr]


def test_matrix_products_use_one_thread_and_then_as_many_as_before() -> None:
    random = np.random.default_rng(0)
    left = random.standard_normal((64, 4096)).astype(np.float32)
    before = left @ left.T
    with dense.one_thread():
        alone = left @ left.T
    np.testing.assert_array_equal(left @ left.T, before)
    np.testing.assert_allclose(alone, before, atol=1e-2)


def test_a_blob_does_not_depend_on_what_was_built_before(
    exported: Path, tmp_path: Path, blobs_of_their_own: Callable[..., None]
) -> None:
    backend = pytest.importorskip("edgeres.backends.openvino").backend("openvino")
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    target = Target("openvino", "cpu")
    for name in ("one", "two"):
        blobs_of_their_own(backend, exported, target, tmp_path / name)
        backend.load(exported, target)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    (tmp_path / "no.onnx").write_bytes(b"\x01no model")
    with pytest.raises(BuildError, match=r"openvino refuses .*no\.onnx"):
        blobs_of_their_own(backend, tmp_path / "no.onnx", target, tmp_path / "three")
    with pytest.raises(UsageError, match="openvino has no 'tpu'"):
        blobs_of_their_own(backend, exported, Target("openvino", "tpu"), tmp_path / "three")


def test_what_is_larger_than_an_onnx_file_can_be_is_refused(tmp_path: Path) -> None:
    """Sparse files: nothing of them is read."""
    whole = tmp_path / "whole.onnx"
    with whole.open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(InputError, match=r"whole\.onnx: the network has 2\.1 GB, an ONNX file holds 2 GB"):
        onnx_io.load(whole)
    beside = tmp_path / "beside.onnx"
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**29], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="weights")
    value = helper.make_tensor_value_info("w", TensorProto.FLOAT, [2**29])
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["out"])], "g", [], [value], [tensor])
    onnx.save(helper.make_model(graph), beside)
    whole.rename(tmp_path / "weights")
    with pytest.raises(InputError, match=r"beside\.onnx: the network has 2\.1 GB"):
        foreign(beside, tmp_path / "out.onnx")
