"""Trained weights as people keep them: read whole, never executed, matched to the table."""

import json
import os
import pathlib
import pickle
import tempfile
import warnings
from argparse import Namespace
from collections import OrderedDict, defaultdict
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the extra `export` is not installed")

from safetensors.torch import save_file  # noqa: E402

from edgeres.errors import EdgeresError, InputError, UsageError  # noqa: E402
from edgeres.models.checkpoint import Checkpoint, load, read  # noqa: E402
from edgeres.models.config import Config  # noqa: E402
from edgeres.models.resnet import ARCHITECTURES, build  # noqa: E402

STATE: dict[str, Any] = build("cifar_resnet20", 3).state_dict()


def saved(tmp_path: Path, content: Any, name: str = "weights.pth") -> Path:
    torch.save(content, tmp_path / name)
    return tmp_path / name


def prefixed(prefix: str) -> dict[str, Any]:
    return {prefix + name: value for name, value in STATE.items()}


def with_head(stem: str) -> dict[str, Any]:
    return {name.replace("fc.", f"{stem}."): value for name, value in STATE.items()}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        OrderedDict(STATE),
        {"state_dict": STATE, "epoch": 3, "best_prec1": 91.7},
        {"model_state_dict": STATE, "optimizer_state_dict": {"state": {}, "param_groups": []}},
        {"model": STATE},
        {"net": STATE, "acc": 95.0},
        {"model": {"state_dict": STATE}},
        {"net": {"model": {"state_dict": STATE}}},
        prefixed("module."),
        prefixed("_orig_mod."),
        prefixed("module._orig_mod."),
        {"state_dict": prefixed("model."), "hyper_parameters": {"lr": 0.1}},
        prefixed("backbone."),
        with_head("linear"),
        {"state_dict": {f"module.{name}": value for name, value in with_head("linear").items()}},
        {name: value for name, value in STATE.items() if not name.endswith("num_batches_tracked")},
    ],
)
def test_a_state_dict_is_found_however_it_is_wrapped(tmp_path: Path, content: Any) -> None:
    _, model = load("cifar_resnet20", read(saved(tmp_path, content)))
    assert not model.training
    got = model.state_dict()
    assert all(torch.equal(got[key], value) for key, value in STATE.items() if not key.endswith("tracked"))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".th", ".ckpt", ".bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_both_of_torchs_formats_are_read_under_any_name(tmp_path: Path, suffix: str, zipped: bool) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save(STATE, path, _use_new_zipfile_serialization=zipped)
    assert torch.equal(read(path).state["conv1.weight"], STATE["conv1.weight"])


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_width_become_float32(tmp_path: Path, kind: Any) -> None:
    content = {name: value.to(kind) if value.is_floating_point() else value for name, value in STATE.items()}
    state = read(saved(tmp_path, content)).state
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert torch.equal(state["fc.weight"], content["fc.weight"].float())


def safetensors(path: Path, metadata: dict[str, str] | None, half: bool = True) -> Path:
    kind = torch.float16 if half else torch.float32
    save_file({name: value.to(kind) for name, value in STATE.items()}, path, metadata=metadata)
    return path


def test_safetensors_bring_what_was_stored_beside_the_weights(tmp_path: Path) -> None:
    stored = {
        "arch": "cifar_resnet20",
        "classes": json.dumps(["cat", "dog", "été"]),
        "preprocess": json.dumps({"resize": 40, "crop": 32}),
    }
    found = read(safetensors(tmp_path / "weights.safetensors", stored))
    assert (found.config.classes, found.config.preprocess) == (("cat", "dog", "été"), {"resize": 40, "crop": 32})
    assert torch.equal(found.state["conv1.weight"], STATE["conv1.weight"].half().float())
    assert load(None, found)[0] == "cifar_resnet20"


def test_safetensors_may_hold_weights_alone(tmp_path: Path) -> None:
    found = read(safetensors(tmp_path / "weights.safetensors", None, half=False))
    assert (found.config.classes, found.config.preprocess) == ((), None)
    assert load("cifar_resnet20", found)[0] == "cifar_resnet20"


def test_the_stored_architecture_yields_to_the_one_asked_for(tmp_path: Path) -> None:
    found = read(safetensors(tmp_path / "weights.safetensors", {"arch": "cifar_resnet32"}))
    assert load("cifar_resnet20", found)[0] == "cifar_resnet20"
    with pytest.raises(InputError, match=r"does not fit cifar_resnet32: layer1\.3\.conv1\.weight is missing"):
        load(None, found)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"classes": "cat, dog"}, "the stored `classes` is not JSON"),
        ({"classes": '{"0": "cat"}'}, "are not a JSON list of names"),
        ({"classes": "[0, 1]"}, "are not a JSON list of names"),
        ({"preprocess": "{"}, "the stored `preprocess` is not JSON"),
    ],
)
def test_damaged_metadata_are_named(tmp_path: Path, metadata: dict[str, str], said: str) -> None:
    path = safetensors(tmp_path / "weights.safetensors", metadata)
    with pytest.raises(InputError, match=said):
        read(path)


