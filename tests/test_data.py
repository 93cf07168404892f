"""Sources of images, their labels and draws, and how an image becomes the network's input."""

import hashlib
import io
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from edgeres import data
from edgeres.data import ImageSet, batches, open_images
from edgeres.errors import InputError, MissingRuntime, UsageError
from edgeres.pixels import prepare
from edgeres.types import Preprocess

PLAIN = Preprocess(resize=32, crop=32, mean=(0, 0, 0), std=(1, 1, 1))
"""Keeps a 32 x 32 image's values, divided by 255."""


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def arrays(count: int, labels: Any = None) -> ImageSet:
    """`count` images of 32 x 32 pixels, image i grey of value i."""
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 32, 32, 3))
    names = tuple(f"{index:06d}" for index in range(count))
    return ImageSet(Path("a.npz"), Path("a.npz"), names, labels or (None,) * count, (None,) * count, images)


def labelled(*labels: str | None) -> ImageSet:
    return arrays(len(labels), labels)


def manifest(path: Path, *rows: str, head: str = "path,sha256,label") -> Path:
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return path


# Sources


def test_a_folder_of_folders_is_labelled_and_sorted_by_name(image_folder: Path) -> None:
    images = open_images(image_folder)
    assert len(images) == 20
    assert list(images.names) == sorted(images.names)
    assert Counter(images.labels) == dict.fromkeys(("airplane", "automobile", "bird", "cat", "deer"), 4)
    assert all(name.split("/")[0] == label for name, label in zip(images.names, images.labels, strict=True))


def test_every_image_of_the_folder_decodes_to_rgb(image_folder: Path) -> None:
    images = open_images(image_folder)
    decoded = [images.image(index) for index in range(len(images))]
    assert {image.mode for image in decoded} == {"RGB"}
    assert len({image.size for image in decoded}) > 5


def test_sixteen_bit_grey_keeps_its_brightness(image_folder: Path) -> None:
    images = open_images(image_folder)
    index = images.names.index("deer/3.png")
    with Image.open(image_folder / "deer/3.png") as raw:
        high = np.asarray(raw).astype(np.float64) / 257
    found = np.asarray(images.image(index)).astype(np.float64)
    assert high.std() > 10
    assert np.abs(found - high[:, :, None]).max() <= 1


def test_other_files_are_passed_over_and_upper_case_suffixes_are_not(tmp_path: Path) -> None:
    for name in ("a/B.JPEG", "a/c.PnG", "a/deep/er/d.bmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(8, 8).save(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("none")
    (tmp_path / "labels.csv").write_text("none")
    images = open_images(tmp_path)
    assert images.names == ("a/B.JPEG", "a/c.PnG", "a/deep/er/d.bmp")
    assert set(images.labels) == {"a"}


def test_a_class_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "kept" / "x").mkdir(parents=True)
    (tmp_path / "set").mkdir()
    picture(8, 8).save(tmp_path / "kept" / "x" / "1.png")
    (tmp_path / "set" / "x").symlink_to(tmp_path / "kept" / "x", target_is_directory=True)
    assert open_images(tmp_path / "set").names == ("x/1.png",)


def test_images_without_a_class_folder_have_no_label(tmp_path: Path) -> None:
    picture(8, 8).save(tmp_path / "1.png")
    images = open_images(tmp_path)
    assert images.labels == (None,)
    with pytest.raises(InputError, match=r"1\.png has no label; give it one, in its row or as the name of its folder"):
        images.indices((), 10)


def test_a_file_name_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    try:
        picture(8, 8).save(tmp_path / "caf\udce9.png", "PNG")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes no such name")
    with pytest.raises(InputError, match="is not UTF-8; rename it"):
        open_images(tmp_path)


@pytest.mark.parametrize("name", ["empty", "empty.csv", "empty.npz"])
def test_a_source_without_images_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir() if name == "empty" else (tmp_path / name).touch()
    with pytest.raises(InputError, match=name):
        open_images(tmp_path / name)


def test_a_file_of_another_kind_is_no_source(tmp_path: Path) -> None:
    picture(8, 8).save(tmp_path / "one.png")
    with pytest.raises(UsageError, match=r"one\.png is no image source"):
        open_images(tmp_path / "one.png")


