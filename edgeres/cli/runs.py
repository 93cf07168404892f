"""Commands on whole runs: run, report, check."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edgeres.cli.common import FAILED, INCONCLUSIVE, OK, REGRESSED, AsJson, app, progress, show


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe (.toml).")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder. [default: build/NAME]")] = None,
    as_json: AsJson = False,
) -> None:
    """Do what a recipe says: every target, FP32 and INT8, one report. Run again, it redoes only what changed."""
    from edgeres import pipeline
    from edgeres.report import terminal

    report = pipeline.run(recipe, out, progress())
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        from rich.console import Console

        terminal.show(report, Console())
    if any(cell.status == "failed" for cell in report.cells):
        raise typer.Exit(FAILED)


def _schema(wanted: bool) -> None:
    if wanted:
        from edgeres import report as reports

        typer.echo(reports.schema(), nl=False)
        raise typer.Exit


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run folder, or its report.json.")],
    out: Annotated[list[Path] | None, typer.Option("--out", "-o", help="Write .html, .md, .json or .csv.")] = None,
    schema: Annotated[
        bool, typer.Option("--schema", callback=_schema, is_eager=True, help="Print the JSON Schema of reports.")
    ] = False,
) -> None:
    """Show the report of a run, or write it as HTML, Markdown, JSON, or its cells as CSV."""
    from edgeres import report as reports

    loaded = reports.load(folder)
    for path in out or []:
        reports.write(loaded, path)
        typer.echo(str(path))
    if not out:
        from rich.console import Console

        from edgeres.report import terminal

        terminal.show(loaded, Console())


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="A run folder, or its report.json.")],
    baseline: Annotated[Path, typer.Option("--baseline", "-b", help="The accepted report (.json).")],
    junit: Annotated[Path | None, typer.Option(help="Also write the verdicts as JUnit XML.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare a report with an accepted baseline. Exit 1 where something regressed, 4 where nothing can be said."""
    from edgeres import gate
    from edgeres import report as reports

    found = reports.load(folder)
    verdicts = gate.compare(found, reports.load(baseline), found.rules)
    outcome = gate.overall(verdicts)
    if junit:
        from edgeres import junit as xml
        from edgeres import store

        store.write_bytes(junit, xml.render(verdicts, found.name).encode())
    lines = [f"{verdict.outcome.value:>12}  {verdict.sentence}" for verdict in verdicts]
    show(
        "\n".join([*lines, outcome.value]),
        {"outcome": outcome.value, "verdicts": [asdict(verdict) for verdict in verdicts]},
        as_json,
    )
    codes = {gate.Outcome.PASSED: OK, gate.Outcome.REGRESSED: REGRESSED, gate.Outcome.INCONCLUSIVE: INCONCLUSIVE}
    raise typer.Exit(codes[outcome])
