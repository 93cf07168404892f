"""Files on a device by their SHA-256: models, manifests, images. What is there once is never sent again.

    FOLDER/objects/ab/abcd...        whole, verified before it got this name
    FOLDER/objects/ab/abcd....part   what came so far
    FOLDER/runs/...                  what was made here
    FOLDER/lock                      held by the job that runs, which touches it as it goes on
    FOLDER/files.lock                held while files come or go: agents of one user have one folder

The oldest are removed where there would be more than `limit` bytes in all, or less than `RESERVE` left on the disk.
"""

import errno
import os
import shutil
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgeres import disk, locks
from edgeres.data import ImageSet
from edgeres.errors import EdgeresError, InputError

RESERVE = 512 * 2**20
"""Bytes of the disk that are left to others."""
LIMIT = 16 * 2**30
"""Bytes that are kept where nothing else is asked for."""
_DIGITS = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class Objects:
    folder: Path
    limit: int = LIMIT

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    @contextmanager
    def alone(self) -> Iterator["Objects"]:
        """These files while no other agent changes them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with locks.alone(self.folder / "files.lock", self.folder, lambda _: None):
            yield self

    def path(self, digest: str) -> Path:
        """Where a file is, or would be; InputError where that is no SHA-256, as a path would be."""
        if len(digest) != 64 or not _DIGITS.issuperset(digest):
            raise InputError(f"{digest[:80]!r} is no SHA-256 in hex.")
        return self.folder / "objects" / digest[:2] / digest

    def held(self, digest: str) -> int | None:
        """None where the file is there whole, and is now the youngest; else how many bytes of it came so far."""
        path = self.path(digest)
        try:
            os.utime(path)
        except OSError:
            part = _part(path)
            return part.stat().st_size if part.exists() else 0
        return None

    def put(self, digest: str, start: int, size: int, content: bytes) -> int | None:
        """Take the bytes from `start` on of a file of `size` bytes, and say what `held` says.

        What was taken already is not taken twice, what does not follow is left. The last piece makes the file whole (an
        empty one, where the agent died when all was written), and InputError is raised where it is another one: what
        came is thrown away. EdgeresError where the disk is full.
        """
        path, now = self.path(digest), self.held(digest)
        if now is None or not start <= now <= start + len(content):
            return now
        part = _part(path)
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            with part.open("ab") as file:
                file.write(content[now - start :])
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise EdgeresError(f"{part} cannot be written ({error.strerror}); make room there and run again.") from None
        if part.stat().st_size < size:
            return part.stat().st_size
        if disk.digest(part) != digest:
            part.unlink()
            raise InputError(f"a file arrived damaged, as its SHA-256 is not {digest}; run again.")
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
        return None

    def missing(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """Of files by digest, with their sizes, those that are not here whole, and how much of each came so far; there
        is room for the rest then, and none of them went for it."""
        found = {digest: held for digest in wanted if (held := self.held(digest)) is not None}
        if found:
            paths = [self.path(digest) for digest in wanted]
            self._make_room(sum(wanted[digest] - held for digest, held in found.items()), {*paths, *map(_part, paths)})
        return found

    def whole(self, digest: str) -> Path:
        """A file that is here, its bytes verified; InputError where it is not, and what is damaged is thrown away."""
        path = self.path(digest)
        if not path.is_file() or disk.digest(path) != digest:
            path.unlink(missing_ok=True)
            raise InputError(f"the file {digest} is missing or damaged on this device; run again to send it anew.")
        return path

    def _make_room(self, wanted: int, stay: Set[Path]) -> None:
        """Remove the oldest files and runs, those aside that `stay`, until `wanted` more bytes fit; EdgeresError where
        they never will."""
        self.folder.mkdir(parents=True, exist_ok=True)
        entries = sorted((path.stat().st_mtime, _size(path), path) for path in self._entries())
        total, free = sum(size for _, size, _ in entries), shutil.disk_usage(self.folder).free
        spare = [entry for entry in entries if entry[2] not in stay]
        held = total - sum(size for _, size, _ in spare)
        if held + wanted > self.limit or free + total - held - wanted < RESERVE:
            raise EdgeresError(
                f"there is no room for {(held + wanted) / 1e6:.0f} MB below {self.folder}, {held / 1e6:.0f} MB of them "
                f"there already: {self.limit / 1e6:.0f} MB are kept at most, {free / 1e6:.0f} MB are free and "
                f"{RESERVE / 1e6:.0f} MB of those reserved; free some, or raise `edgeres agent --space`."
            )
        for _, size, path in spare:
            if total + wanted <= self.limit and free - wanted >= RESERVE:
                return
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            total, free = total - size, free + size

    def _entries(self) -> Iterator[Path]:
        yield from (path for path in self.folder.glob("objects/*/*") if path.is_file())
        yield from (path for path in self.folder.glob("runs/*") if path.is_dir())


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if not file.is_symlink())


@dataclass(frozen=True)
class StoredImages(ImageSet):
    """Images whose files are objects, whatever their names."""

    objects: Objects | None = None

    def read(self, index: int) -> bytes:
        assert self.objects is not None
        return self.objects.whole(self.digests[index] or "").read_bytes()
