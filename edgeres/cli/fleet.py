"""Commands of other machines: agent, scheduler. `edgeres run --devices` is with the other runs."""

from pathlib import Path
from typing import Annotated

import typer

from edgeres.cli.common import app

Address = Annotated[str, typer.Argument(help="tls://HOST:8786, or tcp://127.0.0.1:8786 without certificates.")]
Certificates = Annotated[
    Path | None, typer.Option(help="Folder of this machine's certificate, by `edgeres devices init`.")
]


@app.command()
def agent(
    address: Address,
    name: Annotated[str, typer.Option(help="The name of this device.")],
    certificates: Certificates = None,
    folder: Annotated[Path | None, typer.Option(help="Keeps files.", show_default="~/.cache/edgeres/agent")] = None,
    space: Annotated[float, typer.Option(min=0.1, max=1e6, help="GiB that may be kept; the oldest go first.")] = 16,
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where the scheduler reaches this device.", show_default="any port"),
    ] = None,
) -> None:
    """Let a scheduler measure on this machine: dial it, work one task at a time, dial again when it is gone."""
    from edgeres.fleet.agent import serve

    serve(address, name, certificates, folder=folder, space=space, listen=listen)


@app.command()
def scheduler(address: Address, certificates: Certificates = None) -> None:
    """Let agents and runs meet at an address of this machine, for longer than one run."""
    from edgeres.fleet.agent import serve_scheduler

    serve_scheduler(address, certificates)
