"""Who may take part in a run: TLS 1.3 (RFC 8446) in both directions, with certificates (RFC 5280) of a CA of your own.

    FOLDER/                 on the machine that measures from afar; nobody else's business
      ca.pem, ca.key        the CA
      crl.pem               what it revoked
      scheduler/, client/   who they are: certificate.pem, key.pem, and ca.pem
      NAME/                 the same of each device, to be copied there

A certificate names its holder in its subject and as its only DNS name: `scheduler`, `client` or the device. Whoever
dials the scheduler asks for that name, so no device can pose as it, wherever it listens; whoever dials in shows a
certificate, too, that must be of this CA, in its time and not revoked. A client's is of no use to a server.
"""

import datetime
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeres import disk
from edgeres.errors import InputError, MissingRuntime, UsageError

if TYPE_CHECKING:
    from cryptography import x509
    from distributed.security import Security

Role = Literal["client", "scheduler", "worker"]
CA_DAYS, DAYS = 3650, 397
"""How long the CA and its certificates are valid."""
SKEW = datetime.timedelta(days=1)
"""How far back validity begins: a board without a clock of its own may be late."""
CERTIFICATE, KEY, CA, CA_KEY, CRL = "certificate.pem", "key.pem", "ca.pem", "ca.key", "crl.pem"
OWN = (CERTIFICATE, KEY, CA)
"""What the folder of one holder has."""
AGAIN = "copy its folder again from where `edgeres devices init` made it, or remove it there and run that again"
ANEW = "restore it, or begin again with another folder and new certificates for all"
"""How what is damaged is mended: of a holder, of the CA."""


def init(folder: Path) -> None:
    """Make the CA and the certificates of scheduler and client, where they are not there yet; what is there stays.

    InputError where a file of the CA is gone, such as the list of what it revoked, is damaged or is another CA's.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise MissingRuntime("certificates need cryptography: pip install 'edgeres[devices]'.") from None
    _folder(folder)
    # In this order: one that is there without those before it was not left by a crash.
    if not (folder / CA_KEY).exists():
        _first(folder, CA_KEY, CA, CRL)
        disk.write_bytes(folder / ".gitignore", b"*\n")
        _write_key(folder / CA_KEY, ec.generate_private_key(ec.SECP256R1()))
    if not (folder / CA).exists():
        _first(folder, CA, CRL)
        key, name = _ca_key(folder), _name("edgeres CA")
        made = _builder(name, name, key.public_key(), key.public_key(), CA_DAYS)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        made = made.add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        disk.write_bytes(folder / CA, _pem(made.sign(key, _hash())))
    if not (folder / CRL).exists():
        _first(folder, CRL)
        _write_crl(folder, [], _now() - SKEW)
    _check(folder)
    for role in ("scheduler", "client"):
        issue(folder, role)


def _first(folder: Path, file: str, *others: str) -> None:
    """InputError where a file of the CA is to be made that others were made after."""
    if any((folder / other).exists() for other in others) or any(folder.glob(f"*/{CERTIFICATE}")):
        raise InputError(f"{folder / file} is gone, and what stands there was made with it; {ANEW}.")


def _check(folder: Path) -> None:
    """InputError where the files of a CA do not belong together."""
    if _ca_key(folder).public_key() != _ca(folder).public_key():
        raise InputError(f"{folder / CA_KEY} is not the key of {folder / CA}; {ANEW}.")
    _listed(folder, _ca(folder))


def _listed(folder: Path, issuer: "x509.Certificate") -> None:
    """InputError where the revocation list is not that of this CA."""
    if not _crl(folder).is_signature_valid(issuer.public_key()):  # type: ignore[arg-type]
        raise InputError(f"{folder / CRL} is not the list of this CA; {ANEW}.")


def _own(folder: Path) -> "x509.Certificate":
    """The certificate of a holder; InputError where its key and its CA are not what belongs to it."""
    from cryptography.exceptions import InvalidSignature

    found = _certificate(folder / CERTIFICATE)
    if _key(folder / KEY, AGAIN).public_key() != found.public_key():
        raise InputError(f"{folder / KEY} is not the key of {CERTIFICATE} beside it; {AGAIN}.")
    try:
        found.verify_directly_issued_by(_certificate(folder / CA))
    except (ValueError, TypeError, InvalidSignature):
        raise InputError(f"{folder / CERTIFICATE} is not of the {CA} beside it; {AGAIN}.") from None
    return found


def issue(folder: Path, name: str) -> Path:
    """The folder with the certificate of a device, made where there is none or where its time is over; UsageError
    where `folder` has no CA, InputError where what is there is damaged."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID as Purpose

    made = folder / name
    whole = all((made / file).exists() for file in OWN)
    # A crash may have left one that is revoked.
    if whole and (own := _own(made)).not_valid_after_utc > _now() and own.serial_number not in revoked(folder):
        return made
    issuer, key = _ca(folder), ec.generate_private_key(ec.SECP256R1())
    # The scheduler fetches results by dialling the worker: both are server and client.
    purposes = [Purpose.CLIENT_AUTH, *([] if name == "client" else [Purpose.SERVER_AUTH])]
    builder = _builder(_name(name), issuer.subject, key.public_key(), issuer.public_key(), DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(digital_signature=True), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    _folder(made)
    (made / CERTIFICATE).unlink(missing_ok=True)  # the old one has another key
    _write_key(made / KEY, key)
    disk.write_bytes(made / CERTIFICATE, _pem(builder.sign(_ca_key(folder), _hash())))
    disk.write_bytes(made / CA, _pem(issuer))
    return made


def revoke(folder: Path, name: str) -> None:
    """Refuse the certificate of a device from now on, and forget it; `issue` gives the device another one.

    A run that is going on ends its connections; see `edgeres.fleet.tls.enforce`. UsageError where there is none.
    """
    from cryptography import x509

    if not (folder / name / CERTIFICATE).exists():
        raise UsageError(f"{folder} has no certificate of {name!r}; it was revoked already, or never made.")
    with disk.changing(folder / CRL):
        list_ = _crl(folder)
        now = _now()
        # OpenSSL takes the list that is newer, in whole seconds.
        earliest = list_.last_update_utc + datetime.timedelta(seconds=1)
        time.sleep(max(0.0, (earliest - now).total_seconds()))
        now = max(now, earliest)
        serial = _certificate(folder / name / CERTIFICATE, ANEW).serial_number
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        _write_crl(folder, [*list_, entry], now)
        shutil.rmtree(folder / name)


def until(folder: Path, name: str) -> datetime.datetime:
    """When the certificate of a device ends."""
    return _certificate(folder / name / CERTIFICATE).not_valid_after_utc


def holder(folder: Path) -> str:
    """Whom the certificate of this folder names."""
    from cryptography.x509.oid import NameOID

    (common,) = _certificate(folder / CERTIFICATE).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(common.value)


def security(folder: Path, role: Role) -> "Security":
    """What Dask's scheduler, client or worker needs to take part: `folder` is that of `init`, for a worker that which
    `issue` gave. UsageError where it holds no such certificate, or one whose time is over: of a device it is the
    scheduler that tells, as the clock of a board may be late. InputError where a file in it is damaged."""
    import ssl

    from edgeres.fleet.tls import Verified

    own = folder if role == "worker" else folder / role
    if missing := next((name for name in OWN if not (own / name).exists()), None):
        mend = "copy it from where `edgeres devices init` made it" if role == "worker" else "run `edgeres devices init`"
        raise UsageError(f"{own} has no {missing}; {mend}.")
    end = _own(own).not_valid_after_utc
    if role != "worker" and end < _now():
        raise UsageError(
            f"{own / CERTIFICATE} was valid until {end.date()}; `edgeres devices init` makes it another one."
        )
    if role != "worker":
        _listed(folder, _certificate(own / CA))
    files = {f"tls_{role}_cert": str(own / CERTIFICATE), f"tls_{role}_key": str(own / KEY)}
    made = Verified(
        None if role == "worker" else folder,
        require_encryption=True,
        tls_ca_file=str(own / CA),
        tls_min_version=ssl.TLSVersion.TLSv1_3,
        **files,
    )
    try:
        made.get_connection_args(role)
    except ssl.SSLError as error:  # OpenSSL reads it more strictly
        raise InputError(f"a file in {own} is damaged ({error}); {AGAIN}.") from None
    return made


def revoked(folder: Path) -> set[int]:
    """The serial numbers that are refused."""
    return {entry.serial_number for entry in _crl(folder)}


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def _builder(name: Any, issuer: Any, key: Any, issuer_key: Any, days: int) -> "x509.CertificateBuilder":
    from cryptography import x509

    now = _now()
    made = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(key)
    made = made.serial_number(x509.random_serial_number()).not_valid_before(now - SKEW)
    made = made.not_valid_after(now + datetime.timedelta(days=days))
    made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    return made.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)


