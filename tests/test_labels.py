"""What labels mean to a model: every way to write them, and what is said of those that do not fit."""

from pathlib import Path

import numpy as np
import pytest

from edgeres import labels
from edgeres.data import open_images
from edgeres.errors import InputError

WHERE = Path("a.csv")
NAMES = ("red", "round", "big")


@pytest.mark.parametrize(
    ("texts", "classes", "wanted"),
    [
        (("red;big", "round"), NAMES, [[1, 0, 1], [0, 1, 0]]),
        (("red ; round", None), NAMES, [[1, 1, 0], [0, 0, 0]]),
        (("0;2", ""), (), [[1, 0, 1], [0, 0, 0]]),
        (("2", "1;0;1"), NAMES, [[0, 0, 1], [1, 1, 0]]),
    ],
    ids=["names", "spaces and none", "indices", "indices of names, twice"],
)
def test_names_with_a_semicolon_between_are_a_row_of_ones(
    texts: tuple[str | None, ...], classes: tuple[str, ...], wanted: list[list[int]]
) -> None:
    assert labels.multi_hot(texts, classes, 3, WHERE).tolist() == np.array(wanted, bool).tolist()


@pytest.mark.parametrize(
    ("texts", "classes", "said"),
    [
        (
            ("red;blue",),
            NAMES,
            "2 labels such as 'blue', the model has 3 classes, the first is 'red'; name folders and ",
        ),
        (("0;3",), (), "2 labels such as '3', the model has 3 classes; name"),
        (("a", "b", "c"), (), "3 labels such as 'a'"),
        ((None, ""), NAMES, "has no labels; give a manifest whose label column has names with ';' between"),
        (("red",), ("red", "red", "big"), "two classes 'red'; name folders and labels by class indices"),
    ],
)
def test_labels_that_fit_no_output_are_named(
    texts: tuple[str | None, ...], classes: tuple[str, ...], said: str
) -> None:
    with pytest.raises(InputError, match=rf"a\.csv.*{said}"):
        labels.multi_hot(texts, classes, 3, WHERE)


def test_numbers_are_values() -> None:
    assert labels.values(("0.5;-2", "1e3;7"), 2, WHERE, ("x", "y")).tolist() == [[0.5, -2], [1000, 7]]


@pytest.mark.parametrize(
    ("text", "count", "said"),
    [
        ("1;2", 1, "x.png is labelled '1;2'; the model gives a number, label it so"),
        ("1", 2, "x.png is labelled '1'; the model gives 2 numbers with ';' between"),
        ("many", 1, "labelled 'many'"),
        ("nan", 1, "labelled 'nan'"),
        (None, 1, "labelled ''"),
    ],
)
def test_what_is_no_number_is_named_with_its_image(text: str | None, count: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        labels.values((text,), count, WHERE, ("x.png",))


def test_images_of_one_label_are_a_group() -> None:
    assert labels.groups(("dog", None, "cat", "dog", "")).tolist() == [1, -1, 0, 1, -1]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (np.array([3, 0], np.uint8), ("3", "0")),
        (np.array([[1], [1], [0]]), ("1", "1", "0")),
        (np.array([[7]], np.uint8), ("7",)),
        (np.array([[True], [False]]), ("0", "")),
        (np.array([[1, 0, 1], [0, 0, 0]]), ("0;2", "")),
        (np.array([[True, True], [False, True]]), ("0;1", "1")),
        (np.array([0.1, -2.5], np.float32), ("0.100000001", "-2.5")),
        (np.array([[0.5, 1e-7]]), ("0.5;1e-07",)),
    ],
    ids=[
        "classes",
        "a column of classes",
        "one class",
        "a column of bools",
        "zeros and ones",
        "bools",
        "a value",
        "values",
    ],
)
def test_arrays_become_texts_that_mean_the_same(given: np.ndarray, wanted: tuple[str, ...]) -> None:
    assert labels.texts(given) == wanted
    if given.dtype.kind == "f":
        again = labels.values(wanted, np.atleast_2d(given.T).T.shape[1], WHERE, wanted)
        assert (again == given.reshape(again.shape).astype(np.float32)).all()
    elif given.ndim == 2 and (given.shape[1] > 1 or given.dtype == bool):
        assert (labels.multi_hot(wanted, (), given.shape[1], WHERE) == given).all()


def test_a_manifest_and_an_npz_of_the_same_labels_are_read_alike(tmp_path: Path) -> None:
    given = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 8, 8, 3), np.uint8), labels=given)
    (tmp_path / "a.csv").write_text("path,sha256,label\nx.png,,red;big\ny.png,,\nz.png,,round\n")
    for name in ("a.npz", "a.csv"):
        assert (open_images(tmp_path / name).multi_hot(NAMES, 3) == given).all()
