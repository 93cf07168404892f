"""`--max-drop`: the layers that INT8 breaks stay in float and no other, held against each layer tried by itself."""

import json
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeres import measure, onnx_io
from edgeres.cli import main
from edgeres.data import ImageSet, open_images
from edgeres.errors import EdgeresError, UsageError
from edgeres.quantization import equalize, sensitivity, simulate
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.graph import WEIGHTED, Graph
from edgeres.quantization.quantize import quantize
from edgeres.quantization.sensitivity import Found, within
from quantization.reference import Array, changed, constants, logits, pixels, sqnr

COUNT = 24
BOUND = 5.0
"""Points: one of the images."""


class Case(NamedTuple):
    """A network, its statistics, and images labelled with the network's own top-1."""

    model: Path
    stats: Path
    labelled: Path
    mirrored: Path
    """The same images turned round, which calibrated."""

    images: Array
    top1: NDArray[np.int64]

    @property
    def validation(self) -> ImageSet:
        return open_images(self.labelled)

    def drop(self, path: Path) -> float:
        """Points that a file loses, in ONNX Runtime without optimisation."""
        return 100 * float((logits(path, self.images).argmax(1) != self.top1).mean())

    def search(self, out: Path, **options: Any) -> Found:
        given = {"max_drop": BOUND, "validation": self.validation, "scheme": "portable", **options}
        return within(self.model, self.stats, out, out.parent, **given)

    def brute(self, keep: Collection[str], folder: Path) -> float:
        return self.drop(quantize(self.model, self.stats, folder / "brute.onnx", scheme="portable", keep=keep).path)


@pytest.fixture(scope="module")
def cases(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Case]:
    """Gives a network in which the named layers cannot be quantized.

    The pixels' green is always their mean, and the features' first channel is always zero. Whatever weights meet
    them, the network computes the same; if these are large, their rows have no steps left for the other weights.
    Equalisation cannot help: it leaves the image alone, and what is always zero.
    """
    root, made = tmp_path_factory.mktemp("hard"), dict[tuple[str, ...], Case]()
    base = onnx_io.load(exported)
    info = onnx_io.info(exported)
    info = replace(info, classes=(), preprocess=replace(info.preprocess, mean=(0.485, 128 / 255, 0.406)))
    coarse = np.random.default_rng(1).integers(0, 256, (400, 4, 4, 3), np.uint8)
    images = np.stack([Image.fromarray(one).resize((32, 32), Image.Resampling.BICUBIC) for one in coarse])
    images[..., 1] = 128
    np.savez(root / "all.npz", images=images, labels=np.zeros(len(images), int))
    values = {name: one.copy() for name, one in constants(base).items()}
    for block in range(3):
        values[f"layer3.{block}.conv2.weight"][0] = values[f"layer3.{block}.conv2.bias"][0] = 0
    onnx_io.describe(base, info)
    onnx_io.save(changed(base, values), root / "whole.onnx")
    given = pixels(root / "whole.onnx", open_images(root / "all.npz"))
    assert not given[:, 1].any()
    mean = logits(root / "whole.onnx", given).mean(0)
    values["fc.bias"] -= mean  # every class is sometimes the first
    exact = np.sort(logits(root / "whole.onnx", given) - mean)
    sure = np.argsort(exact[:, -2] - exact[:, -1])[:COUNT]  # INT8 at its best changes none of these

    def make(*broken: str) -> Case:
        if broken not in made:
            here, mine = root / "-".join(["hard", *broken]), dict(values)
            for name in broken:
                mine[f"{name}.weight"] = weight = values[f"{name}.weight"].copy()
                weight[:, int(name == "conv1")] = 400 * np.abs(weight).max()
            model = here.with_suffix(".onnx")
            onnx_io.save(changed(base, mine), model)
            labels = logits(model, given[sure]).argmax(1)
            assert len(set(labels.tolist())) > 2
            np.savez(here.with_suffix(".npz"), images=images[sure], labels=labels)
            labelled = here.with_suffix(".npz")
            mirrored = here.with_suffix(".mirrored.npz")
            np.savez(mirrored, images=images[sure][:, :, ::-1], labels=labels)
            stats = calibrate(model, open_images(mirrored), here.with_suffix(".stats")).path
            made[broken] = Case(model, stats, labelled, mirrored, given[sure], labels)
        return made[broken]

    return make


