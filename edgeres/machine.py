"""The machine that a figure was measured on."""

import os
import platform
import re
from pathlib import Path

from edgeres import store
from edgeres.schema import Machine

FEATURES = (
    *("sse4_2", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16", "avx512_bf16"),
    *("asimd", "asimddp", "i8mm", "sve", "bf16"),
)
"""CPU flags, in the kernel's spelling, that decide how INT8 runs."""
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


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
