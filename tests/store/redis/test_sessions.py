"""Sessions that replicas of the Authentication service know of by Redis (AUTHN-4)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from taskman_sdk import contract
from taskman_sdk.errors import UnauthenticatedError
from taskman_sdk.proto.taskman.authentication.v1.authentication_pb import (
    LogoutRequest,
    LogoutResponse,
    ValidateTokenRequest,
)
from taskman_server.kit import identity
from taskman_server.kit.identity import Authenticator
from taskman_server.kit.redis import Redis
from taskman_server.kit.rpc import CallOptions, Channels, LocalChannel, Pipeline, Principal, Runtime, service_principal
from taskman_server.services.authentication import SERVICE
from taskman_server.services.authentication import session_cache as cache
from taskman_server.services.authentication.session_cache import SessionCache
from taskman_server.services.authentication.tokens import Claims
from tests.parts.proxy import TcpProxy
from tests.store.authentication.harness import House, open_house
from tests.store.databases import Databases
from tests.store.redis.conftest import Connect
from tests.store.support import open_to, until

VALIDATE = contract.method("AuthenticationService.ValidateToken")


@dataclass
class Replica:
    """A process of the Authentication service."""

    runtime: Runtime
    pipeline: Pipeline

    @property
    def redis(self) -> Redis:
        assert self.runtime.redis is not None
        return self.runtime.redis

    @property
    def sessions(self) -> SessionCache:
        return SessionCache(self.runtime, self.redis)

    @property
    def hits(self) -> int:
        return self.runtime.telemetry.cache("sessions").hits

    async def accepts(self, token: str) -> bool:
        options = CallOptions(caller=service_principal("gateway", ""))
        try:
            await self.pipeline.unary(VALIDATE, ValidateTokenRequest(access_token=token), options)
        except UnauthenticatedError as error:
            return error.reason != "SESSION_ENDED"
        return True

    async def refuses(self, token: str) -> bool:
        return not await self.accepts(token)

    async def knows(self, session: str) -> bytes | None:
        """What stands in Redis."""
        return await self.redis.get(f"session:{session}")

    async def buried(self, session: str) -> bool:
        return await self.knows(session) == b""


@dataclass
class Person:
    """Somebody who is signed in."""

    token: str
    principal: Principal

    @property
    def claims(self) -> Claims:
        who = self.principal
        return Claims(who.id, who.organization, who.session, "", 0, 0)


class Replicas:
    """Two of them on one database and one Redis."""

    def __init__(self, house: House, ours: Replica, theirs: Replica) -> None:
        self.house, self.ours, self.theirs = house, ours, theirs

    async def person(self) -> Person:
        """Signed in, and known to Redis."""
        tokens, principal = await self.house.person("ann@example.com")
        person = Person(tokens.access_token, principal)
        assert await self.theirs.accepts(person.token)
        await until(lambda: self.theirs.knows(principal.session))
        return person

    async def log_out(self, person: Person, *, everywhere: bool = False) -> None:
        """By our replica."""
        method = contract.method("AuthenticationService.Logout")
        options = CallOptions(caller=person.principal)
        answer = await self.ours.pipeline.unary(method, LogoutRequest(everywhere=everywhere), options)
        assert isinstance(answer, LogoutResponse)
        assert answer.ended_sessions >= 1


@pytest.fixture
async def replicas(databases: Databases, connect: Connect) -> AsyncIterator[Replicas]:
    async with open_house(databases) as house:
        both = []
        for _ in range(2):
            runtime = replace(house.runtime("authentication"), redis=await connect("authentication"))
            parts = SERVICE.build(runtime)
            both.append(Replica(runtime, Pipeline(open_to("tests", SERVICE.contract), parts.handlers, runtime)))
        yield Replicas(house, *both)


def test_the_times_come_to_no_more_than_is_promised() -> None:
    """AUTHN-4: five seconds, with two for the event that tells of a disabled user, or one for clocks that differ."""
    assert identity.TTL + cache.KEPT + max(2, cache.AHEAD) <= 5
    assert cache.TOMBSTONE > 2 * (cache.KEPT + cache.AHEAD)


async def test_what_one_replica_has_read_another_need_not_read(replicas: Replicas) -> None:
    """AUTHN-4: and a hit is no more than a hit: the claims have to be those of the session."""
    ann = await replicas.person()
    assert await replicas.ours.accepts(ann.token)
    assert replicas.ours.hits == 1
    assert await replicas.ours.sessions.lives(ann.claims)
    assert not await replicas.ours.sessions.lives(replace(ann.claims, user="user_else"))
    assert not await replicas.ours.sessions.lives(replace(ann.claims, organization="org_else"))


async def test_a_session_that_ended_is_out_everywhere(replicas: Replicas) -> None:
    """AUTHN-4: at once, where Redis answers."""
    ann = await replicas.person()
    await replicas.log_out(ann)
    await until(lambda: replicas.theirs.buried(ann.principal.session))
    assert await replicas.theirs.refuses(ann.token)
    assert await replicas.ours.refuses(ann.token)


async def test_all_sessions_of_a_user_end_together(replicas: Replicas) -> None:
    """AUTHN-4: for a user who is shut out, as for one who signs out everywhere."""
    ann = await replicas.person()
    again = (await replicas.house.login("ann@example.com")).access_token
    assert await replicas.theirs.accepts(again)
    await replicas.log_out(ann, everywhere=True)
    await until(lambda: replicas.theirs.refuses(again))
    await until(lambda: replicas.theirs.refuses(ann.token))


async def test_a_slow_reader_does_not_put_the_old_state_back(replicas: Replicas) -> None:
    """AUTHN-4: it has read that the session lives, then the session ends, then it would write."""
    ann = await replicas.person()
    slow = replicas.theirs.sessions
    asked = slow.now()
    await replicas.log_out(ann)
    await until(lambda: replicas.theirs.buried(ann.principal.session))
    slow.keep(ann.claims, asked)
    assert await replicas.theirs.redis.get("session:none") is None  # everything before it has been answered
    assert await replicas.theirs.buried(ann.principal.session)
    assert await replicas.theirs.refuses(ann.token)


async def test_what_was_read_too_long_ago_is_not_kept(replicas: Replicas) -> None:
    ann = await replicas.person()
    await replicas.theirs.redis.delete(f"session:{ann.principal.session}")
    sessions = replicas.theirs.sessions
    sessions.keep(ann.claims, sessions.now() - cache.KEPT)
    assert await replicas.theirs.redis.get("session:none") is None
    assert await replicas.theirs.knows(ann.principal.session) is None


async def test_a_flush_logs_nobody_out_and_revives_nothing(replicas: Replicas) -> None:
    """AUTHN-4: survives a Redis flush."""
    ann = await replicas.person()
    bob, _ = await replicas.house.person("bob@example.com")
    await replicas.log_out(ann)
    await until(lambda: replicas.theirs.buried(ann.principal.session))
    await replicas.theirs.redis._ask("FLUSHDB")
    assert await replicas.theirs.refuses(ann.token)
    assert await replicas.theirs.accepts(bob.access_token)


async def test_without_redis_the_database_is_asked(replicas: Replicas, network: TcpProxy) -> None:
    """AUTHN-4: Redis gone costs speed alone."""
    ann = await replicas.person()
    network.cut()
    assert await replicas.theirs.accepts(ann.token)
    await replicas.log_out(ann)
    assert await replicas.theirs.refuses(ann.token)


async def test_an_end_that_redis_did_not_hear_of_works_when_the_entry_is_over(
    replicas: Replicas, network: TcpProxy
) -> None:
    """AUTHN-4: Redis was away when the session ended and is back with what it knew before: `KEPT` bounds that."""
    ann = await replicas.person()
    old = await replicas.theirs.knows(ann.principal.session)
    assert old
    network.cut()
    await replicas.log_out(ann)
    network.heal()
    await until(lambda: replicas.theirs.redis.set(f"session:{ann.principal.session}", old, 60))
    assert await replicas.theirs.accepts(ann.token), "this is what has to be bounded"
    replicas.house.clock.advance(cache.KEPT)
    assert await replicas.theirs.refuses(ann.token), "although Redis has the entry still"
    assert await replicas.theirs.knows(ann.principal.session) == old


async def test_an_entry_of_a_clock_that_goes_far_ahead_does_not_count(replicas: Replicas) -> None:
    ann = await replicas.person()
    clock = replicas.house.clock
    clock.set(clock.now() - timedelta(seconds=cache.AHEAD + 0.5))
    assert not await replicas.ours.sessions.lives(ann.claims)


async def test_a_slow_redis_slows_nobody_down_for_long(replicas: Replicas, connect: Connect, network: TcpProxy) -> None:
    """AUTHN-4: DEBUG SLEEP, as a Redis does that swaps or forks."""
    ann = await replicas.person()
    hasty = await connect("authentication", timeout=0.1)
    runtime = replace(replicas.ours.runtime, redis=hasty)
    replica = Replica(runtime, Pipeline(SERVICE.contract, SERVICE.build(runtime).handlers, runtime))
    network.freeze()
    started = time.perf_counter()
    for _ in range(20):
        assert await replica.accepts(ann.token)
    assert time.perf_counter() - started < 2.5, "five time-outs, then the breaker"
    assert hasty.degraded


async def test_a_change_that_is_not_committed_buries_nothing(replicas: Replicas) -> None:
    ann = await replicas.person()
    runtime, who = replicas.ours.runtime, ann.principal
    store = SERVICE.build(runtime).handlers._parts.store  # type: ignore[attr-defined]

    async def half_done() -> None:
        async with runtime.db.transaction() as tx:
            await store.end_sessions(tx, who.organization, who.id, "logout", runtime.clock.now())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await half_done()
    assert await replicas.ours.redis.get("session:none") is None
    assert await replicas.theirs.knows(who.session)


async def test_services_forget_a_session_as_soon_as_they_hear_of_its_end(
    replicas: Replicas, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AUTHN-4: sooner than their memory would; here it would keep the token for a minute."""
    monkeypatch.setattr(identity, "TTL", 60.0)
    ann = await replicas.person()
    channels = Channels({"authentication": LocalChannel(replicas.theirs.pipeline)})
    listener = await connect("tasks")
    telemetry = replicas.ours.runtime.telemetry
    authenticator = Authenticator(channels, "tasks", replicas.house.clock, telemetry, listener)
    heard = authenticator._ended
    assert heard is not None

    async def listening() -> bool:
        await replicas.ours.redis.publish(identity.ENDED, "session_none")
        return "session_none" in heard

    await until(listening)
    asking = Asking()
    for _ in range(3):
        assert await authenticator.authenticate(ann.token, asking) == ann.principal
    assert (telemetry.cache("tokens").hits, telemetry.cache("tokens").misses) == (2, 1)
    await replicas.log_out(ann)

    async def out() -> bool:
        try:
            await authenticator.authenticate(ann.token, asking)
        except UnauthenticatedError:
            return True
        return False

    await until(out)


class Asking:
    request_id = "req_1"