def test_where_the_bound_holds_from_the_start_all_layers_are_int8(cases: Callable[..., Case], tmp_path: Path) -> None:
    case = cases()
    found = case.search(tmp_path / "out.onnx")
    assert (found.kept, found.before, found.after) == ((), 0, 0)
    assert case.drop(tmp_path / "out.onnx") == 0
    assert "keep" not in found.artifact.sidecar.parameters
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "int8.onnx").read_bytes()
    assert not (tmp_path / "candidate.onnx").exists()


def test_the_one_layer_that_is_needed_is_the_one_that_brute_force_finds(
    cases: Callable[..., Case], tmp_path: Path
) -> None:
    case = cases("conv1")
    names = [node.name for node in onnx_io.load(case.model).graph.node if node.op_type in WEIGHTED]
    enough = [name for name in [*names[::2], "fc"] if case.brute([name], tmp_path) <= BOUND]
    assert enough == ["conv1"]
    said: list[str] = []
    found = case.search(tmp_path / "out.onnx", say=said.append)
    assert found.kept == ("conv1",)
    assert found.after == pytest.approx(case.drop(tmp_path / "out.onnx"))
    assert found.after <= BOUND
    assert found.before == pytest.approx(case.drop(tmp_path / "int8.onnx"))
    assert found.before == pytest.approx(case.brute([], tmp_path))
    assert found.before > 2 * BOUND
    assert said[0] == f"0 layers in float: drop +{found.before:.2f} points"
    assert said[1].startswith("most sensitive: conv1 ")


def test_two_layers_that_are_needed_stay_in_float_and_no_more(cases: Callable[..., Case], tmp_path: Path) -> None:
    case = cases("conv1", "fc")
    found = case.search(tmp_path / "out.onnx")
    assert set(found.kept) == {"conv1", "fc"}
    assert found.artifact.sidecar.parameters["keep"] == ["conv1", "fc"]
    assert found.artifact.sidecar.results["layers"] == 18
    assert found.after == pytest.approx(case.drop(tmp_path / "out.onnx"))
    assert found.after <= BOUND
    for name in ("conv1", "fc"):
        assert case.brute([name], tmp_path) > BOUND
    given = constants(onnx_io.load(case.model))["fc.weight"]
    np.testing.assert_array_equal(constants(onnx_io.load(tmp_path / "out.onnx"))["fc.weight"], given)


