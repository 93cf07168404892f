"""Reading and writing reports."""

import json
import subprocess
import sys

import pytest

from edgeres import report as reports
from edgeres.errors import InputError, UsageError
from report.example import solar


def test_what_is_written_is_read_from_folder_and_file(tmp_path):
    made = solar(rules={"top1_drop": 0.3, "latency_p50": "5%"})
    reports.write(made, tmp_path / "report.json")
    assert reports.load(tmp_path) == made
    assert reports.load(tmp_path / "report.json") == made


@pytest.mark.parametrize(("name", "start"), [("r.html", "<!doctype html>"), ("r.md", "## solar"), ("R.HTML", "<!doc")])
def test_suffix_decides(tmp_path, name, start):
    reports.write(solar(), tmp_path / "new" / name)
    assert (tmp_path / "new" / name).read_text(encoding="utf-8").startswith(start)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


@pytest.mark.parametrize("name", ["r.pdf", "r"])
def test_other_suffixes_are_refused_and_nothing_is_written(tmp_path, name):
    with pytest.raises(UsageError, match=r"\.html, \.md or \.json"):
        reports.write(solar(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_absent(tmp_path):
    for path in (tmp_path, tmp_path / "no.json"):
        with pytest.raises(UsageError, match="run folder"):
            reports.load(path)


def change(content, *path, value):
    for key in path[:-1]:
        content = content[key]
    content[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("cells", 1, "latency", "p50"), "fast", "cells.1.latency.p50"),
        (("cells", 1, "latency", "p50"), float("nan"), "cells.1.latency.p50"),
        (("cells", 0, "precision"), "int3", "cells.0.precision"),
        (("surprise",), 1, "surprise"),
        (("schema_version",), "edgeres.report/9", "edgeres.report/9"),
    ],
)
def test_what_is_not_a_report_is_refused_by_name(tmp_path, path, value, said):
    content = json.loads(reports.render(solar(), ".json"))
    change(content, *path, value=value)
    file = tmp_path / "report.json"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        reports.load(tmp_path)
    assert str(file) in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_not_even_an_object(tmp_path, content):
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(InputError, match=r"report\.json"):
        reports.load(tmp_path)


def test_importing_the_package_loads_no_renderer():
    code = (
        "import sys, edgeres.report; print([m for m in sys.modules if m.split('.')[-1] in ('rich', 'terminal', 'svg')])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
