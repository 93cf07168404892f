"""Files that are no files, may not be read or written, are bombs, or lead elsewhere: one sentence, and which code."""

import errno
import gzip
import io
import os
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeres import archive, data, disk, onnx_io, recipe, report, store
from edgeres.cli import main
from edgeres.data import open_images
from edgeres.errors import EdgeresError, InputError, UsageError
from edgeres.quantization import statistics
from edgeres.types import Preprocess

READERS: dict[str, Callable[[Path], Any]] = {
    "recipe.toml": recipe.read,
    "report.json": report.load,
    "model.onnx": onnx_io.load,
    "model.stats": statistics.load,
    "list.csv": open_images,
    "set.npz": open_images,
    "engine.blob": store.verify,
}


@contextmanager
def nobody(*paths: Path) -> Iterator[None]:
    """As a user who may neither read nor write anything at these paths."""
    for path in paths:
        path.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path in paths:
            path.chmod(0o755)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user may enter."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


# What cannot be read


@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_or_may_not_be_read_is_a_usage_error(name: str, shared: Path) -> None:
    """A pipe would keep a reader waiting for ever."""
    os.mkfifo(shared / name)
    with pytest.raises(UsageError, match=name):
        READERS[name](shared / name)
    (shared / name).unlink()
    (shared / name).write_bytes(b"{}")
    with nobody(shared / name), pytest.raises(UsageError, match=rf"{name} cannot be read \(Permission denied\)"):
        READERS[name](shared / name)


@pytest.mark.parametrize("name", ["a\0b", "a" * 300, "\udcff"])
def test_a_name_that_no_file_has_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        disk.read(Path(name))