def test_a_source_that_is_absent_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no images at .*absent; give a folder, a manifest \(.csv\) or an .npz"):
        open_images(tmp_path / "absent")


def test_an_npz_is_read_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "set.npz", images=pixels, labels=np.array([3, 1, 0, 2, 3, 3, 0], np.uint8))
    images = open_images(tmp_path / "set.npz")
    assert images.labels == ("3", "1", "0", "2", "3", "3", "0")
    assert images.indices((), 4).tolist() == [3, 1, 0, 2, 3, 3, 0]
    (batch,) = batches(images, PLAIN, 10)
    assert np.array_equal(np.rint(batch.images * 255).astype(np.uint8), pixels.transpose(0, 3, 1, 2))


ZEROS = np.zeros((2, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    "content",
    [
        {"images": ZEROS},
        {"labels": np.zeros(2)},
        {"images": ZEROS, "labels": np.zeros(3, int)},
        {"images": ZEROS, "labels": np.full((2, 2), 2)},
        {"images": ZEROS, "labels": np.zeros((2, 1, 1))},
        {"images": ZEROS, "labels": np.array(["cat", "dog"])},
        {"images": ZEROS, "labels": np.array([0, None])},
        {"images": ZEROS.astype(np.float32), "labels": np.zeros(2, int)},
        {"images": ZEROS.transpose(0, 3, 1, 2), "labels": np.zeros(2, int)},
        {"images": ZEROS[0], "labels": np.zeros(4, int)},
        {"images": ZEROS[:0], "labels": np.zeros(0, int)},
    ],
)
def test_an_npz_of_another_shape_or_type_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    np.savez(tmp_path / "set.npz", **content)
    with pytest.raises(InputError, match=r"set\.npz"):
        open_images(tmp_path / "set.npz")


def test_an_npz_that_is_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez_compressed(path, images=ZEROS, labels=np.zeros(2, int))
    whole = path.read_bytes()
    middle = len(whole) // 3
    single = io.BytesIO()
    np.save(single, ZEROS)
    for content in (b"", b"text", whole[: len(whole) // 2], whole[:middle] + b"\xff" * 40 + whole[middle + 40 :]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"set\.npz has no arrays"):
            open_images(path)
    path.write_bytes(single.getvalue())
    with pytest.raises(InputError, match=r"set\.npz has no arrays"):
        open_images(path)


def test_an_npz_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    class Malice:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "executed"),)

    labels = np.empty(2, object)
    labels[:] = Malice()
    np.savez(tmp_path / "set.npz", images=ZEROS, labels=labels)
    with pytest.raises(InputError, match=r"set\.npz has no arrays"):
        open_images(tmp_path / "set.npz")
    assert not (tmp_path / "executed").exists()


# Manifests


def test_a_manifest_names_files_beside_it(tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        picture(8, 8, seed=ord(name[0])).save(tmp_path / name)
    sha = hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    images = open_images(manifest(tmp_path / "set.csv", "b.png,,dog", f"a.png,{sha.upper()},cat"))
    assert (images.names, images.labels) == (("a.png", "b.png"), ("cat", "dog"))
    assert images.digests == (sha, None)
    assert images.image(0).size == (8, 8)
    assert images.digest == open_images(manifest(tmp_path / "again.csv", f"a.png,{sha},cat", "b.png,,dog")).digest


@pytest.mark.parametrize(
    "head",
    [
        "# root = photos\npath,sha256,label",
        "#root=photos\npath,sha256,label",
        "# who = me\n# root = photos/  \n# roots are vegetables\nlabel,note,sha256,path",
        "\ufeff# root = photos\npath,sha256,label",
    ],
)
def test_a_manifest_may_name_its_root(tmp_path: Path, head: str) -> None:
    (tmp_path / "photos").mkdir()
    picture(8, 8).save(tmp_path / "photos" / "a.png")
    row = "cat,,,a.png" if head.endswith("path") else "a.png,,cat"
    images = open_images(manifest(tmp_path / "set.csv", row, head=head))
    assert images.labels == ("cat",)
    assert images.image(0).size == (8, 8)


PACKAGE = "# root = package:{}\npath,sha256,label"


def test_a_manifest_may_point_into_an_installed_package(tmp_path: Path) -> None:
    images = open_images(manifest(tmp_path / "set.csv", "coffee.jpg,,cup", head=PACKAGE.format("edgeres/images")))
    assert images.image(0).mode == "RGB"


@pytest.mark.parametrize("package", ["no_such_package/data", "no_such.package", "/data", "json.decoder"])
def test_a_manifest_of_a_package_that_is_absent_says_what_to_install(tmp_path: Path, package: str) -> None:
    with pytest.raises(MissingRuntime, match="pip install"):
        open_images(manifest(tmp_path / "set.csv", "a.png,,x", head=PACKAGE.format(package)))


@pytest.mark.parametrize(
    ("head", "row"),
    [
        ("path,label", "a.png,cat"),
        ("file,sha256,label", "a.png,,cat"),
        ("a.png,,cat", "b.png,,cat"),
        ("label,sha256,path", "cat,"),
        ("path,sha256,label", ",,cat"),
    ],
)
def test_a_manifest_without_its_columns_is_refused(tmp_path: Path, head: str, row: str) -> None:
    with pytest.raises(InputError, match=r"set\.csv is no manifest: it needs the columns path, sha256, label"):
        open_images(manifest(tmp_path / "set.csv", row, head=head))


@pytest.mark.parametrize(
    ("head", "row", "said"),
    [
        ("path,sha256,label,label", "a.png,,3,4", "has two columns 'label'"),
        ("path,sha256,label", "a.png,,3,9", "the row of a.png has more fields than there are columns"),
    ],
)
def test_a_manifest_of_which_two_things_can_be_read_is_refused(tmp_path: Path, head: str, row: str, said: str) -> None:
    with pytest.raises(InputError, match=rf"set\.csv:? {said}"):
        open_images(manifest(tmp_path / "set.csv", row, head=head))


def test_a_manifest_without_a_row_or_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no manifest"):
        open_images(manifest(tmp_path / "set.csv"))
    (tmp_path / "set.csv").write_bytes(b"path,sha256,label\n\xff\xd8\xff,,\n")
    with pytest.raises(InputError, match="cannot be read as text"):
        open_images(tmp_path / "set.csv")
    with pytest.raises(InputError, match="cannot be read as text"):
        open_images(manifest(tmp_path / "set.csv", "a" * 200_000 + ",,cat"))


def test_an_image_that_changed_since_it_was_recorded_is_refused(tmp_path: Path) -> None:
    picture(8, 8).save(tmp_path / "a.png")
    sha = hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    images = open_images(manifest(tmp_path / "set.csv", f"a.png,{sha},cat"))
    assert images.image(0).size == (8, 8)
    picture(8, 8, seed=1).save(tmp_path / "a.png")
    for use in (lambda: images.image(0), lambda: images.digest, lambda: list(batches(images, PLAIN, 1))):
        with pytest.raises(InputError, match=r"a\.png is not the one recorded in .*set\.csv"):
            use()


# What cannot be decoded


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.jpg", b"this is no image"),
        ("empty.png", b""),
        ("broken.png", b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR"),
    ],
)
def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"image .*{name} cannot be decoded .*; mend or remove it"):
        open_images(tmp_path).image(0)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif", "gif", "ppm"])
