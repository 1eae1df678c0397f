"""The notification service and its other ends for each test."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from taskman_server.services.notifications import SERVICE
from tests.store.audit.house import House, open_house
from tests.store.databases import Databases
from tests.store.notifications.receivers import HookServer, MailServer, hook_server


@pytest.fixture
def smtp() -> Iterator[MailServer]:
    """A mail server."""
    server = MailServer()
    yield server
    server.close()


@pytest.fixture
async def hooks() -> AsyncIterator[HookServer]:
    """A receiver of webhooks."""
    async with hook_server() as server:
        yield server


@pytest.fixture
async def house(databases: Databases, smtp: MailServer) -> AsyncIterator[House]:
    """The service with its workers, sending to the mail server; webhooks may go to loopback."""
    async with open_house(SERVICE, databases, smtp_url=smtp.url, webhook_allow_private=True) as opened:
        yield opened


@dataclass(frozen=True)
class Certificates:
    """A server's certificate for `hooks.example.com`, and who believes it."""

    server: ssl.SSLContext
    client: ssl.SSLContext


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made for this run."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("hooks.example.com"), x509.IPAddress(IPv4Address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    pem.write_bytes(private + public)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return Certificates(server, ssl.create_default_context(cadata=public.decode()))
