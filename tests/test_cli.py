"""The command line: exit codes, one sentence on standard error, results on standard output, nothing heavy for help."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import typer.main
from PIL import Image
from report.example import solar

from edgeres import ab, cli, disk, gate, store
from edgeres.cli import common, main
from edgeres.errors import (
    BuildError,
    EdgeresError,
    InputError,
    MissingRuntime,
    ParityError,
    SchemeError,
    UsageError,
)

COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
RUNTIMES = {"torch", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "onnx", "numpy", "PIL"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: Path, checkpoint: Path) -> Path:
    """A working directory with what the commands below name."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(exported, "model.onnx")
    shutil.copy(store.sidecar_path(exported), "model.onnx.json")
    shutil.copy(checkpoint, "weights.pth")
    Path("text.onnx").write_text("this is text")
    Path("text.pth").write_text("this is text")
    Path("two.txt").write_text("cat\ndog\n")
    Path("empty").mkdir()
    Path("report.json").write_text(solar().model_copy(update={"rules": {"size": "+2%"}}).model_dump_json())
    Path("recipe.toml").write_text("[model]\nweights = 3\n")
    for name, image in {"flat/a.png": "image", "dogs/poodle/a.png": "image", "broken/cat/a.png": "text"}.items():
        Path(name).parent.mkdir(parents=True)
        if image == "image":
            Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(name)
        else:
            Path(name).write_text("this is text")
    return tmp_path


# Help


