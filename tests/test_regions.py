"""What Faster R-CNN does around its two networks against a reference in torch that goes box by box, and the two
networks from one checkpoint to boxes."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="the extra `export` is not installed")
from detectors import BODY, WIDE, seeded  # noqa: E402
from torch.nn import functional  # noqa: E402

from edgeres import boxes, engines, onnx_io, regions  # noqa: E402
from edgeres.cli import main  # noqa: E402
from edgeres.data import batches, open_images  # noqa: E402
from edgeres.errors import InputError, UsageError  # noqa: E402
from edgeres.evaluate.detection import mean_average_precision  # noqa: E402
from edgeres.export import export  # noqa: E402
from edgeres.quantization.calibrate import calibrate  # noqa: E402
from edgeres.quantization.quantize import quantize  # noqa: E402
from edgeres.types import Preprocess, Target  # noqa: E402

IMAGE = (128, 64)
"""Height and width, pixels."""
CHANNELS, KINDS = 3, 4
TARGET = Target("onnxruntime", "cpu")
Array = NDArray[np.float32]


def maps(seed: int = 0) -> dict[str, Array]:
    """What a dense part might give of two images; no two scores are alike, of which either could be the first."""
    rng = np.random.default_rng(seed)
    made = {}
    logits = iter(rng.permutation(np.linspace(-3, 3, 2 * 3 * 3000, dtype=np.float32)))
    for level in range(2, 7):
        height, width = (side // 2**level for side in IMAGE)
        if level < 6:
            made[f"P{level}"] = rng.normal(0, 1, (2, CHANNELS, height, width)).astype(np.float32)
        made[f"objectness.P{level}"] = np.fromiter(logits, np.float32, 6 * height * width).reshape(2, 3, height, width)
        made[f"bbox_pred.P{level}"] = rng.normal(0, 0.4, (2, 12, height, width)).astype(np.float32)
    return made


def head(seed: int = 1) -> regions.Head:
    """A box head of one linear layer each."""
    rng = np.random.default_rng(seed)
    size = CHANNELS * 49
    scores, shifts = (rng.normal(0, 3 / size**0.5, (size, count)).astype(np.float32) for count in (KINDS, 4 * KINDS))
    return lambda given: [given.reshape(len(given), -1) @ scores, given.reshape(len(given), -1) @ shifts]


def moved(box: Any, shifts: Any) -> Any:
    """arXiv:1311.2524, appendix C, as torchvision bounds it."""
    width, height = box[2] - box[0], box[3] - box[1]
    x, y = (box[0] + box[2]) / 2 + shifts[0] * width, (box[1] + box[3]) / 2 + shifts[1] * height
    wide, high = (
        math.exp(min(float(shift), math.log(1000 / 16))) * side
        for shift, side in zip(shifts[2:], (width, height), strict=True)
    )
    made = torch.tensor([x - wide / 2, y - high / 2, x + wide / 2, y + high / 2])
    return torch.minimum(made.clamp(min=0), torch.tensor([IMAGE[1], IMAGE[0]] * 2))


def survivors(found: Any, scores: Any, overlap: float) -> list[int]:
    """Greedy non-maximum suppression, best first."""
    area = (found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1])
    kept: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        others = found[kept]
        sides = torch.minimum(found[index, 2:], others[:, 2:]) - torch.maximum(found[index, :2], others[:, :2])
        shared = sides.clamp(min=0).prod(1)
        if not bool((shared / (area[index] + area[kept] - shared) > overlap).any()):
            kept.append(index)
    return kept


def proposed(given: dict[str, Array], image: int) -> Any:
    """Proposals (K, 4), best first: each level by itself, then all of them in order."""
    every, scores = [], []
    for level in range(2, 7):
        logits, shifts = (torch.from_numpy(given[f"{kind}.P{level}"][image]) for kind in ("objectness", "bbox_pred"))
        step, side = 2**level, 2 ** (level + 3)
        found, values = [], []
        for row, column, (number, ratio) in itertools.product(
            range(logits.shape[1]), range(logits.shape[2]), enumerate((0.5, 1.0, 2.0))
        ):
            high, wide = round(side * math.sqrt(ratio) / 2), round(side / math.sqrt(ratio) / 2)
            anchor = [column * step - wide, row * step - high, column * step + wide, row * step + high]
            found.append((anchor, shifts[4 * number : 4 * number + 4, row, column]))
            values.append(logits[number, row, column])
        best = torch.stack(values).argsort(descending=True)[:1000].tolist()
        shaped = torch.stack([moved(*found[index]) for index in best])
        wide_enough = ((shaped[:, 2:] - shaped[:, :2]) >= 1e-3).all(1)
        shaped, value = shaped[wide_enough], torch.stack([values[index] for index in best])[wide_enough].sigmoid()
        kept = survivors(shaped, value, 0.7)
        every.append(shaped[kept])
        scores.append(value[kept])
    order = torch.cat(scores).argsort(descending=True)[:1000]
    return torch.cat(every)[order]


def cut(given: dict[str, Array], image: int, box: Any) -> Any:
    """RoIAlign of one box: the mean of 2 x 2 points in each of 7 x 7 bins, each between the four values around it, or 0
    beyond the last value by more than one, where a box thinner than a value at an edge has some."""
    area = float((box[2] - box[0]) * (box[3] - box[1]))
    level = min(max(math.floor(4 + math.log2(math.sqrt(area) / 224) + 1e-6), 2), 5)
    values = torch.from_numpy(given[f"P{level}"][[image]])
    scaled = box / 2**level
    size = (scaled[2:] - scaled[:2]).clamp(min=1)
    points = (torch.arange(14) + 0.5) / 14
    x, y = (scaled[axis] + points * size[axis] for axis in (0, 1))
    last = torch.tensor([values.shape[3] - 1, values.shape[2] - 1])
    grid = torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), -1) / last * 2 - 1
    sampled = functional.grid_sample(values, grid[None], padding_mode="border", align_corners=True)
    inside = (x[None, :] <= values.shape[3]) & (y[:, None] <= values.shape[2])
    return functional.avg_pool2d(sampled * inside, 2)[0]


def detected(given: dict[str, Array], image: int, second: regions.Head) -> list[tuple[int, float, list[float]]]:
    """Label, score and box of what is found, best first."""
    around = proposed(given, image)
    logits, shifts = (
        torch.from_numpy(one) for one in second(torch.stack([cut(given, image, b) for b in around]).numpy())
    )
    shares = logits.softmax(1)
    found = []
    for label in range(1, KINDS):
        rows = (shares[:, label] > 0.05).nonzero()[:, 0].tolist()
        weights = torch.tensor([10, 10, 5, 5])
        made = torch.stack([moved(around[row], shifts[row, 4 * label : 4 * label + 4] / weights) for row in rows])
        wide_enough = ((made[:, 2:] - made[:, :2]) >= 1e-2).all(1)
        made, mine = made[wide_enough], shares[rows, label][wide_enough]
        found += [(label, float(mine[index]), made[index].tolist()) for index in survivors(made, mine, 0.5)]
    return sorted(found, key=lambda one: -one[1])[:100]


def test_proposals_are_the_best_of_each_level_that_no_better_one_hides() -> None:
    given = maps()
    for image, found in enumerate(regions.proposals(given, IMAGE)):
        wanted = proposed(given, image)
        assert 300 < len(wanted) < 1000
        np.testing.assert_allclose(found.boxes, wanted.numpy(), rtol=1e-4, atol=1e-3)
        assert (np.diff(found.scores) <= 0).all()


@pytest.mark.parametrize(
    ("side", "level"), [(8, 2), (111, 2), (112, 3), (223.9, 3), (224, 4), (447, 4), (448, 5), (1000, 5)]
)
def test_a_box_is_cut_out_of_the_map_that_fits_its_size(side: float, level: int) -> None:
    given = {f"P{one}": np.full((1, 1, 1024 >> one, 1024 >> one), one, np.float32) for one in range(2, 6)}
    found = regions.pooled(given, 0, np.array([[4, 8, 4 + side, 8 + side]], np.float32), (1024, 1024))
    assert found.shape == (1, 1, 7, 7)
    assert np.unique(found).tolist() == [level]


def test_what_lies_below_a_box_is_its_mean_between_the_values_around() -> None:
    """Also at the edges of the image, and of a box thinner than a value of its map."""
    given = maps(2)
    some = [[0, 0, 64, 128], [3.3, 7.1, 20.2, 100.9], [60, 120, 64, 128], [10, 10, 11, 11], [0, 127.2, 63.5, 128]]
    found = regions.pooled(given, 1, np.array(some, np.float32), IMAGE)
    wanted = np.stack([cut(given, 1, torch.tensor(box)).numpy() for box in some])
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_boxes_are_those_of_the_reference() -> None:
    given = maps(3)
    for image, found in enumerate(regions.detect(given, IMAGE, head())):
        wanted = detected(given, image, head())
        assert len(wanted) == 100
        assert {label for label, _, _ in wanted} == {1, 2, 3}
        assert found.labels.tolist() == [label for label, _, _ in wanted]
        np.testing.assert_allclose(found.scores, [score for _, score, _ in wanted], atol=1e-4)
        np.testing.assert_allclose(found.boxes, [box for _, _, box in wanted], atol=0.02)


def test_where_the_head_sees_background_alone_there_are_no_boxes() -> None:
    sure = lambda given: [np.eye(KINDS, dtype=np.float32)[np.zeros(len(given), int)] * 9, np.zeros((len(given), 16))]  # noqa: E731
    assert [len(found.boxes) for found in regions.detect(maps(), IMAGE, sure)] == [0, 0]


@pytest.fixture(scope="module")
def files(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both networks of a Faster R-CNN of random weights for 32 x 32 pixels, and regions of ten images."""
    folder = tmp_path_factory.mktemp("faster")
    torch.save(seeded("fasterrcnn"), folder / "faster.pth")
    made = {"checkpoint": folder / "faster.pth"}
    for name, box_head in (("dense", False), ("head", True)):
        options: dict[str, Any] = {"preprocess": {"resize": 32, "crop": 32}, "box_head": box_head}
        made[name] = export(made["checkpoint"], folder / f"{name}.onnx", **options).path
    images = open_images(image_folder).take(range(10))
    made["regions"] = regions.cut(made["dense"], images, folder / "regions.npz", each=12).path
    return made


