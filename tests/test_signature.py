"""Signed engines: what a machine that demands signatures loads, and what it refuses whoever made it."""

import base64
import json
import os
import platform
import shutil
import stat
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgeres import backends, cli, disk, engines, inspect, onnx_io, provenance, signature, store
from edgeres.data import open_images
from edgeres.errors import InputError, UsageError
from edgeres.limits import roofline
from edgeres.measure import Subject
from edgeres.quantization import diagnose
from edgeres.store import Sidecar
from edgeres.types import Target

serialization = pytest.importorskip(
    "cryptography.hazmat.primitives.serialization", reason="the extra `sign` is not installed"
)

CPU = Target("onnxruntime", "cpu")
OPENVINO = Target("openvino", "cpu")
IMAGES = np.random.default_rng(0).standard_normal((2, 3, 32, 32), np.float32)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `mine.pem` and `theirs.pem`, each with its public key."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("mine", "theirs"):
        signature.make_key(folder / f"{name}.pem")
    return folder


@pytest.fixture(scope="module")
def built(exported: Path, networks: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Engines of two networks for two runtimes: `mine.onnx`, `mine.blob`, `theirs.onnx`, `theirs.blob`."""
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    folder = tmp_path_factory.mktemp("built")
    for name, model in (("mine", exported), ("theirs", networks["basic"])):
        engines.build(model, CPU, folder / f"{name}.onnx")
        engines.build(model, OPENVINO, folder / f"{name}.blob")
    return folder


@pytest.fixture(params=["blob", "onnx"])
def engine(request: pytest.FixtureRequest, built: Path, keys: Path, tmp_path: Path) -> Path:
    """`engine.blob` or `engine.onnx`, signed with `mine`; `theirs` lies beside it."""
    for name, new in (("mine", "engine"), ("theirs", "theirs")):
        for end in ("", ".json"):
            shutil.copy(built / f"{name}.{request.param}{end}", tmp_path / f"{new}.{request.param}{end}")
    path = tmp_path / f"engine.{request.param}"
    provenance.sign(path, keys / "mine.pem")
    return path


@pytest.fixture
def demanded(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine trusts `mine`."""
    monkeypatch.setenv(signature.TRUSTED, str(keys / "mine.pub.pem"))


def target(engine: Path) -> Target:
    return OPENVINO if engine.suffix == ".blob" else CPU


def test_keys_are_what_other_tools_read_and_the_private_one_is_private(tmp_path: Path) -> None:
    public = signature.make_key(tmp_path / "new" / "key.pem")
    private = tmp_path / "new" / "key.pem"
    assert (public.name, stat.S_IMODE(private.stat().st_mode)) == ("key.pub.pem", 0o600)
    one = serialization.load_pem_private_key(private.read_bytes(), None).public_key()
    assert one == serialization.load_pem_public_key(public.read_bytes())
    before = private.read_bytes()
    with pytest.raises(UsageError, match=r"key\.pub\.pem is there already; name another"):
        signature.make_key(private)
    public.unlink()
    with pytest.raises(UsageError, match=r"key\.pem is there already; name another"):
        signature.make_key(private)
    assert private.read_bytes() == before
    assert not public.exists()


def test_an_envelope_is_that_of_the_specification(keys: Path) -> None:
    """DSSE v1: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md, with its own example."""
    assert signature._encoded("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    envelope = json.loads(signature.seal(b"payload", keys / "mine.pem"))
    assert base64.b64decode(envelope["payload"]) == b"payload"
    (one,) = envelope["signatures"]
    public = serialization.load_pem_public_key((keys / "mine.pub.pem").read_bytes())
    signed = b"DSSEv1 28 application/vnd.in-toto+json 7 payload"
    public.verify(base64.b64decode(one["sig"]), signed)  # raises where it is another
    assert envelope["payloadType"] == "application/vnd.in-toto+json"


@pytest.mark.usefixtures("demanded")
def test_a_signed_engine_is_loaded_wherever_it_lies(engine: Path) -> None:
    wanted = engines.load(engine, target(engine)).run(IMAGES)
    folder = engine.parent / "elsewhere"
    folder.mkdir()
    for path in (engine, store.sidecar_path(engine), signature.path(engine)):
        shutil.move(path, folder / path.name)
    np.testing.assert_array_equal(engines.load(folder / engine.name, target(engine)).run(IMAGES), wanted)
    assert onnx_io.info(folder / engine.name).outputs == 10
    assert engines.inspect(folder / engine.name, target(engine))


def replaced(engine: Path, keys: Path) -> None:
    for end in ("", ".json"):
        shutil.copy(engine.with_name(f"theirs{engine.suffix}{end}"), engine.with_name(f"{engine.name}{end}"))


def replaced_and_signed(engine: Path, keys: Path) -> None:
    replaced(engine, keys)
    provenance.sign(engine, keys / "theirs.pem")


def mislabelled(engine: Path, keys: Path) -> None:
    """The same engine, whose sidecar tells of other classes: what it answers means something else."""
    path = store.sidecar_path(engine)
    sidecar = disk.read_json(path)
    sidecar["parameters"]["model"]["classes"].reverse()
    disk.write_json(path, sidecar)


def stripped(engine: Path, keys: Path) -> None:
    """Without its sidecar, in which the calibration images are listed."""
    store.sidecar_path(engine).unlink()


def edited(engine: Path, keys: Path) -> None:
    """The signed statement is made to tell of the other engine; the signature stays."""
    replaced(engine, keys)
    path = signature.path(engine)
    envelope = json.loads(path.read_bytes())
    envelope["payload"] = base64.b64encode(json.dumps(provenance.statement(engine)).encode()).decode()
    path.write_text(json.dumps(envelope))


def relabelled(engine: Path, keys: Path) -> None:
    """The trusted key did sign this very text, as something else than a statement."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signature, "PAYLOAD", "text/plain")
        provenance.sign(engine, keys / "mine.pem")


def unsigned(engine: Path, keys: Path) -> None:
    signature.path(engine).unlink()


def damaged(engine: Path, keys: Path) -> None:
    signature.path(engine).write_bytes(
        b'{"payload": 1}\n[]\n\xff\n{"payloadType": "x", "payload": "", "signatures": [1]}'
    )


@pytest.mark.usefixtures("demanded")
@pytest.mark.parametrize(
    ("attack", "told"),
    [
        (replaced, "or its sidecar is not the file that .* vouches for"),
        (replaced_and_signed, "holds no signature of .*mine"),
        (mislabelled, "or its sidecar is not the file that .* vouches for"),
        (stripped, "or its sidecar is not the file that .* vouches for"),
        (edited, "holds no signature of"),
        (relabelled, "holds no signature of"),
        (unsigned, r"is not signed: there is no engine\.\w+\.intoto\.jsonl; copy that along"),
        (damaged, "holds no signature of"),
    ],
)
def test_an_attack_is_refused_before_the_runtime_sees_it(
    attack: Callable[[Path, Path], None], told: str, engine: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack(engine, keys)
    for step in ("load", "inspect"):
        monkeypatch.setattr(type(backends.find(target(engine))), step, lambda *_, **__: pytest.fail("it was loaded"))
    for use in (engines.load, engines.inspect, lambda path, _: onnx_io.info(path)):
        with pytest.raises(InputError, match=told):
            use(engine, target(engine))
    with pytest.raises(InputError, match=told):
        provenance.verify(engine)


@pytest.mark.usefixtures("demanded")
@pytest.mark.parametrize("step", ["load", "inspect"])
def test_what_was_verified_is_what_is_loaded(
    step: str, engine: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is exchanged after it was verified comes too late."""
    wanted = _seen(engines.load(engine, target(engine)) if step == "load" else engines.inspect(engine, target(engine)))
    verify = signature.verify

    def then_replace(*arguments: Any) -> Any:
        found = verify(*arguments)
        replaced(engine, keys)
        return found

    monkeypatch.setattr(signature, "verify", then_replace)
    found = getattr(engines, step)(engine, target(engine))
    assert engine.read_bytes() == engine.with_name(f"theirs{engine.suffix}").read_bytes()
    assert _seen(found) == wanted


def _seen(found: Any) -> Any:
    return found.run(IMAGES).tolist() if hasattr(found, "run") else [layer.origins for layer in found]


@pytest.mark.usefixtures("demanded")
def test_weights_outside_the_signed_file_are_refused(
    exported: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runtime that is given bytes looks for them in the working folder."""
    path = tmp_path / "engine.onnx"
    model = onnx.load(exported)
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=1024)
    disk.write_json(store.sidecar_path(path), asdict(Sidecar("model", {}, digest=disk.digest(path))))
    provenance.sign(path, keys / "mine.pem")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"engine\.onnx .*weights.* no signature"):
        engines.load(path, CPU)


@pytest.mark.usefixtures("demanded")
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes among its files")
def test_a_signature_without_end_is_refused(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.onnx"
    for end in ("", ".json"):
        shutil.copy(built / f"{path.name}{end}", tmp_path)
    os.mkfifo(signature.path(path))  # nobody writes to it
    with pytest.raises(InputError, match=r"is not signed: there is no mine\.onnx\.intoto\.jsonl"):
        engines.load(path, CPU)
    signature.path(path).unlink()
    monkeypatch.setattr(disk, "TEXT", 1 << 20)
    signature.path(path).write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(InputError, match=r"intoto\.jsonl is larger than the 1 MiB"):
        engines.load(path, CPU)


@pytest.mark.usefixtures("demanded")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="no CPU of this architecture that another helps out for")
def test_an_emulated_target_gets_what_was_verified(
    built: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The emulator is another process, which opens files itself; a stand-in for it runs this Python."""
    for name in ("mine.onnx", "mine.onnx.json"):
        shutil.copy(built / name, tmp_path)
    path = tmp_path / "mine.onnx"
    emulator = tmp_path / "bin" / "qemu-x86_64"
    emulator.parent.mkdir()
    emulator.write_text('#!/bin/sh\n[ "$1" = --version ] && { echo "qemu version 9.0.1"; exit; }\nshift 2\nexec "$@"\n')
    emulator.chmod(0o755)
    monkeypatch.setenv("PATH", f"{emulator.parent}{os.pathsep}{os.environ['PATH']}")
    emulated = Target("onnxruntime", "cpu@haswell")
    sidecar = disk.read_json(store.sidecar_path(path))
    sidecar["parameters"]["target"] = str(emulated)
    disk.write_json(store.sidecar_path(path), sidecar)
    provenance.sign(path, keys / "mine.pem")
    wanted = engines.load(path, emulated, 1).run(IMAGES)
    layers = _seen(engines.inspect(path, emulated))
    verify = signature.verify

    def then_replace(*arguments: Any) -> Any:
        found = verify(*arguments)
        path.write_bytes((built / "theirs.onnx").read_bytes())
        return found

    whole = path.read_bytes()
    monkeypatch.setattr(signature, "verify", then_replace)
    np.testing.assert_array_equal(engines.load(path, emulated, 1).run(IMAGES), wanted)
    path.write_bytes(whole)
    assert _seen(engines.inspect(path, emulated)) == layers


def test_any_key_of_a_folder_is_trusted_and_no_key_is_an_error(
    engine: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "trusted"
    folder.mkdir()
    monkeypatch.setenv(signature.TRUSTED, str(folder))
    with pytest.raises(UsageError, match=r"trusted holds no public key \(\.pem\)"):
        engines.load(engine, target(engine))
    shutil.copy(keys / "theirs.pub.pem", folder)
    with pytest.raises(InputError, match="holds no signature"):
        engines.load(engine, target(engine))
    shutil.copy(keys / "mine.pub.pem", folder)
    engines.load(engine, target(engine))
    assert provenance.verify(engine).key == folder / "mine.pub.pem"
    (folder / "x.pem").write_text("no key")
    with pytest.raises(InputError, match=r"x\.pem is not a public key"):
        engines.load(engine, target(engine))
    monkeypatch.setenv(signature.TRUSTED, str(folder / "nowhere"))
    with pytest.raises(UsageError, match="nowhere cannot be read"):
        engines.load(engine, target(engine))


def test_a_key_of_another_kind_is_refused(tmp_path: Path, engine: Path, keys: Path) -> None:
    ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")
    other = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "ec.pem").write_bytes(
        other.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    with pytest.raises(InputError, match=r"ec\.pem is no Ed25519 key; make one with `edgeres keygen`"):
        provenance.sign(engine, tmp_path / "ec.pem")
    with pytest.raises(InputError, match=r"mine\.pub\.pem is no private key"):
        provenance.sign(engine, keys / "mine.pub.pem")


@pytest.mark.parametrize("engine", ["onnx"], indirect=True)
def test_a_measuring_process_demands_signatures_too(
    engine: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(signature.TRUSTED, str(keys / "theirs.pub.pem"))
    assert cli.main(["bench", str(engine), "--target", str(target(engine)), "--rounds", "1"]) == cli.FAILED
    assert "holds no signature of" in capsys.readouterr().err


@pytest.mark.usefixtures("demanded")
def test_nothing_of_an_unsigned_file_is_read_before_that_is_told(built: Path, image_folder: Path) -> None:
    path, images = built / "mine.onnx", open_images(image_folder)
    for step in (
        lambda: inspect.inspect(path, CPU),
        lambda: roofline.roofline(Subject(path, CPU)),
        lambda: diagnose.diagnose(path, path, images),
    ):
        with pytest.raises(InputError, match=r"mine\.onnx is not signed"):
            step()


@pytest.mark.parametrize("command", [["sign", "a", "--key", "mine.pem"], ["verify", "a", "--key", "mine.pub.pem"]])
def test_without_the_package_it_is_named(
    command: list[str], keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store.make(tmp_path / "a", Sidecar("thing", {}), lambda path: path.write_bytes(b"") and None)
    shutil.copytree(keys, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    signature.path(Path("a")).write_text("{}\n")
    for name in ("cryptography", "cryptography.exceptions", "cryptography.hazmat.primitives"):
        monkeypatch.setitem(sys.modules, name, None)
    assert cli.main(command) == 3
    assert "pip install 'edgeres[sign]'" in capsys.readouterr().err


def test_an_empty_demand_is_not_none(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(signature.TRUSTED, "")
    with pytest.raises(UsageError, match="EDGERES_TRUSTED_KEYS is empty"):
        engines.load(built / "mine.onnx", CPU)
