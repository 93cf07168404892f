"""Labelled images as a user keeps them, and batches as a network takes them.

Three kinds of source: a folder with one folder per class, a folder of images without labels, a manifest (CSV with
the columns path, sha256, label; paths are relative to the line `# root = DIR` where there is one, else to the
manifest; DIR may be `package:NAME/sub`, a folder of an installed package), or an .npz file with `images` uint8
(N, H, W, 3) and `labels` (`labels.texts` says which). A label of a manifest may be several names or numbers with `;`
between. Images are named by their path below the root, and read in the order of their names.

For a network that takes no images an .npz file holds `tensors` float32 (N, C, H, W), as they are, and their `names`.
"""

import csv
import hashlib
import io
import os
import re
import warnings
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from edgeres import archive, disk, labels
from edgeres.errors import EdgeresError, InputError, MissingRuntime, UsageError
from edgeres.pixels import PIXELS, normalised, resized, rgb
from edgeres.types import Batch, Frame, Images, Preprocess

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".gif"}
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "PPM", "GIF")
"""Of Pillow's readers those of SUFFIXES: some of the others start programs or read documents."""
FILE, LIST = 1 << 29, 1 << 28
"""Most bytes of the file of an image, and of a manifest."""
warnings.filterwarnings("ignore", category=PIL.Image.DecompressionBombWarning)  # such images are refused here
CHUNK = 8
"""At most so many images are decoded as one piece of work: small ones take less time than handing them over."""


@dataclass(frozen=True)
class ImageSet:
    """Images by name, each with its label (None where unknown) and its SHA-256 (None where not recorded).

    `pixels` are those of images that are no files, uint8 (N, H, W, 3), or tensors float32 (N, C, H, W).
    """

    source: Path
    root: Path
    names: tuple[str, ...]
    labels: tuple[str | None, ...]
    digests: tuple[str | None, ...]
    pixels: Images | None = None

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> bytes:
        """The file's bytes; InputError where it is gone, or not the file that the manifest recorded."""
        path = self.root / self.names[index]
        try:
            content = disk.read(path, FILE)
        except UsageError as error:
            raise InputError(f"image {str(error).partition(';')[0]}; mend or remove it.") from None
        recorded = self.digests[index]
        if recorded and hashlib.sha256(content).hexdigest() != recorded:
            raise InputError(f"image {path} is not the one recorded in {self.source}; restore it or draw again.")
        return content

    def image(self, index: int) -> PIL.Image.Image:
        """One decoded RGB image; InputError where it cannot be decoded, or has more than PIXELS."""
        if self.pixels is not None:
            return PIL.Image.fromarray(self.pixels[index])
        content = self.read(index)
        try:
            with PIL.Image.open(io.BytesIO(content), formats=FORMATS) as image:
                if image.width * image.height > PIXELS:
                    raise ValueError(f"it has {image.width} x {image.height} pixels, {PIXELS:,} are the most")
                return rgb(image)
        except Exception as error:  # each of PIL's readers has its own
            path = self.root / self.names[index]
            reason = "of no known format" if isinstance(error, PIL.UnidentifiedImageError) else error
            raise InputError(f"image {path} cannot be decoded ({reason}); mend or remove it.") from None

    def cropped(self, index: int, preprocess: Preprocess) -> NDArray[np.uint8]:
        """One image as the network takes it, uint8 (crop, crop, 3); InputError as `image`, and where it is so long and
        thin that it would have more than PIXELS."""
        try:
            return resized(self.image(index), preprocess)
        except ValueError as error:
            raise InputError(f"image {self.root / self.names[index]} {error}; cut or remove it.") from None

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the names, labels and contents of all images, in order."""
        made = hashlib.sha256()
        for name, label, content in zip(self.names, self.labels, self.contents, strict=True):
            made.update(f"{name}\0{label}\0{content}\n".encode())
        return made.hexdigest()

    @cached_property
    def contents(self) -> tuple[str, ...]:
        """SHA-256 of each image, in order: of the bytes of its file, of its pixels where they are an array's."""
        every = range(len(self))
        read = (self.read(index) if self.pixels is None else self.pixels[index].tobytes() for index in every)
        return tuple(hashlib.sha256(content).hexdigest() for content in read)

    def refuse(self, calibration: Iterable[str], where: str) -> None:
        """UsageError where this set, which is to evaluate, shares images with a calibration: INT8 may be better on
        those than on new ones.

        `calibration` holds the `contents` of its images, `where` names it. The same file is found under any name; a
        picture that was encoded anew is not.
        """
        known = set(calibration)
        shared = [name for name, content in zip(self.names, self.contents, strict=True) if content in known]
        if shared:
            raise UsageError(
                f"{self.source} shares {len(shared)} of its {len(self)} images with the calibration ({where}), "
                f"the first is {shared[0]}; evaluate on images that did not calibrate."
            )

    def take(self, indices: Iterable[int]) -> "ImageSet":
        """The images at the given positions."""
        chosen = list(indices)
        return replace(
            self,
            names=tuple(self.names[i] for i in chosen),
            labels=tuple(self.labels[i] for i in chosen),
            digests=tuple(self.digests[i] for i in chosen),
            pixels=None if self.pixels is None else self.pixels[chosen],
        )

    def draw(self, samples: int) -> "ImageSet":
        """At most `samples` images, the classes in turn, each class in the order of its names' SHA-256.

        There is no seed: the same folder gives the same draw everywhere, and a larger draw contains the smaller.
        """
        classes: defaultdict[str | None, list[tuple[str, int]]] = defaultdict(list)
        for index, (name, label) in enumerate(zip(self.names, self.labels, strict=True)):
            classes[label].append((hashlib.sha256(name.encode()).hexdigest(), index))
        ranked = sorted((rank, *image) for images in classes.values() for rank, image in enumerate(sorted(images)))
        return self.take(sorted(index for _, _, index in ranked[:samples]))

    def indices(self, classes: Sequence[str], count: int) -> NDArray[np.int64]:
        """The class of each image, int64 (N,): see `labels.indices`; InputError where an image has none."""
        if None in self.labels:
            nameless = self.names[self.labels.index(None)]
            raise InputError(
                f"{self.source}: {nameless} has no label; give it one, in its row or as the name of its folder."
            )
        return labels.indices(self.labels, classes, count, self.source)

    def multi_hot(self, classes: Sequence[str], count: int) -> NDArray[np.bool_]:
        """The classes of each image, bool (N, count): see `labels.multi_hot`."""
        return labels.multi_hot(self.labels, classes, count, self.source)

    def values(self, count: int) -> NDArray[np.float32]:
        """The values of each image, float32 (N, count): see `labels.values`."""
        return labels.values(self.labels, count, self.source, self.names)