# Beside the weights


AVERAGED = {name: value + 1 for name, value in STATE.items()}


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"state_dict": STATE, "state_dict_ema": AVERAGED, "arch": "resnet20"}, "state_dict_ema"),
        ({"model": STATE, "model_ema": {"n_averaged": torch.tensor(9), **AVERAGED}, "epoch": 3}, "model_ema"),
        ({"ema": {"shadow": AVERAGED}, "net": {"state_dict": STATE}}, "ema.shadow"),
    ],
)
def test_averaged_weights_go_first_and_it_is_said(tmp_path: Path, content: Any, place: str) -> None:
    found = read(saved(tmp_path, content))
    assert torch.equal(found.state["conv1.weight"], AVERAGED["conv1.weight"])
    assert found.notes[0].startswith(f"the averaged weights `{place}` are taken, not `")
    load("cifar_resnet20", found)


@pytest.mark.parametrize("averaged", [None, {}, {"decay": 0.999}, {"conv1.weight": STATE["conv1.weight"]}])
def test_averages_of_no_whole_network_are_passed_over(tmp_path: Path, averaged: Any) -> None:
    found = read(saved(tmp_path, {"state_dict": STATE, "state_dict_ema": averaged}))
    assert torch.equal(found.state["conv1.weight"], STATE["conv1.weight"])
    assert found.notes == ()


def test_of_several_networks_the_usual_one_is_taken_and_it_is_said(tmp_path: Path) -> None:
    found = read(saved(tmp_path, {"best": AVERAGED, "model": STATE}))
    assert (found.notes, bool(torch.equal(found.state["conv1.weight"], STATE["conv1.weight"]))) == (
        ("the weights `model` are taken, not `best`",),
        True,
    )
    with pytest.raises(InputError, match=r"holds 2 networks \(student, teacher\); save one of them"):
        read(saved(tmp_path, {"student": STATE, "teacher": AVERAGED}))


def test_what_training_loops_keep_beside_the_weights_is_passed_over(tmp_path: Path) -> None:
    moment = {"step": torch.tensor(3.0), "exp_avg": STATE["conv1.weight"]}
    counts = defaultdict(list, {np.int64(3): [0.1]})
    content = {
        "state_dict": STATE,
        "optimizer": {"state": {0: moment}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "args": Namespace(lr=0.1, out=pathlib.PurePosixPath("out"), nested=Namespace(steps=[1, 2])),
        "hyper_parameters": {"path": Path("here"), "history": counts},
        "best": np.float64(91.7),
        "confusion": np.eye(3),
    }
    path = saved(tmp_path, content)
    before = pathlib.PurePosixPath, Namespace, np.dtype
    assert load("cifar_resnet20", read(path))[1].fc.out_features == 3
    assert (pathlib.PurePosixPath, Namespace, np.dtype) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)  # nothing of it is left allowed


# Folders


def test_a_folder_of_a_hub_brings_classes_and_preprocessing(tmp_path: Path) -> None:
    safetensors(tmp_path / "model.safetensors", {"format": "pt"})
    config = {
        "architecture": "cifar_resnet20",
        "label_names": ["a", "b", "c"],
        "pretrained_cfg": {"input_size": [3, 32, 32], "crop_pct": 1.0},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    for path in (tmp_path, tmp_path / "model.safetensors"):
        found = read(path)
        assert (found.config.arch, found.config.classes) == ("cifar_resnet20", ("a", "b", "c"))
        assert found.config.preprocess is not None
        assert found.config.preprocess["resize"] == 32
        assert found.files == (tmp_path / "model.safetensors", tmp_path / "config.json")
    (tmp_path / "mine.pth").write_bytes((saved(tmp_path, STATE)).read_bytes())
    assert read(tmp_path / "mine.pth").config.arch is None, "config.json belongs to model.safetensors"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_weights_cut_into_several_files_are_put_together(tmp_path: Path, name: str) -> None:
    names = list(STATE)
    stem, _, suffix = name.partition(".")
    where = {key: f"{stem}-0000{1 + (index > 40)}-of-00002.{suffix}" for index, key in enumerate(names)}
    for file in set(where.values()):
        part = {key: STATE[key] for key in names if where[key] == file}
        save_file(part, tmp_path / file) if suffix == "safetensors" else torch.save(part, tmp_path / file)
    (tmp_path / f"{name}.index.json").write_text(json.dumps({"weight_map": where}))
    for path in (tmp_path, tmp_path / f"{name}.index.json"):
        found = read(path)
        assert load(None, found)[0] == "cifar_resnet20"
        assert len(found.files) == 2
    found.files[1].unlink()
    with pytest.raises(InputError, match=f"lists {found.files[1].name}, which is not beside it"):
        read(tmp_path)


@pytest.mark.parametrize("listed", [{}, [], *({"weight_map": one} for one in ({}, [], {"a": 1}, {"a": "../b"}))])
def test_an_index_that_lists_no_files_beside_it_is_refused(tmp_path: Path, listed: Any) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(listed))
    with pytest.raises(InputError, match="does not list files beside it"):
        read(tmp_path)


