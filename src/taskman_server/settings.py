"""Every setting of the server, as one typed tree.

A setting `smtp_url` is the environment variable `TASKMAN_SMTP_URL`, the line `smtp_url = "…"` of `taskman.toml`, and
the flag `--smtp-url`; the flag wins over the environment, and that over the file. A name that is no setting is refused
at start, with the one that was probably meant.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from taskman_server import urls

__all__ = ["CLIENT_VARIABLES", "NO_FILE", "SERVICES", "RateLimit", "Settings", "SettingsError", "load", "variable_of"]

SERVICES: Final = ("authentication", "authorization", "users", "iam", "tasks", "audit", "notifications")
PREFIX: Final = "TASKMAN_"
# Read by the client library and the tests, not by the server.
CLIENT_VARIABLES: Final = frozenset(
    {"TASKMAN_URL", "TASKMAN_TOKEN", "TASKMAN_PROFILE", "TASKMAN_CONFIG", "TASKMAN_SHARED_DATA"}
)
NO_FILE: Final = Path(os.devnull)
"""As `config` of `load`: read no file."""
_LIMIT: Final = re.compile(r"(\d{1,7})/(s|min|h)")


class SettingsError(Exception):
    """A setting is wrong; the message names it, where it stands, and what it takes."""


class RateLimit(BaseModel):
    """So many requests in so many seconds, for each principal (or address, before sign-in)."""

    model_config = ConfigDict(frozen=True)
    requests: int
    seconds: int


class Settings(BaseModel):
    """The tree. Field descriptions are the reference of the settings page."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    data: Path = Field(Path("taskman-data"), description="Folder for databases, mail files and attachments.")
    host: str = Field("127.0.0.1", description="Address to listen on. Anything but loopback wants TLS in front.")
    port: int = Field(
        8080, ge=0, le=65535, description="Port of the gateway (REST, OpenAPI, metrics); 0 takes a free one."
    )
    grpc_port_base: int = Field(
        50051, ge=-1, le=65529, description="First of the seven gRPC ports; 0 takes free ones, -1 opens none."
    )
    public_url: str = Field("", description="The address that people reach the gateway by, for links in mails.")
    issuer: str = Field("", description="`iss` of access tokens; the public URL when empty.")
    signup: Literal["", "open", "invite", "closed", "organization"] = Field(
        "",
        description="Who may sign up: `open` joins the organization `default`, `organization` makes one for each "
        "sign-up, `invite` and `closed` let nobody in unasked. Empty: `open` on loopback, else `invite`.",
    )
    admin_email: str = Field("", description="The administrator, made by any start that finds none that is active.")
    admin_password: SecretStr = Field(SecretStr(""), description="The administrator's first password.")
    smtp_url: str = Field(
        "", description="`smtp://user:password@host:port` or `smtps://…`. Empty: mail is written to files in `data`."
    )
    mail_from: str = Field("TaskMan <taskman@localhost>", description="Sender of mails.")
    webhook_allow_private: bool = Field(
        False, description="Let webhooks reach loopback and private networks. For development only."
    )
    rate_limit: RateLimit | None = Field(
        RateLimit(requests=200, seconds=1),
        description="Requests for each principal, `200/s`, `6000/min` or `off`.",
    )
    rate_limit_shadow: bool = Field(
        False, description="Only count the requests beyond `rate_limit`, as `taskman_rate_limit_refused_total`."
    )
    database_url: str = Field(
        "",
        description="Cluster: `postgresql://user:password@host:5432/taskman_{service}`; `{service}` becomes the "
        "service's name. Several hosts with commas: the one that takes writes is used.",
    )
    database_urls: dict[str, str] = Field(
        default_factory=dict,
        description="Cluster: database of one service, as `TASKMAN_<SERVICE>_DATABASE_URL`.",
    )
    database_replica_url: str = Field(
        "", description="Cluster: a replica that lists and searches may read from, in the form of `database_url`."
    )
    database_pool_size: int = Field(10, ge=1, le=500, description="Cluster: connections of one process at most.")
    database_statement_timeout_seconds: float = Field(
        5, gt=0, le=300, description="Cluster: a statement that runs longer is stopped."
    )
    redis_url: str = Field(
        "",
        description="Cluster: `redis://user:password@host:6379`, for shared caches and limits. Without it each process "
        "has its own.",
    )
    broker_url: str = Field("", description="Cluster: RabbitMQ, `amqp://user:password@host:5672/vhost`.")
    secret_key: SecretStr = Field(
        SecretStr(""),
        description="Cluster: what page tokens are signed with, the same in all processes, 32 characters at least. "
        "Empty: a file in `data`, which serves one machine.",
    )
    mtls: Literal["on", "off"] = Field(
        "on", description="Cluster: TLS with certificates on both sides between services; `off` leaves it to a mesh."
    )
    certs: Path | None = Field(
        None,
        description="Cluster: folder with `ca.crt`, `<service>.crt` and `<service>.key`; `certs` in `data` when empty. "
        "`taskman-server certs` makes one.",
    )
    tls_cert_file: Path | None = Field(None, description="Cluster: this process's certificate, instead of `certs`.")
    tls_key_file: Path | None = Field(None, description="Cluster: the key of `tls_cert_file`.")
    tls_ca_file: Path | None = Field(None, description="Cluster: who signs the services' certificates.")
    peer_address: str = Field(
        "127.0.0.1:{port}",
        description="Cluster: where services find each other, for example `{service}:{port}` or "
        "`dns:///{service}:{port}`.",
    )
    peer_addresses: dict[str, str] = Field(
        default_factory=dict,
        description="Cluster: where one service is, as `TASKMAN_<SERVICE>_ADDRESS`; its replicas with commas.",
    )
    grpc_port: int = Field(
        50050, ge=-1, le=65535, description="Cluster: the gateway's port for clients by gRPC; -1 opens none."
    )
    ops_port_base: int = Field(
        9051,
        ge=-1,
        le=65529,
        description="Cluster: first of the seven ports for `/healthz`, `/readyz` and `/metrics`; -1 opens none.",
    )
    workers: int = Field(
        1, ge=1, le=64, description="Embedded: processes that answer requests, as many as there are processors at most."
    )
    drain_seconds: float = Field(
        20, ge=0, le=600, description="Time that requests under way get to end when a process is stopped."
    )
    sqlite_synchronous: Literal["full", "normal"] = Field(
        "full",
        description="`full`: an answered write survives a power cut; `normal`: it survives a crash of the process.",
    )
    access_token_seconds: int = Field(900, ge=60, le=86400, description="Life of an access token, in seconds.")
    refresh_token_seconds: int = Field(2592000, ge=60, description="Life of an unused refresh token, in seconds.")
    password_hash: Literal["standard", "fast"] = Field(
        "standard", description="`fast` weakens password hashes; for tests and benches alone."
    )
    request_timeout_seconds: float = Field(30, gt=0, le=300, description="Deadline of a call that names none.")
    max_body_bytes: int = Field(4 << 20, ge=1024, description="Largest request body, in bytes.")
    trusted_proxies: tuple[str, ...] = Field(
        (), description="Networks whose `X-Forwarded-For` is believed, for example `10.0.0.0/8`."
    )
    audit_retention_security_days: int = Field(
        2557, ge=0, description="How long sign-ins, rights, refusals and reads of the log stay in it; 0: for ever."
    )
    audit_retention_activity_days: int = Field(400, ge=0, description="How long all else stays in it; 0: for ever.")
    audit_legal_hold: tuple[str, ...] = Field((), description="Organizations whose audit log is kept whole; `*`: all.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What is logged.")
    log_format: Literal["auto", "json", "text"] = Field("auto", description="`auto`: text on a terminal, else JSON.")
    otlp_endpoint: str = Field(
        "",
        description="Where traces go by OTLP over HTTP, for example `http://localhost:4318`. Empty: no tracing.",
    )

    @field_validator("rate_limit", mode="before")
    @classmethod
    def _parse_rate_limit(cls, value: Any) -> Any:
        if isinstance(value, str):
            if value == "off":
                return None
            match = _LIMIT.fullmatch(value)
            if match is None or int(match[1]) == 0:
                raise ValueError("must be `off` or a number and a time, for example `200/s`, `6000/min`, `100000/h`")
            return RateLimit(requests=int(match[1]), seconds={"s": 1, "min": 60, "h": 3600}[match[2]])
        return value

    @field_validator("smtp_url")
    @classmethod
    def _mail_server(cls, value: str) -> str:
        if value:
            url = urlsplit(value)
            if url.scheme not in ("smtp", "smtps") or not url.hostname or url.port == 0:
                raise ValueError("must be `smtp://host:port` or `smtps://host:port`, with user and password if needed")
        return value

    @field_validator("trusted_proxies", "audit_legal_hold", mode="before")
    @classmethod
    def _parse_list(cls, value: Any, info: ValidationInfo) -> Any:
        parts = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        for network in parts if info.field_name == "trusted_proxies" else ():
            ipaddress.ip_network(network)
        return tuple(parts)

    @field_validator("database_urls", "peer_addresses")
    @classmethod
    def _known_services(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        if unknown := sorted(set(value) - set(SERVICES)):
            raise ValueError(f"there is no service {unknown[0]!r}; services are {', '.join(SERVICES)}")
        if info.field_name == "database_urls":
            for service, url in value.items():
                urls.database(url, f"the URL of {service} ")
        else:
            for address in value.values():
                urls.address(address)
        return value

    @field_validator("peer_address")
    @classmethod
    def _template(cls, value: str) -> str:
        try:
            urls.address(value.format(service="tasks", port=50055))
        except (KeyError, IndexError):
            raise ValueError("only {service} and {port} can stand in braces") from None
        return value

    @field_validator("database_url", "database_replica_url")
    @classmethod
    def _postgresql(cls, value: str) -> str:
        return urls.database(value)

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: str) -> str:
        return urls.redis(value)

    @field_validator("broker_url")
    @classmethod
    def _rabbitmq(cls, value: str) -> str:
        return urls.broker(value)

    @field_validator("secret_key")
    @classmethod
    def _long(cls, value: SecretStr) -> SecretStr:
        if 0 < len(value.get_secret_value()) < 32:
            raise ValueError("must be 32 characters or longer, for example from `openssl rand -hex 32`")
        return value

    @model_validator(mode="after")
    def _fill(self) -> Settings:
        if not self.signup:
            object.__setattr__(self, "signup", "open" if self.loopback else "invite")
        if bool(self.admin_email) != bool(self.admin_password.get_secret_value()):
            raise ValueError("admin_email and admin_password go together; one of them is missing")
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file go together; one of them is missing")
        return self

    @property
    def cluster(self) -> bool:
        """Whether databases or a broker of the cluster shape are named."""
        return bool(self.database_url or self.database_urls or self.broker_url)

    def database_of(self, service: str) -> str:
        """The URL of a service's database.

        Raises:
            SettingsError: none is set.
        """
        url = self.database_urls.get(service) or self.database_url.replace("{service}", service)
        if not url:
            raise SettingsError(
                f"TASKMAN_DATABASE_URL is not set (nor TASKMAN_{service.upper()}_DATABASE_URL): a process of the "
                "cluster shape needs `postgresql://user:password@host:5432/taskman_{service}`"
            )
        return url

    def replica_of(self, service: str) -> str:
        """The URL of the replica that a service reads from; empty for none.

        Without Redis there is none: a process could not know what its caller has just written by another one.
        """
        return self.database_replica_url.replace("{service}", service) if self.redis_url else ""

    def broker(self) -> str:
        """The URL of the broker.

        Raises:
            SettingsError: none is set.
        """
        if not self.broker_url:
            raise SettingsError(
                "TASKMAN_BROKER_URL is not set: a process of the cluster shape needs "
                "`amqp://user:password@host:5672/vhost`"
            )
        return self.broker_url

    def address_of(self, service: str) -> str:
        """Where a service answers; several addresses have commas between them."""
        port = self.grpc_port_base + SERVICES.index(service)
        return self.peer_addresses.get(service) or self.peer_address.format(service=service, port=port)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def with_port(self, port: int) -> Settings:
        """The settings once the port is known, with the public URL and issuer that follow from it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        url = self.public_url.rstrip("/") or f"http://{host}:{port}"
        return self.model_copy(update={"port": port, "public_url": url, "issuer": self.issuer or url})


def variable_of(field: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + field.upper()


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    config: Path | None = None,
) -> Settings:
    """Reads flags, environment and `taskman.toml`.

    Args:
        flags: settings by name; those that are None do not count.
        environ: the environment; the process's own when None.
        config: the file; `taskman.toml` in the current folder, if there is one, when None.

    Raises:
        SettingsError: one is unknown or wrong; all are named.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for name, value in _from_file(config).items():
        values[name], origin[name] = value, "taskman.toml"
    tables = {
        "database_url": dict(values.get("database_urls") or {}),
        "address": dict(values.get("peer_addresses") or {}),
    }
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable in CLIENT_VARIABLES or not value:
            continue
        name = variable[len(PREFIX) :].lower()
        service, _, rest = name.partition("_")
        if service in SERVICES and rest in tables:
            tables[rest][service] = value
        elif name in Settings.model_fields and name not in ("database_urls", "peer_addresses"):
            values[name], origin[name] = value, variable
        else:
            raise SettingsError(f"{variable} is no setting.{_near(variable, map(variable_of, Settings.model_fields))}")
    values |= {f: table for f, table in zip(("database_urls", "peer_addresses"), tables.values(), strict=True) if table}
    for name, value in (flags or {}).items():
        if value is not None:
            values[name], origin[name] = value, f"--{name.replace('_', '-')}"
    try:
        return Settings(**values)
    except ValidationError as error:
        raise SettingsError("\n".join(_complaint(e, origin) for e in error.errors(include_input=False))) from None


def _from_file(config: Path | None) -> dict[str, Any]:
    path = config or Path("taskman.toml")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if config is not None:
            raise SettingsError(f"{config}: there is no such file") from None
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None
    for name in content:
        if name not in Settings.model_fields:
            raise SettingsError(f"{path}: {name!r} is no setting.{_near(name, Settings.model_fields)}")
    return content


def _near(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f" Did you mean {close[0]}?" if close else " `taskman-server settings` lists them."


def _complaint(error: Any, origin: Mapping[str, str]) -> str:
    name = str(error["loc"][0]) if error["loc"] else ""
    where = origin.get(name) or (variable_of(name) if name else "settings")
    return f"{where}: {error['msg'].removeprefix('Value error, ')}"
