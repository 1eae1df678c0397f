"""`taskman-server events` against both brokers (EVENT-2)."""

from __future__ import annotations

import ast
import asyncio
import importlib
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from click.testing import CliRunner, Result

import taskman_server.services
from taskman_server import data_folder
from taskman_server.cli import group
from taskman_server.cli.events import QUEUES
from taskman_server.kit.broker import Broker, Message
from tests.store.broker.shapes import Embedded, Rabbit, messages, take

REASON = "ValueError: the mail server said no"

Work: TypeAlias = Callable[[Broker], Awaitable[Any]]


class Place:
    """Where one kind of broker is; the command is told by flags."""

    def __init__(self, kind: str, folder: Path, url: str) -> None:
        self.kind = kind
        self.folder = folder
        self._url = url

    @property
    def flags(self) -> list[str]:
        return ["--broker-url", self._url] if self._url else ["--data", str(self.folder)]

    def do(self, work: Work) -> Any:
        """Work on the broker, which is closed afterwards, as by a server that stops."""

        async def run() -> Any:
            shape = Rabbit(self._url) if self._url else Embedded(self.folder / data_folder.BROKER)
            broker = await shape.restart()
            try:
                return await work(broker)
            finally:
                await broker.close()

        return asyncio.run(run())

    def run(self, command: str, *arguments: str, stdin: str = "") -> Result:
        return CliRunner().invoke(group, ["events", command, *arguments, *self.flags], input=stdin)


@pytest.fixture(params=["embedded", "rabbitmq"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """One kind of broker, empty."""
    url = request.getfixturevalue("rabbitmq").vhost("events") if request.param == "rabbitmq" else ""
    return Place(request.param, tmp_path, url)


@pytest.fixture
def dead(place: Place) -> list[Message]:
    """Three dead letters of `audit.all`, where one message waits."""
    sent = messages(4)

    async def fill(broker: Broker) -> None:
        await broker.declare("audit.all", ["#"])
        await broker.publish(sent[:3])
        async with broker.consume("audit.all") as deliveries:
            for delivery in await take(deliveries, 3):
                await deliveries.reject(delivery, REASON)
        await broker.publish(sent[3:])

    place.do(fill)
    return sent[:3]


def test_the_list_says_what_waits_and_what_was_given_up(place: Place, dead: list[Message]) -> None:
    """EVENT-2: for people and for programs."""
    result = place.run("list")
    assert result.exit_code == 0
    head, row = result.output.splitlines()
    assert head.split() == ["QUEUE", "WAITING", "DEAD", "CONSUMERS", "OLDEST"]
    assert row.split()[:3] == ["audit.all", "1", "3"]
    (figures,) = json.loads(place.run("list", "-o", "json").output)
    assert (figures["queue"], figures["waiting"], figures["dead"]) == ("audit.all", 1, 3)


def test_dead_letters_are_shown_with_their_reason(place: Place, dead: list[Message]) -> None:
    """EVENT-2: what, why, when; the content only for programs."""
    result = place.run("show", "audit.all", "--limit", "2")
    assert result.exit_code == 0
    _, *rows = result.output.splitlines()
    assert [row.split()[0] for row in rows] == [message.id for message in dead[:2]]
    assert all(REASON in row for row in rows)
    letters = json.loads(place.run("show", "audit.all", "-o", "json").output)
    assert [letter["event"]["id"] for letter in letters] == [message.id for message in dead]
    assert {(letter["attempts"], letter["reason"]) for letter in letters} == {(1, REASON)}
    (waits,) = json.loads(place.run("show", "audit.all", "--waiting", "-o", "json").output)
    assert waits["name"] == "task.created"


def test_redrive_sends_back_what_was_chosen(place: Place, dead: list[Message]) -> None:
    """EVENT-2: one, then an unknown one, then all."""
    assert place.run("redrive", "audit.all", dead[1].id).output == "1 sent back to audit.all.\n"
    result = place.run("redrive", "audit.all", dead[1].id)
    assert result.exit_code == 1
    assert "0 of 1 sent back to audit.all; the others are not among its dead letters" in result.output
    assert place.run("redrive", "audit.all", "--all").output == "2 sent back to audit.all.\n"
    assert place.run("show", "audit.all").output == "audit.all has no dead letters.\n"
    for wrong in ([], [dead[0].id, "--all"]):
        assert place.run("redrive", "audit.all", *wrong).exit_code == 2

    async def handled(broker: Broker) -> list[str]:
        async with broker.consume("audit.all") as deliveries:
            return [each.message.id for each in await take(deliveries, 4) if each.redriven]

    assert place.do(handled) == [dead[1].id, dead[0].id, dead[2].id]


def test_purge_asks_first(place: Place, dead: list[Message]) -> None:
    """EVENT-2: what is gone is gone; without somebody to ask it takes --yes."""
    result = place.run("purge", "audit.all")
    assert (result.exit_code, "say --yes" in result.output) == (1, True)
    assert place.run("purge", "audit.all", "--yes").output == "3 dead letters of audit.all are forgotten.\n"
    assert place.run("purge", "audit.all", "--waiting", "--yes").output.startswith("1 messages that wait")
    assert json.loads(place.run("list", "-o", "json").output)[0]["waiting"] == 0


def test_an_unknown_queue_is_told_of(place: Place, dead: list[Message]) -> None:
    """Exit code 1 and a sentence."""
    for command in (("show",), ("redrive", "--all"), ("purge", "--yes")):
        result = place.run(command[0], "audit.none", *command[1:])
        assert (result.exit_code, "queue audit.none is not declared" in result.output) == (1, True)


@pytest.mark.parametrize("place", ["embedded"], indirect=True)
def test_while_the_server_runs_one_may_look_and_nothing_else(place: Place, dead: list[Message]) -> None:
    """The running process owns its queues; reading its file disturbs nobody."""

    async def during(broker: Broker) -> None:
        looked = await asyncio.to_thread(place.run, "list")
        assert "audit.all" in looked.output
        assert dead[0].id in (await asyncio.to_thread(place.run, "show", "audit.all")).output
        for command in (("redrive", "audit.all", "--all"), ("purge", "audit.all", "--yes")):
            refused = await asyncio.to_thread(place.run, *command)
            assert refused.exit_code == 1
            assert f"a server is running on {place.folder} and owns its queues: stop it" in refused.output
        assert len(await broker.dead_letters("audit.all")) == 3

    with data_folder.lock(place.folder):
        place.do(during)


def test_without_a_broker_it_says_where_it_looked(tmp_path: Path) -> None:
    """No folder, and nobody at the address."""
    result = CliRunner().invoke(group, ["events", "list", "--data", str(tmp_path)])
    assert (result.exit_code, "name the server's folder with --data" in result.output) == (1, True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"amqp://taskman:secret@127.0.0.1:{free.getsockname()[1]}/"
        result = CliRunner().invoke(group, ["events", "list", "--broker-url", url])
    assert result.exit_code == 1
    assert "does not answer" in result.output
    assert "secret" not in result.output


def test_every_queue_of_the_services_is_known() -> None:
    """RabbitMQ gives no list, so the command has one: each `Subscription` of the services is in it."""
    found = set()
    for path in Path(str(taskman_server.services.__path__[0])).glob("*/consumers.py"):
        module = importlib.import_module(f"taskman_server.services.{path.parent.name}.consumers")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Subscription":
                name = node.args[0]
                found.add(name.value if isinstance(name, ast.Constant) else getattr(module, ast.unparse(name)))
    assert found == set(QUEUES)