def test_a_folder_without_permission_is_a_usage_error(shared: Path) -> None:
    (shared / "closed" / "cat").mkdir(parents=True)
    with nobody(shared / "closed"):
        with pytest.raises(UsageError, match=r"a\.toml cannot be read \(Permission denied\)"):
            recipe.read(shared / "closed" / "a.toml")
        with pytest.raises(UsageError, match=r"closed cannot be read \(Permission denied\)"):
            open_images(shared)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EACCES, 2),
        (errno.ENOENT, 2),
        (errno.ELOOP, 2),
        (errno.ENAMETOOLONG, 2),
        (errno.ENOSPC, 3),
        (errno.EIO, 3),
    ],
)
def test_what_the_system_refuses_is_a_wrong_path_or_a_failure(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nobody opened it by name: a temporary file, a folder on the way."""

    def fail() -> None:
        raise OSError(number, os.strerror(number), "some/where")

    monkeypatch.setattr("edgeres.export.architectures", fail)
    assert main(["export", "--list"]) == code
    mend = "make room and run again" if number == errno.ENOSPC else "check the path, its permissions and the disk"
    said = f"edgeres: some/where cannot be used ({os.strerror(number)}); {mend}."
    assert capsys.readouterr().err.splitlines() == [said]


def test_a_text_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "TEXT", 1 << 20)
    (tmp_path / "report.json").write_bytes(b" " * (1 << 20) + b"{}")
    with pytest.raises(InputError, match=r"report.json is larger than the 1 MiB"):
        report.load(tmp_path)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_json_that_is_nested_without_end_is_refused(opening: str, tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text(opening * 100_000)
    with pytest.raises(InputError, match=r"deep.json is not JSON"):
        disk.read_json(tmp_path / "deep.json")


# What cannot be written


def test_a_folder_that_is_read_only_is_a_usage_error(shared: Path) -> None:
    (shared / "closed").mkdir()
    with nobody(shared / "closed"), pytest.raises(UsageError, match="cannot be written"):
        disk.write_bytes(shared / "closed" / "a.json", b"x")


def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    """EFBIG, as where a quota or a file system ends."""
    disk.write_bytes(tmp_path / "a.bin", b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(EdgeresError, match=r"a\.bin cannot be written \(File too large\)"):
            disk.write_bytes(tmp_path / "a.bin", bytes(1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.bin", b"old")]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
def test_an_output_that_is_full_is_a_failure() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "edgeres", "report", "--schema"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr == (
        "edgeres: a file or an output cannot be used (No space left on device); make room and run again.\n"
    )


def test_too_little_memory_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise MemoryError

    monkeypatch.setattr("edgeres.export.architectures", fail)
    assert main(["export", "--list"]) == 3
    assert capsys.readouterr().err.startswith("edgeres: there is not enough memory")


# Images


def png(folder: Path, width: int, height: int, name: str = "a.png") -> Path:
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(folder / name)
    return folder


def test_an_image_of_too_many_pixels_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "PIXELS", 1000)
    monkeypatch.setattr(Image.Image, "convert", None)  # it would decode
    with pytest.raises(InputError, match=r"a\.png cannot be decoded \(it has 40 x 30 pixels, 1,000 are the most\)"):
        open_images(png(tmp_path, 40, 30)).image(0)


def test_a_thin_image_that_would_become_huge_is_refused(tmp_path: Path) -> None:
    """256 x 15,360,000 pixels would take 11 GB."""
    with pytest.raises(InputError, match=r"a\.png of 1 x 60000 pixels would be resized to 256 x 15360000"):
        open_images(png(tmp_path, 1, 60_000)).cropped(0, Preprocess())


def test_a_document_under_the_name_of_an_image_is_not_opened(tmp_path: Path) -> None:
    """Pillow would hand PostScript to Ghostscript."""
    written = io.BytesIO()
    Image.new("RGB", (40, 40)).save(written, "EPS")
    (tmp_path / "a.png").write_bytes(written.getvalue())
    with pytest.raises(InputError, match=r"a\.png cannot be decoded \(of no known format\)"):
        open_images(tmp_path).image(0)


def test_every_format_of_the_list_is_opened(tmp_path: Path) -> None:
    for suffix in sorted(data.SUFFIXES):
        png(tmp_path, 40, 40, f"a{suffix}")
    found = open_images(tmp_path)
    assert [found.image(index).size for index in range(len(found))] == [(40, 40)] * len(data.SUFFIXES)


@pytest.mark.parametrize("link", ["loop", "twice"])
def test_a_folder_that_is_met_twice_is_refused(link: str, tmp_path: Path) -> None:
    """Its images would count twice, or without end."""
    (tmp_path / "cat").mkdir()
    png(tmp_path / "cat", 40, 40)
    target = {"loop": tmp_path, "twice": tmp_path / "cat"}[link]
    (tmp_path / "cat" / "again" if link == "loop" else tmp_path / "dog").symlink_to(target, target_is_directory=True)
    with pytest.raises(InputError, match="once more; remove the link"):
        open_images(tmp_path)


def test_an_image_that_a_manifest_lists_twice_is_refused(tmp_path: Path) -> None:
    png(tmp_path, 40, 40)
    (tmp_path / "list.csv").write_text("path,sha256,label\na.png,,cat\na.png,,dog\n")
    with pytest.raises(InputError, match=r"list\.csv lists a\.png twice"):
        open_images(tmp_path / "list.csv")


# Archives


def npz(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archived:
        for name, content in members.items():
            archived.writestr(f"{name}.npy", content)
    return path


def npy(array: np.ndarray, **changes: str) -> bytes:
    """An array as NumPy writes it, its header changed."""
    written = io.BytesIO()
    np.lib.format.write_array(written, array)
    content = written.getvalue()
    for old, new in changes.items():
        content = content.replace(old.encode(), new.encode())
    return content


def test_an_archive_that_unpacks_to_more_than_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = npz(tmp_path / "set.npz", images=npy(np.zeros((50, 64, 64, 3), np.uint8)), labels=npy(np.zeros(50, int)))
    assert path.stat().st_size < 5000
    assert len(open_images(path)) == 50
    monkeypatch.setattr(archive, "memory", lambda: 1 << 20)
    monkeypatch.setattr(archive, "_array", None)
    with pytest.raises(InputError, match=r"set\.npz .*\(it unpacks to 615,\d{3} bytes, more than the 524,288"):
        open_images(path)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"images": npy(np.zeros(6, np.uint8), **{"(6,)": "(3,)"})}, r"images.npy does not hold uint8 \(3,\)"),
        ({"images": npy(np.zeros(6, np.uint8), **{"(6,)": "(9**9,)"})}, "set.npz"),
        ({"images": npy(np.zeros(6, np.uint8), **{"|u1": "|O1"})}, "set.npz"),
        ({"images": b"\x93NUMPY\x09\x00"}, "set.npz"),
        ({"images": b"\x80\x04."}, "set.npz"),
    ],
)
def test_an_array_whose_header_is_not_that_of_its_data_is_refused(
    members: dict[str, bytes], said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        open_images(npz(tmp_path / "set.npz", **members))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_that_holds_a_name_twice_is_refused(tmp_path: Path) -> None:
    """Each reader would take another one."""
    path = npz(tmp_path / "set.npz", images=npy(np.zeros((1, 8, 8, 3), np.uint8)), labels=npy(np.zeros(1, int)))
    with zipfile.ZipFile(path, "a") as archived:
        archived.writestr("labels.npy", npy(np.ones(1, int)))
    with pytest.raises(InputError, match=r"labels\.npy is in it twice"):
        open_images(path)


# Checkpoints


@pytest.fixture
def state() -> dict[str, Any]:
    torch = pytest.importorskip("torch", reason="the extra `export` is not installed")
    from edgeres.models.resnet import build

    return dict(build("resnet8_torch", 4).state_dict()) if torch else {}


def test_a_packed_checkpoint_is_refused(state: dict[str, Any], tmp_path: Path) -> None:
    """torch packs none; one that is could unpack to anything."""
    import torch

    from edgeres.models import checkpoint

    torch.save({name: torch.zeros_like(value) for name, value in state.items()}, tmp_path / "plain.pth")
    checkpoint.read(tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as old, zipfile.ZipFile(tmp_path / "packed.pth", "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(InputError, match=r"packed\.pth is not a checkpoint .* it unpacks to"):
        checkpoint.read(tmp_path / "packed.pth")
    (tmp_path / "gzip.pth").write_bytes(gzip.compress((tmp_path / "plain.pth").read_bytes()))
    with pytest.raises(InputError, match=r"gzip\.pth is"):
        checkpoint.read(tmp_path / "gzip.pth")


@pytest.mark.parametrize("kind", ["repeated", "sparse", "meta"])
def test_a_tensor_that_the_file_does_not_hold_is_no_weight(kind: str, state: dict[str, Any], tmp_path: Path) -> None:
    """A terabyte by strides of zero, for one."""
    import torch

    from edgeres.models import checkpoint

    made = {
        "repeated": torch.zeros(1).expand(1 << 38),
        "sparse": torch.zeros(4, 64).to_sparse(),
        "meta": torch.zeros(1 << 38, device="meta"),
    }
    torch.save({**state, "conv1.weight": made[kind]}, tmp_path / "odd.pth")
    with pytest.raises(InputError, match=r"odd\.pth does not fit resnet8_torch: conv1\.weight is missing"):
        checkpoint.load("resnet8_torch", checkpoint.read(tmp_path / "odd.pth"))
