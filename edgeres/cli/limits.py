"""What `bench` does with --roofline and --p99."""

from pathlib import Path
from typing import Any

from edgeres.cli.common import INCONCLUSIVE, check_name, progress, show


def roofline(subject: Any, out: Path | None, as_json: bool) -> None:
    """Each layer against what this machine can do at most."""
    from edgeres.limits import picture
    from edgeres.limits import roofline as step
    from edgeres.limits import show as shown

    _drawable(out)
    with progress().step(f"roofline of {subject.target}", step.steps(subject)) as advance:
        found = step.roofline(subject, advance)
    _write(out, picture.roofline(found))
    show(f"{subject.path} on {subject.target}\n{shown.roofline(found)}", shown.roofline_json(found), as_json)


def bounded(subject: Any, p99: float, out: Path | None, as_json: bool) -> int:
    """The most images a second under a bound of p99; the exit code: inconclusive where no point surely holds it."""
    from edgeres.limits import bound, picture
    from edgeres.limits import show as shown

    _drawable(out)
    with progress().step(f"batches and streams of {subject.target}", None) as advance:
        found = bound.search(subject, p99, progress=advance)
    _write(out, picture.curve(found))
    show(f"{subject.path} on {subject.target}\n{shown.curve(found)}", shown.curve_json(found), as_json)
    return 0 if found.best else INCONCLUSIVE


def _drawable(out: Path | None) -> None:
    if out is not None:
        check_name(out, ".svg")


def _write(out: Path | None, drawn: str) -> None:
    from edgeres import disk

    if out is not None:
        disk.write_bytes(out, drawn.encode())
