"""What a search looks at: files of a network, and ways to run the best of them."""

from pathlib import Path

import numpy as np
import pytest

from edgeres import engines
from edgeres.quantization import schemes
from edgeres.tune import space
from edgeres.tune.space import Candidate, Choice
from edgeres.types import Target

LAYERS = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "fc"]
CHOICE = Choice("openvino")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "tensorrt"])
def test_every_file_has_a_name_of_its_own_and_a_scheme_that_there_is(runtime: str) -> None:
    found = space.choices(Target(runtime, "cpu"), LAYERS, ["avx2"])
    assert len({one.name for one in found}) == len(found)
    assert len({(frozenset(schemes.find(one.scheme).roles), one) for one in found if one.scheme}) == len(found) - 1
    assert found[-1] == Choice(None)


@pytest.mark.parametrize(
    ("features", "first"),
    [
        (["sse4_2", "avx2"], "onnxruntime"),
        (["sse4_2", "avx2", "avx_vnni"], "onnxruntime-vnni"),
        (["asimd"], "onnxruntime-arm"),
        ([], "onnxruntime"),
    ],
)
def test_a_scheme_for_one_kind_of_cpu_is_tried_there_alone(features: list[str], first: str) -> None:
    found = [one.scheme for one in space.choices(Target("onnxruntime", "cpu"), LAYERS, features) if not one.keep]
    own = [name for name in found if name in ("onnxruntime-vnni", "onnxruntime-arm")]
    assert found[0] == first
    assert own == ([first] if first != "onnxruntime" else [])


def test_a_stage_at_a_time_may_stay_in_float() -> None:
    found = {one.name: one.keep for one in space.choices(Target("openvino", "cpu"), LAYERS, [])}
    assert found["openvino but layer1"] == ("layer1.0.conv1", "layer1.0.conv2")
    assert found["openvino but layer2"] == ("layer2.0.conv1",)
    flat = [one.called for one in space.choices(Target("openvino", "cpu"), ["body.1", "body.2"], [])]
    assert not any(flat)


def test_ways_to_run_are_joined_where_they_do_not_contradict_each_other() -> None:
    pinned, free = (Candidate(CHOICE, settings=(("ENABLE_CPU_PINNING", value),)) for value in ("YES", "NO"))
    fixed, two, one = Candidate(CHOICE, batch=1), Candidate(CHOICE, threads=2), Candidate(CHOICE, threads=1)
    assert space.combined([pinned, free, fixed, two]) == [
        pinned,
        Candidate(CHOICE, batch=1, settings=pinned.settings),
        Candidate(CHOICE, threads=2, settings=pinned.settings),
    ]
    assert space.combined([two, one, fixed]) == [two, Candidate(CHOICE, batch=1, threads=2)]
    assert space.combined([fixed]) == [fixed]


@pytest.mark.parametrize("name", space.SETTINGS)
def test_every_setting_is_one_that_the_runtime_takes(name: str, exported: Path) -> None:
    target = Target.parse(name)
    pytest.importorskip(target.backend)
    images = np.zeros((1, 3, 32, 32), np.float32)
    plain = engines.load(exported, target, 1).run(images)
    for key, value in space.SETTINGS[name]:
        found = engines.load(exported, target, 1, settings={key: value}).run(images)
        tolerance = 0.1 if value == "bf16" else 1e-4
        np.testing.assert_allclose(found, plain, atol=tolerance * np.abs(plain).max(), err_msg=f"{key}={value}")
