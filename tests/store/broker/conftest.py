"""Brokers of both kinds, each with a place of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from taskman_server.kit.broker import Broker
from tests.store.broker.shapes import Embedded, Rabbit, Shape


@pytest.fixture(params=["embedded", "rabbitmq"])
async def shape(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shape]:
    """One implementation of the broker's port, empty."""
    made: Shape
    if request.param == "rabbitmq":
        made = Rabbit(request.getfixturevalue("rabbitmq").vhost("broker"))
    else:
        made = Embedded(tmp_path / "broker.db")
    await made.restart()
    yield made
    await made.broker.close()


@pytest.fixture
def broker(shape: Shape) -> Broker:
    """A broker without queues."""
    return shape.broker
