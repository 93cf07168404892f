"""A few spoilt files for each parser, every time; `python tests/faults/fuzz.py` tries ten thousand each."""

import shutil
import subprocess
import sys
from pathlib import Path

import fuzz
import pytest
from parsers import PARSERS, beside, make_foreign, make_light

CASES = 20
LIGHT = (
    *("recipe (.toml)", "report, baseline (.json)", "sidecar (.json)", "trials (.jsonl)", "figures of maps (.json)"),
    *("images (.npz)", "manifest (.csv)", "class names (.txt)", "images, each format"),
)
HEAVY = ("ONNX, own", "ONNX, foreign", "external data", "statistics (.stats)")
"""Those whose files are made from the network that other tests use."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    make_light(folder)
    return folder


@pytest.mark.parametrize("name", [*LIGHT, *HEAVY])
def test_spoilt_files_are_refused_or_read(
    name: str, whole: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if name in HEAVY:
        shutil.copy(request.getfixturevalue("exported"), whole / "model.onnx")
        shutil.copy(request.getfixturevalue("calibrated"), whole / "model.stats")
        make_foreign(whole / "model.onnx", whole)
    parser = PARSERS[name]
    seeds = [(whole / one).read_bytes() for one in parser.seeds]
    answers = []
    for at, one in enumerate(parser.seeds):
        beside(whole, parser, tmp_path / str(at))
        place = tmp_path / str(at) / one
        place.write_bytes(seeds[at])
        answers.append(repr(parser.read(place)))
    outcomes = set()
    for index in range(CASES):
        which, content, blindly = fuzz.case(parser, seeds, index, f"suite/{name}")
        place = tmp_path / str(which) / parser.seeds[which]
        place.write_bytes(content)
        outcome, why = fuzz.attempt(parser, place, answers[which] if parser.checked and blindly else None)
        assert outcome != "loss", f"case {index}: {why}"
        outcomes.add(outcome)
    assert "refused" in outcomes


def test_an_exception_a_nameless_sentence_and_another_answer_are_losses(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        raise ZeroDivisionError

    def nameless(path: Path) -> None:
        raise fuzz.EdgeresError("something is wrong.")

    (tmp_path / "a.txt").touch()
    parser = PARSERS["class names (.txt)"]
    for read in (fail, nameless, lambda path: 2):
        tried = fuzz.attempt(fuzz.Parser(read, parser.seeds, parser.mutate), tmp_path / "a.txt", "1")
        assert tried[0] == "loss"


@pytest.mark.long
def test_no_parser_loses_one_of_many_spoilt_files() -> None:
    done = subprocess.run([sys.executable, fuzz.__file__, "--cases", "2000"], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "losses: 0", done.stdout
