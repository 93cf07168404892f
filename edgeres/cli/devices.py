"""Commands on the devices that engines are measured on: devices init, add, list, probe, revoke, remove, watch."""

import json
from pathlib import Path
from typing import Annotated

import typer

from edgeres.cli.common import FAILED, AsJson, app, show
from edgeres.errors import UsageError

devices = typer.Typer(no_args_is_help=True, help="Other machines to measure on: which, what they are, who gets in.")
app.add_typer(devices, name="devices")

Inventory = Annotated[Path, typer.Option("--inventory", "-i", help="The devices (.toml).")]
Certificates = Annotated[
    Path | None, typer.Option("--certificates", help="Folder.", show_default="certificates, beside the inventory")
]
Name = Annotated[str, typer.Argument(help="Its name in the inventory.")]
DEVICES = Path("devices.toml")


def _folder(inventory: Path, certificates: Path | None) -> Path:
    return certificates or inventory.parent / "certificates"


@devices.command()
def init(inventory: Inventory = DEVICES, certificates: Certificates = None, as_json: AsJson = False) -> None:
    """Make a certificate authority, and certificates of all who have none: scheduler, client and devices."""
    from edgeres.fleet import certificates as step
    from edgeres.fleet import inventory as inventories

    folder = _folder(inventory, certificates)
    step.init(folder)
    names = list(inventories.read(inventory).devices) if inventory.exists() else []
    for name in names:
        step.issue(folder, name)
    ends = {name: step.until(folder, name).date().isoformat() for name in ("scheduler", "client", *names)}
    lines = [f"{folder / name}: valid until {end}" for name, end in ends.items()]
    show("\n".join([f"{folder}: keep it to yourself; a device gets the folder with its name", *lines]), ends, as_json)


@devices.command()
def add(
    name: Annotated[str, typer.Argument(help="Letters, digits, hyphens.")],
    address: Annotated[str, typer.Argument(help="As ssh takes it, user@host:port; not for --agent.")] = "",
    target: Annotated[list[str] | None, typer.Option("--target", "-t", help="What is measured there.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Any word; a run may name it in place of devices.")] = None,
    python: Annotated[
        str | None, typer.Option(help="The interpreter there that has edgeres.", show_default="python3")
    ] = None,
    agent: Annotated[bool, typer.Option("--agent", help="It dials in by itself; see `edgeres agent`.")] = False,
    inventory: Inventory = DEVICES,
    certificates: Certificates = None,
    as_json: AsJson = False,
) -> None:
    """Add a device to the inventory, or change what is given of it; with a certificate where `devices init` made an
    authority."""
    from edgeres.fleet import certificates as step
    from edgeres.fleet import inventory as inventories

    if agent and address:
        raise UsageError("SSH reaches an address, an agent dials in by itself; leave one of them out.")
    reach = "agent" if agent else "ssh" if address else None
    keys = {"address": address, "reach": reach, "targets": target, "labels": label, "python": python}
    made, known = inventories.put(inventory, name, {key: value for key, value in keys.items() if value})
    folder = _folder(inventory, certificates)
    own = step.issue(folder, name) if (folder / step.CA).exists() else None
    text = f"{inventory}: {name} {'changed' if known else 'added'}"
    text += f", its certificate is in {own}" if own else ""
    show(text, {**made.model_dump(mode="json"), "certificate": str(own) if own else None}, as_json)


@devices.command("list")
def list_(inventory: Inventory = DEVICES, certificates: Certificates = None, as_json: AsJson = False) -> None:
    """List the devices, what they are as far as they were probed, and until when their certificates are valid."""
    from edgeres.fleet import certificates as step
    from edgeres.fleet import inventory as inventories
    from edgeres.fleet import show as shown

    found, folder = inventories.read(inventory), _folder(inventory, certificates)
    held = [name for name in found.devices if (folder / name / step.CERTIFICATE).exists()]
    ends = {name: step.until(folder, name).date().isoformat() for name in held}
    if as_json:
        rows = [
            {**one.model_dump(mode="json"), "certificate_until": ends.get(name)} for name, one in found.devices.items()
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console

    Console(markup=False, highlight=False).print(shown.table(found, ends))


@devices.command()
def probe(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names or labels.", show_default="all that ssh reaches")
    ] = None,
    here: Annotated[bool, typer.Option("--here", help="This machine, and no inventory.")] = False,
    inventory: Inventory = DEVICES,
    as_json: AsJson = False,
) -> None:
    """Ask devices what they are, and note it in the inventory: processor, accelerators, runtimes, sensors, clocks."""
    from edgeres.fleet import show as shown

    if here:
        from edgeres.fleet import probe as step

        if names:
            raise UsageError("--here asks this machine; leave the names out.")
        found = step.probe()
        typer.echo(found.model_dump_json(indent=2) if as_json else shown.text(found))
        return
    from edgeres.fleet import inventory as inventories
    from edgeres.fleet import ssh

    known = inventories.read(inventory)
    asked = known.select(names) if names else [one for one in known.devices.values() if one.reach == "ssh"]
    answers = ssh.probe(asked)
    for name, answer in answers.items():
        if isinstance(answer, inventories.Found):
            inventories.put_found(inventory, name, answer)
    values = {
        name: one.model_dump(mode="json") if isinstance(one, inventories.Found) else {"error": str(one)}
        for name, one in answers.items()
    }
    show("\n\n".join(shown.answer(name, one) for name, one in answers.items()), values, as_json)
    if any(not isinstance(one, inventories.Found) for one in answers.values()):
        raise typer.Exit(FAILED)


@devices.command()
def revoke(
    name: Name, inventory: Inventory = DEVICES, certificates: Certificates = None, as_json: AsJson = False
) -> None:
    """Let the certificate of a device in no more, as when it was stolen; `devices init` makes it another one."""
    from edgeres.fleet import certificates as step

    folder = _folder(inventory, certificates)
    step.revoke(folder, name)
    text = f"{folder / step.CRL}: {name} is refused from now on, and put out of runs that are going on"
    show(text, {"name": name, "revoked": sorted(map(str, step.revoked(folder)))}, as_json)


@devices.command()
def remove(
    name: Name, inventory: Inventory = DEVICES, certificates: Certificates = None, as_json: AsJson = False
) -> None:
    """Remove a device from the inventory, and revoke its certificate."""
    from edgeres.fleet import certificates as step
    from edgeres.fleet import inventory as inventories

    folder = _folder(inventory, certificates)
    inventories.find(inventory, name)
    if held := (folder / name / step.CERTIFICATE).exists():
        step.revoke(folder, name)  # first: what fails half way leaves nobody with a certificate
    inventories.remove(inventory, name)
    show(f"{inventory}: {name} removed", {"name": name, "revoked": held}, as_json)


@devices.command()
def watch(
    address: Annotated[
        str | None, typer.Argument(help="The scheduler.", show_default="that of a run on this machine")
    ] = None,
    inventory: Inventory = DEVICES,
    certificates: Certificates = None,
) -> None:
    """Show what each device does, its temperature and its last result, for as long as the run goes on."""
    from rich.console import Console

    from edgeres.fleet import inventory as inventories
    from edgeres.fleet import watch as step

    folder = _folder(inventory, certificates)
    tls = not address or address.startswith("tls:")
    trusted = folder if tls and folder.exists() else None
    names = list(inventories.read(inventory).devices) if inventory.exists() else []
    here = "tls://127.0.0.1:8786" if trusted else "tcp://127.0.0.1:8786"
    step.watch(address or here, trusted, names, Console(markup=False, highlight=False))
