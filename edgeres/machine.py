"""The machine that a figure was measured on."""

import contextlib
import math
import os
import platform
import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from edgeres import store
from edgeres.schema import Machine

FEATURES = (
    *("sse4_2", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16", "avx512_bf16"),
    *("asimd", "asimddp", "i8mm", "sve", "bf16"),
)
"""CPU flags, in the kernel's spelling, that decide how INT8 runs."""
VNNI = ("avx512_vnni", "avx_vnni", "amx_int8")
CGROUPS = "/sys/fs/cgroup"
PACKAGES = ("edgeres", "numpy", "onnx", "onnxruntime", "openvino", "tensorrt-rtx", "tensorrt", "torch")


def describe() -> Machine:
    """This machine, as far as it tells; what it does not tell is an empty value."""
    cpuinfo = _read("/proc/cpuinfo")
    named = re.search(r"^(?:model name|Model)\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        architecture=platform.machine(),
        cpu=named[1].strip() if named else platform.processor(),
        cores=cores(),
        memory_gib=round(int(memory[1]) / 2**20, 1) if memory else 0.0,
        features=features(),
        python=platform.python_version(),
        packages={name: found for name, found in store.versions(*PACKAGES).items() if found != "absent"},
    )


def features() -> list[str]:
    """Those of `FEATURES` that this CPU has."""
    lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    flags = set(" ".join(lines).split())
    return [feature for feature in FEATURES if feature in flags]


def has_vnni(features: Collection[str]) -> bool:
    """Whether a CPU of these features adds products of U8 x S8 in 32 bits."""
    return any(one in features for one in VNNI)


def cores() -> int:
    """The cores that this process may use; part of one counts as one."""
    return math.ceil(capacity())


def capacity() -> float:
    """Seconds of CPU time a second that this process may use: its affinity, and the quotas of its control groups."""
    most: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = PurePosixPath(path)
        for at in (group, *group.parents):  # of which a container may see the root alone
            folder = f"{CGROUPS}/cpu{at}".rstrip("/") if controllers else f"{CGROUPS}{at}".rstrip("/")
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
            limit = " ".join(_read(f"{folder}/{name}") for name in names).split()
            with contextlib.suppress(ValueError):  # absent, or "max"; version 1 says -1
                quota, period = map(int, limit)
                most = min(most, quota / period) if quota > 0 else most
    return most


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