def test_help_imports_no_runtime() -> None:
    script = (
        "import sys; from edgeres.cli import main\n"
        f"codes = {{main(['--help'])}} | {{main([name, '--help']) for name in {list(COMMANDS)!r}}}\n"
        "loaded = {module.partition('.')[0] for module in sys.modules}\n"
        f"assert codes == {{0}}, codes\nprint('LOADED', *sorted(loaded & {RUNTIMES!r}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED"


def test_the_commands_are_those_of_the_readme() -> None:
    wanted = "export calibrate quantize build bench eval run report check targets"
    assert set(COMMANDS) >= set(wanted.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    assert command.help.strip().endswith(".")
    silent = [parameter.name for parameter in command.params if not getattr(parameter, "help", None)]
    assert silent == []
    # Brackets are markup there, and are not shown.
    assert [parameter.name for parameter in command.params if "[" in (getattr(parameter, "help", None) or "")] == []


def test_help_tells_defaults_that_are_no_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--help"]) == main(["check", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "[default: (recognised)]" in shown
    assert "[default: (2.5%)]" in shown


def test_sentences_are_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    sentence = "model.onnx on onnxruntime:cpu, 20 images, 99.9 images/s: top-1 5.00 %"
    first, *others = common.folded([sentence, "agreement"]).splitlines()
    assert first.startswith("model.onnx on")
    assert [line[:2] for line in others] == ["  ", "ag"]
    assert max(len(line) for line in (first, *others)) <= 40
    assert " ".join((first, *others[:-1])).split() == sentence.split()


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], *([name, "-h"] for name in COMMANDS)])
def test_help_is_a_result(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert "Usage: edgeres" in shown.out
    assert shown.err == ""


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"edgeres {store.versions('edgeres')['edgeres']}\n"


def test_the_module_and_the_script_are_the_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "edgeres", "quantise"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "quantise" in done.stderr


# Exit codes


@pytest.mark.parametrize("arguments", [["quantise"], ["export", "--opset", "12"], ["build", "m.onnx"], ["--verbose"]])
def test_a_command_line_that_cannot_be_parsed_is_a_usage_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Usage: edgeres" in shown.err
    assert "Traceback" not in shown.err


def test_a_command_line_without_a_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "Usage: edgeres" in "".join(capsys.readouterr())


EXPORT = "export -w weights.pth -o out.onnx --arch cifar_resnet20"
EVAL = "eval model.onnx -t onnxruntime:cpu"
USAGE = {
    "export": "needs one of --weights and --onnx, and --out",
    "export -w absent.pth -o out.onnx": "no checkpoint at absent.pth",
    "export -w weights.pth -o out.onnx --arch resnet19": "did you mean resnet1",
    f"{EXPORT} --interpolation cubic": "no interpolation 'cubic'",
    f"{EXPORT} --mean 1,2": "mean and std take three numbers",
    f"{EXPORT} --std 1,2,zero": "'1,2,zero' is not three numbers",
    f"{EXPORT} --size 64 --resize 32": "crop 64 must lie between 1 and resize 32",
    f"{EXPORT} --classes two.txt": "2 class names were given, weights.pth has 10 outputs",
    f"{EXPORT} --classes absent.txt": "absent.txt cannot be read",
    f"{EXPORT} --data absent": "no images at absent",
    "export -w weights.pth -o out.engine": "out.engine is not named .onnx; name it out.onnx",
    "export -w weights.pth -o empty": "name it empty.onnx",
    "calibrate model.onnx -d flat -o out.onnx": "out.onnx is not named .stats; name it out.stats",
    "quantize model.onnx -o out.blob --data flat": "out.blob is not named .onnx; name it out.onnx",
    "calibrate absent.onnx -d flat -o out.stats": "absent.onnx cannot be read",
    "calibrate model.onnx -d absent -o out.stats": "no images at absent",
    "quantize model.onnx -o out.onnx": "give --data",
    "quantize model.onnx -o out.onnx --stats absent": "no statistics at absent",
    "quantize model.onnx -o out.onnx --data flat --stats absent": "no statistics at absent",
    "quantize model.onnx -o out.onnx --data flat --level perfect": "no level 'perfect'; there are fast, balanced, best",
    "quantize model.onnx -o out.onnx --stats s --level balanced": "level balanced with method mse needs images",
    "quantize model.onnx -o out.onnx --stats s --method auto": "level fast with method auto needs images",
    "quantize model.onnx -o out.onnx --data flat --scheme best": "best",
    "quantize model.onnx -o out.onnx --data flat --method best": "no range method 'best'",
    "build model.onnx -t openvino -o out.xml": "'openvino' is not written backend:device",
    "build model.onnx -t tflite:cpu -o out.tflite": "no backend 'tflite'",
    "build model.onnx -t onnxruntime:toaster -o out.onnx": "no 'toaster'",
    "build model.onnx -t onnxruntime:cpu -o out.engine": "name it out.onnx",
    "build model.onnx -t onnxruntime:cpu --input nv12 -o out.onnx": "there is no input 'nv12'",
    "eval absent.onnx -t onnxruntime:cpu -d flat": "absent.onnx cannot be read",
    f"{EVAL} -d absent": "no images at absent",
    "run absent.toml": "absent.toml cannot be read",
    "report absent": "absent holds no report.json",
    "report report.json -o report.pdf": "cannot be written as '.pdf'",
    "check report.json -b absent.json": "absent.json",
    "export -w weights.pth -o out.onnx --embedding --task regression": "--embedding drops the head",
    "check": "give a run folder and its --baseline",
    "check report.json": "give a run folder and its --baseline",
    "check report.json -b report.json --ab model.onnx model.onnx": "or two engines or run folders after --ab",
    "check --ab model.onnx model.onnx": "give two engines and their --target",
    "check --ab model.onnx flat": "give two engines and their --target",
    "check --ab flat flat": "flat holds no report.json",
    "check --ab model.onnx model.onnx -t onnxruntime:cpu --threshold 1": "'1' is no percentage; write it as in",
    "tune recipe.toml -t openvino:cpu -o out.html": "name it out.toml",
    "check --ab absent.onnx model.onnx -t onnxruntime:cpu": "absent.onnx",
    "baseline accept absent -o out.json": "absent holds no report.json",
}
FAILED = {
    "export -w text.pth -o out.onnx": "text.pth is",
    "export -w weights.pth -o out.onnx --arch resnet18": "does not fit resnet18",
    "calibrate text.onnx -d flat -o out.stats": "text.onnx is not an ONNX model",
    "calibrate model.onnx -d empty -o out.stats": "empty holds no images",
    "calibrate model.onnx -d broken -o out.stats": "broken/cat/a.png cannot be decoded",
    "quantize text.onnx -o out.onnx --data flat": "text.onnx is not an ONNX model",
    "quantize model.onnx -o out.onnx --stats model.onnx": "model.onnx holds no statistics; give the .stats file",
    "build text.onnx -t onnxruntime:cpu -o out.onnx": "text.onnx is not an ONNX model",
    f"{EVAL} -d flat": "a.png has no label",
    f"{EVAL} -d dogs": "labels such as 'poodle', the model has 10 classes, the first is 'airplane'",
    f"{EVAL} -d broken": "broken/cat/a.png cannot be decoded",
    "run recipe.toml": "recipe.toml: model.weights",
    "report recipe.toml": "recipe.toml is not JSON",
    "check report.json -b text.pth": "text.pth is not JSON",
    "baseline accept text.pth -o out.json": "text.pth is not JSON",
}


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("line", "said", "code"),
    [*((*one, 2) for one in USAGE.items()), *((*one, 3) for one in FAILED.items())],
    ids=[*USAGE, *FAILED],
)
def test_what_goes_wrong_is_one_sentence(line: str, said: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert shown.err.startswith("edgeres: ")
    assert shown.err.count("\n") == 1
    assert shown.err.endswith(".\n")
    assert "Traceback" not in shown.err
    assert not any(Path().glob("out.*"))


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (UsageError("said"), 2),
        (EdgeresError("said"), 3),
        (InputError("said"), 3),
        (MissingRuntime("said"), 3),
        (ParityError("said"), 3),
        (SchemeError("said"), 3),
        (BuildError("said"), 3),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_error_has_its_exit_code(
    raised: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgeres.export.architectures", raising(raised))
    assert main(["export", "--list"]) == code
    shown = capsys.readouterr()
    assert shown.err == ("edgeres: interrupted; run again to go on.\n" if code == 130 else "edgeres: said\n")
    assert shown.out == ""


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_an_error_that_nobody_thought_of_is_a_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgeres.export.architectures", raising(ZeroDivisionError("nobody thought of it")))
    assert main(["export", "--list"]) == 70
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == "Traceback (most recent call last):"
    assert shown[-2] == "ZeroDivisionError: nobody thought of it"
    assert shown[-1] == "edgeres: this is a bug in edgeres; please report it with the lines above."


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("outcome", "code"), [(gate.Outcome.PASSED, 0), (gate.Outcome.REGRESSED, 1), (gate.Outcome.INCONCLUSIVE, 4)]
)
def test_a_check_tells_its_outcome_by_its_exit_code(
    outcome: gate.Outcome, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gate, "overall", lambda verdicts: outcome)
    assert main(["check", "report.json", "-b", "report.json"]) == code
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1] == outcome.value
    assert main(["check", "report.json", "-b", "report.json", "--json"]) == code
    assert json.loads(capsys.readouterr().out)["outcome"] == outcome.value