def test_the_box_head_takes_regions(files: dict[str, Path]) -> None:
    model = onnx_io.load(files["head"])
    info = onnx_io.description(model, files["head"])
    assert (info.arch, info.preprocess, info.task) == (f"fasterrcnn_{BODY}_fpn_box_head", None, "features")
    assert onnx_io.input_shape(model)[1:] == (WIDE, 7, 7)
    assert [value.name for value in model.graph.output] == ["cls_score", "bbox_pred"]


def test_regions_of_an_image_go_from_its_best_proposal_to_its_last(files: dict[str, Path], image_folder: Path) -> None:
    found = open_images(files["regions"])
    images = open_images(image_folder).take(range(10))
    engine = engines.load(files["dense"], TARGET)
    start = 0
    for batch in batches(images, onnx_io.info(files["dense"]).preprocess, 1):
        given = dict(zip(engine.outputs, engine.maps(batch.images), strict=True))
        every = regions.proposals(given, (32, 32))[0].boxes
        ranks = [int(name.rpartition("#")[2]) for name in found.names if name.startswith(f"{batch.names[0]}#")]
        assert ranks[0] == 0
        assert ranks[-1] == len(every) - 1
        assert len(ranks) == min(12, len(every))
        assert found.pixels is not None
        wanted = regions.pooled(given, 0, every[ranks], (32, 32))
        np.testing.assert_allclose(found.pixels[start : start + len(ranks)], wanted, atol=1e-5)
        start += len(ranks)
    assert start == len(found)


