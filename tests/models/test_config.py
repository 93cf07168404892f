"""What timm and transformers store beside weights, and which preprocessing that is."""

import json
from pathlib import Path
from typing import Any

import pytest

from edgeres.errors import InputError
from edgeres.models.config import Config, beside, published
from edgeres.types import Preprocess

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.5]
TIMM = {
    "architecture": "resnet50",
    "num_classes": 2,
    "label_names": ["cat", "dog"],
    "global_pool": "avg",
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "test_input_size": [3, 288, 288],
        "crop_pct": 0.95,
        "test_crop_pct": 1.0,
        "interpolation": "bicubic",
        "crop_mode": "center",
        "mean": MEAN,
        "std": STD,
    },
}
RESNET = {"model_type": "resnet", "id2label": {"1": "dog", "0": "cat"}}
CONVNEXT = {"feature_extractor_type": "ConvNextFeatureExtractor", "resample": 3, "image_mean": MEAN, "image_std": STD}


def stored(folder: Path, config: Any, processor: Any = None) -> Config:
    (folder / "config.json").write_text(json.dumps(config))
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return beside(folder)


def test_timm_stores_the_name_the_classes_and_the_preprocessing(tmp_path: Path) -> None:
    found = stored(tmp_path, TIMM)
    assert (found.arch, found.classes) == ("resnet50", ("cat", "dog"))
    wanted = Preprocess(int(224 / 0.95), 224, tuple(MEAN), tuple(STD), "bicubic")  # type: ignore[arg-type]
    assert Preprocess.parse(found.preprocess, "here") == wanted
    assert found.notes == ("its test size is 288 pixels (--size), its own 224",)


@pytest.mark.parametrize(
    ("known", "wanted"),
    [
        ({}, Preprocess(256, 224, interpolation="bicubic")),
        ({"crop_pct": 0.9, "crop_mode": "squash"}, Preprocess(248, 224, interpolation="bicubic", crop_mode="squash")),
        ({"input_size": [3, 32, 32], "crop_pct": 1.0, "crop_mode": "border"}, Preprocess(32, 32, crop_mode="border")),
        ({"interpolation": "bilinear", "test_input_size": [3, 224, 224]}, Preprocess()),
    ],
)
def test_timms_crop_is_a_share_of_the_resized_image(tmp_path: Path, known: Any, wanted: Preprocess) -> None:
    known = {"interpolation": wanted.interpolation, **known} if known else known
    found = stored(tmp_path, {"architecture": "resnet18.a1_in1k", "pretrained_cfg": known or {"tag": "a1"}})
    assert found.arch == "resnet18"
    assert Preprocess.parse(found.preprocess, "here") == wanted
    assert found.notes == ()


@pytest.mark.parametrize(
    ("processor", "wanted"),
    [
        ({"size": 224, "crop_pct": 0.875}, {"resize": 256, "crop": 224, "crop_mode": "floor"}),
        ({"size": {"shortest_edge": 224}}, {"resize": 256, "crop": 224, "crop_mode": "floor"}),
        ({"size": {"shortest_edge": 288}, "crop_pct": 0.95}, {"resize": 303, "crop": 288, "crop_mode": "floor"}),
        ({"size": {"shortest_edge": 384}}, {"resize": 384, "crop": 384, "crop_mode": "squash"}),
        (
            {"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224}},
            {"resize": 224, "crop": 224, "crop_mode": "squash"},
        ),
        (
            {
                "image_processor_type": "BitImageProcessor",
                "size": {"shortest_edge": 256},
                "do_center_crop": True,
                "crop_size": {"height": 224, "width": 224},
            },
            {"resize": 256, "crop": 224, "crop_mode": "floor"},
        ),
    ],
)
def test_transformers_stores_how_the_image_is_cut(tmp_path: Path, processor: Any, wanted: Any) -> None:
    found = stored(tmp_path, RESNET, CONVNEXT | processor)
    assert (found.arch, found.row, found.classes) == (None, {"stride": "3x3"}, ("cat", "dog"))
    assert found.preprocess is not None
    assert {key: found.preprocess[key] for key in wanted} == wanted
    made = Preprocess.parse(found.preprocess, "here")
    assert (made.interpolation, made.mean, made.std) == ("bicubic", tuple(MEAN), tuple(STD))


@pytest.mark.parametrize(
    ("options", "level"),
    [
        ({}, lambda pixel: (pixel / 255 - 0.5) / 0.2),
        ({"rescale_factor": 1 / 127.5}, lambda pixel: (pixel / 127.5 - 0.5) / 0.2),
        ({"do_rescale": False}, lambda pixel: (pixel - 0.5) / 0.2),
        ({"do_normalize": False}, lambda pixel: pixel / 255),
    ],
)
def test_scales_of_pixels_are_part_of_mean_and_std(tmp_path: Path, options: Any, level: Any) -> None:
    found = Preprocess.parse(stored(tmp_path, RESNET, CONVNEXT | options).preprocess, "here")
    for pixel in (0, 99, 255):
        assert (pixel / 255 - found.mean[0]) / found.std[0] == pytest.approx(level(pixel))


def test_the_stride_is_stored_instead_of_a_name(tmp_path: Path) -> None:
    found = stored(tmp_path, {"model_type": "resnet", "downsample_in_bottleneck": True, "id2label": {"0": "LABEL_0"}})
    assert (found.row, found.classes, found.preprocess) == ({"stride": "1x1"}, (), None)


def test_another_programs_config_is_passed_over(tmp_path: Path) -> None:
    assert stored(tmp_path, {"lr": 0.1}) == Config()
    assert beside(tmp_path / "nowhere") == Config()


@pytest.mark.parametrize(
    ("config", "processor", "said"),
    [
        ({**TIMM, "model_args": {"act_layer": "silu"}}, None, "made with act_layer='silu', which edgeres has not"),
        ({**TIMM, "global_pool": "catavgmax"}, None, "pools by 'catavgmax'"),
        ({**TIMM, "pretrained_cfg": {"input_size": [3, 224, 192]}}, None, "224 x 192, edgeres takes square ones"),
        ({**TIMM, "pretrained_cfg": {"input_size": "big"}}, None, r"config\.json is damaged"),
        ({"model_type": "vit"}, None, "of type 'vit', no ResNet"),
        ({**RESNET, "hidden_act": "gelu"}, None, "hidden_act='gelu'"),
        ({**RESNET, "downsample_in_first_stage": True}, None, "downsample_in_first_stage=True"),
        ({**RESNET, "id2label": {"1": "dog"}}, None, r"config\.json is damaged"),
        (RESNET, {**CONVNEXT, "do_resize": False}, "images are not resized"),
        (
            RESNET,
            {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 9}},
            "not cropped to one size",
        ),
    ],
)
def test_what_edgeres_has_not_is_named(tmp_path: Path, config: Any, processor: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        stored(tmp_path, config, processor)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("resnet50-11ad3fa6.pth", {"resize": 232}), ("resnet50-0676ba61.pth", None), ("11ad3fa6.pth", None)],
)
def test_torchvisions_second_weights_are_known_by_their_name(name: str, wanted: Any) -> None:
    found = published(Path(name))
    assert (found.preprocess, len(found.notes)) == (wanted, wanted is not None)
