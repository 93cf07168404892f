"""The report of a run: its schema, and what is rendered from it."""

import json
from importlib import resources
from pathlib import Path

from pydantic import ValidationError

from edgeres import disk, gate
from edgeres.errors import InputError, UsageError
from edgeres.schema import SCHEMA, Report

FILE = "report.json"
"""The name of a report in its run folder."""


def find(path: Path) -> Path:
    """The file of a report: that of a run folder, or itself; UsageError where there is none."""
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"{path} holds no {FILE}; give a run folder or a report's .json file.")
    return file


def load(path: Path) -> Report:
    """Read the report of a run folder, or a `.json` file.

    UsageError where there is none, InputError naming the file and the first field that is not a report's.
    """
    file = find(path)
    content = disk.read_json(file)
    if isinstance(content, dict) and content.get("schema_version", SCHEMA) != SCHEMA:
        raise InputError(
            f"{file} is written in {content['schema_version']!r}, this edgeres reads {SCHEMA!r}; "
            "make the report again, and a baseline with `edgeres baseline accept`."
        )
    try:
        found = Report.model_validate_json(disk.read(file, disk.TEXT))
        for rule, limit in found.rules.items():
            gate.read(rule, limit)
        return found
    except UsageError as error:
        raise InputError(f"{file}: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise InputError(f"{file}: {where}: {first['msg']}; make the report again.") from None


def schema() -> str:
    """The JSON Schema (draft 2020-12) of a report, as published with this version."""
    return (resources.files("edgeres.report") / "report.schema.json").read_text(encoding="utf-8")


def make_schema() -> str:
    """What `report.schema.json` has to hold."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA}
    return json.dumps(head | Report.model_json_schema(), indent=2) + "\n"


def render(report: Report, suffix: str) -> str:
    """The report as text: `.html`, `.md`, `.json`, or its cells as `.csv`; UsageError for any other suffix."""
    if suffix == ".html":
        from edgeres.report import html

        return html.render(report)
    if suffix == ".md":
        from edgeres.report import markdown

        return markdown.render(report)
    if suffix == ".csv":
        from edgeres.report import csv

        return csv.render(report)
    if suffix == ".json":
        return report.model_dump_json(indent=2) + "\n"
    given = suffix or "a file without suffix"
    raise UsageError(f"a report cannot be written as {given!r}; use .html, .md, .csv or .json.")


def write(report: Report, *paths: Path) -> None:
    """Render by the suffix of each path, then write the files, each whole or not at all; UsageError as in `render`."""
    for path, text in [(path, render(report, path.suffix.lower())) for path in paths]:
        disk.write_bytes(path, text.encode())