def open_images(source: Path) -> ImageSet:
    """Open a folder, a manifest or an .npz file; UsageError where there is none, InputError where it is empty."""
    if source.is_dir():
        return _folder(source)
    if not source.exists():
        raise UsageError(f"there are no images at {source}; give a folder, a manifest (.csv) or an .npz file.")
    if source.suffix == ".npz":
        return _arrays(source)
    if source.suffix == ".csv":
        return _manifest(source)
    raise UsageError(f"{source} is no image source; give a folder, a manifest (.csv) or an .npz file.")


def tensors(source: Path, names: Sequence[str], values: NDArray[np.float32]) -> ImageSet:
    """Tensors (N, C, H, W) for a network that takes no images."""
    return ImageSet(source, source, tuple(names), (None,) * len(names), (None,) * len(names), values)


def _folder(root: Path) -> ImageSet:
    paths = [path.relative_to(root) for path in _files(root) if path.suffix.lower() in SUFFIXES]
    names = tuple(sorted(path.as_posix() for path in paths))
    if not names:
        raise InputError(f"{root} holds no images ({', '.join(sorted(SUFFIXES))}); check the folder.")
    if odd := next((name for name in names if name.encode(errors="replace").decode() != name), None):
        raise InputError(f"{root}: the file name {odd!r} is not UTF-8; rename it.")
    labels = tuple(parts[0] if len(parts := PurePosixPath(name).parts) > 1 else None for name in names)
    return ImageSet(root, root, names, labels, (None,) * len(names))


def _files(root: Path) -> Iterator[Path]:
    """Every file below a folder, through links too; InputError where a folder is met twice: its images would count
    twice, or for ever."""

    def fail(error: OSError) -> None:
        raise UsageError(f"{error.filename} cannot be read ({error.strerror}); mend or remove it.") from None

    met: dict[tuple[int, int], str] = {}
    for folder, _, files in os.walk(root, onerror=fail, followlinks=True):
        here = os.stat(folder)
        if (first := met.setdefault((here.st_dev, here.st_ino), folder)) != folder:
            raise InputError(f"{folder} is {first} once more; remove the link, or its images count twice.")
        yield from (Path(folder, file) for file in files)


def _manifest(source: Path) -> ImageSet:
    lines = re.split("\r\n|\r|\n", disk.read_text(source, LIST))
    try:
        reader = csv.DictReader(line for line in lines if not line.startswith("#"))
        rows, columns = list(reader), list(reader.fieldnames or ())
    except csv.Error as error:
        raise InputError(f"{source} cannot be read as text ({error}); make the manifest again.") from None
    roots = [found[1] for line in lines if (found := re.match(r"#\s*root\s*=\s*(.+?)\s*$", line))]
    if not rows or not {"path", "sha256", "label"} <= set(rows[0]) or not all(row["path"] for row in rows):
        raise InputError(f"{source} is no manifest: it needs the columns path, sha256, label and a row an image.")
    if (double := next((name for name in columns if columns.count(name) > 1), None)) is not None:
        raise InputError(f"{source} has two columns {double!r}; leave one.")
    if odd := next((row["path"] for row in rows if None in row), None):
        raise InputError(f"{source}: the row of {odd} has more fields than there are columns; make the manifest again.")
    rows.sort(key=lambda row: row["path"])
    if twice := next((one["path"] for one, other in pairwise(rows) if one["path"] == other["path"]), None):
        raise InputError(f"{source} lists {twice} twice; make the manifest again.")
    root = _root(roots[0], source) if roots else source.parent
    names, digests = tuple(row["path"] for row in rows), tuple((row["sha256"] or "").lower() or None for row in rows)
    return ImageSet(source, root, names, tuple(row["label"] or None for row in rows), digests)