def test_a_truncated_image_is_named_whatever_its_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut.{suffix}"
    picture(64, 48).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"cut\.{suffix} cannot be decoded"):
        open_images(tmp_path).image(0)


def test_an_image_that_unpacks_to_gigabytes_is_refused_before_it_does(tmp_path: Path) -> None:
    header = Image.new("1", (1, 1))
    header.save(tmp_path / "bomb.bmp")
    content = bytearray((tmp_path / "bomb.bmp").read_bytes())
    content[18:26] = (60_000).to_bytes(4, "little") * 2
    (tmp_path / "bomb.bmp").write_bytes(content)
    with pytest.raises(InputError, match=r"bomb\.bmp cannot be decoded .*decompression bomb"):
        open_images(tmp_path).image(0)


def test_floating_point_pixels_are_refused_because_their_range_is_not_known(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).random((8, 8)).astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(InputError, match="floating point"):
        open_images(tmp_path).image(0)


def test_an_image_that_is_gone_is_named(tmp_path: Path) -> None:
    picture(8, 8).save(tmp_path / "a.png")
    images = open_images(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match=r"a\.png cannot be read"):
        images.image(0)


# Digests and draws


def test_the_digest_of_a_set_is_of_names_labels_contents_and_order(tmp_path: Path) -> None:
    base = labelled("0", "1", "0")
    digests = {
        base.digest,
        labelled("0", "1", "1").digest,
        labelled("0", "1").digest,
        base.take([1, 0, 2]).digest,
        ImageSet(base.source, base.root, ("a", "b", "c"), base.labels, base.digests, base.pixels).digest,
        ImageSet(base.source, base.root, base.names, base.labels, base.digests, base.pixels + np.uint8(1)).digest,
    }
    assert len(digests) == 6
    assert ImageSet(Path("b.npz"), Path("b.npz"), base.names, base.labels, base.digests, base.pixels).digest in digests