def test_a_folder_with_one_checkpoint_is_that_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path, STATE, "best.ckpt")
    assert read(tmp_path).files == (tmp_path / "best.ckpt",)
    saved(tmp_path, STATE, "last.ckpt")
    with pytest.raises(UsageError, match=r"holds 2 checkpoints, none called model\.safetensors or pytorch_model\.bin"):
        read(tmp_path)


# Refused


class Malice:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("wrapped", ["alone", "inside", "plain pickle", "old format"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, wrapped: str) -> None:
    marker = tmp_path / "executed"
    path = tmp_path / "weights.pth"
    content: Any = Malice(marker) if wrapped != "inside" else {"state_dict": STATE, "args": Malice(marker)}
    if wrapped == "plain pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=wrapped != "old format")
    with pytest.raises(InputError, match=r"weights\.pth is refused: it holds pickled objects.*, which can run code"):
        read(path)
    assert not marker.exists()
    if wrapped != "plain pickle":
        torch.load(path, weights_only=False)
        assert marker.exists(), "the file is not malicious at all: the test proves nothing"


def test_a_whole_pickled_model_is_refused_with_what_to_save_instead(tmp_path: Path) -> None:
    said = r"\(edgeres\.models\.resnet\.ResNet\), .* save `model\.state_dict\(\)` alone, or \.safetensors"
    with pytest.raises(InputError, match=said):
        read(saved(tmp_path, build("cifar_resnet20", 3)))


def test_a_torchscript_program_is_refused_with_what_to_save_instead(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its age
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"is a TorchScript program; save its weights alone, `torch\.jit\.load"):
        read(tmp_path / "model.pt")


@pytest.mark.parametrize("name", ["absent.pth", "absent.safetensors", "", "absent"])
def test_a_checkpoint_that_is_absent_is_a_usage_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"there is no checkpoint at .*; check --weights"):
        read(tmp_path / name)


@pytest.mark.parametrize("content", [{}, [], 3, "text", {"epoch": 3}, {"state_dict": {}}, [STATE["fc.bias"]]])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(InputError, match="holds no state dict"):
        read(saved(tmp_path, content))


def test_a_checkpoint_that_holds_itself_is_refused(tmp_path: Path) -> None:
    content: dict[str, Any] = {"epoch": 3}
    content["model"] = content
    with pytest.raises(InputError, match="holds no state dict"):
        read(saved(tmp_path, content))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["layer2.0.conv1.weight", "bn1.running_var", "fc.bias"])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, name: str, value: float) -> None:
    broken = STATE[name].clone()
    broken.view(-1)[-1] = value
    with pytest.raises(InputError, match=f"{name} holds NaN or infinite values"):
        read(saved(tmp_path, STATE | {name: broken}))


@settings(max_examples=80, deadline=None)
@given(st.data(), st.sampled_from(["zip", "old", "safetensors"]))
def test_a_damaged_file_is_refused_or_read_never_a_crash(data: st.DataObject, kind: str) -> None:
    small = {"fc.weight": torch.ones(3, 4), "fc.bias": torch.ones(3)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("weights.safetensors" if kind == "safetensors" else "weights.pth")
        if kind == "safetensors":
            save_file(small, path, metadata={"arch": "resnet18"})
        else:
            torch.save({"state_dict": small}, path, _use_new_zipfile_serialization=kind == "zip")
        content = bytearray(path.read_bytes())
        for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
            content[place] = data.draw(st.integers(0, 255))
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        with suppress(EdgeresError):
            assert read(path).state


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    save_file(STATE, path) if name.endswith("safetensors") else torch.save(STATE, path)
    whole = path.read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=name):
            read(path)


# Matched to the table


SHALLOWEST: dict[Any, str] = {}
"""Of the architectures that differ by their depth alone, the one with the fewest blocks."""
for name, row in sorted(ARCHITECTURES.items(), key=lambda item: sum(item[1].depths)):
    SHALLOWEST.setdefault(replace(row, depths=()), name)


