"""Detectors in torchvision's layout against a few lines of torch that follow the papers."""

import re
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the extra `export` is not installed")
from detectors import BODY, CLASSES, WIDE, State, seeded  # noqa: E402
from torch.nn import functional  # noqa: E402

from edgeres.errors import InputError, UsageError  # noqa: E402
from edgeres.models import checkpoint, detection  # noqa: E402
from edgeres.models.resnet import build  # noqa: E402


def older(state: State) -> State:
    """The spelling of torchvision before 0.13."""

    def name(key: str) -> str:
        key = re.sub(r"(_blocks\.\d)\.0\.", r"\1.", key).replace("rpn.head.conv.0.0", "rpn.head.conv")
        return re.sub(r"(_head\.conv)\.(\d)\.0", lambda found: f"{found[1]}.{2 * int(found[2])}", key)

    return {name(key): value for key, value in state.items()}


def maps(state: State, x: Any, eps: float = 1e-5) -> list[Any]:
    """What the stages of the body give."""
    body = build(BODY, 1).eval()
    found: list[Any] = []
    for stage in (1, 2, 3):
        body.get_submodule(f"layer{stage}").register_forward_hook(lambda module, given, made: found.append(made))
    mine = {key.removeprefix("backbone.body."): v for key, v in state.items() if key.startswith("backbone.body.")}
    body.load_state_dict(mine, strict=False)
    for module in body.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = eps
    body(x)
    return found


