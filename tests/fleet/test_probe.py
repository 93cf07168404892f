"""What devices tell of themselves, from trees of files as their kernels show them."""

from pathlib import Path

import pytest

from edgeres import machine
from edgeres.fleet import inventory, probe, show

JETSON = {
    "firmware/devicetree/base/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "firmware/devicetree/base/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0",
    "class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "class/thermal/thermal_zone0/temp": "48531\n",
    "class/thermal/thermal_zone1/type": "cv0-thermal\n",
    "class/thermal/thermal_zone1/temp": "-256000\n",
    "class/thermal/thermal_zone2/type": "tj-thermal\n",
    "class/thermal/thermal_zone2/temp": "49250\n",
    "class/hwmon/hwmon0/name": "cpu_thermal\n",
    "class/hwmon/hwmon0/temp1_input": "48000\n",
    "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/in1_label": "VDD_IN\n",
    "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/in1_input": "4920\n",
    **{f"devices/system/cpu/cpu{core}/cpufreq/scaling_governor": "schedutil\n" for core in range(2)},
    **{f"devices/system/cpu/cpu{core}/cpufreq/scaling_min_freq": "115200\n" for core in range(2)},
    **{f"devices/system/cpu/cpu{core}/cpufreq/scaling_max_freq": "1510400\n" for core in range(2)},
}
NUC = {
    "class/dmi/id/sys_vendor": "Intel(R) Client Systems\n",
    "class/dmi/id/product_name": "NUC14RVHi7\n",
    "class/drm/card0/device/vendor": "0x8086\n",
    "class/drm/card0/device/device": "0x7d55\n",
    "class/drm/card0/device/uevent": "DRIVER=xe\nPCI_CLASS=30000\n",
    "class/drm/card0-HDMI-A-1/device/vendor": "0x8086\n",
    "class/accel/accel0/device/vendor": "0x8086\n",
    "class/accel/accel0/device/device": "0x7d1d\n",
    "class/accel/accel0/device/uevent": "DRIVER=intel_vpu\n",
    "class/drm/card1/device/vendor": "0x1a03\n",
    "class/thermal/thermal_zone0/type": "x86_pkg_temp\n",
    "class/thermal/thermal_zone0/temp": "61000\n",
    "class/thermal/thermal_zone1/type": "acpitz\n",
    "class/thermal/thermal_zone1/temp": "27800\n",
    "class/thermal/thermal_zone2/type": "acpitz\n",
    "class/thermal/thermal_zone2/temp": "29800\n",
    "class/hwmon/hwmon3/name": "nvme\n",
    "class/hwmon/hwmon3/temp1_input": "39850\n",
    "class/powercap/intel-rapl:0/name": "package-0\n",
    "class/powercap/intel-rapl:0/energy_uj": "123\n",
    "class/powercap/intel-rapl:1/name": "package-1\n",
    "class/powercap/intel-rapl:2/name": "psys\n",
    "class/powercap/intel-rapl:2/energy_uj": "456\n",
    "devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
    "devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance\n",
    "devices/system/cpu/cpu0/cpufreq/scaling_min_freq": "400000\n",
    "devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "4800000\n",
    "devices/system/cpu/cpu1/cpufreq/scaling_max_freq": "3800000\n",
}
PI = {
    "firmware/devicetree/base/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "firmware/devicetree/base/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
    "class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "class/thermal/thermal_zone0/temp": "broken",
}


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU and no runtime of this machine gets into what the trees tell."""
    monkeypatch.setattr(probe.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    monkeypatch.setattr(probe.backends, "BACKENDS", {"onnxruntime": "onnxruntime"})


def tree(files: dict[str, str], root: Path) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def test_a_jetson(tmp_path: Path) -> None:
    found = probe.probe(tree(JETSON, tmp_path))
    assert found.board == "NVIDIA Jetson Orin Nano Developer Kit"
    assert found.accelerators == ["NVIDIA Tegra234 integrated GPU"]
    assert found.temperatures == {"cpu-thermal": 48.531, "tj-thermal": 49.25}
    assert probe.temperature(tmp_path) == 49.25
    assert found.power == ["INA3221 VDD_IN"]
    assert (found.governor, found.clock_mhz) == ("schedutil", (115.2, 1510.4))


def test_a_pc_with_an_intel_gpu_and_npu(tmp_path: Path) -> None:
    found = probe.probe(tree(NUC, tmp_path))
    assert found.board == "Intel(R) Client Systems NUC14RVHi7"
    assert found.accelerators == ["Intel GPU 0x7d55 (xe)", "Intel NPU 0x7d1d (intel_vpu)"]
    assert found.temperatures == {"x86_pkg_temp": 61.0, "acpitz": 29.8, "nvme": 39.85}
    assert found.power == ["RAPL package-0", "RAPL package-1 (not readable: run as root)"]
    assert (found.governor, found.clock_mhz) == ("performance, powersave", (400.0, 4800.0))


def test_what_a_board_does_not_tell_is_not_available(tmp_path: Path) -> None:
    found = probe.probe(tree(PI, tmp_path))
    assert (found.board, found.accelerators) == ("Raspberry Pi 5 Model B Rev 1.0", [])
    assert (found.temperatures, found.power, found.governor, found.clock_mhz) == ({}, [], None, None)
    assert probe.temperature(tmp_path) is None
    told = dict(line.split(maxsplit=1) for line in show.text(found).splitlines() if len(line.split()[0]) > 6)
    assert [told[name] for name in ("accelerators", "temperatures")] == ["not available"] * 2


def test_a_machine_with_no_such_tree_at_all_is_probed(tmp_path: Path) -> None:
    found = probe.probe(tmp_path / "nothing")
    assert found.model_dump().items() >= machine.describe().model_dump().items()
    assert found.targets == ["onnxruntime:cpu"]


@pytest.mark.parametrize("files", [JETSON, NUC, PI])
def test_the_inventory_holds_what_was_found(files: dict[str, str], tmp_path: Path) -> None:
    found = probe.probe(tree(files, tmp_path / "sys"))
    inventory.put(tmp_path / "devices.toml", "it", {"reach": "agent"})
    inventory.put_found(tmp_path / "devices.toml", "it", found)
    assert inventory.read(tmp_path / "devices.toml").devices["it"].found == found
