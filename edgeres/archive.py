"""Zip files that others made (.npz, .pth, .pt2), looked at before anything of them is unpacked.

Nothing is written to disk, so that no name can lead out of a folder. What can do harm is the size: a few kilobytes can
hold gigabytes, and a header of NumPy can declare any shape.
"""

import io
import os
import zipfile
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres import disk


def check(archive: zipfile.ZipFile, most: int) -> None:
    """ValueError where a name is there twice, or where the archive would unpack to more than `most` bytes."""
    members = archive.infolist()
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} is in it twice")
    if (size := sum(member.file_size for member in members)) > most:
        raise ValueError(f"it unpacks to {size:,} bytes, more than the {most:,} that it may")


def arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file, read-only. UsageError as `disk.opened`; an exception of another kind where it is
    damaged, holds pickled objects, is a bomb (more than half of this machine's memory), or where a header is not that
    of its data."""
    with disk.opened(path) as file, zipfile.ZipFile(file) as archive:
        check(archive, memory() // 2)
        return {name.removesuffix(".npy"): _array(name, archive.read(name)) for name in archive.namelist()}


def _array(name: str, content: bytes) -> NDArray[Any]:
    """What `numpy.load` would read, whose header is held against the size of its data first (NEP 1)."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, kind = read(file)
    if kind.hasobject or min(shape, default=0) < 0 or prod(shape) * kind.itemsize != len(content) - file.tell():
        raise ValueError(f"{name} does not hold {kind} {shape}")
    made: NDArray[Any] = np.ndarray(shape, kind, content, file.tell(), order="F" if fortran else "C")
    return made


def memory() -> int:
    """Bytes of memory that this machine has; 8 GiB where it does not tell."""
    known = hasattr(os, "sysconf")
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else 1 << 33
