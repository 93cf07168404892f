"""The devices of a run, looked at while it goes on."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.table import Table

from edgeres import figures
from edgeres.fleet.client import Fleet

PERIOD = 1.0
"""Seconds between two looks; a device tells of itself every half second."""
PATIENCE = 10.0
"""Seconds until a scheduler that does not answer is taken to have ended."""


class Row(NamedTuple):
    device: str
    state: str
    doing: str
    temperature: str
    last: str


def look(client: Any, names: Sequence[str] = ()) -> list[Row]:
    """A row for each agent, then for each of `names` that is not there; OSError where the scheduler is gone."""
    found = client.sync(client.scheduler.identity, n_workers=-1, callback_timeout=PATIENCE)["workers"].values()
    rows = []
    for worker in sorted(found, key=lambda worker: str(worker["name"])):
        told = worker["metrics"].get("edgeres", {})
        degrees, doing = told.get("temperature"), told.get("doing", "")
        warm = "" if degrees is None else f"{degrees:.0f} °C"
        rows.append(Row(str(worker["name"]), "working" if doing else "idle", doing, warm, told.get("last", "")))
    there = {row.device for row in rows}
    return rows + [Row(name, "away", "", "", "") for name in names if name not in there]


def watch(address: str, certificates: Path | None, names: Sequence[str], console: Console) -> None:
    """Show the devices until the scheduler ends: a table that renews itself in a terminal, elsewhere a line for each
    change. EdgeresError where no scheduler answers."""
    with Fleet(address, certificates) as fleet:
        fleet.reach()
        looks = _looks(fleet, names)
        rows = next(looks, [])
        if console.is_terminal:
            with Live(_table(rows), console=console, auto_refresh=False) as live:
                for rows in looks:
                    live.update(_table(rows), refresh=True)
            return
        shown: set[Row] = set()
        for one in chain([rows], looks):
            for row in one:
                if row._replace(temperature="") not in shown:
                    console.print(figures.plain("  ".join(part for part in row if part)), soft_wrap=True)
            shown = {row._replace(temperature="") for row in one}


def _looks(fleet: Fleet, names: Sequence[str]) -> Iterator[list[Row]]:
    try:
        client = fleet.client()
        while client.status == "running":
            yield look(client, names)
            time.sleep(PERIOD)
    except (OSError, asyncio.TimeoutError):
        return


def _table(rows: Sequence[Row]) -> Table:
    made = Table("device", "state", "task", "temperature", "last result", box=None, pad_edge=False)
    for row in rows:
        made.add_row(*map(figures.plain, row))
    return made
