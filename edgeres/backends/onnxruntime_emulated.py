"""CPUs that are not here: ONNX Runtime in a Python that QEMU runs as on one of them.

ONNX Runtime looks at the CPU and takes its kernels for it, the real ones: what they compute is what that CPU computes.
How long it takes is QEMU's time and says nothing. QEMU emulates neither AVX-512 nor AVX-VNNI.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres import machine
from edgeres.backends import onnxruntime_emulated_child as child
from edgeres.backends.base import Availability, Engine
from edgeres.errors import BuildError, MissingRuntime, UsageError
from edgeres.types import Target


@dataclass(frozen=True)
class Cpu:
    """`architecture` as Python's `platform.machine` says it, `model` as QEMU's `-cpu` takes it, `features` in the
    spelling of `machine.FEATURES`."""

    architecture: str
    model: str
    means: str
    features: tuple[str, ...]


CPUS: Mapping[str, Cpu] = {
    "haswell": Cpu("x86_64", "Haswell", "AVX2 without VNNI", ("sse4_2", "avx2")),
    "nehalem": Cpu("x86_64", "Nehalem", "SSE4", ("sse4_2",)),
    "cortex-a57": Cpu("aarch64", "cortex-a57", "ARMv8.0", ("asimd",)),
    "neoverse-n1": Cpu("aarch64", "neoverse-n1", "ARMv8.2, dot product", ("asimd", "asimddp")),
    "armv9": Cpu("aarch64", "max,pauth-impdef=on", "ARMv9, i8mm", ("asimd", "asimddp", "i8mm", "sve", "bf16")),
}
"""What stands behind `cpu@` in a target."""
OLDEST = {"x86_64": (7, 2), "aarch64": (8, 1)}
"""QEMU has AVX2 from 7.2 on; to an ARM program 7.2 shows the /proc/cpuinfo of the host, on which ONNX Runtime dies."""
_BY_PATH = (
    "import runpy, sys; sys.argv.pop(0); sys.path[:] = filter(None, sys.path); "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)
"""A script by its path, without its folder, which holds an `onnxruntime.py`, and without the working folder."""


def available(backend: str) -> list[Availability]:
    """Each emulated CPU, and what is missing for it."""
    return [_available(Target(backend, f"cpu@{name}"), cpu) for name, cpu in CPUS.items()]


def _available(target: Target, cpu: Cpu) -> Availability:
    try:
        command(target)
    except MissingRuntime as error:
        return Availability(target, True, False, str(error).removeprefix(f"target {target} "))
    return Availability(target, True, True, f"{cpu.means}, emulated: accuracy, no latency")


def find(target: Target) -> Cpu:
    """UsageError where there is no such CPU."""
    name = target.device.partition("@")[2]
    if name not in CPUS:
        raise UsageError(f"target {target}: there is no CPU {name!r} to emulate; there are {', '.join(CPUS)}.")
    return CPUS[name]


def command(target: Target) -> list[str]:
    """How a Python for the CPU of a target is called; MissingRuntime where QEMU or that Python are not here."""
    cpu = find(target)
    name = f"qemu-{cpu.architecture}"
    program = shutil.which(name)
    wanted = ".".join(map(str, OLDEST[cpu.architecture]))
    if program is None:
        raise MissingRuntime(f"target {target} needs {name} {wanted} or newer; `apt install qemu-user`.")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"version (\d+)\.(\d+)", said)
    if version is None or tuple(map(int, version.groups())) < OLDEST[cpu.architecture]:
        found = version[0] if version else "none"
        raise MissingRuntime(f"target {target} needs {name} {wanted} or newer, {program} is {found}; take Debian 13's.")
    called = [program, "-cpu", cpu.model]
    if platform.machine() == cpu.architecture:
        return [*called, sys.executable]
    variable = f"EDGERES_{cpu.architecture.upper()}"
    root = Path(os.environ.get(variable, "")).absolute()
    pythons = sorted(root.glob("usr/bin/python3*")) if variable in os.environ else []
    if not pythons:
        raise MissingRuntime(
            f"target {target} needs a Python of {cpu.architecture} with numpy and onnxruntime; unpack one as "
            f"pipelines/benchmarks/emulated.md says, and name its root folder in ${variable}."
        )
    return [*called, "-L", str(root), str(pythons[0])]


class Emulated(Engine):
    """An ONNX file, or its `content`, in a Python of another CPU; MissingRuntime, and BuildError where that Python
    ends."""

    def __init__(
        self,
        path: Path,
        target: Target,
        threads: int | None = None,
        disabled: Sequence[str] = (),
        optimized: Path | None = None,
        content: bytes | None = None,
    ) -> None:
        self.target = target
        self.log = TemporaryFile()  # noqa: SIM115 as long as the process
        model = str(path.absolute()) if content is None else None
        request: dict[str, Any] = {"model": model, "threads": threads or machine.cores()}
        request |= {"disabled": list(disabled), "optimized": str(optimized) if optimized else None}
        called = command(target)
        # Another interpreter has its own packages.
        mine = {key: value for key, value in os.environ.items() if "-L" not in called or key[:6] != "PYTHON"}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.log}
        self.process = subprocess.Popen(
            [*called, "-c", _BY_PATH, child.__file__, json.dumps(request)], env=mine, **pipes
        )
        weakref.finalize(self, _end, self.process)
        try:
            if content is not None:
                child.send_bytes(self.process.stdin, content)  # type: ignore[arg-type]
            told = json.loads(self.process.stdout.readline())  # type: ignore[union-attr]
        except (ValueError, OSError):
            raise self._ended() from None
        self.input_shape, self.outputs = tuple(told["shape"]), tuple(told["outputs"])
        self.input_type = told["type"]
        self.properties = {
            "runtime": "onnxruntime",
            "version": told["version"],
            "provider": "CPUExecutionProvider",
            "threads": str(request["threads"]),
            "emulated": f"{find(target).model}, {told['machine']}",
        }

    def _run(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            child.send(self.process.stdin, [images])
            found: list[NDArray[np.float32]] | None = child.receive(self.process.stdout)
        except OSError:
            found = None
        if found is None:
            raise self._ended()
        return found

    def _ended(self) -> BuildError:
        _end(self.process)
        self.log.seek(0)
        said = self.log.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
        return BuildError(f"ONNX Runtime on {self.target}, emulated, ended: {said[-1]}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.communicate()