def test_a_layer_that_was_ranked_high_but_is_not_needed_goes_back_to_int8(
    cases: Callable[..., Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranking = ["layer2.1.conv1", "conv1", "layer1.0.conv2", "layer3.2.conv2", "fc", "layer2.0.conv1"]
    names = [node.name for node in onnx_io.load(cases().model).graph.node if node.op_type in WEIGHTED]
    ranking += [name for name in names if name not in ranking]
    monkeypatch.setattr(sensitivity, "_ranking", lambda *_: ranking)
    tried: list[int] = []
    found = cases("conv1", "fc").search(tmp_path / "out.onnx", say=lambda text: tried.append(int(text.split()[0])))
    assert found.kept == ("conv1", "fc")
    assert tried[:6] == [0, 10, 5, 2, 3, 4]  # halved until four are too few and five are enough
    assert tried[6:] == [4, 3, 2, 1, 1, 2]  # without each of them, then what is written


def test_a_looser_bound_keeps_less(cases: Callable[..., Case], tmp_path: Path) -> None:
    found = cases("conv1").search(tmp_path / "out.onnx", max_drop=100)
    assert found.kept == ()
    assert found.after == found.before > BOUND


def test_what_only_sums_spoil_is_left_in_float_with_the_layers_around_them(
    cases: Callable[..., Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outlier in the residual stream of the last stage, which the sums read and the pooling."""
    case = cases()
    values = {name: one.copy() for name, one in constants(onnx_io.load(case.model)).items()}
    for block in range(3):
        values[f"layer3.{block}.conv2.bias"][0] = 1e4
    for name in ("layer3.1.conv1", "layer3.2.conv1", "fc"):
        values[f"{name}.weight"][:, 0] = 0
    onnx_io.save(changed(onnx_io.load(case.model), values), tmp_path / "x.onnx")
    monkeypatch.setattr(equalize, "scales", lambda graph, found: {})
    calibrate(tmp_path / "x.onnx", open_images(case.mirrored), tmp_path / "x.stats")
    spoilt = case._replace(model=tmp_path / "x.onnx", stats=tmp_path / "x.stats")
    found = spoilt.search(tmp_path / "out.onnx", method="minmax")
    assert found.before > BOUND >= found.after
    assert any(name.startswith("layer3") for name in found.kept)


def test_a_bound_that_layers_in_float_cannot_hold_is_refused(
    cases: Callable[..., Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, honest = cases(), simulate.logits
    exact = onnx_io.load(case.model)
    monkeypatch.setattr(simulate, "logits", lambda model, images: honest(model, images) * (1 if model == exact else -1))
    with pytest.raises(EdgeresError, match=r"loses \d+\.\d\d points in scheme portable even with all its layers"):
        case.search(tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"scheme": "fp16"}, "scheme fp16 has no INT8"),
        ({"scheme": "int4"}, "no scheme 'int4'"),
        ({"method": "median"}, "no range method 'median'"),
        ({"level": "perfect"}, "no level 'perfect'"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_measured(
    wrong: dict[str, str], sentence: str, cases: Callable[..., Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity.simulate, "logits", None)
    with pytest.raises(UsageError, match=sentence):
        cases().search(tmp_path / "out.onnx", **wrong)
    with pytest.raises(UsageError, match="give another name"):
        cases().search(cases().model)


@pytest.mark.parametrize("part", ["statistics", "images"])
def test_validation_images_that_calibrated_are_refused(part: str, cases: Callable[..., Case], tmp_path: Path) -> None:
    case = cases()
    seen = {"statistics": case.mirrored, "images": case.labelled}[part]
    shared = r"npz shares 1 of its 1 images with the calibration \(of .*hard\.stats\), the first is 000003; evaluate on"
    with pytest.raises(UsageError, match=shared):
        case.search(tmp_path / "out.onnx", validation=open_images(seen).take([3]), images=case.validation)
    assert not list(tmp_path.iterdir())


def test_the_arithmetic_of_a_resnet20_is_40_million_multiplications(exported: Path) -> None:
    """He et al., "Deep Residual Learning" (arXiv:1512.03385): counted by hand, stage by stage."""
    found = sensitivity.macs(Graph.of(onnx_io.load(exported), exported))
    assert found["conv1"] == 3 * 16 * 9 * 32 * 32
    assert found["layer2.0.conv1"] == 16 * 32 * 9 * 16 * 16
    assert found["fc"] == 64 * 10
    assert sum(found.values()) == 40_551_040


def test_the_command_says_which_layers_and_what_they_cost(
    cases: Callable[..., Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[tuple[str, str]] = []

    def timed(subjects: list[Any], rounds: int) -> list[Any]:
        measured.extend((one.path.name, str(one.target)) for one in subjects)
        assert all(one.path.exists() for one in subjects)
        return [SimpleNamespace(latency=SimpleNamespace(p50=p50)) for p50 in (1.25, 1.5)]

    monkeypatch.setattr(measure, "measure", timed)
    case, out = cases("conv1"), tmp_path / "out.onnx"
    line = ["quantize", str(case.model), "--stats", str(case.stats), "-o", str(out), "--scheme", "onnxruntime"]
    line += ["--max-drop", str(BOUND), "--validation", str(case.labelled)]
    assert main([*line, "--json"]) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["kept"] == ["conv1"]
    assert found["drop"] == pytest.approx(case.drop(out))
    assert found["drop"] <= BOUND < found["drop_int8"]
    assert found["p50_ms"] == [1.25, 1.5]
    assert measured == [("int8.onnx", "onnxruntime:cpu"), ("out.onnx", "onnxruntime:cpu")]
    assert "1 layers in float: drop +" in shown.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx", "out.onnx.json"]


def test_the_command_keeps_nothing_and_measures_nothing_where_int8_is_good_enough(
    cases: Callable[..., Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "measure", None)
    case, out = cases(), tmp_path / "out.onnx"
    line = ["quantize", str(case.model), "--stats", str(case.stats), "-o", str(out), "--scheme", "onnxruntime"]
    line += ["--max-drop", "1", "--validation", str(case.labelled)]
    assert main(line) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{out}: top-1 drop +0.00 points, +0.00 with all layers in INT8"
    assert second == "in float: none"
    assert sqnr(logits(out, case.images), logits(case.model, case.images)) > 15
