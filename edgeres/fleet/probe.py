"""What a device is: its processor, accelerators, runtimes, sensors and clocks, as Linux, NVML and the runtimes tell.

What is not there is not told, and nothing here fails for it.
"""

import ctypes
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from edgeres import backends, machine
from edgeres.fleet.inventory import Found
from edgeres.types import Target

SYSFS = Path("/sys")
SANE = (-40.0, 150.0)
"""Degrees Celsius of a sensor that works; those that are switched off tell -256 or 32767."""
_GPUS = {"0x8086": "Intel", "0x1002": "AMD"}
"""PCI vendors whose display controllers compute; NVIDIA's are told by NVML."""


def probe(sysfs: Path = SYSFS) -> Found:
    """This machine."""
    offered = [one for name in backends.BACKENDS for one in backends.find(Target(name, "any")).available()]
    gpus, (governor, clock) = _nvidia(), _clock(sysfs)
    return Found(
        **machine.describe().model_dump(),
        probed=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        board=_board(sysfs),
        accelerators=[*(gpu.name for gpu in gpus), *_accelerators(sysfs)],
        targets=[str(one.target) for one in offered if one.runs and not one.target.emulated],
        temperatures=temperatures(sysfs),
        power=[*_meters(sysfs), *(["NVML"] if any(gpu.metered for gpu in gpus) else [])],
        governor=governor,
        clock_mhz=clock,
    )


def temperatures(sysfs: Path = SYSFS) -> dict[str, float]:
    """Degrees Celsius by sensor: thermal zones, the first sensor of each monitoring chip, NVIDIA GPUs. Of sensors with
    one name, the hottest."""
    found: dict[str, float] = {}

    def add(name: str | None, degrees: float | None) -> None:
        if name and degrees is not None and SANE[0] < degrees < SANE[1]:
            found[name] = max(found.get(name, degrees), degrees)

    for zone in sorted((sysfs / "class/thermal").glob("thermal_zone*")):
        add(_text(zone / "type"), _number(zone / "temp", 1e-3))
    zones = {name.replace("-", "_") for name in found}  # the kernel shows them a second time as chips
    for chip in sorted((sysfs / "class/hwmon").glob("hwmon*")):
        if (name := _text(chip / "name")) and name.replace("-", "_") not in zones:
            add(name, _number(chip / "temp1_input", 1e-3))
    for gpu in _nvidia():
        add(gpu.name, gpu.degrees)
    return found


def temperature(sysfs: Path = SYSFS) -> float | None:
    """The hottest of them; None where there is no sensor."""
    return max(temperatures(sysfs).values(), default=None)


def _board(sysfs: Path) -> str | None:
    """By device tree (ARM boards) or by SMBIOS (PCs)."""
    if model := _text(sysfs / "firmware/devicetree/base/model"):
        return model
    names = (_text(sysfs / "class/dmi/id" / name) for name in ("sys_vendor", "product_name"))
    return " ".join(name for name in names if name) or None


def _accelerators(sysfs: Path) -> Iterator[str]:
    """A Jetson's own GPU, display controllers that compute, and the kernel's class of compute accelerators (NPUs)."""
    compatible = _text(sysfs / "firmware/devicetree/base/compatible") or ""
    if tegra := next((name for name in compatible.split("\0") if name.startswith("nvidia,tegra")), None):
        yield f"NVIDIA {tegra.removeprefix('nvidia,').capitalize()} integrated GPU"
    for kind, pattern in (("GPU", "class/drm/card*"), ("NPU", "class/accel/accel*")):
        for device in sorted(path / "device" for path in sysfs.glob(pattern) if path.name.isalnum()):
            vendor = _GPUS.get(_text(device / "vendor") or "")
            driver = re.search(r"^DRIVER=(.+)$", _text(device / "uevent") or "", re.MULTILINE)
            if vendor:
                yield f"{vendor} {kind} {_text(device / 'device') or ''} ({driver[1] if driver else 'no driver'})"


def _meters(sysfs: Path) -> Iterator[str]:
    """As `edgeres.measure.energy` reads them."""
    for zone in sorted((sysfs / "class/powercap").glob("intel-rapl:?")):
        if (name := _text(zone / "name") or "").startswith("package"):
            barred = "" if _number(zone / "energy_uj") is not None else " (not readable: run as root)"
            yield f"RAPL {name}{barred}"
    for chip in sorted(sysfs.glob("bus/i2c/drivers/ina3221*/*/hwmon/hwmon*")):
        if _number(chip / "in1_input") is not None:
            yield f"INA3221 {_text(chip / 'in1_label') or 'rail 1'}"


def _clock(sysfs: Path) -> tuple[str | None, tuple[float, float] | None]:
    """The governors, and the slowest and the fastest clock that they may choose, MHz."""
    policies = sorted((sysfs / "devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
    governors = sorted({name for policy in policies if (name := _text(policy / "scaling_governor"))})
    slow = [mhz for policy in policies if (mhz := _number(policy / "scaling_min_freq", 1e-3)) is not None]
    fast = [mhz for policy in policies if (mhz := _number(policy / "scaling_max_freq", 1e-3)) is not None]
    return ", ".join(governors) or None, (min(slow), max(fast)) if slow and fast else None


class _Gpu(NamedTuple):
    name: str
    degrees: float | None
    metered: bool


def _nvidia() -> list[_Gpu]:
    """NVIDIA's GPUs as NVML tells them; none where it is not there."""
    found = []
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        count = ctypes.c_uint()
        if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return []
        for index in range(count.value):
            device, name = ctypes.c_void_p(), ctypes.create_string_buffer(96)
            degrees, energy = ctypes.c_uint(), ctypes.c_ulonglong()
            if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)):
                continue
            nvml.nvmlDeviceGetName(device, name, len(name))
            cold = nvml.nvmlDeviceGetTemperature(device, 0, ctypes.byref(degrees))
            bare = nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(energy))
            found.append(_Gpu(name.value.decode(), None if cold else float(degrees.value), not bare))
    except (OSError, AttributeError):
        pass
    return found


def _text(path: Path) -> str | None:
    """None where the file is not there, may not be read, or its device does not answer."""
    try:
        return path.read_bytes().decode("utf-8", "replace").strip("\0\n ") or None
    except OSError:
        return None


def _number(path: Path, scale: float = 1.0) -> float | None:
    try:
        return round(int(_text(path) or "") * scale, 3)
    except ValueError:
        return None
