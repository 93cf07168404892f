"""What `edgeres eval` prints, on figures made by hand."""

import pytest

from edgeres.report.accuracy import lines, significance
from edgeres.schema import Accuracy, ClassAccuracy, Flip, McNemar

FP32 = Accuracy(images=40, dataset="d", top1=0.9, top1_interval=(0.769, 0.96))
FLIPPED = [Flip(name=f"{index}.png", label="cat", reference="cat", predicted="dog") for index in range(7)]
INT8 = Accuracy(
    images=40,
    dataset="d",
    top1=0.875,
    top1_interval=(0.739, 0.945),
    top5=1.0,
    agreement=0.825,
    agreement_interval=(0.68, 0.9125),
    mcnemar=McNemar(lost=4, gained=3, p=1.0),
    flipped=FLIPPED,
    classes=[
        ClassAccuracy(name="cat", images=20, top1=0.8, reference=0.95),
        ClassAccuracy(name="dog", images=10, top1=1.0, reference=0.9),
        ClassAccuracy(name="fox", images=10, top1=0.9, reference=0.85),
    ],
    images_per_second=123.44,
)


def test_int8_beside_fp32() -> None:
    assert lines(INT8, FP32) == [
        "40 images, 123.4 images/s: top-1 87.50 % (95 % 73.9 to 94.5), top-5 100.00 %",
        "against FP32: drop 2.50 points, 4 images lost and 3 gained: not significant, p = 1",
        "agreement 82.50 % (95 % 68.0 to 91.2)",
        "classes that lose most: cat (20 images) 95.00 to 80.00 %",
        "changed: " + "; ".join(f"{index}.png (cat) from cat to dog" for index in range(5)) + " and 2 more",
    ]


def test_a_gain_is_a_drop_below_zero() -> None:
    assert "drop \N{MINUS SIGN}2.50 points" in lines(INT8.model_copy(update={"top1": 0.925}), FP32)[1]


def test_alone_it_names_the_weakest_classes_and_nothing_of_fp32() -> None:
    classes = [ClassAccuracy(name=f"c{index}", images=4, top1=index / 8) for index in range(9)]
    shown = lines(FP32.model_copy(update={"classes": classes}))
    assert shown == [
        "40 images: top-1 90.00 % (95 % 76.9 to 96.0)",
        "weakest classes: " + "; ".join(f"c{index} (4 images) {12.5 * index:.2f} %" for index in range(5)),
    ]


@pytest.mark.parametrize(
    ("p", "said"),
    [
        (0.634, "not significant, p = 0.63"),
        (0.05, "not significant, p = 0.05"),
        (0.0123, "significant, p = 0.012"),
        (1e-9, "significant, p < 0.0001"),
        (0.0, "significant, p < 0.0001"),
    ],
)
def test_a_p_value_is_said_in_words(p: float, said: str) -> None:
    assert significance(McNemar(lost=9, gained=1, p=p)) == said
