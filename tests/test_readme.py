"""What the README tells users to type is typed here, in its order, on the network and the images of the demo."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from edgeres import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("edgeres ")]


def test_the_readme_shows_every_command() -> None:
    shown = {shlex.split(line)[1] for line in COMMANDS}
    # `regions` is for detectors, of which the demo has none: tests/test_regions.py tries it.
    assert shown | {"agent", "calibrate", "regions", "scheduler"} == {
        info.name or info.callback.__name__ for info in cli.app.registered_commands
    }


def test_every_command_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("torch", "openvino", "tensorrt_rtx", "elpv_dataset"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    for name in ("pipelines", "calibration"):
        shutil.copytree(ROOT / name, tmp_path / name)
    test_set = tmp_path / "calibration/solar.test.csv"
    test_set.write_text("\n".join(test_set.read_text().splitlines()[:66]))
    recipe = tmp_path / "pipelines/solar.toml"
    recipe.write_text(f'{recipe.read_text()}\n[quantization]\nlevel = "fast"\n\n[bench]\nrounds = 1\n')
    for line in COMMANDS:
        if shlex.split(line)[1] == "tune":  # takes its minutes; tests/tune tries the command on a small network
            continue
        code = cli.main(shlex.split(line)[1:])
        # The baseline was measured on all test images: nothing to say is the right answer, a regression is not.
        assert code in ((0, 4) if " check " in line else (0,)), line
    assert (tmp_path / "build/solar.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_the_library_example_runs_on_what_the_commands_name() -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    compile(example, "README.md", "exec")
    assert len(example.strip().splitlines()) <= 6
