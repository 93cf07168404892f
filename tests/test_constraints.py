"""What `make` installs and `make test-min` tests is what pyproject.toml allows."""

import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOT_LOCKED = {"edgeres", "tensorrt"}
"""Ourselves, and what NVIDIA's own index serves."""
REQUIREMENTS = {
    requirement.name: requirement
    for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for requirement in map(Requirement, group)
    if requirement.name not in NOT_LOCKED
}


def pins(file: str) -> dict[str, list[Version]]:
    found: dict[str, list[Version]] = {}
    for name, version in re.findall(r"^([\w-]+)==([^\s;]+)", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE):
        found.setdefault(name, []).append(Version(version))
    return found


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-min.txt"])
def test_every_dependency_is_pinned_to_what_its_range_allows(file: str) -> None:
    pinned = pins(file)
    assert [name for name in REQUIREMENTS if name not in pinned] == []
    for name, requirement in REQUIREMENTS.items():
        assert all(version in requirement.specifier for version in pinned[name]), name


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    """Compared as far as a bound is written: `>=2025.0` is tested by 2025.0.0, and by no 2025.1."""
    pinned = pins("constraints-min.txt")
    for name, requirement in REQUIREMENTS.items():
        (bound,) = (Version(one.version) for one in requirement.specifier)
        assert min(pinned[name]).release[: len(bound.release)] == bound.release, name
