"""The real parts as fixtures: `postgresql`, `redis_server` and `rabbitmq`, each shared by all tests of a run.

Each is started when the first test asks for it. Tests keep out of each other's way by a database or virtual host of
their own; a test that stops or breaks a server makes a private one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.parts.postgresql import PostgreSQL
from tests.parts.rabbitmq import RabbitMQ
from tests.parts.redis import RedisServer
from tests.parts.servers import Control
from tests.parts.shared import Keeper, RemoteControl

if TYPE_CHECKING:
    from tests.parts.otlp import OtlpReceiver

_KEEPER = pytest.StashKey[Keeper]()


def _keeper(config: pytest.Config) -> Keeper:
    if _KEEPER not in config.stash:
        config.stash[_KEEPER] = Keeper()
    return config.stash[_KEEPER]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tells an xdist worker where the servers are."""
    node.workerinput["parts"] = _keeper(node.config).listen()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Ends the servers with the run."""
    if _KEEPER in config.stash:
        config.stash[_KEEPER].close()


def _control(config: pytest.Config, kind: str) -> Control:
    # Only an xdist worker has it.
    given = getattr(config, "workerinput", {}).get("parts")
    if given is None:
        return _keeper(config).server(kind)
    port, secret = given
    return RemoteControl(port, secret, kind)


@pytest.fixture(scope="session")
def postgresql(pytestconfig: pytest.Config) -> PostgreSQL:
    """The PostgreSQL of this run."""
    return PostgreSQL(_control(pytestconfig, "postgresql"))


@pytest.fixture(scope="session")
def redis_server(pytestconfig: pytest.Config) -> RedisServer:
    """The Redis of this run."""
    return RedisServer(_control(pytestconfig, "redis"))


@pytest.fixture(scope="session")
def rabbitmq(pytestconfig: pytest.Config) -> RabbitMQ:
    """The RabbitMQ of this run."""
    return RabbitMQ(_control(pytestconfig, "rabbitmq"))


@pytest.fixture
def otlp_receiver() -> Iterator[OtlpReceiver]:
    """A collector of traces, until the test ends."""
    from tests.parts.otlp import OtlpReceiver

    with OtlpReceiver() as receiver:
        yield receiver
