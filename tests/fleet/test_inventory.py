import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgeres.errors import InputError, UsageError
from edgeres.fleet import inventory
from edgeres.fleet.inventory import Device, Found

TEXT = """\
# what stands in the lab

[nano]
address = "jan@192.168.1.20:2222"   # static
targets = [
  "tensorrt:current",
  "onnxruntime:cpu",
]
labels = ["lab", "gpu"]

# in the hall, behind the pillar
[pi]
reach = "agent"

[nuc]
address = "nuc"
labels = ["lab"]
"""
FOUND = Found(
    probed="2026-01-01T00:00:00Z",
    system="Linux 5.15",
    architecture="aarch64",
    cpu='ARMv8 "v8l"',
    cores=6,
    memory_gib=7.4,
    python="3.10.12",
    packages={"onnxruntime": "1.20.1"},
    temperatures={"cpu-thermal": 48.5, "SoC junction": 49.0},
    clock_mhz=(115.2, 1510.4),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "devices.toml"
    path.write_text(TEXT)
    return path


def test_devices_stand_in_the_order_of_the_file(path: Path) -> None:
    devices = inventory.read(path).devices
    assert list(devices) == ["nano", "pi", "nuc"]
    assert devices["nano"] == Device(
        name="nano",
        address="jan@192.168.1.20:2222",
        targets=["tensorrt:current", "onnxruntime:cpu"],
        labels=["lab", "gpu"],
    )
    assert devices["pi"].reach == "agent"


def test_devices_are_selected_by_name_and_label(path: Path) -> None:
    read = inventory.read(path)
    assert [device.name for device in read.select(["nuc", "lab", "pi"])] == ["nano", "pi", "nuc"]
    with pytest.raises(UsageError, match="'attic'"):
        read.select(["lab", "attic"])


def test_a_probe_changes_nothing_else(path: Path) -> None:
    inventory.put_found(path, "nano", FOUND)
    assert inventory.read(path).devices["nano"].found == FOUND
    start, end = TEXT.split("# in the hall")
    assert path.read_text().startswith(start)
    assert path.read_text().endswith("# in the hall" + end)
    again = FOUND.model_copy(update={"cores": 4})
    inventory.put_found(path, "nano", again)
    assert inventory.read(path).devices["nano"].found == again
    assert path.read_text().count("[nano.found]") == 1
    inventory.put_found(path, "nuc", FOUND)
    assert list(inventory.read(path).devices) == ["nano", "pi", "nuc"]


def test_a_device_is_added_replaced_and_removed(path: Path) -> None:
    new = Device(name="jetson-2", address="10.0.0.7", python="/opt/edgeres/bin/python", found=FOUND)
    assert inventory.put(path, "jetson-2", dict(new)) == (new, False)
    assert path.read_text().startswith(TEXT)
    assert inventory.read(path).devices["jetson-2"] == new
    changed = Device(name="pi", address="pi@10.0.0.8")
    assert inventory.put(path, "pi", {"address": "pi@10.0.0.8", "reach": "ssh"}) == (changed, True)
    assert list(inventory.read(path).devices) == ["nano", "pi", "nuc", "jetson-2"]
    assert inventory.read(path).devices["pi"] == changed
    inventory.remove(path, "pi")
    inventory.remove(path, "jetson-2")
    assert list(inventory.read(path).devices) == ["nano", "nuc"]
    assert {"# what stands in the lab", "# static"} <= set(re.findall("# (?:what|static).*", path.read_text()))
    with pytest.raises(UsageError, match="'pi'"):
        inventory.remove(path, "pi")


def test_what_is_not_given_anew_stays(path: Path) -> None:
    inventory.put_found(path, "nano", FOUND)
    before = inventory.read(path).devices["nano"]
    inventory.put(path, "nano", {"labels": ["desk"]})
    assert inventory.read(path).devices["nano"] == before.model_copy(update={"labels": ["desk"]})
    inventory.put(path, "nano", {"address": "10.0.0.9"})
    moved = before.model_copy(update={"labels": ["desk"], "address": "10.0.0.9", "found": None})
    assert inventory.read(path).devices["nano"] == moved, "another machine may stand there"


@pytest.mark.parametrize(
    ("name", "keys", "match"),
    [
        ("Nano", {"reach": "agent"}, "nano and Nano differ in case alone"),
        ("lab", {"reach": "agent"}, "lab is a device, and a label of nano"),
        ("nuc", {"labels": ["pi"]}, "pi is a device, and a label of nuc"),
    ],
)
def test_a_name_means_one_device(path: Path, name: str, keys: dict[str, object], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        inventory.put(path, name, keys)
    assert path.read_text() == TEXT


def test_the_first_device_makes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "devices.toml"
    inventory.put(path, "pi", {"reach": "agent"})
    assert path.read_text() == '[pi]\nreach = "agent"\n'


def test_what_cannot_be_edited_without_harm_is_left_alone(path: Path) -> None:
    path.write_text(
        TEXT
        + "\n[pi.found]\n"
        + 'probed = ""\nsystem = ""\narchitecture = ""\ncpu = ""\ncores = 1\nmemory_gib = 1\npython = ""\n'
    )
    before = path.read_text()
    with pytest.raises(InputError, match="by hand"):
        inventory.remove(path, "pi")
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('[pi]\naddress = "pi"\nadress = "x"', "pi.adress"),
        ("[pi]", "needs an address"),
        ('[pi]\naddress = "-oProxyCommand=reboot"', "needs an address"),
        ('[pi]\naddress = "pi"\nreach = "serial"', "pi.reach"),
        ('[pi]\naddress = "pi"\ntargets = ["cpu"]', "'cpu' is not written backend:device"),
        ('[Scheduler]\nreach = "agent"', "is no name of one"),
        ('["../up"]\nreach = "agent"', "is no name of one"),
        ('address = "pi"', r"write \[NAME\]"),
        ('[pi]\naddress = "pi:99999"', "pi.address: 'pi:99999' is no address"),
        ('[pi]\naddress = "jan@pi:ssh"', "pi.address: 'pi:ssh' is no address"),
        ('[pi]\naddress = "jan@"', "pi.address: '' is no address"),
        ('[pi]\naddress = "pi"\ntargets = ["onxruntime:cpu"]', "pi.targets.0: .*no backend 'onxruntime'"),
        ('[pi]\nreach = "agent"\n[Pi]\nreach = "agent"', "differ in case alone"),
        ("[pi", "is not TOML"),
    ],
)
def test_a_wrong_inventory_is_refused_with_its_place(path: Path, text: str, match: str) -> None:
    path.write_text(text)
    with pytest.raises(InputError, match=match) as caught:
        inventory.read(path)
    assert "devices.toml" in str(caught.value)


def test_no_inventory_is_a_matter_of_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="devices add"):
        inventory.read(tmp_path / "devices.toml")


def test_an_inventory_without_end_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "devices.toml").symlink_to("/dev/zero")
    with pytest.raises(UsageError, match="it is no file"):
        inventory.read(tmp_path / "devices.toml")


def test_of_devices_that_are_added_at_once_none_is_lost(tmp_path: Path) -> None:
    path, names = tmp_path / "devices.toml", [f"d{number}" for number in range(12)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: inventory.put(path, name, {"reach": "agent"}), names))
    assert sorted(inventory.read(path).devices) == sorted(names)
    assert [file.name for file in tmp_path.iterdir()] == ["devices.toml"]