@pytest.mark.usefixtures("place")
def test_an_accepted_report_passes_its_own_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["baseline", "accept", "report.json", "-o", "accepted.json"]) == 0
    assert "openvino:cpu int8" in capsys.readouterr().out
    assert main(["check", "report.json", "-b", "accepted.json"]) == 0
    capsys.readouterr()
    assert main(["baseline", "accept", "report.json", "-o", "accepted.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": "accepted.json", "changes": []}


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    "command",
    [
        "baseline accept report.json -o report.json",
        "baseline accept report.json -o model.onnx.json",
        "baseline accept report.json -o accepted.txt",
        "check report.json -b report.json --junit report.json",
        "check --ab model.onnx model.onnx -t onnxruntime:cpu --junit model.onnx",
        "report report.json -o new.html -o new.pdf",
    ],
)
def test_nothing_that_is_read_is_written_over(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    assert main(command.split()) in (2, 3)
    assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("bench model.onnx -t onnxruntime:cpu --p99 20 --data x", "--data goes with a --scenario"),
        ("bench model.onnx -t onnxruntime:cpu --p99 inf", "Invalid value for '--p99'"),
        ("bench model.onnx -t onnxruntime:cpu --scenario offline --qps 5", "those of --scenario server"),
        ("bench model.onnx -t onnxruntime:cpu --scenario server --qps inf", "Invalid value for '--qps'"),
        ("bench model.onnx -t onnxruntime:cpu --scenario single-stream --batch 5", "is not a batch"),
        ("bench model.onnx -t onnxruntime:cpu --threads 100000", "Invalid value for '--threads'"),
        ("bench model.stats -t onnxruntime:cpu", "model.stats is no engine but statistics"),
        ("quantize model.onnx --stats model.stats --samples 3 -o q.onnx", "--samples draws from the images of --data"),
        ("quantize model.onnx --scheme fp16 --method entropy -o q.onnx", "scheme fp16 has nothing to calibrate"),
        ("export --list -o x.onnx", "--list lists"),
        ("devices add d u@h --agent", "leave one of them out"),
        ("agent tcp://127.0.0.1 --name d --space inf", "Invalid value for '--space'"),
    ],
)
def test_no_request_is_passed_over(
    command: str, said: str, calibrated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for suffix in ("", ".json"):
        shutil.copy(f"{calibrated}{suffix}", f"model.stats{suffix}")
    assert main(command.split()) in (2, 3)
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.usefixtures("place")
def test_two_engines_are_compared_in_turn(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The second is slower by a tenth."""

    def ratio(*both: Any) -> float:
        one, other = (1.0 + 0.1 * (subject.path.name == "slow.onnx") for subject in both)
        return other / one

    monkeypatch.setattr(ab, "ratio", ratio)
    shutil.copy("model.onnx", "slow.onnx")
    command = ["check", "--target", "onnxruntime:cpu", "--json", "--ab"]
    for head, code in {"slow.onnx": 1, "model.onnx": 0}.items():
        assert main([*command, "model.onnx", head]) == code
        (verdict,) = json.loads(capsys.readouterr().out)["verdicts"]
        assert verdict["measured"] == pytest.approx(10 * code)
    assert main([*command, "model.onnx", "slow.onnx", "--threshold", "11%"]) == 0


@pytest.mark.usefixtures("place")
def test_a_check_writes_its_verdicts_for_a_ci_server(capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", "report.json", "-b", "report.json", "--junit", "out/verdicts.xml", "--json"])
    told = json.loads(capsys.readouterr().out)["verdicts"]
    cases = ElementTree.parse("out/verdicts.xml").getroot().findall("testcase")
    assert [(case.get("classname"), case.get("name")) for case in cases] == [(one["cell"], one["rule"]) for one in told]


def test_the_schema_of_reports_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$id"] == "edgeres.report/2"


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("failed", [True, False])
def test_a_run_with_a_failed_cell_fails(
    failed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = solar()
    cells = [cell.model_copy(update={"status": "failed"} if failed else {}) for cell in whole.cells]
    from edgeres import pipeline

    monkeypatch.setattr(pipeline, "run", lambda *_: whole.model_copy(update={"cells": cells}))
    assert main(["run", "recipe.toml", "--json"]) == (3 if failed else 0)
    assert json.loads(capsys.readouterr().out)["name"] == whole.name


# Results


def test_the_architectures_are_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeres.models import architectures

    few = ("resnet18", "resnet50", "cifar_resnet20")  # the others take seconds
    monkeypatch.setattr(architectures, "ARCHITECTURES", {name: architectures.ARCHITECTURES[name] for name in few})
    assert main(["export", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(few)
    assert next(line.split() for line in lines if "resnet50 " in line) == ["resnet50", "50", "224", "25.56", "4.09"]
    assert main(["export", "--list", "--json"]) == 0
    sizes = json.loads(capsys.readouterr().out)["architectures"]
    assert sizes["cifar_resnet20"] == {"layers": 20, "input": 32, "parameters": 269722, "macs": 40551040}


CIFAR = "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["verify", "a.onnx", "--key", ""], "--key"),
        (["verify", "a.onnx", "--key="], "--key"),
        (["report", ""], "report"),
        (["run", "a.toml", "-o", ""], "-o"),
        ([""], "edgeres"),
    ],
)
def test_an_empty_argument_is_not_this_folder(
    arguments: list[str], where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert f"after `{where}` is empty" in capsys.readouterr().err


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("ending", ["\n", "", "\r\n", "\n\n"])
def test_an_export_that_is_there_is_unchanged(ending: str, capsys: pytest.CaptureFixture[str]) -> None:
    from edgeres import onnx_io

    classes = onnx_io.info(Path("model.onnx")).classes
    Path("classes.txt").write_bytes("\n".join(classes).encode() + ending.encode())
    line = f"export -w weights.pth -o model.onnx --arch cifar_resnet20 --classes classes.txt {CIFAR}"
    assert main(line.split()) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "model.onnx: cifar_resnet20, 10 classes, opset 19 (unchanged)"
    assert second.startswith("parity with torch on 4 images: largest difference ")
    assert second.endswith("top-1 agreement 100%")
    assert main([*line.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["out"], found["arch"], found["classes"]) == ("model.onnx", "cifar_resnet20", list(classes))
    assert set(found["parity"]) == {"images", "largest", "relative", "agreement"}
    assert main(line.replace("--arch cifar_resnet20 ", "").split()) == 0
    assert capsys.readouterr().out.startswith("model.onnx: cifar_resnet20 (recognised), 10 classes, opset 19 (unch")


@pytest.mark.usefixtures("place")
def test_calibrate_quantize_build_and_eval_work_on_each_others_files(
    image_folder: Path, mirrored_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(line: str) -> Any:
        assert main(line.split()) == 0
        return capsys.readouterr().out

    monkeypatch.setenv("COLUMNS", "200")
    data = f"--data {image_folder}"
    assert said(f"calibrate model.onnx {data} -o model.stats") == "model.stats: statistics of 20 images\n"
    assert said(f"calibrate model.onnx {data} -o model.stats").endswith("of 20 images (unchanged)\n")
    quantize = "quantize model.onnx --stats model.stats --scheme onnxruntime -o int8.onnx"
    assert said(quantize).startswith("int8.onnx: scheme onnxruntime, level fast, method mse, 20 layers and ")
    found = json.loads(said(f"{quantize} --json"))
    assert (found["out"], found["size"]) == ("int8.onnx", Path("int8.onnx").stat().st_size)
    assert found["size"] < Path("model.onnx").stat().st_size / 2
    assert (found["level"], found["method"], found["layers"]) == ("fast", "mse", 20)
    fitted = said(f"quantize model.onnx {data} --samples 4 --stats model.stats --method auto -o fitted.onnx")
    assert fitted.startswith("fitted.onnx: scheme onnxruntime, level balanced, method ")
    assert fitted.splitlines()[1] == "for ONNX Runtime and OpenVINO on x86 CPUs; --scheme names what others take"
    assert "auto" not in fitted
    assert json.loads(Path("fitted.onnx.json").read_text())["inputs"]["statistics"] == disk.digest(Path("model.stats"))
    built = json.loads(said("build int8.onnx -t onnxruntime:cpu -o engine.onnx --json"))
    assert built["digest"] == disk.digest(Path("engine.onnx"))
    assert main(f"eval engine.onnx -t onnxruntime:cpu {data}".split()) == 2
    assert "shares 20 of its 20 images with the calibration (of engine.onnx)" in capsys.readouterr().err
    shown = said(f"eval engine.onnx -t onnxruntime:cpu --data {mirrored_folder} --reference model.onnx").splitlines()
    assert re.match(r"engine\.onnx on onnxruntime:cpu, 20 images, [\d.]+ images/s: top-1 ", shown[0])
    assert re.match(r"against FP32: drop .* lost and \d+ gained: (not )?significant, p = [\d.]+$", shown[1])
    assert re.match(r"agreement [\d.]+ % \(95 % ", shown[2])
    said("build int8.onnx -t onnxruntime:cpu --input u8-nhwc -o bytes.onnx")
    again = said(f"eval bytes.onnx -t onnxruntime:cpu --data {mirrored_folder} --reference model.onnx").splitlines()
    assert again[1:] == shown[1:]
    found = json.loads(
        said(f"eval engine.onnx -t onnxruntime:cpu --data {mirrored_folder} --samples 7 --reference model.onnx --json")
    )
    assert found["images"] == 7
    assert found["drop"] == pytest.approx((found["mcnemar"]["lost"] - found["mcnemar"]["gained"]) / 7)
    assert len(found["flipped"]) == round((1 - found["agreement"]) * 7)
    assert sum(one["images"] for one in found["classes"]) == 7


@pytest.mark.usefixtures("place")
def test_an_accuracy_that_guessing_reaches_is_said(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The labels are indices, and of another order than the model's classes."""
    for name, index in {"airplane": 5, "automobile": 6, "bird": 7, "cat": 8, "deer": 9}.items():
        shutil.copytree(image_folder / name, f"indexed/{index}")
    wrong = {"eval": f"{EVAL} -d indexed", "json": f"{EVAL} -d indexed --json"}
    assert main(wrong["eval"].split()) == 0
    assert "top-1 is no better than guessing: are the images" in " ".join(capsys.readouterr().out.split())
    assert main(wrong["json"].split()) == 0
    assert len(json.loads(capsys.readouterr().out)["notes"]) == 1


@pytest.mark.usefixtures("place")
def test_few_images_to_calibrate_with_are_said(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for count, said in {1: "1 image to calibrate with: take 16 or more", 16: ""}.items():
        assert main(f"calibrate model.onnx -d {image_folder} -o model.stats --samples {count}".split()) == 0
        shown = capsys.readouterr()
        assert (said in " ".join(shown.err.split())) if said else not shown.err
        assert shown.out.startswith(f"model.stats: statistics of {count} image{'s' * (count > 1)}")


@pytest.mark.usefixtures("place")
def test_a_draw_larger_than_the_set_is_said(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"calibrate model.onnx -d {image_folder} -o model.stats --samples 99".split()) == 0
    assert "holds 20 images; all of them are used." in " ".join(capsys.readouterr().err.split())


@pytest.mark.usefixtures("place")
def test_an_engine_that_was_tampered_with_is_not_loaded(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Path("model.onnx").open("ab") as file:
        file.write(b"\0")
    assert main(f"{EVAL} -d {image_folder}".split()) == 3
    assert capsys.readouterr().err.startswith("edgeres: model.onnx is ")


@pytest.mark.usefixtures("place")
def test_reports_are_written_by_their_suffix(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", ".", "-o", "out/report.md", "-o", "out/report.json", "-o", "out/report.html"]) == 0
    assert capsys.readouterr().out.split() == ["out/report.md", "out/report.json", "out/report.html"]
    assert json.loads(Path("out/report.json").read_text())["name"] == solar().name
    assert main(["report", "."]) == 0
    assert "openvino:cpu" in capsys.readouterr().out


@pytest.mark.parametrize("as_json", [True, False])
def test_targets_are_listed_with_what_is_missing(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "--json"] if as_json else ["targets"]) == 0
    shown = capsys.readouterr().out
    assert {"onnxruntime:cpu", "openvino:cpu", "tensorrt-rtx:sm86"} <= set(shown.replace('"', " ").split())
    if as_json:
        rows = {row["target"]: row for row in json.loads(shown)}
        assert rows["onnxruntime:cpu"]["builds"] is rows["onnxruntime:cpu"]["runs"] is True
        assert all(row["note"] for row in rows.values())
        installed = importlib.util.find_spec("openvino") is not None
        assert rows["openvino:cpu"]["runs"] is installed


def test_a_reader_that_goes_away_is_not_taken_for_a_regression() -> None:
    command = [sys.executable, "-m", "edgeres", "targets", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait() not in (common.OK, common.REGRESSED)


# Diagnose, and quantize --max-drop


@pytest.fixture
def quantized(place: Path, calibrated: Path) -> Path:
    shutil.copy(calibrated, "model.stats")
    shutil.copy(store.sidecar_path(calibrated), "model.stats.json")
    assert main(["quantize", "model.onnx", "--stats", "model.stats", "-o", "int8.onnx", "--json"]) == 0
    return place


@pytest.mark.usefixtures("quantized")
def test_a_diagnosis_is_a_table_json_and_a_picture(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    line = f"diagnose model.onnx int8.onnx -d {image_folder} --samples 3"
    assert main([*line.split(), "--json", "-o", "new/picture.svg"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [set(one) for one in found] == [{"name", "role", "position", "sqnr", "rounding", "outliers"}] * len(found)
    assert [one["sqnr"] for one in found] == sorted(one["sqnr"] for one in found)
    assert main(line.split()) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    shown_table, _, note = shown.out.partition("\n\n")
    head, _, *rows = shown_table.splitlines()
    assert head.startswith("tensor ")
    assert [row.split()[0] for row in rows] == [one["name"] for one in found]
    assert note.startswith("A branch or shortcut is clipped")
    root = ElementTree.parse("new/picture.svg").getroot()
    assert {one["name"] for one in found} < {part.text for part in root.iter()}


@pytest.mark.usefixtures("quantized")
@pytest.mark.parametrize(
    ("line", "said", "code"),
    [
        ("diagnose model.onnx model.onnx -d flat", "model.onnx is not a Q/DQ file that edgeres made of model.onnx", 3),
        ("diagnose int8.onnx model.onnx -d flat", "int8.onnx is quantized already", 3),
        ("diagnose model.onnx text.onnx -d flat", "text.onnx is not an ONNX model", 3),
        ("diagnose model.onnx int8.onnx -d broken", "broken/cat/a.png cannot be decoded", 3),
        ("diagnose model.onnx absent.onnx -d flat", "absent.onnx cannot be read", 2),
        ("diagnose model.onnx int8.onnx -d absent", "no images at absent", 2),
        ("diagnose model.onnx int8.onnx -d flat -o out.png", "out.png is not named .svg; name it out.svg", 2),
        ("quantize model.onnx -d dogs -o out.onnx --max-drop 1", "--validation", 2),
        ("quantize model.onnx --stats model.stats -o out.onnx --validation flat", "--max-drop", 2),
        ("quantize model.onnx -o out.onnx --max-drop 1 --validation flat", "give --data or --stats", 2),
        ("quantize model.onnx --stats model.stats -o out.onnx --max-drop 1 --validation absent", "no images at", 2),
        ("quantize model.onnx --stats model.stats -o out.onnx --max-drop 1 --validation flat", "has no label", 3),
        (
            "quantize model.onnx --stats model.stats -o model.onnx --max-drop 1 --validation flat",
            "give another name",
            2,
        ),
    ],
)
def test_what_goes_wrong_with_int8_files_is_one_sentence(
    line: str, said: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    before = disk.digest(Path("model.stats")), disk.digest(Path("model.onnx"))
    assert main(line.split()) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert shown.err.startswith("edgeres: ")
    assert shown.err.count("\n") == 1
    assert (disk.digest(Path("model.stats")), disk.digest(Path("model.onnx"))) == before  # nothing was calibrated
    assert not any(Path().glob("out.*"))


def test_a_path_that_is_none_is_refused(tmp_path: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "loop.onnx").symlink_to("loop.onnx")
    for path in (str(tmp_path / "loop.onnx"), "", "."):
        assert main(["quantize", path, "--data", str(image_folder), "-o", str(tmp_path / "q.onnx")]) == 2
        assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["agent tls://a --name b --certificates .", "scheduler tls://a --certificates ."])
def test_devices_without_their_packages_name_them(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("dask", "distributed", "cryptography"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(command.split()) == 3
    assert "pip install 'edgeres[devices]'" in capsys.readouterr().err
