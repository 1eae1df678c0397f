"""Who a process is: certificates of the services, an authority for development, and files that change while we run.

A service is `spiffe://taskman/<service>` (SPIFFE-ID §2, as URI SAN) and, for the check of a server's name, `<service>`
as DNS SAN. The same holds for certificates that Vault or cert-manager issues. Both sides of every call between services
show one (OPS-2), and a file that is replaced is taken without a restart and without an error (OPS-4).
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from taskman_sdk.contract import CALLERS

if TYPE_CHECKING:
    import grpc

__all__ = [
    "AUTHORITY",
    "Identity",
    "Material",
    "TlsError",
    "issue",
    "make_authority",
    "service_of",
    "spiffe_id",
    "validity",
]

AUTHORITY: Final = "ca"
DOMAIN: Final = "spiffe://taskman/"
_BACKDATED: Final = timedelta(minutes=5)  # clocks of machines differ
_CHECK_SECONDS: Final = 1.0


class TlsError(Exception):
    """A certificate cannot be made or used; the message names the file and the remedy."""


def spiffe_id(service: str) -> str:
    """The identity of a service, for example `spiffe://taskman/tasks`."""
    return DOMAIN + service


def service_of(names: Iterable[str]) -> str:
    """The service that the URI names of a certificate speak of; empty when it is none of ours, or more than one."""
    found = {name.removeprefix(DOMAIN) for name in names if name.startswith(DOMAIN)}
    return found.pop() if len(found) == 1 and found <= set(CALLERS) else ""


def make_authority(folder: Path, *, days: int = 3650, now: datetime | None = None) -> Path:
    """Makes an authority for development: `ca.crt` and `ca.key`. There is no way to overwrite one.

    Args:
        folder: where the files go; made when it is missing.
        days: how long it signs.
        now: the time; the machine's when None.

    Returns:
        The path of `ca.crt`.

    Raises:
        TlsError: there is one already.
    """
    certificate, key_file = folder / f"{AUTHORITY}.crt", folder / f"{AUTHORITY}.key"
    for path in (certificate, key_file):
        if path.exists():
            raise TlsError(
                f"{path} is there already, and every certificate rests on it. To begin anew, take the folder away "
                "and make all certificates again."
            )
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "TaskMan development authority")])
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    built = (
        _builder(name, name, key.public_key(), days, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(key_file, _pem(key), 0o600)
    _write(certificate, built.public_bytes(serialization.Encoding.PEM), 0o644)
    return certificate


def issue(
    folder: Path, service: str, *, days: float = 90, names: Sequence[str] = (), now: datetime | None = None
) -> Path:
    """Makes or renews the certificate of a service, signed by the authority of the folder, with a new key.

    Both files are replaced whole; a process that runs takes the pair within a second or two.

    Args:
        folder: with `ca.crt` and `ca.key`; gets `<service>.crt` and `<service>.key`.
        service: one of the eight.
        days: how long it is good.
        names: further DNS names and addresses, beside `localhost`, the service's name, 127.0.0.1 and ::1.
        now: the time; the machine's when None.

    Returns:
        The path of the certificate.

    Raises:
        TlsError: there is no such service, or no authority in the folder.
    """
    if service not in CALLERS:
        raise TlsError(f"there is no service {service!r}; services are {', '.join(CALLERS)}")
    try:
        authority = x509.load_pem_x509_certificate((folder / f"{AUTHORITY}.crt").read_bytes())
        signer = serialization.load_pem_private_key((folder / f"{AUTHORITY}.key").read_bytes(), None)
    except (OSError, ValueError) as error:
        raise TlsError(
            f"{folder} has no authority that signs ({error}): `taskman-server certs init` makes one"
        ) from None
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, service)])
    others = [_general_name(name) for name in ("localhost", service, "127.0.0.1", "::1", *names)]
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    alternative = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id(service)), *others])
    built = (
        _builder(subject, authority.subject, key.public_key(), days, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(purposes, critical=False)
        .add_extension(issuer, critical=False)
        .add_extension(alternative, critical=False)
        .sign(signer, hashes.SHA256())
    )
    _write(folder / f"{service}.key", _pem(key), 0o600)
    certificate = folder / f"{service}.crt"
    _write(certificate, built.public_bytes(serialization.Encoding.PEM), 0o644)
    return certificate


@dataclass(frozen=True, slots=True)
class Material:
    """One consistent reading of the three files.

    Attributes:
        service: who it is.
        certificate: PEM of the certificate and what stands between it and the authority.
        key: PEM of its key.
        authority: PEM of those who sign.
        begins: from when it is good.
        expires: until when.
    """

    service: str
    certificate: bytes
    key: bytes
    authority: bytes
    begins: datetime
    expires: datetime


def validity(path: Path) -> tuple[datetime, datetime]:
    """From when until when a certificate is good.

    Raises:
        TlsError: the file is missing, or no certificate.
    """
    try:
        (certificate, *_) = x509.load_pem_x509_certificates(_bytes(path))
    except ValueError as error:
        raise TlsError(f"{path} is no PEM certificate: {error}") from None
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


class Identity:
    """The certificate, key and authority of this process, read again when the files change."""

    def __init__(self, cert: Path, key: Path, ca: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Args:
        cert: PEM of the certificate.
        key: PEM of its key.
        ca: PEM of the authorities that sign the others' certificates; several may stand in it.
        clock: monotonic seconds.

        Raises:
            TlsError: a file is missing or wrong, or the three do not fit.
        """
        self.cert, self.key, self.ca = cert, key, ca
        self.version = 1
        """Grows by one with each change that was taken."""
        self.problem = ""
        """Why the files as they are now were not taken; empty when they were."""
        self._clock = clock
        self._lock = threading.Lock()  # handshakes ask from gRPC's own threads
        self._checked = clock()
        self._seen = self._marks()
        self._material = self._read()

    @classmethod
    def of_folder(cls, folder: Path, service: str) -> Identity:
        """The identity of a service in a folder with `ca.crt`, `<service>.crt` and `<service>.key`.

        Raises:
            TlsError: as the constructor, and when the certificate is another service's.
        """
        found = cls(folder / f"{service}.crt", folder / f"{service}.key", folder / f"{AUTHORITY}.crt")
        if found.service != service:
            raise TlsError(f"{found.cert} is the certificate of {found.service!r}, not of {service!r}")
        return found

    @property
    def service(self) -> str:
        """Who we are."""
        return self._material.service

    @property
    def material(self) -> Material:
        """What holds now; looks at the files at most once a second."""
        self.refresh()
        return self._material

    def refresh(self) -> bool:
        """Takes files that have changed, looking once a second at most; whether there was something to take."""
        if self._clock() - self._checked < _CHECK_SECONDS:
            return False
        with self._lock:
            self._checked = self._clock()
            if not self.problem and self._marks() == self._seen:
                return False
            return self._take()

    def reload(self) -> bool:
        """Takes files that have changed, now; whether there was something to take."""
        with self._lock:
            return self._take()

    def server_credentials(self) -> grpc.ServerCredentials:
        """TLS that asks for a certificate of the authority, and always shows the one that holds now."""
        import grpc

        known: tuple[int, grpc.ServerCertificateConfiguration] | None = None

        def configuration() -> grpc.ServerCertificateConfiguration:
            nonlocal known
            material = self.material
            if known is None or known[0] != self.version:
                pairs = [(material.key, material.certificate)]
                known = (self.version, grpc.ssl_server_certificate_configuration(pairs, material.authority))
            return known[1]

        return grpc.dynamic_ssl_server_credentials(configuration(), configuration, require_client_authentication=True)

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """TLS with the certificate that holds now; a channel keeps it for life."""
        import grpc

        material = self.material
        return grpc.ssl_channel_credentials(material.authority, material.key, material.certificate)

    @staticmethod
    def peer(context: Mapping[str, Iterable[bytes]]) -> str:
        """The service at the other end of a connection, as gRPC's `auth_context` has it; empty for none of ours."""
        return service_of(name.decode("utf-8", "replace") for name in context.get("peer_uri", ()))

    def _take(self) -> bool:
        seen = self._marks()
        try:
            material = self._read()
        except TlsError as error:
            self.problem = str(error)  # half written, or simply wrong: what we have stays, and we look again
            return False
        if material.service != self._material.service:
            self.problem = f"{self.cert} has become the certificate of {material.service!r}; it is not taken"
            return False
        self.problem, self._seen = "", seen
        if material == self._material:
            return False
        self._material = material
        self.version += 1
        return True

    def _marks(self) -> tuple[tuple[int, int, int], ...]:
        found = []
        for path in (self.cert, self.key, self.ca):
            try:
                stat = path.stat()
                found.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
            except OSError:
                found.append((0, 0, 0))
        return tuple(found)

    def _read(self) -> Material:
        certificate, key, authority = (_bytes(path) for path in (self.cert, self.key, self.ca))
        try:
            (leaf, *_) = x509.load_pem_x509_certificates(certificate)
        except ValueError as error:
            raise TlsError(f"{self.cert} is no PEM certificate: {error}") from None
        try:
            public = serialization.load_pem_private_key(key, None).public_key()
        except (ValueError, TypeError):  # not said why: the message could show a piece of the key
            raise TlsError(f"{self.key} is no PEM key without a passphrase") from None
        try:
            signers = x509.load_pem_x509_certificates(authority)
        except ValueError as error:
            raise TlsError(f"{self.ca} has no PEM certificate: {error}") from None
        encoding = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        if public.public_bytes(*encoding) != leaf.public_key().public_bytes(*encoding):
            raise TlsError(f"{self.key} is not the key of {self.cert}")
        service = service_of(_uris(leaf))
        if not service:
            raise TlsError(f"{self.cert} names no service: it needs the URI SAN {spiffe_id('<service>')}")
        issued = {leaf.issuer} | {each.issuer for each in x509.load_pem_x509_certificates(certificate)[1:]}
        if issued.isdisjoint(each.subject for each in signers):
            raise TlsError(f"{self.cert} was not issued by an authority of {self.ca}")
        return Material(service, certificate, key, authority, leaf.not_valid_before_utc, leaf.not_valid_after_utc)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(
            f"{path} cannot be read ({error.strerror}): `taskman-server certs init` makes certificates"
        ) from None


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _general_name(name: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name))
    return x509.DNSName(name)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: float, now: datetime | None
) -> x509.CertificateBuilder:
    now = now or datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + timedelta(days=days))
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replaces a file whole: whoever reads it sees the old one or the new one."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
