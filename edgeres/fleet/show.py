"""The inventory and what devices say of themselves, in a terminal."""

from collections.abc import Mapping

from rich.table import Table

from edgeres import figures
from edgeres.errors import EdgeresError
from edgeres.fleet.inventory import Found, Inventory

NOTHING = "not available"


def text(found: Found) -> str:
    """One line for each thing that can be known."""
    clock = found.clock_mhz and f"{found.clock_mhz[0]:,.0f} to {found.clock_mhz[1]:,.0f} MHz"
    rows = {
        "board": found.board,
        "system": f"{found.system}, {found.architecture}, Python {found.python}",
        "processor": f"{found.cpu or found.architecture}, {found.cores} cores",
        "instructions": ", ".join(found.features),
        "memory": f"{found.memory_gib:.1f} GiB" if found.memory_gib else "",
        "accelerators": ", ".join(found.accelerators),
        "runtimes": ", ".join(f"{name} {version}" for name, version in found.packages.items()),
        "runs": ", ".join(found.targets),
        "temperatures": ", ".join(f"{name} {degrees:.0f} °C" for name, degrees in found.temperatures.items()),
        "energy meters": ", ".join(found.power),
        "clock": ", ".join(part for part in (found.governor, clock) if part),
    }
    return "\n".join(f"{name:<14}{value or NOTHING}" for name, value in rows.items())


def answer(name: str, answered: Found | EdgeresError) -> str:
    """What a device said, or why it said nothing."""
    if isinstance(answered, EdgeresError):
        return str(answered)
    return f"{name}\n" + "\n".join(f"  {line}" for line in text(answered).splitlines())


def table(inventory: Inventory, ends: Mapping[str, str]) -> Table:
    """All devices; `ends` tells when certificates end."""
    made = Table("device", "reached", "targets", "is", "certificate until", box=None, pad_edge=False)
    for name, device in inventory.devices.items():
        found = device.found
        kind = f"{found.board or found.cpu or found.architecture}, {found.cores} cores" if found else "not probed"
        reached = f"ssh {device.address}" if device.reach == "ssh" else "dials in"
        made.add_row(name, reached, ", ".join(device.targets) or "-", figures.plain(kind), ends.get(name, "none"))
    return made
