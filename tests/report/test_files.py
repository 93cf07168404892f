"""Reading and writing reports."""

import csv
import io
import json
import subprocess
import sys

import pydantic
import pytest

from edgeres import report as reports
from edgeres.errors import InputError, UsageError
from report.example import cell, report, solar


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
    with pytest.raises(UsageError, match=r"\.html, \.md, \.csv or \.json"):
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


def test_a_report_of_the_schema_before_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "report.json").write_text(json.dumps({"schema_version": "edgeres.report/1", "name": "solar"}))
    with pytest.raises(InputError, match=r"'edgeres\.report/1', this edgeres reads 'edgeres\.report/2'; make the"):
        reports.load(tmp_path)


@pytest.mark.skipif(
    tuple(map(int, pydantic.VERSION.split(".")[:2])) < (2, 11), reason="older Pydantic spells the same schema otherwise"
)
def test_the_published_schema_is_current():
    """Where this fails, write `edgeres.report.make_schema()` to edgeres/report/report.schema.json."""
    assert json.loads(reports.schema()) == json.loads(reports.make_schema())
    assert json.loads(reports.schema())["$id"] == "edgeres.report/2"


def test_the_published_schema_knows_every_field_that_a_report_has():
    published = json.loads(reports.schema())

    def check(value, schema):
        while "$ref" in schema:
            schema = published["$defs"][schema["$ref"].rpartition("/")[2]]
        if "anyOf" in schema:
            schema = next(one for one in schema["anyOf"] if (one.get("type") == "null") == (value is None))
            return check(value, schema)
        if isinstance(value, dict) and "properties" in schema:
            assert set(value) == set(schema["properties"])
            assert schema["additionalProperties"] is False
            for name, one in value.items():
                check(one, schema["properties"][name])
        elif isinstance(value, list) and "items" in schema:
            for one in value:
                check(one, schema["items"])
        return None

    check(json.loads(reports.render(solar(), ".json")), published)


def test_cells_as_csv_read_back(tmp_path):
    made = solar()
    reports.write(made, tmp_path / "cells.csv")
    content = (tmp_path / "cells.csv").read_bytes()
    assert content.count(b"\r\n") == content.count(b"\n") == len(made.cells) + 1
    lines = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    for line, found in zip(lines, made.cells, strict=True):
        assert (line["target"], line["precision"], line["SHA-256"]) == (found.target, found.precision, found.digest)
        assert line["p50 ms"] == ("" if found.latency is None else str(found.latency.p50))
        assert line["energy mJ/image"] == ("310.0" if found.latency and found.latency.energy_mj else "")
        assert float(line["size MB"]) == found.size / 1e6
    assert len(lines[0]) == content.split(b"\r\n")[0].count(b",") + 1


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@a", "\t=1"])
def test_no_cell_of_the_csv_is_a_formula(name):
    (line,) = csv.DictReader(io.StringIO(reports.render(report([cell(name, "int8")]), ".csv"), newline=""))
    assert line["target"] == f"'{name}"


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
