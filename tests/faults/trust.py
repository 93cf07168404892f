"""The parsers of who may take part and who vouches for what, with whole files for them; see `parsers`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeres import provenance, signature
from edgeres.fleet import certificates, inventory

HELD = ("certificate.pem", "key.pem", "ca.pem")
AUTHORITY = ("ca.pem", "ca.key", "crl.pem")
SIGNED = ("engine", "engine.json", "engine.intoto.jsonl")


def device(path: Path) -> None:
    certificates.security(path.parent, "worker").get_connection_args("worker")


def authority(path: Path) -> None:
    certificates.init(path.parent)
    for role in ("scheduler", "client"):
        certificates.security(path.parent, role).get_connection_args(role)
    certificates.revoked(path.parent)


def devices(path: Path) -> None:
    inventory.put(path, "nano", {"labels": ["again"]})
    inventory.read(path).select(["again"])


def verified(path: Path) -> str:
    engine = path.with_name("engine")
    return json.dumps(provenance.verify(engine, path.with_name("owner.pub.pem")).statement)


def signing(path: Path) -> bytes:
    return signature.seal(b"{}", path)


SEEDS: dict[str, tuple[Callable[[Path], Any], tuple[str, ...], tuple[str, ...]]] = {
    "certificates of a device (.pem)": (device, HELD, HELD),
    "certificates of an authority (.pem)": (authority, AUTHORITY, AUTHORITY),
    "key, private (.pem)": (signing, ("owner.pem",), ()),
    "key, public (.pem)": (verified, ("owner.pub.pem",), SIGNED),
}
"""A parser, what it reads of which a file is spoilt, and what lies beside; spoilt as PEM files are."""


def make(folder: Path) -> None:
    """Write them: an authority, a device of it, an inventory, a pair of keys, and a file that they signed."""
    certificates.init(folder / "authority")
    certificates.issue(folder / "authority", "nano")
    for name in AUTHORITY:
        shutil.copy(folder / "authority" / name, folder)
    for name in HELD[:2]:
        shutil.copy(folder / "authority" / "nano" / name, folder)
    (folder / "devices.toml").write_text(
        '# in the lab\n[nano]\naddress = "jan@192.168.1.20:2222"\ntargets = ["onnxruntime:cpu", "openvino:cpu"]\n'
        'python = "edgeres/bin/python"\nlabels = ["lab"]\n[nano.found]\nprobed = ""\nsystem = "Linux"\n'
        'architecture = "aarch64"\ncpu = "ARM"\ncores = 6\nmemory_gib = 7.4\npython = "3.10.12"\n'
        'packages = { onnxruntime = "1.23" }\ntemperatures = { cpu = 48.5 }\nclock_mhz = [115.2, 1510.4]\n'
        '[pi]\nreach = "agent"\n'
    )
    signature.make_key(folder / "owner.pem")
    shutil.copy(folder / "solar.blob", folder / "engine")
    shutil.copy(folder / "solar.blob.json", folder / "engine.json")
    provenance.sign(folder / "engine", folder / "owner.pem")
