"""Redis: the second cache and the meeting point of replicas. It makes things faster or sharper; nothing depends on it.

Every method answers "don't know" (None, or False for a write) instead of raising, after `TIMEOUT` at the latest: an
empty, slow, full or missing Redis costs speed alone. After several failures nothing is tried until a probe has
succeeded, so that no caller waits for a Redis that is gone (GATE-3, AUTHN-4, AUTHZ-4).

What callers ask within one turn of the event loop travels in one write: 10 µs a command, where one alone takes 90 µs.
With `?cluster=true` in the URL it is a Redis Cluster. No command names two keys, so that keys may lie in any slot.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import redis.asyncio as client
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, OutOfMemoryError, ResponseError

if TYPE_CHECKING:
    from taskman_server.kit.telemetry import Telemetry

__all__ = ["TIMEOUT", "Redis", "RedisError", "RedisWriteMarks", "Script"]

TIMEOUT: Final = 0.05
"""Seconds that a caller waits at most."""
CONNECTIONS: Final = 16
BATCH: Final = 500
OPENS_AT: Final = 10
"""A failure counts 2, a success takes 1 back: five in a row open the breaker, and so does every second one for long."""
PROBE_PAUSE: Final = (0.25, 1.0)
PROBE_SECONDS: Final = 1.0
"""A probe connects, for which a caller has no time."""


class RedisError(ValueError):
    """The URL is not one of a Redis."""


@dataclass(frozen=True)
class Script:
    """A Lua script. Its keys come first; they must lie in one slot, so mostly there is one."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())


class _Asked(NamedTuple):
    command: tuple[Any, ...]
    answer: asyncio.Future[Any]
    deadline: float


class _Unknown(Exception):
    """No answer in time, or none that means anything."""


