"""Clients that write until they are answered: one Idempotency-Key a write, another request id for each attempt.

They read what they wrote, and it must be there.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx

__all__ = ["Crew", "Write", "attempt_of"]

_NEXT_STATES = {"todo": ("in_progress", "done"), "in_progress": ("todo", "done"), "done": ("todo",)}
# What a server may answer that is not the end of it; everything else that is no success is a finding.
_AGAIN = frozenset(
    {"IDEMPOTENCY_KEY_IN_FLIGHT", "DATABASE_UNAVAILABLE", "DEADLINE_EXCEEDED", "UNAVAILABLE", "SERVICE_UNREACHABLE",
     "SERVER_STOPPING"}
)  # fmt: skip
_PAUSE = 0.05
_READS = 0.25
"""The share of writes that are followed by reads."""


@dataclass(slots=True)
class Write:
    """A change that a client wants, and what became of it.

    Attributes:
        key: its Idempotency-Key; the request id of attempt n is `<key>.<n>`.
        kind: create, update, transition or assign.
        expected: the events it must make, each with the users who come.
        task: the id of its task, once it is known.
        answer: the task as the server acknowledged it; None while it has not.
        attempts: how often it was sent.
        replayed: the answer came from the record of an earlier attempt.
    """

    key: str
    kind: str
    verb: str
    path: str
    body: Mapping[str, Any]
    expected: Mapping[str, Sequence[str]]
    task: str = ""
    answer: Mapping[str, Any] | None = None
    attempts: int = 0
    replayed: bool = False


def attempt_of(request_id: str) -> str:
    """The key of the write that an attempt's request id belongs to; empty for a request of somebody else."""
    key, dot, _ = request_id.rpartition(".")
    return key if dot and key.startswith("write-") else ""


@dataclass(slots=True)
class Crew:
    """All writers, and what they share.

    Attributes:
        urls: of the server; where there are several gateways, a request that was not answered goes to the next.
        project: where they write, a key.
        assignees: whom they assign.
        strict: every error answer is a failure, whatever it says; such are kept in `failed`.
        rate: writes a second of all together; 0: as fast as they are answered.
        up: set while the server is thought to answer; who was refused waits for it.
        acknowledged: the writes that were answered, in this order.
        answered: when each was, by `time.monotonic`.
        sent: how many requests to write went out.
        reads: how many reads were answered.
        lost: how many attempts ended without an answer, by the kind of error.
        waiting: how many writers wait for the server.
    """

    urls: Sequence[str]
    project: str
    assignees: Sequence[str]
    strict: bool = False
    rate: float = 0
    up: asyncio.Event = field(default_factory=asyncio.Event)
    acknowledged: list[Write] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    sent: int = 0
    reads: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    waiting: int = 0
    _finished: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _pace: float = 0
    _writers: int = 0

    def begin(self, tokens: Sequence[str], seed: int) -> None:
        """Starts one writer for each token."""
        self._pace = len(tokens) / self.rate if self.rate else 0
        self._writers = len(tokens)
        for number, token in enumerate(tokens):
            writer = _Writer(self, f"write-{seed}-{number}", token, random.Random(f"{seed}/{number}"))
            self._tasks.append(asyncio.create_task(writer.run()))

    def one(self, token: str, name: str) -> tuple[str, asyncio.Task[None]]:
        """One task is created, whether or not the others wait; the write's key, and its end."""
        up = asyncio.Event()
        up.set()
        writer = _Writer(self, f"write-{name}", token, random.Random(name), up)
        self._tasks.append(asyncio.create_task(writer.run(1)))
        return f"write-{name}-1", self._tasks[-1]

    async def pause(self, seconds: float = 30) -> None:
        """Returns when all wait; `up` lets them go on."""
        self.up.clear()
        async with asyncio.timeout(seconds):
            while self.waiting < self._writers:
                self.check()
                await asyncio.sleep(0.002)

    def check(self) -> None:
        """Raises what a writer failed with: an answer that must not be."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def finish(self, seconds: float) -> None:
        """Every writer ends when its write of the moment is acknowledged."""
        self._finished = True
        async with asyncio.timeout(seconds):
            await asyncio.gather(*self._tasks)

    async def dismiss(self) -> None:
        """Ends the writers wherever they are."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def longest_silence(self, since: float) -> float:
        """The longest time without an answer to a write since then, in seconds."""
        times = [since, *(moment for moment in self.answered if moment >= since), time.monotonic()]
        return max(after - before for before, after in pairwise(times))

    @property
    def pace(self) -> float:
        """Seconds between two writes of one writer."""
        return self._pace

    @property
    def finished(self) -> bool:
        """Nobody is to begin another write."""
        return self._finished