@pytest.mark.parametrize("name", [*SHALLOWEST.values(), "resnet34", "resnet50", "cifar_resnet32"])
def test_every_architecture_is_recognised_from_its_shapes(name: str) -> None:
    with torch.device("meta"):
        state = build(name, 5).state_dict()
    rows = Checkpoint(Path("weights.pth"), state).rows
    assert rows[0] == name.removeprefix("legacy_").removesuffix("_v1").removesuffix("_torch")
    assert name in rows
    assert len(rows) <= 2, "what has the same tensors differs by what tensors do not tell"


@pytest.mark.parametrize("classes", [1, 2, 1000])
def test_classes_are_read_off_the_head(classes: int) -> None:
    state = build("cifar_resnet20", classes).state_dict()
    assert load("cifar_resnet20", Checkpoint(Path("weights.pth"), state))[1].fc.out_features == classes


def test_weights_of_another_architecture_are_refused_with_the_first_difference(tmp_path: Path) -> None:
    found = read(saved(tmp_path, STATE))
    with pytest.raises(
        InputError, match=r"fit cifar_resnet32: .* \(and \d+ more\); these are tensors of cifar_resnet20"
    ):
        load("cifar_resnet32", found)
    with pytest.raises(InputError, match=r"does not fit resnet18: .*; these are tensors of cifar_resnet20"):
        load("resnet18", found)


def test_a_tensor_too_many_or_of_another_shape_is_refused(tmp_path: Path) -> None:
    extra = read(saved(tmp_path, STATE | {"head.weight": torch.ones(1, 2, 3)}))
    with pytest.raises(InputError, match=r"holds a cifar_resnet20 and also head\.weight, which .* take them out"):
        load("cifar_resnet20", extra)
    wider = read(saved(tmp_path, STATE | {"bn1.weight": torch.ones(17)}))
    with pytest.raises(InputError, match=r"bn1\.weight has shape \(17,\), not \(16,\); see how it was saved"):
        load("cifar_resnet20", wider)


@pytest.mark.parametrize("head", [{}, {"fc.weight": torch.ones(3)}])
def test_a_network_without_a_classifier_head_is_refused(tmp_path: Path, head: dict[str, Any]) -> None:
    backbone = {name: value for name, value in STATE.items() if not name.startswith("fc.")}
    with pytest.raises(InputError, match=r"has no classifier head \(fc, classifier, .*\): it is a backbone alone"):
        load(None, read(saved(tmp_path, backbone | head)))


def test_tensors_of_another_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"its tensors \(features\.0\.weight, .*\) are no ResNet's in a known layout"):
        read(saved(tmp_path, {"features.0.weight": torch.ones(3, 3)}))


def test_an_unknown_architecture_is_a_usage_error_that_says_which_was_meant(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no architecture 'resnet19'; did you mean resnet1.*export --list"):
        load("resnet19", read(saved(tmp_path, STATE)))


def test_an_architecture_that_is_stored_and_not_in_the_table_is_not_guessed(tmp_path: Path) -> None:
    path = safetensors(tmp_path / "weights.safetensors", {"arch": "resnetblur20"})
    with pytest.raises(InputError, match="is of a resnetblur20, which is no architecture of the table"):
        load(None, read(path))
    assert load("cifar_resnet20", read(path))[0] == "cifar_resnet20"


def test_what_is_stored_tells_architectures_of_the_same_tensors_apart(tmp_path: Path) -> None:
    with torch.device("meta"):
        state = build("resnet50", 2).state_dict()
    for stride, name in (("3x3", "resnet50"), ("1x1", "resnet50_v1")):
        assert Checkpoint(Path("a"), state, config=Config(row={"stride": stride})).rows == (name,)


def test_shapes_of_no_architecture_are_a_usage_error(tmp_path: Path) -> None:
    content = {name: value for name, value in STATE.items() if not name.startswith("layer3.2")}
    said = r"fits no architecture of the table; the closest is cifar_resnet20, but layer3\.2\.conv1\.weight is missing"
    with pytest.raises(UsageError, match=said):
        load(None, read(saved(tmp_path, content)))


def test_a_byte_that_fell_over_is_noticed(tmp_path: Path) -> None:
    """The archive keeps checksums, at which torch does not look: the weights would be others."""
    path = saved(tmp_path, STATE)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"is not a checkpoint of torch .*is not what was written"):
        read(path)


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool])
def test_weights_that_are_whole_numbers_are_named(dtype: torch.dtype, tmp_path: Path) -> None:
    name = "layer1.0.conv1.weight"
    with pytest.raises(InputError, match=rf"{name} holds whole numbers \(torch\..*\); save floating point weights"):
        read(saved(tmp_path, {**STATE, name: STATE[name].to(dtype)}))


def test_a_negative_variance_is_named(tmp_path: Path) -> None:
    name = "layer1.0.bn1.running_var"
    with pytest.raises(InputError, match=rf"{name} holds negative variances"):
        read(saved(tmp_path, {**STATE, name: -STATE[name]}))
