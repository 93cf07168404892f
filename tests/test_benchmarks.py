"""The benchmark scripts: what their figures mean, on a small network; their peers are not installed here."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[1] / "pipelines" / "benchmarks"


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def test_calibration_and_evaluation_share_no_image(image_folder: Path) -> None:
    from tools import first

    calibration, evaluation = first(image_folder, 7), first(image_folder, None, skip=7)
    assert len(calibration) == 7
    assert sorted(calibration.names + evaluation.names) == sorted(first(image_folder, None).names)
    assert max(name.split("/")[1] for name in calibration.names) <= min(n.split("/")[1] for n in evaluation.names)


def test_figures_are_those_of_the_definitions() -> None:
    from peers import figures

    reference = np.array([[3.0, 0.0], [0.0, 4.0], [1.0, 0.0], [0.0, 2.0]], np.float32)
    given = reference.copy()
    given[2] = [0.0, 1.0]  # error energy 2 of 30, and another class
    found = figures(given, reference, np.array([0, 1, 0, 0]))
    assert found["top1"] == 0.5
    assert found["drop"] == 0.25
    assert found["agreement"] == 0.75
    assert found["sqnr"] == pytest.approx(10 * np.log10(30 / 2))


def test_exact_runs_each_q_and_dq_as_written(
    exported: Path, image_folder: Path, calibrated: Path, tmp_path: Path
) -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator
    from peers import figures, logits
    from tools import arrays, first

    from edgeres.quantization.quantize import quantize

    path = quantize(exported, calibrated, tmp_path / "int8.onnx", scheme="portable").path
    images = np.concatenate(list(arrays(exported, first(image_folder, 2))))
    expected = ReferenceEvaluator(onnx.load(path)).run(None, {"input": images})[0]
    # A tie that another order of summation rounds the other way moves an image's logits a little.
    assert figures(logits(path, None, images, 1), expected, np.zeros(2, np.int64))["sqnr"] > 20


def test_the_table_of_peers(exported: Path, image_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    options = ["--calibration", "4", "--only", "edgeres portable,NNCF", "--no-latency", "--out", tmp_path]
    command = [sys.executable, SCRIPTS / "peers.py", exported, image_folder, *options, "--json", tmp_path / "raw.json"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    raw = json.loads((tmp_path / "raw.json").read_text())
    (name,) = [name for name in raw["costs"] if name.startswith("edgeres portable")][:1]
    assert set(raw["figures"][name]) == {"onnxruntime", "openvino", "exact"}
    assert raw["figures"][name]["exact"]["sqnr"] > 5  # a net of seeded weights is harder than a trained one
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert any(line.startswith(f"| {name} |") for line in lines)


def test_other_names_give_the_photos_another_order(image_folder: Path, tmp_path: Path) -> None:
    from memory import links

    plain = sorted(links(image_folder, 30, tmp_path / "plain").iterdir())
    shuffled = sorted(links(image_folder, 30, tmp_path / "shuffled", shuffled=True).iterdir())
    assert [path.resolve() for path in plain] != [path.resolve() for path in shuffled]
    assert sorted(path.resolve() for path in plain) == sorted(path.resolve() for path in shuffled)


def test_the_noise_of_the_gate_is_as_it_says() -> None:
    from gate import timings

    rounds = np.log(timings(np.random.default_rng(0), 300, 400, steady=True))
    spikes = rounds - np.median(rounds, axis=1, keepdims=True) > 0.2
    assert spikes.mean() == pytest.approx(0.03 * np.exp(-0.2 / 0.5), abs=0.01)
    within = np.where(spikes, np.nan, rounds - np.median(rounds, axis=1, keepdims=True))
    assert np.nanmean(within[:, 1:] * within[:, :-1]) / np.nanvar(within) > 0.7
    assert 0.01 < np.median(rounds, axis=1).std() < 0.03


def test_the_table_of_the_gate_counts_every_comparison() -> None:
    from gate import REPORTS, simulated, table

    lines = table(simulated(2)).splitlines()[2:]
    assert len(lines) == 2 * (len(REPORTS) + 1)
    counted = [[int(part.split(" of ")[0]) for part in line.split(" | ")[1:4]] for line in lines]
    assert [sum(row) for row in counted] == [2] * len(lines)


@pytest.mark.parametrize("inner", [True, False])
@pytest.mark.parametrize(("factor", "verdict"), [(1.029, "yes"), (0.971, "yes"), (1.031, "no")])
def test_a_vendors_ratio_is_the_median_of_the_rounds(factor: float, verdict: str, inner: bool) -> None:
    """Of the runtime's own latencies where it tells them, as the vendor's tool does; else host to host."""
    from vendor import row

    outer = 1.5 if inner else factor
    rounds = [(outer * tool, factor * tool if inner else None, tool) for tool in (10.0, 20.0, 30.0)]
    rounds[0] = (80.0, 60.0 if inner else None, 10.0)  # a disturbed round
    cells = [cell.strip() for cell in row("file", rounds).split("|")[1:-1]]
    assert cells[3] == f"**{outer:.3f}**"
    assert cells[5:] == [f"{30 * factor:.3f}" if inner else "—", f"**{factor:.3f}**" if inner else "—", verdict]


def test_evaluation_is_held_against_the_bound_of_its_own_figures(exported: Path, image_folder: Path) -> None:
    command = [sys.executable, SCRIPTS / "evaluation.py", exported, "onnxruntime:cpu", image_folder, "--rounds", "1"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1:3] for line in done.stdout.splitlines() if line.startswith("| ")]
    alone, decode, bound, whole = (float(figure) for _, figure in rows[1:])
    assert bound == pytest.approx(alone * decode / (alone + decode), rel=1e-2)
    told = [float(share) for share in re.findall(r"([\d.]+)%", done.stdout.splitlines()[-1])]
    assert told == pytest.approx([100 * whole / alone, 100 * whole / bound], rel=2e-2)


@pytest.mark.parametrize(
    ("factor", "noise", "winner"), [(0.95, 0.01, "edgeres"), (1.05, 0.01, "the other"), (1.0, 0.05, "not to be told")]
)
def test_the_fastest_is_the_one_whose_interval_says_so(
    factor: float, noise: float, winner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fastest

    from edgeres.types import Target

    random = np.random.default_rng(0)
    turns = [(10.0 * drift, 10.0 * drift * factor * np.exp(noise * random.normal())) for drift in np.arange(1, 3, 0.1)]
    monkeypatch.setattr(fastest.ab, "rounds", lambda base, head, advance: iter(turns))
    own, other, ratio, word = (
        part.strip() for part in fastest.row(Target("openvino", "cpu"), Path("a"), Path("b"), 20).split("|")
    )
    assert word.startswith(winner)
    for told, times in zip((other, own), zip(*turns, strict=True), strict=True):
        assert float(told) == pytest.approx(np.median(times), abs=0.01)
    middle, low, high = (float(figure) for figure in re.findall(r"[\d.]+", ratio))
    assert low <= middle <= high
    assert middle == pytest.approx(factor, rel=0.05)


def test_the_roofline_has_every_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    import roofline as script

    from edgeres.limits.roofline import Layer, Roofline
    from edgeres.measure import Measured
    from edgeres.measure.peaks import Limits, Peak
    from edgeres.schema import Latency

    limits = Limits({"int8": Peak(200e9, "x")}, ((10**6, 50e9), (10**8, 10e9)))
    layers = tuple(Layer(f"layer{index}", "int8", "k", 1.0 + index, 10**8, 10**6, 0.5) for index in range(5))
    latency = Latency(p50=20.0, p90=20, p99=20, batch=1, throughput=50, samples=[20.0], warmup=1, stable=True)
    found = Roofline(layers, limits, Measured(latency, {}), 1)
    head, _, *rows = script.layers("file", "openvino", found, 2).splitlines()[3:]
    assert [row.split("|")[1].strip() for row in rows] == ["layer4", "layer3", "3 others"]
    assert sum(float(row.split("|")[3]) for row in rows) == pytest.approx(15.0)
    assert {row.count("|") for row in [head, *rows]} == {10}
    line = script.summary([("file", "openvino", found)]).splitlines()[2]
    assert "**12%**" in line  # five layers of half a millisecond each, of 20 ms
    assert "400 | — | 50 to 10" in line
