"""Recipes: what the shortest one means, where its paths lead, and how a wrong one is refused."""

from pathlib import Path

import pytest

from edgeres import recipe
from edgeres.errors import InputError, UsageError
from edgeres.types import Precision

SHORT = """
targets = ["openvino:cpu"]
[model]
weights = "weights.pth"
[data]
calibration = "../photos"
evaluation = "/data/test.csv"
"""


def written(tmp_path: Path, text: str, name: str = "small.toml") -> Path:
    path = tmp_path / "recipes" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shortest_recipe_has_the_defaults(tmp_path: Path) -> None:
    read = recipe.read(written(tmp_path, SHORT))
    assert read.name == "small"
    assert (read.model.arch, read.model.classes, read.model.opset, read.model.batch) == (None, [], 19, None)
    assert (read.data.samples, read.quantization.method, read.quantization.level) == (None, "mse", "balanced")
    assert (read.bench.batch, read.bench.threads, read.bench.rounds) == (1, None, 5)
    assert (read.targets[0].target, read.targets[0].precisions, read.targets[0].scheme) == ("openvino:cpu", None, None)
    assert read.check == {}


def test_paths_start_at_the_recipe_whatever_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, SHORT)
    monkeypatch.chdir(tmp_path)
    for given in (path, path.relative_to(tmp_path)):
        read = recipe.read(given)
        assert read.model.weights == path.parent / "weights.pth"
        assert read.data.calibration.resolve() == tmp_path / "photos"
        assert read.data.evaluation == Path("/data/test.csv")


def test_a_long_recipe_says_everything(tmp_path: Path) -> None:
    text = """
    name = "long-1.0"
    [model]
    weights = "w.safetensors"
    arch = "resnet50"
    classes = ["cat", "dog"]
    opset = 17
    batch = 4
    preprocess = { crop = 160, interpolation = "bicubic" }
    [data]
    calibration = "c"
    evaluation = "e"
    samples = 64
    [quantization]
    method = "entropy"
    level = "best"
    [bench]
    batch = 4
    threads = 2
    rounds = 5
    [[targets]]
    target = "TensorRT-RTX:sm86"
    precisions = ["int8", "fp16"]
    scheme = "tensorrt"
    [[targets]]
    target = "onnxruntime:cpu"
    [check]
    top1_drop = 0.5
    latency_p50 = "5%"
    """
    read = recipe.read(written(tmp_path, text))
    assert read.name == "long-1.0"
    assert read.quantization.model_dump() == {"method": "entropy", "level": "best"}
    assert read.model.preprocess == {"crop": 160, "interpolation": "bicubic"}
    assert [part.target for part in read.targets] == ["tensorrt-rtx:sm86", "onnxruntime:cpu"]
    assert read.targets[0].precisions == [Precision.INT8, Precision.FP16]
    assert read.check == {"top1_drop": 0.5, "latency_p50": "5%"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('weights = "weights.pth"', "", r"model: Value error, give either weights or onnx"),
        (
            'weights = "weights.pth"',
            'weights = "w"\nwieghts = "w"',
            r"no key model\.wieghts; there are weights, onnx, arch",
        ),
        ("\n", 'weights = "w"\n', r"no key weights; there are name, model, data"),
        (
            'targets = ["openvino:cpu"]',
            'targets = [{target = "a:b", thread = 2}]',
            r"no key .*thread; there are target",
        ),
        (
            'calibration = "../photos"',
            'calibration = "c"\nsamples = 0',
            r"data\.samples: .* greater than or equal to 1",
        ),
        ('targets = ["openvino:cpu"]', "targets = []", "targets: .* at least 1 item"),
        ('targets = ["openvino:cpu"]', "", "targets: Field required"),
        (
            'targets = ["openvino:cpu"]',
            'targets = [{target = "a:b", precisions = ["int4"]}]',
            r"targets\.0\.precisions\.0: .*'fp32', 'fp16' or 'int8'",
        ),
        ('targets = ["openvino:cpu"]', 'targets = ["a:b", "A:B"]', "target a:b is listed twice"),
        ("\n", 'name = "a b"\n', "name: String should match"),
        ("\n", 'name = ".."\n', "name: String should match"),
        ("\n", "check = { top1_drop = true }\n", "check.top1_drop: Value error, a rule is a number"),
        ("\n", "bench = { threads = 100000 }\n", "bench.threads: Input should be less than or equal to 1024"),
        ("[data]", "[bench]\nthreads = 0\n[data]", r"bench\.threads"),
        ("[data]", "[data", "is not TOML"),
        ("[data]", "[model]\n[data]", "is not TOML"),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_file_and_the_place(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in SHORT
    with pytest.raises(InputError, match=rf"small\.toml.*{said}"):
        recipe.read(written(tmp_path, SHORT.replace(old, new, 1)))


def test_a_file_name_that_is_no_name_needs_one_in_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name: String should match"):
        recipe.read(written(tmp_path, SHORT, "my recipe.toml"))
    assert recipe.read(written(tmp_path, 'name = "mine"\n' + SHORT, "my recipe.toml")).name == "mine"


def test_a_target_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'openvino' is not written backend:device"):
        recipe.read(written(tmp_path, SHORT.replace("openvino:cpu", "openvino")))


def test_a_recipe_that_is_absent_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.toml cannot be read"):
        recipe.read(tmp_path / "absent.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        recipe.read(tmp_path)
    path = written(tmp_path, SHORT)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"small\.toml cannot be read as text"):
        recipe.read(path)


RECIPES = sorted((Path(__file__).parents[1] / "pipelines").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_of_the_project_are_whole(path: Path) -> None:
    read = recipe.read(path)
    assert read.name == path.stem
    for source in (read.data.calibration, read.data.evaluation):
        assert source.exists()


def test_a_recipe_is_written_as_it_was_read(tmp_path: Path) -> None:
    more = """
[model.preprocess]
mean = [0.5, 0.5, 0.25]
[check]
latency_p50 = "5%"
top1_drop = 0.5
"""
    tuned = 'keep = ["conv1", "a \\"b\\""], batch = 1, settings = { "a.b" = "NO" }'
    target = f'[{{ target = "openvino:cpu", {tuned} }}, "onnxruntime:cpu"]'
    read = recipe.read(written(tmp_path, SHORT.replace('["openvino:cpu"]', target) + more))
    out = tmp_path / "elsewhere" / "deep" / "small.toml"
    recipe.write(read, out)
    again = recipe.read(out)
    paths = [(one.model.weights, one.data.calibration, one.data.evaluation) for one in (read, again)]
    assert [path.resolve() for path in paths[0]] == [path.resolve() for path in paths[1]]
    lasting = [
        one.model_dump(exclude={"model": {"weights"}, "data": {"calibration", "evaluation"}}) for one in (read, again)
    ]
    assert lasting[0] == lasting[1]
    assert 'weights = "../../recipes/weights.pth"' in out.read_text()
    assert "rounds" not in out.read_text()
