"""The commands on devices, as a user types them."""

import json
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from edgeres import cli
from edgeres.errors import EdgeresError
from edgeres.fleet import inventory
from edgeres.fleet.inventory import Found


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_device_is_added_listed_revoked_and_removed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices", "add", "nano", "jan@nano:2222", "-t", "onnxruntime:cpu", "--label", "lab"]) == 0
    assert not Path("certificates").exists()
    assert cli.main(["devices", "init"]) == 0
    assert cli.main(["devices", "add", "pi", "--agent"]) == 0
    assert "pi added" in capsys.readouterr().out
    assert cli.main(["devices", "add", "pi", "--agent", "--label", "desk"]) == 0
    assert "pi changed" in capsys.readouterr().out
    assert sorted(path.name for path in Path("certificates").iterdir() if path.is_dir()) == [
        *("client", "nano", "pi", "scheduler")
    ]
    capsys.readouterr()
    assert cli.main(["devices", "list", "--json"]) == 0
    nano, pi = json.loads(capsys.readouterr().out)
    assert (nano["address"], nano["targets"], nano["labels"]) == ("jan@nano:2222", ["onnxruntime:cpu"], ["lab"])
    assert pi["certificate_until"] > "2026"
    assert cli.main(["devices", "revoke", "pi"]) == 0
    assert cli.main(["devices", "revoke", "pi"]) == 2
    assert "revoked already" in capsys.readouterr().err
    assert cli.main(["devices", "remove", "nano"]) == 0
    assert not Path("certificates/nano").exists()
    assert cli.main(["devices", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["pi", "dials", "in", "-", "not", "probed", "none"]


def test_what_is_no_device_is_refused_before_anything_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices", "add", "scheduler", "host"]) == 2
    assert cli.main(["devices", "add", "nano"]) == 2
    assert cli.main(["devices", "add", "nano\n", "host"]) == 2
    assert cli.main(["devices", "add", "nano", "host", "-t", "cpu"]) == 2
    assert cli.main(["devices", "add", "nano", "host", "-t", "onxruntime:cpu"]) == 2
    assert not Path("devices.toml").exists()
    assert cli.main(["devices", "list"]) == 2
    assert "devices add" in capsys.readouterr().err


def test_a_device_that_cannot_be_revoked_is_not_removed() -> None:
    assert cli.main(["devices", "add", "nano", "nano"]) == 0
    assert cli.main(["devices", "init"]) == 0
    crl = Path("certificates/crl.pem")
    whole = crl.read_bytes()
    crl.write_bytes(b"damaged")
    assert cli.main(["devices", "remove", "nano"]) == 3
    assert "nano" in inventory.read(Path("devices.toml")).devices
    crl.write_bytes(whole)
    assert cli.main(["devices", "remove", "nano"]) == 0
    assert not Path("certificates/nano").exists()


def test_names_do_not_go_with_this_machine() -> None:
    assert cli.main(["devices", "probe", "--here", "nano"]) == 2


def test_what_a_device_says_is_noted_and_what_it_refuses_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = pytest.importorskip("edgeres.fleet.ssh")
    found = Found(probed="", system="", architecture="aarch64", cpu="", cores=4, memory_gib=8, python="")
    for name in ("nano", "nuc"):
        assert cli.main(["devices", "add", name, name]) == 0
    monkeypatch.setattr(
        ssh, "probe", lambda devices: {"nano": found, "nuc": EdgeresError("nuc: no")} if len(devices) == 2 else {}
    )
    assert cli.main(["devices", "probe"]) == 3
    assert inventory.read(Path("devices.toml")).devices["nano"].found == found
    assert "nuc: no" in capsys.readouterr().out


def test_watch_has_certificates_for_runs_that_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = pytest.importorskip("edgeres.fleet.watch")
    asked: list[tuple[str, Path | None]] = []
    monkeypatch.setattr(watch, "watch", lambda address, trusted, *_: asked.append((address, trusted)))
    assert cli.main(["devices", "watch"]) == 0
    assert cli.main(["devices", "init"]) == 0
    for more in ([], ["tls://lab:8786"], ["tcp://127.0.0.1:8799"]):
        assert cli.main(["devices", "watch", *more]) == 0
    folder = Path("certificates")
    assert asked == [
        ("tcp://127.0.0.1:8786", None),
        ("tls://127.0.0.1:8786", folder),
        ("tls://lab:8786", folder),
        ("tcp://127.0.0.1:8799", None),
    ]


def test_devices_of_a_run_are_named_together_or_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    run = pytest.importorskip("edgeres.fleet.run")
    asked: list[list[str]] = []

    def stop(*_: object, devices: list[str], **__: object) -> None:
        asked.append(devices)
        raise EdgeresError("enough.")

    monkeypatch.setattr(run, "run", stop)
    for given in (["--devices", "nano,pi"], ["--devices", "nano", "--devices", "pi"]):
        assert cli.main(["run", "mine.toml", *given]) == 3
    assert asked == [["nano", "pi"], ["nano", "pi"]]