class _Writer:
    def __init__(self, crew: Crew, name: str, token: str, rng: random.Random, up: asyncio.Event | None = None) -> None:
        self._crew = crew
        self._name = name
        self._headers = {"authorization": f"Bearer {token}"}
        self._rng = rng
        self._up = up or crew.up
        self._count = 0
        self._tasks: dict[str, Mapping[str, Any]] = {}
        self._clients: list[httpx.AsyncClient] = []

    async def run(self, writes: int = sys.maxsize) -> None:
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            for url in self._crew.urls:
                client = httpx.AsyncClient(base_url=url, headers=self._headers, timeout=30)
                self._clients.append(await stack.enter_async_context(client))
            self._rng.shuffle(self._clients)
            due = loop.time() + self._rng.random() * self._crew.pace
            while self._count < writes and not self._crew.finished:
                await self._rest(due - loop.time())
                due = max(due + self._crew.pace, loop.time())
                write = self._next()
                await self._until_acknowledged(write)
                assert write.answer is not None
                self._tasks[write.task] = write.answer
                self._crew.acknowledged.append(write)
                self._crew.answered.append(time.monotonic())
                if self._rng.random() < _READS:
                    await self._read(write.answer)

    async def _rest(self, seconds: float) -> None:
        """Until the next write; who rests waits for nobody, and so counts as waiting."""
        if seconds > 0:
            self._crew.waiting += 1
            await asyncio.sleep(seconds)
            self._crew.waiting -= 1

    def _next(self) -> Write:
        self._count += 1
        key = f"{self._name}-{self._count}"
        kind = self._rng.choice(("create", "update", "transition", "assign")) if self._tasks else "create"
        if kind == "create":
            body = {
                "project": self._crew.project,
                "title": key,
                "external_id": key,
                "assignees": self._rng.sample(self._crew.assignees, self._rng.choice((1, 2))),
            }
            events: dict[str, Sequence[str]] = {"task.created": (), "task.assigned": body["assignees"]}
            return Write(key, kind, "POST", "/v1/tasks", body, events)
        task = self._rng.choice(list(self._tasks.values()))
        path = f"/v1/tasks/{task['id']}"
        free = [user for user in self._crew.assignees if user not in task["assignees"]]
        if kind == "assign" and free:
            users = [self._rng.choice(free)]
            return Write(
                key, kind, "POST", f"{path}:assign", {"assignees": users}, {"task.assigned": users}, task["id"]
            )
        if kind == "transition":
            state = self._rng.choice(_NEXT_STATES[task["state"]])
            events = {"task.transitioned": ()}
            if state == "done":
                events["task.completed"] = ()
            return Write(key, kind, "POST", f"{path}:transition", {"state": state}, events, task["id"])
        return Write(key, "update", "PATCH", path, {"description": key}, {"task.updated": ()}, task["id"])

    async def _read(self, task: Mapping[str, Any]) -> None:
        """What was acknowledged is there, for the one who wrote it, at once."""
        found = (await self._answered("GET", f"/v1/tasks/{task['id']}")).json()
        assert found == task, f"read {found} after {task} was acknowledged"
        listed = await self._answered("GET", f"/v1/tasks?project={self._crew.project}&page_size=3")
        assert len(listed.json()["tasks"]) > 0
        self._crew.reads += 2

    async def _until_acknowledged(self, write: Write) -> None:
        response = await self._answered(write.verb, write.path, write)
        answer = response.json()
        if write.task:
            assert answer["id"] == write.task, f"{write.key} was answered with another task"
        write.answer, write.task = answer, answer["id"]
        write.replayed = response.headers.get("idempotency-replayed") == "true"

    async def _answered(self, verb: str, path: str, write: Write | None = None) -> httpx.Response:
        """The answer, however often it takes to ask."""
        crew = self._crew
        while True:
            crew.waiting += 1
            await self._up.wait()
            crew.waiting -= 1
            arguments: dict[str, Any] = {}
            if write is not None:
                write.attempts += 1
                crew.sent += 1
                headers = {"idempotency-key": write.key, "x-request-id": f"{write.key}.{write.attempts}"}
                arguments = {"json": write.body, "headers": headers}
            try:
                response = await self._clients[0].request(verb, path, **arguments)
            except httpx.TransportError as error:
                crew.lost[type(error).__name__] += 1
                self._clients.append(self._clients.pop(0))
                # Let the killer say that the server is down.
                await asyncio.sleep(0 if not crew.rate else _PAUSE / len(self._clients))
                continue
            if response.is_success:
                return response
            reason = response.json().get("reason", "") if "json" in response.headers.get("content-type", "") else ""
            told = f"{verb} {path} with {arguments}: {response.status_code} {response.text}"
            if crew.strict:
                crew.failed.append(told)
            assert reason in _AGAIN, told
            crew.lost[reason] += 1
            await asyncio.sleep(_PAUSE if crew.rate else 0.01)