class Redis:
    """The Redis of a deployment, as one service sees it: its keys begin with `taskman:<service>:`."""

    def __init__(self, url: str, service: str, telemetry: Telemetry | None, timeout: float) -> None:
        """See `open`."""
        self._prefix = f"taskman:{service}:"
        self._telemetry = telemetry
        self._timeout = timeout
        self._client, self._subscriber = _clients(url)
        self._waiting: list[_Asked] = []
        self._flying = 0
        self._score = 0
        self._reason = ""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._handlers: dict[str, list[Callable[[str], None]]] = {}
        self._listener: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    async def open(
        cls, url: str, service: str, telemetry: Telemetry | None = None, *, timeout: float = TIMEOUT
    ) -> Redis:
        """Connects, or begins to try to: a Redis that does not answer is one that is degraded.

        Args:
            url: `redis://user:password@host:6379`, `rediss://…` with TLS, `unix://…`; `?cluster=true` for a cluster.
            service: the service's folder name.
            telemetry: counts and logs.
            timeout: seconds that a caller waits at most.

        Raises:
            RedisError: the URL cannot be read.
        """
        self = cls(url, service, telemetry, timeout)
        try:
            await self._probe()
        except Exception as error:
            self._degrade(_said(error))
        return self

    async def close(self) -> None:
        """Closes the connections; from here on nothing is known."""
        self._closed = True
        self._reason = self._reason or "closed"
        self._drop_waiting()
        tasks = [*self._tasks, *([self._listener] if self._listener is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for each in {self._client, self._subscriber}:
            with contextlib.suppress(Exception):
                await each.aclose()

    @property
    def degraded(self) -> bool:
        """Whether it is not asked at present: every process is for itself."""
        return bool(self._reason)

    @property
    def reason(self) -> str:
        """Why it is degraded; empty when it is not."""
        return self._reason

    async def get(self, key: str) -> bytes | None:
        """A value; None when there is none, or it is not known."""
        return _bytes(await self._ask("GET", self._prefix + key))

    async def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        """Several values in one round trip."""
        return [_bytes(each) for each in await asyncio.gather(*(self._ask("GET", self._prefix + k) for k in keys))]

    async def set(self, key: str, value: bytes | str, seconds: float) -> bool:
        """Puts a value in place for some time; whether that is certain."""
        return await self._ask("SET", self._prefix + key, value, "PX", _milliseconds(seconds)) is True

    async def mset(self, values: Mapping[str, bytes | str], seconds: float) -> bool:
        """Puts several values in place in one round trip; whether that is certain of all."""
        return all(await asyncio.gather(*(self.set(key, value, seconds) for key, value in values.items())))

    async def add(self, key: str, value: bytes | str, seconds: float) -> bool | None:
        """Puts a value where there is none: True; False when there is one; None: it is not known."""
        answer = await self._ask("SET", self._prefix + key, value, "NX", "PX", _milliseconds(seconds))
        if isinstance(answer, Exception):
            return None
        return answer is not None

    async def delete(self, *keys: str) -> bool:
        """Removes values; whether it is certain that they are gone."""
        answers = await asyncio.gather(*(self._ask("DEL", self._prefix + key) for key in keys))
        return all(isinstance(answer, int) for answer in answers)

    async def eval(self, script: Script, keys: Sequence[str], *args: str | int | float) -> Any | None:
        """What a script answers; None when it is not known (so a script had better not answer nil)."""
        rest = (len(keys), *(self._prefix + key for key in keys), *args)
        answer = await self._ask("EVALSHA", script.sha, *rest)
        if isinstance(answer, NoScriptError):
            answer = await self._ask("EVAL", script.text, *rest)
        return None if isinstance(answer, Exception) else answer

    async def publish(self, channel: str, message: str) -> bool:
        """Tells all who listen now to `taskman:<this service>:<channel>`; whether Redis has it. A hint, never more."""
        return isinstance(await self._ask("PUBLISH", self._prefix + channel, message), int)

    def subscribe(self, service: str, channel: str, handler: Callable[[str], None]) -> None:
        """Calls back with every message on `taskman:<service>:<channel>` from about now on, while Redis answers."""
        self._handlers.setdefault(f"taskman:{service}:{channel}", []).append(handler)
        if self._listener is not None:
            self._listener.cancel()
        self._listener = asyncio.create_task(self._listen())

    async def _ask(self, *command: Any) -> Any:
        """The answer of Redis, or an exception: `_Unknown`, or what Redis complained of."""
        if self._reason:
            self._count("skipped", 1, 0)
            return _Unknown()
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._flush)
        asked = _Asked(command, loop.create_future(), loop.time() + self._timeout)
        self._waiting.append(asked)
        return await asked.answer

    def _flush(self) -> None:
        while self._waiting and self._flying < CONNECTIONS:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            self._flying += 1
            self.soon(self._send(batch))

    async def _send(self, batch: list[_Asked]) -> None:
        started = time.perf_counter()
        answers: list[Any] = [_Unknown()] * len(batch)
        try:
            async with asyncio.timeout_at(batch[0].deadline):
                answers = await self._exchange([asked.command for asked in batch])
        except Exception as error:  # of whatever kind: nobody fails for want of a cache
            self._failed(_said(error), len(batch), time.perf_counter() - started)
        else:
            bad = next((each for each in answers if isinstance(each, Exception) and not _harmless(each)), None)
            if bad is None:
                self._score = max(0, self._score - 1)
                self._count("ok", len(batch), time.perf_counter() - started)
            else:
                self._failed(_said(bad), len(batch), time.perf_counter() - started)
        finally:
            self._flying -= 1
            for asked, answer in zip(batch, answers, strict=True):
                if not asked.answer.done():
                    asked.answer.set_result(answer)
            self._flush()

    async def _exchange(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        if len(commands) == 1:
            try:
                return [await self._client.execute_command(*commands[0])]
            except ResponseError as error:
                return [error]
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
        return answers

    def _failed(self, reason: str, commands: int, seconds: float) -> None:
        self._count("failed", commands, seconds)
        self._score += 2
        if self._score >= OPENS_AT:
            self._degrade(reason)

    def _degrade(self, reason: str) -> None:
        if self._reason:
            return
        self._reason = reason
        if self._telemetry is not None:
            self._telemetry.log.warning("Redis does not answer; every process is for itself", reason=reason)
        self._drop_waiting()
        self.soon(self._heal())

    def _drop_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for asked in waiting:
            if not asked.answer.done():
                asked.answer.set_result(_Unknown())

    async def _heal(self) -> None:
        pause = PROBE_PAUSE[0]
        while not self._closed:
            await asyncio.sleep(pause)
            pause = min(pause * 2, PROBE_PAUSE[1])
            try:
                await self._probe()
            except Exception as error:
                self._reason = _said(error)
                continue
            self._score, self._reason = 0, ""
            if self._telemetry is not None:
                self._telemetry.log.info("Redis answers again")
            return

    async def _probe(self) -> None:
        async with asyncio.timeout(max(PROBE_SECONDS, self._timeout)):
            await self._client.execute_command("PING")
        async with asyncio.timeout(self._timeout):
            await self._client.execute_command("PING")

    async def _listen(self) -> None:
        pause = PROBE_PAUSE[0]
        while True:
            try:
                async with self._subscriber.pubsub(ignore_subscribe_messages=True) as channels:
                    await channels.subscribe(*self._handlers)
                    async for message in channels.listen():
                        for handler in self._handlers.get(message["channel"].decode(), ()):
                            handler(message["data"].decode())
                        pause = PROBE_PAUSE[0]
            except Exception as error:
                if self._telemetry is not None and not self._reason:
                    self._telemetry.log.info("the signals of Redis are not heard for now", reason=_said(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, PROBE_PAUSE[1])

    def soon(self, work: Coroutine[Any, Any, Any]) -> None:
        """Lets something go on that nobody waits for; it ends with the connection at the latest."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _count(self, outcome: str, commands: int, seconds: float) -> None:
        if self._telemetry is not None:
            self._telemetry.redis(outcome, commands, seconds)


class RedisWriteMarks:
    """How far each principal has written, for all replicas of a service. Implements `kit.db.replica.WriteMarks`.

    A position counts for `LASTS` seconds, longer than a replica that is used may lag. Where Redis has nothing of a
    principal, it may have lost it (a flush, an eviction): then nothing is known for as long.
    """

    LASTS: float = 30.0
    _KEPT: Final = 3600.0
    _NOW: Final = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000) "
    _PUT: Final = Script(
        _NOW + "local old = redis.call('GET', KEYS[1]) local lsn = ARGV[1] "
        "if old then local known = string.match(old, '^%d+') "
        "if known and tonumber(known) > tonumber(lsn) then lsn = known end end "
        "redis.call('SET', KEYS[1], lsn .. ':' .. string.format('%.0f', now), 'PX', ARGV[2]) return 1"
    )
    _GET: Final = Script(
        _NOW + "local found = redis.call('GET', KEYS[1]) "
        "if not found then redis.call('SET', KEYS[1], '?:' .. string.format('%.0f', now), 'PX', ARGV[2]) "
        "return '?' end "
        "local lsn, since = string.match(found, '^(.-):(%d+)$') "
        "if now - tonumber(since) >= tonumber(ARGV[1]) then return '0' end return lsn"
    )

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def get(self, key: str) -> int | None:
        """The position of the principal's last write, 0 when it was long ago; None: it cannot be told."""
        found = await self._redis.eval(self._GET, [f"written:{key}"], _milliseconds(self.LASTS), self._kept)
        return int(found) if isinstance(found, bytes) and found.isdigit() else None

    async def put(self, key: str, lsn: int) -> None:
        """Keeps a position.

        Raises:
            ConnectionError: Redis does not answer.
        """
        if await self._redis.eval(self._PUT, [f"written:{key}"], lsn, self._kept) is None:
            raise ConnectionError("the position of a write cannot be kept: Redis does not answer")

    @property
    def _kept(self) -> int:
        return _milliseconds(self._KEPT)


def _clients(url: str) -> tuple[Any, Any]:
    """The client for commands, and the one for signals: the same, but for a cluster, where any node passes them on."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    cluster = options.pop("cluster", "false").lower() in ("true", "1", "yes")
    url = urlunsplit(parts._replace(query=urlencode(options)))
    common: dict[str, Any] = {
        "socket_timeout": None,  # ours is around all of it
        "socket_connect_timeout": PROBE_SECONDS,
        "socket_keepalive": True,
        "protocol": 2,
    }
    try:
        # One more than batches fly: the probe's, or a listener's.
        plain = client.Redis.from_url(url, retry=Retry(NoBackoff(), 0), max_connections=CONNECTIONS + 4, **common)
        if not cluster:
            return plain, plain
        return client.RedisCluster.from_url(url, retry=Retry(NoBackoff(), 1), **common), plain
    except (ValueError, TypeError) as error:
        raise RedisError(f"TASKMAN_REDIS_URL must be `redis://host:6379` or, with TLS, `rediss://…`: {error}") from None


def _bytes(answer: Any) -> bytes | None:
    return answer if isinstance(answer, bytes) else None


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _harmless(error: Exception) -> bool:
    """What Redis refuses while it works: an unknown script, a write when it is full."""
    return isinstance(error, (NoScriptError, OutOfMemoryError)) or str(error).startswith("MISCONF")


def _said(error: BaseException) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else (str(error) or type(error).__name__)[:200]
