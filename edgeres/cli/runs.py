"""Commands on whole runs: run, report, check, baseline accept."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edgeres.cli.common import (
    FAILED,
    INCONCLUSIVE,
    OK,
    REGRESSED,
    AsJson,
    Out,
    TargetName,
    Threads,
    app,
    check_name,
    progress,
    say,
    show,
)
from edgeres.errors import UsageError


@app.command()
def tune(
    recipe: Annotated[Path, typer.Argument(help="A recipe (.toml): its network and images are used.")],
    target: TargetName,
    out: Out,
    max_drop: Annotated[
        float, typer.Option(min=0, max=100, help="Points of top-1 that may be lost against FP32.")
    ] = 0.5,
    minutes: Annotated[float, typer.Option(min=0.1, max=10_000, help="After so many, races are cut short.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Find the fastest engine for a target that loses no more than a bound, and write the recipe (.toml) that makes it
    and a page (.html) with all trials."""
    from edgeres import disk, store
    from edgeres import recipe as recipes
    from edgeres import tune as step
    from edgeres.tune import page
    from edgeres.tune import show as shown
    from edgeres.types import Target

    check_name(out, ".toml")
    store.distinct(out, recipe)
    read, folder = recipes.read(recipe), out.with_suffix("")
    made, found = step.tune_recipe(
        read, Target.parse(target), folder, max_drop=max_drop, minutes=minutes, progress=progress()
    )
    recipes.write(made, out)
    disk.write_bytes(out.with_suffix(".html"), page.render(found, target).encode())
    show(f"{shown.text(found)}\n{out}: written", {"out": str(out), **shown.to_json(found)}, as_json)


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe (.toml).")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder.", show_default="build/NAME")] = None,
    devices: Annotated[
        list[str] | None, typer.Option(metavar="NAME,...", help="Measure there: devices or labels.")
    ] = None,
    inventory: Annotated[Path | None, typer.Option(help="With --devices: what each runs (devices.toml).")] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Where agents are.", show_default="this run, port 8786")
    ] = None,
    certificates: Annotated[Path | None, typer.Option(help="Folder by `edgeres devices init`.")] = None,
    as_json: AsJson = False,
) -> None:
    """Do what a recipe says: every target, FP32 and INT8, one report. Run again, it redoes only what changed.

    With --scheduler alone, its agents share calibration and evaluation; with --devices the cells are measured there.
    """
    from edgeres.report import terminal

    if devices or scheduler:
        from edgeres.fleet import run as fleet

        report = fleet.run(
            recipe,
            out,
            progress(),
            devices=[name for names in devices or [] for name in names.split(",")],
            listed=inventory,
            scheduler=scheduler,
            certificates=certificates,
        )
    elif inventory or certificates:
        raise UsageError("--inventory and --certificates go with --devices or --scheduler.")
    else:
        from edgeres import pipeline

        report = pipeline.run(recipe, out, progress())
    if as_json:
        say(report.model_dump_json(indent=2))
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
    reports.write(loaded, *(out or []))
    for path in out or []:
        say(str(path))
    if not out:
        from rich.console import Console

        from edgeres.report import terminal

        terminal.show(loaded, Console())


@app.command()
def check(
    folder: Annotated[Path | None, typer.Argument(help="A run folder, or its report.json.")] = None,
    baseline: Annotated[Path | None, typer.Option("--baseline", "-b", help="The accepted report (.json).")] = None,
    ab: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="BASE HEAD", help="Two engines, or run folders, to measure here in turn, instead."),
    ] = None,
    target: Annotated[str | None, typer.Option("--target", "-t", help="With --ab: what the engines run on.")] = None,
    threshold: Annotated[
        str | None, typer.Option(help="With --ab: how much p50 may grow.", show_default="2.5%")
    ] = None,
    threads: Threads = None,
    junit: Annotated[Path | None, typer.Option(help="Also write the verdicts as JUnit XML.")] = None,
    annotate: Annotated[
        bool, typer.Option("--annotate", help="Also print annotations of GitHub Actions, to standard error.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare a report with an accepted baseline, or two engines. Exit 1 where it regressed, 4 where nobody can say."""
    from edgeres import gate, store
    from edgeres import report as reports

    if (folder is None) == (ab is None) or (baseline is None) != (folder is None):
        raise UsageError("give a run folder and its --baseline, or two engines or run folders after --ab.")
    if folder and (target or threshold or threads):
        raise UsageError("--target, --threshold and --threads go with --ab; a report is held to the rules in it.")
    for source in (reports.find(folder) if folder else None, baseline, *(ab or ())):
        if junit and source:
            store.distinct(junit, source)
    if folder and baseline:
        found = reports.load(folder)
        verdicts = gate.compare(found, reports.load(baseline), found.rules)
    elif ab:
        from edgeres.ab import compare

        verdicts = compare(*ab, _percentage(threshold or "2.5%"), target, threads, progress())
    outcome = gate.overall(verdicts)
    if junit:
        from edgeres import disk
        from edgeres import junit as xml

        disk.write_bytes(junit, xml.render(verdicts, "edgeres check").encode())
    if annotate:
        from edgeres import annotations

        typer.echo(annotations.render(verdicts), err=True, nl=False)
    lines = [f"{verdict.outcome.value:>12}  {verdict.sentence}" for verdict in verdicts]
    show(
        "\n".join([*lines, outcome.value]),
        {"outcome": outcome.value, "verdicts": [asdict(verdict) for verdict in verdicts]},
        as_json,
    )
    codes = {gate.Outcome.PASSED: OK, gate.Outcome.REGRESSED: REGRESSED, gate.Outcome.INCONCLUSIVE: INCONCLUSIVE}
    raise typer.Exit(codes[outcome])


def _percentage(threshold: str) -> float:
    from edgeres import gate

    try:
        return gate.read("latency_p50", threshold)
    except UsageError:
        raise UsageError(f"--threshold {threshold!r} is no percentage; write it as in --threshold 2.5%.") from None


baselines = typer.Typer(no_args_is_help=True, help="What `check` compares with: accept a report as it.")
app.add_typer(baselines, name="baseline")


@baselines.command()
def accept(
    folder: Annotated[Path, typer.Argument(help="A run folder, or its report.json.")], out: Out, as_json: AsJson = False
) -> None:
    """Write a report as the baseline, to be committed, and show what of it changes."""
    from edgeres import baseline, store
    from edgeres import report as reports

    check_name(out, ".json")
    store.distinct(out, reports.find(folder))
    found = reports.load(folder)
    changes = baseline.changes(found, out)
    baseline.write(found, out)
    if not as_json:
        from rich.console import Console
        from rich.table import Table

        from edgeres.figures import plain

        table = Table("cell", "metric", "old", "new", box=None, pad_edge=False)
        for change in changes:
            table.add_row(*map(plain, change))
        Console(markup=False, highlight=False).print(table if changes else "No figure changes.")
    rows = [dict(zip(("cell", "metric", "old", "new"), change, strict=True)) for change in changes]
    show(f"{out}: accepted", {"out": str(out), "changes": rows}, as_json)