LABELS = st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=40)


@given(LABELS, st.integers(1, 50))
def test_a_draw_is_balanced_and_contains_the_smaller(labels: list[str | None], samples: int) -> None:
    images = labelled(*labels)
    drawn = images.draw(samples)
    assert len(drawn) == min(samples, len(images))
    assert list(drawn.names) == sorted(drawn.names)
    assert set(drawn.names) <= set(images.draw(samples + 1).names)
    have, got = Counter(labels), Counter(drawn.labels)
    spread = max(got.values())
    assert all(got[label] >= min(count, spread - 1) for label, count in have.items())


@given(st.permutations(range(12)), st.integers(1, 12))
def test_a_draw_does_not_depend_on_the_order_of_the_images(order: list[int], samples: int) -> None:
    images = labelled(*"aaaabbbbcccc")
    assert sorted(images.take(order).draw(samples).names) == list(images.draw(samples).names)


def test_a_draw_is_the_same_on_every_machine() -> None:
    names = sorted((f"{index:06d}" for index in range(100)), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert arrays(100).draw(5).names == tuple(sorted(names[:5]))


def test_taking_images_keeps_everything_about_them() -> None:
    taken = labelled("a", "b", "c", "d").take([3, 1])
    assert (taken.names, taken.labels) == (("000003", "000001"), ("d", "b"))
    assert [int(np.asarray(taken.image(index))[0, 0, 0]) for index in range(2)] == [3, 1]


# Labels


@pytest.mark.parametrize(
    ("labels", "classes", "count", "wanted"),
    [
        (["dog", "cat", "dog"], ("cat", "dog", "emu"), 3, [1, 0, 1]),
        (["2", "0"], (), 3, [2, 0]),
        (["0002", "0000"], (), 3, [2, 0]),
        (["2", "0"], ("cat", "dog", "emu"), 3, [2, 0]),
        ([str(index) for index in range(11)], (), 11, list(range(11))),
        (["1", "2"], ("2", "1", "0"), 3, [1, 0]),
        (["b", "a", "c"], (), 3, [1, 0, 2]),
        (["1", "3", "2"], (), 3, [0, 2, 1]),
        (["0", "2"], ("crane", "crane", "emu"), 3, [0, 2]),
    ],
    ids=[
        "names",
        "indices",
        "padded",
        "indices beside names",
        "ten after two",
        "names that are numbers",
        "sorted",
        "from one",
        "twice",
    ],
)
def test_labels_become_indices(labels: list[str], classes: tuple[str, ...], count: int, wanted: list[int]) -> None:
    indices = labelled(*labels).indices(classes, count)
    assert indices.dtype == np.int64
    assert indices.tolist() == wanted


@pytest.mark.parametrize(
    ("labels", "classes", "count"),
    [
        (["cat", "cow"], ("cat", "dog"), 2),
        (["0", "3"], (), 3),
        (["cat", "0"], ("cat", "dog"), 2),
        (["a", "b"], (), 3),
        (["a", "b", "c"], ("x", "y", "z"), 3),
        (["-1", "0"], (), 3),
        (["1.0", "0"], (), 3),
        (["crane", "emu"], ("crane", "crane", "emu"), 3),
    ],
)
def test_labels_that_fit_no_class_are_refused(labels: list[str], classes: tuple[str, ...], count: int) -> None:
    with pytest.raises(InputError, match=r"a\.npz.*name folders and labels by"):
        labelled(*labels).indices(classes, count)


def test_one_image_without_a_label_is_named() -> None:
    with pytest.raises(InputError, match="000001 has no label"):
        labelled("a", None, "b").indices((), 2)


# From image to input


def reference(image: Image.Image, preprocess: Preprocess) -> NDArray[np.float32]:
    """torchvision's Resize, CenterCrop, ToTensor, Normalize, with torch's own antialiased interpolation."""
    import torch

    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float()
    height, width = pixels.shape[2:]
    size = preprocess.resize
    long = int(size * max(height, width) / min(height, width))
    sides = (size, long) if height <= width else (long, size)
    if min(height, width) != size:
        pixels = torch.nn.functional.interpolate(pixels, sides, mode="bilinear", antialias=True, align_corners=False)
    top, left = (round((side - preprocess.crop) / 2.0) for side in sides)
    pixels = pixels[0, :, top : top + preprocess.crop, left : left + preprocess.crop] / 255
    mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
    return ((pixels - mean[:, None, None]) / std[:, None, None]).numpy()


def levels(one: NDArray[np.float32], other: NDArray[np.float32], preprocess: Preprocess) -> NDArray[np.float64]:
    """How many of 256 grey levels two prepared images differ by."""
    difference: NDArray[np.float64] = np.abs(one - other) * 255 * np.array(preprocess.std)[:, None, None]
    return difference


SIDE = st.integers(1, 160)


@settings(max_examples=60, deadline=None)
@given(SIDE, SIDE, st.integers(8, 64), st.integers(0, 20), st.integers(0, 2**32 - 1))
def test_an_image_is_prepared_as_torch_does_within_one_grey_level(
    width: int, height: int, resize: int, margin: int, seed: int
) -> None:
    pytest.importorskip("torch", reason="the extra `export` is not installed")
    preprocess = Preprocess(resize=resize, crop=max(1, resize - margin))
    image = picture(width, height, seed)
    found, wanted = prepare(image, preprocess), reference(image, preprocess)
    assert (found.shape, found.dtype) == (wanted.shape, np.float32)
    assert found.flags.c_contiguous
    assert levels(found, wanted, preprocess).max() <= 1.01


@pytest.mark.parametrize("size", [(500, 375), (333, 501), (224, 301), (256, 256), (255, 257)])
def test_an_ordinary_photo_is_prepared_as_torch_does(size: tuple[int, int]) -> None:
    pytest.importorskip("torch", reason="the extra `export` is not installed")
    with Image.open(Path(data.__file__).parent / "images" / "coffee.jpg") as photo:
        image = photo.convert("RGB").resize(size)
    difference = levels(prepare(image, Preprocess()), reference(image, Preprocess()), Preprocess())
    assert difference.max() <= 1.01
    assert difference.mean() <= 0.35


def test_an_image_of_the_right_size_is_only_normalised() -> None:
    image = picture(32, 32)
    found = prepare(image, Preprocess(32, 32, (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)))
    pixels = np.asarray(image).astype(np.float64).transpose(2, 0, 1) / 255
    wanted = (pixels - np.array([0.1, 0.2, 0.3])[:, None, None]) / np.array([0.5, 0.25, 2.0])[:, None, None]
    assert np.abs(found - wanted).max() < 1e-6


def test_each_interpolation_is_another() -> None:
    image = picture(50, 40)
    made = [prepare(image, Preprocess(32, 32, interpolation=name)) for name in ("nearest", "bilinear", "bicubic")]
    made.append(prepare(image, Preprocess(32, 32, interpolation="lanczos")))
    assert len({one.tobytes() for one in made}) == 4


@pytest.mark.parametrize("size", [(50, 41), (41, 50), (33, 200), (32, 32)])
def test_squash_resizes_both_sides(size: tuple[int, int]) -> None:
    image = picture(*size)
    found = prepare(image, replace(PLAIN, resize=36, crop_mode="squash"))
    wanted = np.asarray(image.resize((36, 36), Image.Resampling.BILINEAR))[2:34, 2:34]
    assert np.array_equal(np.rint(found * 255), wanted.transpose(2, 0, 1))


@pytest.mark.parametrize(("size", "inner"), [((50, 40), (32, 26)), ((40, 50), (26, 32)), ((1, 90), (1, 32))])
def test_border_keeps_the_whole_image_and_fills_with_the_mean(size: tuple[int, int], inner: tuple[int, int]) -> None:
    image = picture(*size)
    preprocess = replace(PLAIN, crop_mode="border", mean=(0.2, 0.4, 0.6))
    found = np.rint((prepare(image, preprocess) + np.array(preprocess.mean)[:, None, None]) * 255)
    left, top = ((32 - side) // 2 for side in inner)
    wanted = np.broadcast_to(np.array([51, 102, 153])[:, None, None], (3, 32, 32)).copy()
    resized = np.asarray(image.resize(inner, Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    wanted[:, top : top + inner[1], left : left + inner[0]] = resized
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize(("width", "center", "floor"), [(33, 0, 0), (35, 2, 1), (37, 2, 2), (39, 4, 3), (40, 4, 4)])
def test_a_centre_between_two_pixels_is_rounded_as_torchvision_or_as_transformers_does(
    width: int, center: int, floor: int
) -> None:
    image = picture(width, 32)
    for mode, left in (("center", center), ("floor", floor)):
        found = prepare(image, replace(PLAIN, crop_mode=mode))  # type: ignore[arg-type]
        wanted = np.asarray(image)[:, left : left + 32]
        assert np.array_equal(np.rint(found * 255), wanted.transpose(2, 0, 1))


# Contents


def test_contents_are_the_digests_of_files_or_of_pixels_in_order(tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        picture(8, 8, ord(name[0])).save(tmp_path / name)
    digests = [hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("a.png", "b.png")]
    assert open_images(tmp_path).contents == tuple(digests)
    stacked = arrays(3)
    assert stacked.pixels is not None
    assert stacked.contents == tuple(hashlib.sha256(one.tobytes()).hexdigest() for one in stacked.pixels)


def test_sets_that_share_no_image_are_not_refused(tmp_path: Path) -> None:
    arrays(3).refuse((), "nothing")
    arrays(3).refuse(arrays(5).take([3, 4]).contents, "others")
    with pytest.raises(
        UsageError, match=r"shares 2 of its 3 images with the calibration \(some\), the first is 000001"
    ):
        arrays(3).refuse(arrays(5).take([4, 2, 1]).contents, "some")


# Batches


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12))
def test_batches_keep_the_order_and_the_last_may_be_smaller(count: int, size: int) -> None:
    images = arrays(count)
    labels = np.arange(count, dtype=np.int64) * 3
    found = list(batches(images, PLAIN, size, labels))
    assert [len(batch.images) for batch in found[:-1]] == [size] * (len(found) - 1)
    assert len(found[-1].images) == (count - 1) % size + 1
    assert [name for batch in found for name in batch.names] == list(images.names)
    values = np.concatenate([batch.images for batch in found])[:, 0, 0, 0]
    assert np.rint(values * 255).astype(int).tolist() == list(range(count))
    assert np.concatenate([batch.labels for batch in found]).tolist() == labels.tolist()


def test_labels_that_are_not_given_are_unknown() -> None:
    (batch,) = batches(labelled("a", "b"), PLAIN, 8)
    assert batch.labels.tolist() == [-1, -1]


def test_a_broken_image_among_many_is_named_and_ends_the_stream(tmp_path: Path) -> None:
    for index in range(12):
        picture(8, 8, index).save(tmp_path / f"{index:02}.png")
    (tmp_path / "07.png").write_bytes(b"broken")
    stream = batches(open_images(tmp_path), PLAIN, 4)
    assert next(stream).names == ("00.png", "01.png", "02.png", "03.png")
    with pytest.raises(InputError, match=r"07\.png cannot be decoded"):
        list(stream)


def test_only_a_few_images_are_decoded_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    real = ImageSet.image

    def counted(images: ImageSet, index: int) -> Image.Image:
        decoded.append(index)
        return real(images, index)

    monkeypatch.setattr(ImageSet, "image", counted)
    stream = batches(arrays(250), PLAIN, 2)
    for step in range(1, 20):
        next(stream)
        assert len(decoded) <= 2 * step + 2 * 2 + 2 * 8
    stream.close()
    assert len(decoded) < 60
