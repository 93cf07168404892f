"""Files are whole or not there, also when a process dies or the disk is full."""

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeres import disk
from edgeres.errors import EdgeresError, InputError, UsageError


def test_digest_is_sha256_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert disk.digest(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    large = b"x" * (3 << 20)
    path.write_bytes(large)
    assert disk.digest(path) == hashlib.sha256(large).hexdigest()


@pytest.mark.parametrize("name", ["absent", "."])
def test_digest_names_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be read \(.+\); check the path"):
        disk.digest(tmp_path / name)


def test_writing_makes_folders_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.bin"
    disk.write_bytes(path, b"one")
    disk.write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


def test_an_exception_keeps_the_old_file_and_removes_the_half_written_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with disk.replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_that_dies_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    script = (
        "import os, sys, pathlib; from edgeres import disk, store\n"
        "with disk.replacing(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_bytes(b'half'); os._exit(9)"
    )
    died = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert died.returncode == 9
    assert path.read_bytes() == b"old"


def test_a_reader_of_the_old_file_reads_it_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old and long")
    with path.open("rb", buffering=0) as reader:
        assert reader.read(3) == b"old"
        disk.write_bytes(path, b"new")
        assert reader.read() == b" and long"


def test_a_place_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot be written"):
        disk.write_bytes(tmp_path / "file" / "below", b"")
    with pytest.raises(UsageError, match="is a folder"):
        disk.write_bytes(tmp_path, b"")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_said_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fill() -> None:
        with disk.replacing(path):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(EdgeresError, match=r"file cannot be written \(No space left on device\); make room"):
        fill()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_with_nan_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    disk.write_json(path, {"b": 1, "a": [0.5]})
    assert path.read_text() == '{\n  "b": 1,\n  "a": [\n    0.5\n  ]\n}\n'
    with pytest.raises(ValueError, match="Out of range"):
        disk.write_json(path, {"value": float("nan")})
    assert disk.read_json(path) == {"b": 1, "a": [0.5]}


def test_json_that_is_absent_or_damaged_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    with pytest.raises(UsageError, match=r"file\.json cannot be read"):
        disk.read_json(path)
    for damaged in (b"{", b"\xff\xfe", b""):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"file\.json is not JSON"):
            disk.read_json(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes among its files")
def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is a folder or a device"):
        disk.write_bytes(tmp_path / "pipe", b"")
    assert (tmp_path / "pipe").is_fifo()


def test_another_file_that_fails_is_not_told_as_the_one_that_is_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="input"), disk.replacing(tmp_path / "out"):
        (tmp_path / "input").read_bytes()
    assert list(tmp_path.iterdir()) == []
