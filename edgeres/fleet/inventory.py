"""The inventory: one TOML file with a table for each device. A change rewrites the table of its device alone, so that
order and comments of all else stay.

    [nano]
    address = "user@192.168.1.20"          # as ssh takes it; its own configuration file is honoured
    targets = ["tensorrt:current", "onnxruntime:cpu"]
    python = "edgeres/bin/python"          # of the environment there that has edgeres
    labels = ["lab"]

    [pi]
    reach = "agent"                        # dials in by itself
    targets = ["onnxruntime:cpu"]

`edgeres devices probe` adds a table `[nano.found]`, what the device says of itself.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from edgeres import backends, disk
from edgeres.errors import InputError, UsageError
from edgeres.fleet.address import host_port
from edgeres.recipe import toml_value
from edgeres.schema import Machine, Part
from edgeres.types import Target

NAME = r"^[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?$"
"""A name is a label of DNS (RFC 1123): it stands in a certificate, in a file name and in TOML without quotes."""
RESERVED = ("client", "scheduler")
"""Names of the other certificates; see `edgeres.fleet.certificates`."""


class Found(Machine):
    """What a device said of itself when it was probed. None, or nothing listed: not available there."""

    probed: str
    """UTC, ISO 8601."""
    board: str | None = None
    """What its firmware calls it: "NVIDIA Jetson Orin Nano Developer Kit", "Raspberry Pi 5 Model B Rev 1.0"."""
    accelerators: list[str] = Field(default=[])
    targets: list[str] = Field(default=[])
    """What edgeres can run there."""
    temperatures: dict[str, float] = Field(default={})
    """Sensor -> degrees Celsius, at that moment."""
    power: list[str] = Field(default=[])
    """What meters energy there: "RAPL package-0", "INA3221 VDD_IN", "NVML"."""
    governor: str | None = None
    """How the clock is set: performance, schedutil, ...; several where cores differ."""
    clock_mhz: tuple[float, float] | None = None
    """The slowest and the fastest that the governor may choose."""


def _address(text: str) -> str:
    if text:
        with _refused():
            host_port(text.rpartition("@")[2])
    return text


def _target(text: str) -> str:
    with _refused():
        target = Target.parse(text)
        backends.find(target)
    return str(target)


@contextmanager
def _refused() -> Iterator[None]:
    """What pydantic tells the place of."""
    try:
        yield
    except UsageError as error:
        raise ValueError(error) from None


def _name(text: str) -> str:
    if not re.fullmatch(NAME, text) or text.lower() in RESERVED:
        raise ValueError(f"{text!r} is no name of one: letters, digits and hyphens, and not {', '.join(RESERVED)}")
    return text


class Device(Part):
    """A device, and how it is reached: by `ssh` at `address` ("host", "user@host:port"), or by an `agent` that runs
    there and dials in. `python` is the interpreter there that has edgeres. `targets` are measured on it."""

    name: Annotated[str, AfterValidator(_name)]
    address: Annotated[str, AfterValidator(_address)] = ""
    reach: Literal["ssh", "agent"] = "ssh"
    targets: list[Annotated[str, AfterValidator(_target)]] = Field(default=[])
    python: str = "python3"
    labels: list[str] = Field(default=[])
    found: Found | None = None

    @model_validator(mode="after")
    def _reachable(self) -> "Device":
        if self.reach == "ssh" and (not self.address or self.address.startswith("-")):
            raise ValueError('an ssh device needs an address, as in "user@192.168.1.20"; or reach = "agent"')
        return self


class Inventory(Part):
    """All devices by name, in the order of the file."""

    devices: dict[str, Device] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _distinct(self) -> "Inventory":
        alike: dict[str, str] = {}
        for name in self.devices:
            if (other := alike.setdefault(name.lower(), name)) != name:
                raise ValueError(f"{other} and {name} differ in case alone, which no file name may")
        for device in self.devices.values():
            if label := next((label for label in device.labels if label in {*self.devices} - {device.name}), None):
                raise ValueError(f"{label} is a device, and a label of {device.name}: a run could mean either")
        return self

    def select(self, names: list[str]) -> list[Device]:
        """The devices with these names or labels, in the order of the file; UsageError where one is unknown."""
        known = {*self.devices, *(label for device in self.devices.values() for label in device.labels)}
        if unknown := next((name for name in names if name not in known), None):
            raise UsageError(
                f"there is no device or label {unknown!r}; there are {', '.join(sorted(known)) or 'none'}."
            )
        return [device for device in self.devices.values() if {device.name, *device.labels} & set(names)]


def read(path: Path) -> Inventory:
    """Read an inventory; UsageError where it is absent, InputError where it is wrong."""
    return _parse(_text(path), path)


def put(path: Path, name: str, keys: Mapping[str, Any]) -> tuple[Device, bool]:
    """Add a device, or change these keys of the one that has its name; it, and whether it was there. The file is made
    where there is none. A device at another address is not the one that was probed."""
    with disk.changing(path):
        text = _text(path) if path.exists() else ""
        known = _parse(text, path).devices
        kept = dict(known.get(name, ()))
        if kept.get("address") != keys.get("address", kept.get("address")):
            kept.pop("found", None)
        device = _device(name, {**kept, **keys})
        _inventory({**known, name: device})
        _write(path, text, _edit(text, (name,), _tables(device)), name)
    return device, name in known


def put_found(path: Path, name: str, found: Found) -> None:
    """Write what a device of the inventory said of itself, in place of what it said before."""
    with disk.changing(path):
        text = _text(path)
        _write(path, text, _edit(text, (name, "found"), _table(f"{name}.found", found)), name)


def find(path: Path, name: str) -> Device:
    """A device of the inventory; UsageError where there is none of that name."""
    devices = read(path).devices
    if name not in devices:
        raise UsageError(f"{path}: there is no device {name!r}; `edgeres devices list` shows them.")
    return devices[name]


def remove(path: Path, name: str) -> None:
    """Remove a device; as `find`."""
    find(path, name)
    with disk.changing(path):
        text = _text(path)
        _write(path, text, _edit(text, (name,), ""), name)


def _device(name: str, keys: Mapping[str, Any]) -> Device:
    """UsageError with the place where a key is wrong."""
    try:
        return Device.model_validate({**keys, "name": name})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in (name, *first["loc"])) if first["loc"] != ("name",) else "a device"
        raise UsageError(f"{place}: {_said(error)}.") from None


def _inventory(devices: Mapping[str, Device]) -> Inventory:
    try:
        return Inventory(devices=dict(devices))
    except ValidationError as error:
        raise UsageError(f"{_said(error)}; name one of them otherwise.") from None


def _said(error: ValidationError) -> str:
    return error.errors()[0]["msg"].removeprefix("Value error, ").rstrip(".")


def _text(path: Path) -> str:
    if not path.exists():
        raise UsageError(f"{path} is not there; make it with `edgeres devices add`.")
    return disk.read_text(path)


def _parse(text: str, path: Path) -> Inventory:
    content = disk.parse_toml(text, path)
    if stray := next((key for key, value in content.items() if not isinstance(value, dict)), None):
        raise InputError(f"{path}: {stray} is not a table; write [NAME] above the keys of a device.")
    try:
        return _inventory({name: _device(name, keys) for name, keys in content.items()})
    except UsageError as error:
        raise InputError(f"{path}: {error} Mend the inventory.") from None


def _edit(text: str, keys: tuple[str, ...], table: str) -> str:
    """The text with `table` in place of the tables whose names begin with `keys`, or after those of the same device,
    or at the end. Comments that stand right above the next table stay with that."""
    parts = re.split(r"^(?=[ \t]*\[)", text, flags=re.MULTILINE)

    def under(*keys: str) -> list[int]:
        name = r"\s*\.\s*".join(rf"([\"']?){re.escape(key)}\{place}" for place, key in enumerate(keys, 1))
        return [index for index, part in enumerate(parts) if re.match(rf"[ \t]*\[\s*{name}\s*[.\]]", part)]

    mine, device = under(*keys), under(keys[0])
    start = mine[0] if mine else device[-1] + 1 if device else len(parts)
    before, after = "".join(parts[:start]), "".join(parts[mine[-1] + 1 if mine else start :])
    last = "".join(parts[start : mine[-1] + 1]) if mine else before
    comments = re.search(r"(?:^[ \t]*(?:#.*)?\n)*\Z", last, re.MULTILINE)
    tail = comments[0] if comments and after else ""
    if not mine:
        before = before[: len(before) - len(tail)]
    pieces = (before.rstrip("\n"), table.rstrip("\n"), (tail + after).strip("\n"))
    return "\n\n".join(piece for piece in pieces if piece) + "\n"


def _write(path: Path, old: str, new: str, name: str) -> None:
    """Write the new text, having made sure that nothing but the device `name` differs."""
    before, after = (_parse(text, path).devices for text in (old, new))
    if {**before, name: None} != {**after, name: None}:
        raise InputError(f"{path} cannot be changed without harm to other devices; edit {name} by hand.")
    disk.write_bytes(path, new.encode())


def _tables(device: Device) -> str:
    table = _table(device.name, device)
    return f"{table}\n{_table(f'{device.name}.found', device.found)}" if device.found else table


def _table(name: str, part: Part) -> str:
    content = part.model_dump(mode="json", exclude_defaults=True, exclude={"name", "found"})
    return "\n".join([f"[{name}]", *(f"{key} = {toml_value(value)}" for key, value in content.items())]) + "\n"
