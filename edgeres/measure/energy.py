"""Energy meters, where the machine has one: each gives a function that tells millijoules since some moment.

They meter a whole package, board or GPU, what idles included.
"""

import ctypes
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

Meter = Callable[[], float]
_GPUS = ("cuda", "tensorrt", "current")
PERIOD = 0.02
"""Seconds between two readings of a power monitor, which counts no energy itself."""


def meter(device: str, sysfs: Path = Path("/sys")) -> Meter | None:
    """The meter of a target's device: NVML for an NVIDIA GPU, a Jetson's INA3221, RAPL for a processor.

    None where there is none, or where reading it is not allowed.
    """
    if device in _GPUS or device.startswith("sm"):
        return _nvml() or _ina(sysfs)
    return _rapl(sysfs) or _ina(sysfs)


def _rapl(sysfs: Path) -> Meter | None:
    """Packages of the processor by the kernel's powercap interface, whose counters begin again at their range."""
    zones = sorted((sysfs / "class" / "powercap").glob("intel-rapl:?"))
    try:
        # A zone `psys` is the whole platform, its packages included.
        packages = [zone for zone in zones if (zone / "name").read_text().startswith("package")]
        ranges = [_number(package / "max_energy_range_uj") + 1 for package in packages]
        last = [_number(package / "energy_uj") for package in packages]
    except (OSError, ValueError):
        return None
    total = 0.0

    def read() -> float:
        nonlocal total, last
        now = [_number(package / "energy_uj") for package in packages]
        total += sum((new - old) % size for new, old, size in zip(now, last, ranges, strict=True))
        last = now
        return total / 1e3

    return read if packages else None


def _ina(sysfs: Path) -> Meter | None:
    """The first rail of an INA3221, a Jetson's total input: millivolts times milliamperes, summed over time."""
    for folder in sorted(sysfs.glob("bus/i2c/drivers/ina3221*/*/hwmon/hwmon*")):
        rail = folder / "in1_input", folder / "curr1_input"
        try:
            return _integral(rail)
        except (OSError, ValueError):
            continue
    return None


def _integral(rail: Sequence[Path]) -> Meter:
    spent, last = 0.0, time.monotonic()
    lock = threading.Lock()
    volts, amperes = rail
    _number(volts), _number(amperes)

    def read() -> float:
        nonlocal spent, last
        with lock:
            milliwatts = _number(volts) * _number(amperes) / 1e3
            now = time.monotonic()
            spent, last = spent + milliwatts * (now - last), now
            return spent

    def follow() -> None:
        while True:
            time.sleep(PERIOD)
            read()

    threading.Thread(target=follow, daemon=True).start()
    return read


def _nvml() -> Meter | None:
    """The first GPU since its driver was loaded (NVML API, nvmlDeviceGetTotalEnergyConsumption; Volta and later)."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        device, energy = ctypes.c_void_p(), ctypes.c_ulonglong()
        if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device)):
            return None
        if nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(energy)):
            return None
    except (OSError, AttributeError):
        return None

    def read() -> float:
        nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(energy))
        return float(energy.value)

    return read


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))
