"""Who vouches for a file: Ed25519 signatures in DSSE envelopes, keys as PEM files.

The signature of `NAME` stands beside it in `NAME.intoto.jsonl`, one envelope a line, as in-toto keeps attestations
(https://github.com/in-toto/attestation). What is signed is a statement that names files by their SHA-256; an envelope
is DSSE v1 (https://github.com/secure-systems-lab/dsse), so that other tools verify it too.

Where the environment variable `EDGERES_TRUSTED_KEYS` names a public key, or a folder of them, no engine is loaded that
none of them has signed.
"""

import base64
import hashlib
import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeres import disk
from edgeres.errors import InputError, MissingRuntime, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

TRUSTED = "EDGERES_TRUSTED_KEYS"
PAYLOAD = "application/vnd.in-toto+json"


def path(artifact: Path) -> Path:
    """Where the signature of an artifact stands."""
    return artifact.with_name(f"{artifact.name}.intoto.jsonl")


def trusted() -> Path | None:
    """The public key, or the folder of them, that this machine demands signatures of; None where it demands none.

    UsageError where the variable is there and empty: whoever set it wants signatures.
    """
    named = os.environ.get(TRUSTED)
    if named == "":
        raise UsageError(f"{TRUSTED} is empty; name a public key, or a folder of them, or unset it.")
    return Path(named) if named else None


def make_key(out: Path) -> Path:
    """Write a private key (PKCS #8, mode 0600) and, beside it, the public one, whose path is given.

    UsageError where either is there already or cannot be written: a key that is lost cannot be made again.
    """
    serialization, ed25519, _ = _cryptography()
    key, public = ed25519.Ed25519PrivateKey.generate(), out.with_suffix(".pub.pem")
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    if public.exists():
        raise UsageError(f"{public} is there already; name another key.")
    _create(out, key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain), 0o600)
    _create(public, _spki(key.public_key(), encoding), 0o644)
    return public


def seal(payload: bytes, key: Path) -> bytes:
    """The envelope of a payload, one line of JSON, signed with a private key.

    UsageError where the key cannot be read, InputError where it is no private Ed25519 key.
    """
    serialization, ed25519, unsupported = _cryptography()
    try:
        private = serialization.load_pem_private_key(disk.read(key, disk.TEXT), password=None)
    except (ValueError, TypeError, unsupported):
        raise InputError(f"{key} is no private key, or one with a password; see `edgeres keygen`.") from None
    if not isinstance(private, ed25519.Ed25519PrivateKey):
        raise InputError(f"{key} is no Ed25519 key; make one with `edgeres keygen`.")
    made = {"keyid": _keyid(private.public_key()), "sig": _base64(private.sign(_encoded(PAYLOAD, payload)))}
    envelope = {"payload": _base64(payload), "payloadType": PAYLOAD, "signatures": [made]}
    return json.dumps(envelope).encode() + b"\n"


def verify(artifact: Path, digests: Collection[str], keys: Path) -> tuple[dict[str, Any], Path]:
    """The statement about an artifact, and the public key of `keys`, a file or a folder, that vouches for it.

    `digests` are the SHA-256 of the files that are to be used: the signed ones, all of them and no others. InputError
    where there is no such signature, UsageError where there is no public key.
    """
    public = _public(keys)
    signed = [(payload, file) for line in _lines(artifact) for payload, file in _opened(line, public)]
    if not signed:
        raise InputError(
            f"{path(artifact)} holds no signature of {keys}; have {artifact.name} signed by a key that is trusted."
        )
    for payload, file in signed:
        try:
            statement = json.loads(payload)
            subjects = {subject["digest"]["sha256"] for subject in statement["subject"]}
        except (ValueError, KeyError, TypeError):  # signed, but about something else
            continue
        if subjects == set(digests):
            return statement, file
    raise InputError(
        f"{artifact} or its sidecar is not the file that {path(artifact).name} vouches for; copy all three again."
    )


def _lines(artifact: Path) -> list[bytes]:
    """The envelopes beside an artifact: a statement names every calibration image, so there may be megabytes."""
    file = path(artifact)
    try:
        return disk.read(file, disk.TEXT).splitlines()
    except UsageError:
        raise InputError(
            f"{artifact} is not signed: there is no {file.name}; copy that along with it, "
            "or sign it where it was built: `edgeres sign`."
        ) from None


def _opened(line: bytes, keys: Sequence[tuple[Path, "Ed25519PublicKey"]]) -> list[tuple[bytes, Path]]:
    """The payload of an envelope once for each key that signed it. Nothing of it is believed before that."""
    from cryptography.exceptions import InvalidSignature

    found = []
    try:
        envelope = json.loads(line)
        kind, payload = envelope["payloadType"], base64.b64decode(envelope["payload"], validate=True)
        signatures = [base64.b64decode(one["sig"], validate=True) for one in envelope["signatures"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
    for file, key in keys if kind == PAYLOAD else ():
        for signature in signatures:
            try:
                key.verify(signature, _encoded(kind, payload))
            except InvalidSignature:
                continue
            found.append((payload, file))
    return found


def _encoded(kind: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed."""
    return b"DSSEv1 %d %s %d %s" % (len(kind.encode()), kind.encode(), len(payload), payload)


def _public(keys: Path) -> list[tuple[Path, "Ed25519PublicKey"]]:
    serialization, ed25519, unsupported = _cryptography()
    files = sorted(keys.glob("*.pem")) if keys.is_dir() else [keys]
    found = []
    for file in files:
        try:
            key = serialization.load_pem_public_key(disk.read(file, disk.TEXT))
        except (ValueError, unsupported):
            raise InputError(f"{file} is not a public key; see `edgeres keygen`.") from None
        if not isinstance(key, ed25519.Ed25519PublicKey):
            raise InputError(f"{file} is no Ed25519 key; see `edgeres keygen`.")
        found.append((file, key))
    if not found:
        raise UsageError(f"{keys} holds no public key (.pem); put one there that engines are signed with.")
    return found


def _keyid(key: "Ed25519PublicKey") -> str:
    """The SHA-256 of the key as DER: a hint for humans, nothing is decided by it."""
    serialization, *_ = _cryptography()
    return hashlib.sha256(_spki(key, serialization.Encoding.DER)).hexdigest()


def _spki(key: "Ed25519PublicKey", encoding: Any) -> bytes:
    serialization, *_ = _cryptography()
    return key.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _create(file: Path, content: bytes, mode: int) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as opened:
            opened.write(content)
    except FileExistsError:
        raise UsageError(f"{file} is there already; name another key.") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be written ({error.strerror}); write elsewhere.") from None


def _cryptography() -> tuple[Any, Any, Any]:
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise MissingRuntime("signatures need cryptography; `pip install 'edgeres[sign]'`.") from None
    return serialization, ed25519, UnsupportedAlgorithm
