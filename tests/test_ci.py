"""The CI files that people copy: what they call is there, and what they need of GitHub and GitLab is asked for."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from edgeres.cli import app

CI = Path(__file__).parents[1] / "pipelines" / "ci"


def commands(value: Any) -> Iterator[str]:
    """Lines of shell anywhere in a CI file."""
    if isinstance(value, dict):
        value = value.values()
    if isinstance(value, str):
        yield from value.splitlines()
    elif value is not None and not isinstance(value, bool | int):
        for one in value:
            yield from commands(one)


@pytest.mark.parametrize("name", ["github.yml", "gitlab.yml"])
def test_every_edgeres_command_parses(name: str) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    called = [line for line in commands(yaml.safe_load((CI / name).read_text())) if re.match(r"edgeres \w+ \S", line)]
    assert {line.split()[1] for line in called} == {"run", "check", "report"}
    group: Any = typer.main.get_command(app)
    with group.make_context("edgeres", ["targets"]) as context:
        for line in called:
            _, command, *arguments = shlex.split(line)
            group.get_command(context, command).make_context(command, arguments, parent=context)
