"""What else the machine does, and its energy meters: on made-up /proc and /sys, and on the real /proc."""

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from edgeres.measure import conditions, energy

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Linux counts these")


def files(root: Path, content: dict[str, object]) -> Path:
    for name, value in content.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n", encoding="utf-8")
    return root


@LINUX
def test_counters_are_those_of_the_cores_that_may_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tick = os.sysconf("SC_CLK_TCK")
    rows = ["cpu  9 9 9 9 9 9 9 9 9 9", *(f"cpu{n} {n}00 20 30 4000 50 6 7 {n}0 0 0" for n in (1, 2, 3)), "intr 1 2"]
    stat = "5 (a) b) R " + " ".join(str(number) for number in range(4, 30))  # utime and stime are fields 14 and 15
    files(tmp_path, {"stat": "\n".join(rows), "self/task/5/stat": stat})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 3})
    found = conditions.read(tmp_path)
    assert found.busy == pytest.approx((100 + 300 + 2 * (20 + 30 + 6 + 7)) / tick)
    assert found.stolen == pytest.approx(40 / tick)
    assert found.threads == {5: pytest.approx((14 + 15) / tick)}


def test_conditions_are_means_over_the_span() -> None:
    before = conditions.Reading(100.0, 5.0, 50.0, 1.0, 10, {1: 4.0, 2: 0.5})
    after = conditions.Reading(110.0, 17.0, 65.0, 2.0, 30, {1: 13.0, 2: 0.6, 3: 3.0})
    found = conditions.between(before, after)
    assert (found.others, found.stolen, found.switches, found.threads) == pytest.approx((0.3, 0.1, 2.0, 2))
    unknown = conditions.Reading(110.0, 17.0, None, None, None, {})
    found = conditions.between(unknown, conditions.Reading(120.0, 18.0, None, None, None, {}))
    assert (found.others, found.stolen, found.switches, found.threads) == (None, None, None, 0)


@LINUX
def test_a_thread_is_charged_with_what_it_computed() -> None:
    done, read = threading.Event(), threading.Event()

    def work() -> None:
        while time.thread_time() < 0.2:
            pass
        done.set()
        read.wait()

    worker = threading.Thread(target=work)
    worker.start()
    done.wait()
    found = conditions.read()
    read.set()
    worker.join()
    assert found.threads[worker.native_id or 0] == pytest.approx(0.2, abs=0.05)
    assert found.busy is not None
    assert found.busy > found.own > 0.2


@LINUX
def test_peak_memory_is_this_process_own() -> None:
    before = conditions.peak_rss_mb()
    block = bytearray(80_000_000)
    block[::4096] = b"x" * len(block[::4096])
    after = conditions.peak_rss_mb()
    assert before is not None
    assert after is not None
    assert after >= before
    assert after > 80


def test_the_packages_of_a_processor_are_summed_and_their_counters_begin_again(tmp_path: Path) -> None:
    zones = tmp_path / "class" / "powercap"
    limits = {f"intel-rapl:{n}/max_energy_range_uj": 1_000_000 for n in (0, 1)}
    files(zones, {**limits, "intel-rapl:0/energy_uj": 1000, "intel-rapl:1/energy_uj": 999_000})
    files(zones, {"intel-rapl:0/name": "package-0\n", "intel-rapl:1/name": "package-1\n"})
    files(zones, {"intel-rapl:0:0/energy_uj": 5})  # a part of package 0
    files(zones, {"intel-rapl:2/name": "psys\n", "intel-rapl:2/energy_uj": 7})  # both, and all around them
    meter = energy.meter("cpu", tmp_path)
    assert meter is not None
    start = meter()
    files(zones, {"intel-rapl:0/energy_uj": 4000, "intel-rapl:1/energy_uj": 1000})
    assert meter() - start == pytest.approx(3.0 + 2.001)
    assert meter() - start == pytest.approx(3.0 + 2.001)


def test_the_power_of_a_board_is_summed_over_time(tmp_path: Path) -> None:
    folder = tmp_path / "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    files(folder, {"in1_input": 5000, "curr1_input": 800})  # 4 W
    meter = energy.meter("cpu", tmp_path)
    assert meter is not None
    began, start = meter(), time.monotonic()
    time.sleep(0.1)
    spent = meter() - began
    assert spent == pytest.approx(4000 * (time.monotonic() - start), rel=0.2)


def test_a_gpus_energy_is_nvmls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counters = iter([5, 1000, 4500])

    class Nvml:
        def nvmlInit_v2(self) -> int:  # noqa: N802
            return 0

        def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:  # noqa: N802
            return index

        def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, energy: Any) -> int:  # noqa: N802
            energy._obj.value = next(counters)
            return 0

    monkeypatch.setattr(energy.ctypes, "CDLL", lambda name: Nvml())
    meter = energy.meter("sm86", tmp_path)
    assert meter is not None
    assert (meter(), meter()) == (1000.0, 4500.0)


def test_without_a_meter_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    assert energy.meter("cpu", tmp_path) is None
    assert energy.meter("sm86", tmp_path) is None
    files(
        tmp_path / "class/powercap", {"intel-rapl:0/name": "package-0", "intel-rapl:0/max_energy_range_uj": "nothing"}
    )
    assert energy.meter("cpu", tmp_path) is None
