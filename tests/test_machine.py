"""The machine a figure was measured on, from what an x86 and an ARM kernel tell."""

import math
import os

import pytest

from edgeres import machine

X86 = """\
processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu sse4_2 avx2 avx512f avx512_vnni amx_int8 hypervisor

processor\t: 1
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu sse4_2 avx2 avx512f avx512_vnni amx_int8 hypervisor
"""
ARM = """\
processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes asimddp
CPU part\t: 0xd0b

Hardware\t: BCM2835
Model\t\t: Raspberry Pi 5 Model B Rev 1.0
"""


def told(monkeypatch: pytest.MonkeyPatch, cpuinfo: str, meminfo: str = "MemTotal:       16371856 kB\n") -> None:
    files = {"/proc/cpuinfo": cpuinfo, "/proc/meminfo": meminfo}
    monkeypatch.setattr(machine, "_read", lambda path: files.get(path, ""))


def test_an_x86_machine_names_its_cpu_and_what_int8_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, X86)
    found = machine.describe()
    assert found.cpu == "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"
    assert found.features == ["sse4_2", "avx2", "avx512f", "avx512_vnni", "amx_int8"]
    assert found.memory_gib == 15.6


def test_an_arm_board_names_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, ARM)
    found = machine.describe()
    assert found.cpu == "Raspberry Pi 5 Model B Rev 1.0"
    assert found.features == ["asimd", "asimddp"]


def test_a_machine_that_tells_nothing_is_still_described(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, "", "")
    found = machine.describe()
    assert (found.features, found.memory_gib) == ([], 0.0)
    assert found.architecture


def test_a_file_that_is_not_there_tells_nothing() -> None:
    assert machine._read("/proc/no/such/file") == ""


def test_this_machine_is_described() -> None:
    found = machine.describe()
    assert found.cores >= 1
    assert found.cores == machine.cores()
    assert found.cores <= (os.cpu_count() or 1)
    assert {"edgeres", "numpy", "onnxruntime"} <= set(found.packages)
    assert "absent" not in found.packages.values()
    assert found.identity == machine.describe().identity


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no process to cores")
def test_only_the_cores_that_the_process_may_use_count() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert machine.cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(
    ("files", "capacity"),
    [
        ({}, 8),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "20000 100000\n"}, 0.2),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "6400000 100000\n"}, 8),
        (  # the tightest of the groups counts
            {
                "/proc/self/cgroup": "0::/ci.slice/job.scope\n",
                "/sys/fs/cgroup/ci.slice/job.scope/cpu.max": "500000 100000\n",
                "/sys/fs/cgroup/ci.slice/cpu.max": "300000 100000\n",
            },
            3,
        ),
        (  # version 1, in a container that sees its own group as the root
            {
                "/proc/self/cgroup": "5:memory:/docker/1f\n4:cpu,cpuacct:/docker/1f\n0::/\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        (
            {
                "/proc/self/cgroup": "4:cpu,cpuacct:/\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
    ],
)
def test_a_quota_limits_the_cores(files: dict[str, str], capacity: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_read", lambda path: files.get(path, ""))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert machine.capacity() == capacity
    assert machine.cores() == math.ceil(capacity)