def conv(state: State, name: str, x: Any, stride: int = 1) -> Any:
    weight = state[f"{name}.weight"]
    return functional.conv2d(x, weight, state.get(f"{name}.bias"), stride, weight.shape[2] // 2)


def block(state: State, name: str, x: Any) -> Any:
    """A convolution, and the batch norm behind it where there is one."""
    made = conv(state, f"{name}.0", x)
    if f"{name}.1.weight" not in state:
        return made
    norm = [state[f"{name}.1.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
    return functional.batch_norm(made, *norm)


def pyramid(state: State, found: list[Any]) -> list[Any]:
    """arXiv:1612.03144, figure 3: each sum upsampled to the next finer map and added to its 1x1 convolution."""
    top, levels = None, []
    for index in (2, 1, 0):
        lateral = block(state, f"backbone.fpn.inner_blocks.{index}", found[index])
        top = lateral if top is None else lateral + functional.interpolate(top, size=lateral.shape[2:], mode="nearest")
        levels.insert(0, block(state, f"backbone.fpn.layer_blocks.{index}", top))
    return levels


def retinanet(state: State, x: Any, eps: float = 1e-5) -> list[Any]:
    levels = pyramid(state, maps(state, x, eps))
    levels.append(conv(state, "backbone.fpn.extra_blocks.p6", levels[-1], 2))
    levels.append(conv(state, "backbone.fpn.extra_blocks.p7", levels[-1].relu(), 2))
    found = []
    for head, top in (("classification_head", "cls_logits"), ("regression_head", "bbox_reg")):
        for level in levels:
            for depth in range(4):
                level = conv(state, f"head.{head}.conv.{depth}.0", level).relu()
            found.append(conv(state, f"head.{head}.{top}", level))
    return found


def faster(state: State, x: Any) -> list[Any]:
    levels = pyramid(state, maps(state, x))
    hidden = [*levels, levels[-1][:, :, ::2, ::2]]
    for depth in range(sum(re.fullmatch(r"rpn\.head\.conv\.\d\.0\.weight", name) is not None for name in state)):
        hidden = [conv(state, f"rpn.head.conv.{depth}.0", level).relu() for level in hidden]
    return [*levels, *(conv(state, f"rpn.head.{top}", one) for top in ("cls_logits", "bbox_pred") for one in hidden)]


def box_head(state: State, x: Any) -> list[Any]:
    """arXiv:1612.03144, section 4.2: two linear layers; of `_v2` four convolutions and one."""

    def linear(name: str, given: Any) -> Any:
        return functional.linear(given, state[f"roi_heads.{name}.weight"], state[f"roi_heads.{name}.bias"])

    if "roi_heads.box_head.fc6.weight" in state:
        hidden = linear("box_head.fc7", linear("box_head.fc6", x.reshape(len(x), -1)).relu()).relu()
    else:
        for depth in range(4):
            x = block(state, f"roi_heads.box_head.{depth}", x).relu()
        hidden = linear("box_head.5", x.reshape(len(x), -1)).relu()
    return [linear(f"box_predictor.{name}", hidden) for name in ("cls_score", "bbox_pred")]


def load(state: State, path: Path, *features: str) -> tuple[str, detection.Maps]:
    torch.save(state, path)
    return detection.load(None, checkpoint.read(path), features)


@pytest.fixture(scope="module")
def image() -> Any:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["retinanet", "fasterrcnn", "fasterrcnn_v2"])
def test_a_detector_computes_what_the_papers_say(kind: str, image: Any, tmp_path: Path) -> None:
    state = seeded(kind)
    name, model = load(state, tmp_path / "detector.pth")
    assert name == f"{kind.removesuffix('_v2')}_{BODY}_fpn"
    assert model.outputs == CLASSES
    wanted = retinanet(state, image) if kind == "retinanet" else faster(state, image)
    found = model(image)
    assert len(found) == len(wanted) == len(model.names)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["fasterrcnn", "fasterrcnn_v2"])
def test_the_box_head_computes_what_the_papers_say(kind: str, tmp_path: Path) -> None:
    state = seeded(kind)
    # Mask R-CNN has a Faster R-CNN in it; and what libraries save counts the batches that a batch norm saw.
    state["roi_heads.mask_head.0.0.weight"] = torch.zeros(3, 3, 3, 3)
    state["backbone.fpn.inner_blocks.0.1.num_batches_tracked"] = torch.zeros(())
    model = load(state, tmp_path / "detector.pth")[1]
    assert isinstance(model, detection.FasterRCNN)
    assert model.roi_heads.shape == (WIDE, 7, 7)
    regions = torch.randn(5, WIDE, 7, 7)
    for one, other in zip(model.roi_heads(regions), box_head(state, regions), strict=True):
        torch.testing.assert_close(one, other)


@torch.no_grad()
def test_older_checkpoints_have_another_spelling_and_no_epsilon(image: Any, tmp_path: Path) -> None:
    state = seeded("retinanet")
    assert older(state).keys() & {"head.regression_head.conv.6.bias", "backbone.fpn.inner_blocks.2.weight"}
    for one, other in zip(
        load(older(state), tmp_path / "old.pth")[1](image), retinanet(state, image, 0.0), strict=True
    ):
        torch.testing.assert_close(one, other)
    assert load(older(seeded("fasterrcnn")), tmp_path / "old.pth")[0] == f"fasterrcnn_{BODY}_fpn"


def test_the_epsilon_that_was_assumed_is_told(tmp_path: Path) -> None:
    """Of a detector's body alone: classifiers are all trained with 1e-5."""
    state = seeded("retinanet")
    for features in ((), ("C2",)):
        assert "add 1e-5 to the variance" in load(state, tmp_path / "new.pth", *features)[1].notes[-1]
        assert "add 0 to the variance" in load(older(state), tmp_path / "old.pth", *features)[1].notes[-1]
    body = {k.removeprefix("backbone.body."): v for k, v in state.items() if k.startswith("backbone.body.")}
    assert not load(body, tmp_path / "body.pth", "C2")[1].notes
    assert len(load(seeded("fasterrcnn"), tmp_path / "faster.pth")[1].notes) == 2


@torch.no_grad()
@pytest.mark.parametrize("holds", ["classifier", "no head", "detector", "detector's backbone"])
def test_the_maps_of_a_backbone_come_from_every_checkpoint(holds: str, image: Any, tmp_path: Path) -> None:
    state = seeded("retinanet")
    wanted = maps(state, image)
    if holds == "detector's backbone":
        state = {key: value for key, value in state.items() if key.startswith("backbone.")}
    elif holds != "detector":
        state = {k.removeprefix("backbone.body."): v for k, v in state.items() if k.startswith("backbone.body.")}
        if holds == "classifier":
            state |= {"fc.weight": torch.randn(7, 64), "fc.bias": torch.randn(7)}
    name, model = load(state, tmp_path / "backbone.pth", "C4", "C2")
    assert (name, model.names) == (BODY, ("C2", "C4"))
    for one, other in zip(model(image), (wanted[0], wanted[2]), strict=True):
        torch.testing.assert_close(one, other)


def test_a_map_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no map 'C5' of this network; there are C2, C3, C4"):
        load(seeded("retinanet"), tmp_path / "detector.pth", "C2", "C5")


@pytest.mark.parametrize("odd", ["missing", "more", "shape"])
def test_a_parameter_that_does_not_fit_is_named(odd: str, tmp_path: Path) -> None:
    state, name = seeded("retinanet"), "backbone.fpn.extra_blocks.p7.bias"
    if odd == "missing":
        del state[name]
    elif odd == "more":
        state[name := "backbone.fpn.extra_blocks.p8.bias"] = torch.zeros(3)
    else:
        state[name] = torch.zeros(3)
    with pytest.raises(InputError, match=name):
        load(state, tmp_path / "detector.pth")