def _root(text: str, source: Path) -> Path:
    if not text.startswith("package:"):
        return source.parent / text
    package, _, below = text.removeprefix("package:").partition("/")
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise MissingRuntime(f"{source} needs the package {name}, which is not installed; `pip install {name}`.")
    return Path(spec.submodule_search_locations[0]) / below


def _arrays(source: Path) -> ImageSet:
    try:
        arrays = archive.arrays(source)
        if "tensors" in arrays:
            values, called = arrays["tensors"], arrays["names"].astype(str).tolist()
            if values.dtype != np.float32 or values.ndim != 4 or not 0 < len(values) == len({*called}):
                raise ValueError("its tensors are not float32 (N, C, H, W) with a name each")
            return tensors(source, called, values)
        if missing := [name for name in ("images", "labels") if name not in arrays]:
            raise InputError(
                f"{source} has no array `{missing[0]}`; make it again, with uint8 images and their labels."
            )
        images, given = arrays["images"], arrays["labels"]
    except EdgeresError:
        raise
    except Exception as error:  # zipfile, zlib and numpy each have their own
        raise InputError(f"{source} has no arrays `images` and `labels` ({error}); make it again.") from None
    shaped = images.ndim == 4 and images.shape[3] == 3 and images.size and given.shape[:1] == images.shape[:1]
    try:
        if not shaped or images.dtype != np.uint8:
            raise ValueError("images are not uint8 (N, H, W, 3) with a label each")
        texts = labels.texts(given)
    except ValueError as error:
        raise InputError(
            f"{source}: images are {images.dtype} {images.shape} and labels {given.dtype} {given.shape}: {error}."
        ) from None
    names = tuple(f"{index:06d}" for index in range(len(images)))
    return ImageSet(source, source, names, texts, (None,) * len(names), images)


def batches(
    images: ImageSet,
    preprocess: Preprocess | None,
    size: int,
    labels: NDArray[np.int64] | None = None,
    frame: Frame | None = None,
) -> Iterator[Batch]:
    """Decode in threads, ahead of the consumer by a few batches, in order; memory does not grow with the set.

    The last batch may be smaller than `size`. `labels` int64 (N,) from `ImageSet.indices`, -1 where not given. `frame`
    asks for the pixels as a camera gives them, uint8 (N, crop, crop, 3). Without `preprocess` the network takes
    tensors as they are. UsageError where the set holds the other of the two.
    """
    known = np.full(len(images), -1, np.int64) if labels is None else labels
    every = range(len(images))
    if (values := images.pixels) is not None and values.dtype == np.float32:
        if preprocess is not None:
            raise UsageError(f"{images.source} holds tensors, the network takes images; give images.")
        for part in (every[start : start + size] for start in every[::size]):
            yield Batch(
                values[part.start : part.stop], known[part.start : part.stop], images.names[part.start : part.stop]
            )
        return
    if preprocess is None:
        raise UsageError(f"{images.source} holds images, the network takes regions; make them with `edgeres regions`.")
    workers, chunk = min(8, os.cpu_count() or 1), min(size, CHUNK)

    def decode(indices: range) -> Images:
        cropped = [images.cropped(index, preprocess) for index in indices]
        if frame is None:
            return normalised(cropped, preprocess)
        return np.stack(cropped)[..., :: -1 if frame == "u8-nhwc-bgr" else 1]

    pool = ThreadPoolExecutor(workers, "decode")
    try:
        waiting = iter([every[start : start + size] for start in every[::size]])
        pending: deque[tuple[range, list[Future[Images]]]] = deque()
        while True:
            while len(pending) < 2 + workers * chunk // size and (batch := next(waiting, None)):
                parts = [pool.submit(decode, batch[start : start + chunk]) for start in range(0, len(batch), chunk)]
                pending.append((batch, parts))
            if not pending:
                break
            batch, parts = pending.popleft()
            decoded = [part.result() for part in parts]
            whole = np.concatenate(decoded) if len(decoded) > 1 else decoded[0]
            yield Batch(whole, known[batch.start : batch.stop], images.names[batch.start : batch.stop])
    finally:
        pool.shutdown(cancel_futures=True)
