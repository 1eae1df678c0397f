"""What every process of an embedded server has: the services' files, the channels between services, the gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry

from taskman_server import data_folder
from taskman_server.app.units import SERVICES, Desk, Shared
from taskman_server.gateway.app import Gateway
from taskman_server.gateway.pages import pages
from taskman_server.kit.clock import Clock
from taskman_server.kit.db.sqlite import SqliteDatabase
from taskman_server.kit.guard import Guard
from taskman_server.kit.identity import Authenticator
from taskman_server.kit.limits import Bank
from taskman_server.kit.operations import Metrics, Readiness
from taskman_server.kit.paging import Pager
from taskman_server.kit.rpc import Channels, LocalChannel
from taskman_server.kit.telemetry import Telemetry
from taskman_server.settings import Settings

__all__ = ["Inside", "open_inside"]


@dataclass(frozen=True, slots=True)
class Inside:
    """The parts of one process.

    Attributes:
        databases: by the services' folder names.
        measured: the services' views of the metrics, likewise.
    """

    shared: Shared
    registry: CollectorRegistry
    telemetry: Telemetry
    databases: dict[str, SqliteDatabase]
    measured: dict[str, Telemetry]

    def connect(self, desks: Iterable[Desk]) -> None:
        """Opens the channels to the services."""
        for desk in desks:
            self.shared.channels.add(desk.definition.area, LocalChannel(desk.pipeline))

    def gateway(self, ready: Readiness, metrics: Metrics | None = None, bank: Bank | None = None) -> Gateway:
        """The REST API; for the arguments see `pages` and `Gateway`."""
        shared, settings = self.shared, self.shared.settings
        beside = pages(ready, self.registry, settings.public_url, metrics)
        return Gateway(
            shared.channels,
            shared.authenticator,
            shared.guard,
            settings,
            shared.clock,
            self.telemetry,
            beside,
            bank=bank,
        )


@asynccontextmanager
async def open_inside(folder: Path, settings: Settings, clock: Clock) -> AsyncIterator[Inside]:
    """Opens the files of a data folder, which are there and of this release.

    Raises:
        DatabaseUnavailable: one cannot be opened.
    """
    async with AsyncExitStack() as stack:
        registry = CollectorRegistry()
        tracer = None
        if settings.otlp_endpoint:
            from taskman_server.kit.tracing import open_tracer  # the exporter costs 0.2 s, which few need

            tracer = stack.enter_context(open_tracer(settings.otlp_endpoint))
        telemetry = Telemetry("gateway", registry, tracer)
        channels = Channels({})
        shared = Shared(
            settings=settings,
            channels=channels,
            authenticator=Authenticator(channels, "gateway", clock, telemetry),
            guard=Guard(channels, "gateway", telemetry),
            pager=Pager(data_folder.secret(folder, data_folder.PAGING_KEY)),
            clock=clock,
        )
        measured = {each.name: Telemetry(each.name, registry, tracer) for each in SERVICES}
        databases = {}
        for name, view in measured.items():
            db = databases[name] = SqliteDatabase(
                folder / f"{name}.db",
                durability=settings.sqlite_synchronous,
                alone=settings.workers == 1,
                observe=partial(view.query, system="sqlite"),
            )
            shared.beside[name] = db.changes
            stack.push_async_callback(db.close)
        shared.authenticator.follow(shared.beside["authentication"])
        shared.guard.follow(shared.beside["authorization"])
        yield Inside(shared, registry, telemetry, databases, measured)