def _usage(**uses: bool) -> "x509.KeyUsage":
    from cryptography import x509

    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    none = dict.fromkeys((*names, "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False)
    return x509.KeyUsage(**{**none, **uses})


def _name(common: str) -> "x509.Name":
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _hash() -> Any:
    from cryptography.hazmat.primitives.hashes import SHA256

    return SHA256()


def _pem(made: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return bytes(made.public_bytes(Encoding.PEM))


def _folder(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be made ({error.strerror}); name another folder.") from None


def _write_key(path: Path, key: Any) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    disk.write_bytes(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)


def _write_crl(folder: Path, entries: list[Any], now: datetime.datetime) -> None:
    from cryptography import x509

    issuer = _ca(folder)
    made = x509.CertificateRevocationListBuilder().issuer_name(issuer.subject)
    made = made.last_update(now).next_update(issuer.not_valid_after_utc)
    for entry in entries:
        made = made.add_revoked_certificate(entry)
    made = made.add_extension(x509.CRLNumber(len(entries)), critical=False)
    key = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]
    disk.write_bytes(folder / CRL, _pem(made.add_extension(key, critical=False).sign(_ca_key(folder), _hash())))


def _read(path: Path, load: Callable[[bytes], Any], mend: str) -> Any:
    if not path.exists():
        raise UsageError(f"{path} is not there; run `edgeres devices init`.")
    content = disk.read(path, disk.TEXT)
    try:
        return load(content)
    except Exception:  # those of cryptography have no root of their own
        raise InputError(f"{path} is damaged; {mend}.") from None


def _certificate(path: Path, mend: str = AGAIN) -> "x509.Certificate":
    from cryptography import x509

    def load(content: bytes) -> "x509.Certificate":
        made = x509.load_pem_x509_certificate(content)
        made.public_key()  # read but now
        return made

    return _read(path, load, mend)  # type: ignore[no-any-return]


def _key(path: Path, mend: str) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    return _read(path, lambda content: load_pem_private_key(content, None), mend)


def _ca(folder: Path) -> "x509.Certificate":
    return _certificate(folder / CA, ANEW)


def _ca_key(folder: Path) -> Any:
    return _key(folder / CA_KEY, ANEW)


def _crl(folder: Path) -> "x509.CertificateRevocationList":
    from cryptography import x509

    return _read(folder / CRL, x509.load_pem_x509_crl, ANEW)  # type: ignore[no-any-return]