def test_the_whole_in_int8_finds_the_boxes_of_fp32(
    files: dict[str, Path], image_folder: Path, mirrored_folder: Path, tmp_path: Path
) -> None:
    images = open_images(image_folder).take(range(10))
    pairs = {"fp32": (files["dense"], files["head"])}
    int8 = []
    for name, source in (("dense", images), ("head", open_images(files["regions"]))):
        statistics = calibrate(files[name], source, tmp_path / f"{name}.stats").path
        int8.append(quantize(files[name], statistics, tmp_path / f"{name}.onnx", scheme="onnxruntime").path)
    pairs["int8"] = (int8[0], int8[1])
    found: dict[str, list[boxes.Boxes]] = {}
    for name, (dense, second) in pairs.items():
        first, last = engines.load(dense, TARGET), engines.load(second, TARGET)
        found[name] = []
        for batch in batches(open_images(mirrored_folder).take(range(4)), onnx_io.info(dense).preprocess, 2):
            given = dict(zip(first.outputs, first.maps(batch.images), strict=True))
            found[name] += regions.detect(given, (32, 32), last.maps)
    assert all(len(one.boxes) for one in found["fp32"])
    assert 0.2 < mean_average_precision(found["int8"], found["fp32"], 0.5) < 1


def test_the_commands_go_from_a_checkpoint_to_a_judged_box_head(
    files: dict[str, Path],
    image_folder: Path,
    mirrored_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    size = ["--size", "32", "--resize", "32"]
    model, int8 = str(tmp_path / "head.onnx"), str(tmp_path / "int8.onnx")
    assert main(["export", "--weights", str(files["checkpoint"]), "--box-head", "-o", model, *size, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert 0 < told["parity"]["outputs"]["bbox_pred"] < 1e-4
    for folder, name in ((image_folder, "a"), (mirrored_folder, "b")):
        command = ["regions", str(files["dense"]), "-d", str(folder), "--each", "8", "--samples", "6"]
        assert main([*command, "-o", str(tmp_path / f"{name}.npz")]) == 0
    command = ["quantize", model, "-d", str(tmp_path / "a.npz"), "--scheme", "openvino", "-o", int8]
    assert main(command) == 0
    capsys.readouterr()
    command = ["eval", int8, "-t", "onnxruntime:cpu", "-d", str(tmp_path / "b.npz"), "--reference", model, "--json"]
    assert main(command) == 0
    scores = {score["name"]: score["value"] for score in json.loads(capsys.readouterr().out)["scores"]}
    assert set(scores) == {"SQNR cls_score", "cosine cls_score", "SQNR bbox_pred", "cosine bbox_pred"}
    assert 20 < scores["SQNR cls_score"] < 60


def test_images_and_regions_are_not_taken_for_each_other(
    files: dict[str, Path], image_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="holds images, the network takes regions; make them with `edgeres regions`"):
        calibrate(files["head"], open_images(image_folder), tmp_path / "head.stats")
    with pytest.raises(UsageError, match="holds tensors, the network takes images; give images"):
        next(batches(open_images(files["regions"]), Preprocess(), 1))
    with pytest.raises(UsageError, match="takes no images, so no camera's either; leave --input out"):
        engines.build(files["head"], TARGET, tmp_path / "engine.onnx", frame="u8-nhwc")
    with pytest.raises(UsageError, match=f"is fasterrcnn_{BODY}_fpn_box_head, not the dense part"):
        regions.cut(files["head"], open_images(image_folder), tmp_path / "regions.npz")


def test_a_detector_of_one_stage_has_no_box_head(tmp_path: Path) -> None:
    torch.save(seeded("retinanet"), tmp_path / "retinanet.pth")
    with pytest.raises(UsageError, match=f"is retinanet_{BODY}_fpn, which has no box head"):
        export(tmp_path / "retinanet.pth", tmp_path / "head.onnx", preprocess={"crop": 32, "resize": 32}, box_head=True)


def test_tensors_that_are_not_as_they_should_be_are_refused(tmp_path: Path) -> None:
    for tensors, names in ((np.zeros((2, 3)), "ab"), (np.zeros((2, 3, 7, 7), np.float32), "aa")):
        np.savez(tmp_path / "odd.npz", tensors=tensors, names=np.array(list(names)))
        with pytest.raises(InputError, match="its tensors are not float32"):
            open_images(tmp_path / "odd.npz")
