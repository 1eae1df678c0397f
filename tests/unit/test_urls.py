"""The URLs of the cluster shape's parts: a wrong one is refused, and none is shown with its password (OPS-2)."""

from __future__ import annotations

import pytest

from taskman_server.settings import NO_FILE, Settings, SettingsError, load
from taskman_server.urls import without_password

_CUT = [
    ({"database_url": "postgresql://taskman:se/cret@db/tasks"}, "--database-url"),
    ({"database_urls": {"tasks": "postgresql://taskman:se/cret@db/tasks"}}, "the URL of tasks"),
    ({"database_replica_url": "postgresql://taskman:se/cret@db/tasks"}, "--database-replica-url"),
    ({"broker_url": "amqp://taskman:se/cret@mq/x"}, "--broker-url"),
    ({"broker_url": "amqp://taskman:5?secret@mq/x"}, "--broker-url"),
    ({"redis_url": "redis://:5#secret@cache"}, "--redis-url"),
]


@pytest.mark.parametrize(("flags", "named"), _CUT)
def test_a_password_that_cuts_its_url_in_two_is_refused(flags: dict[str, object], named: str) -> None:
    """OPS-2: else a part of it would be taken for a host or a database, which logs and `/readyz` name."""
    with pytest.raises(SettingsError, match=named) as caught:
        load(flags, environ={}, config=NO_FILE)
    assert "%2F" in str(caught.value)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    "flags",
    [
        {"database_url": "postgresql://taskman:secret@db:port/tasks"},
        {"database_url": "postgresql://db/"},
        {"broker_url": "amqp://taskman:secret@mq:port/x"},
        {"redis_url": "redis://:secret@cache:port"},
        {"peer_address": ","},
        {"peer_addresses": {"tasks": " , "}},
    ],
)
def test_what_cannot_be_an_address_is_refused_at_start(flags: dict[str, object]) -> None:
    """OPS-2: not by a traceback of whatever library meets it first."""
    with pytest.raises(SettingsError, match="must be") as caught:
        load(flags, environ={}, config=NO_FILE)
    assert "secret" not in str(caught.value)


def test_urls_of_all_forms_are_taken() -> None:
    """OPS-2."""
    database = "postgresql://u:p%2Fw@one:5432,two:5433/taskman_{service}"
    found = Settings(
        database_url=database,
        database_urls={"tasks": "postgres:///tasks?host=/run/postgresql&user=me@example.org"},
        broker_url="amqps://u:p@[::1]:5671/%2F",
        redis_url="rediss://cache?cluster=true",
        peer_address="dns:///{service}:{port}",
    )
    assert found.database_of("users") == database.replace("{service}", "users")
    assert Settings(redis_url="unix:///run/redis.sock").redis_url


def test_a_replica_is_read_only_where_processes_share_what_they_wrote() -> None:
    """OPS-4: without Redis another process's list would lack what its caller has just written by this one."""
    url = "postgresql://replica/taskman_{service}"
    assert Settings(database_replica_url=url).replica_of("tasks") == ""
    both = Settings(database_replica_url=url, redis_url="redis://cache")
    assert both.replica_of("tasks") == "postgresql://replica/taskman_tasks"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:secret@one:1,two:2/db", "postgresql://***@one:1,two:2/db"),
        ("postgresql://db/tasks?user=u&password=secret&a=b", "postgresql://db/tasks?user=u&password=***&a=b"),
        ("redis://:secret@cache/0?cluster=true", "redis://***@cache/0?cluster=true"),
        ("smtp://u:se/secret@mail:25", "smtp://***@mail:25"),
        ("http://collector:4318", "http://collector:4318"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    """OPS-2: `taskman-server settings`."""
    assert without_password(url) == shown
