"""Clients that write until they are answered: one Idempotency-Key a write, another request id for each attempt."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

__all__ = ["Crew", "Write", "attempt_of"]

_NEXT_STATES = {"todo": ("in_progress", "done"), "in_progress": ("todo", "done"), "done": ("todo",)}
# What a server may answer that is not the end of it; everything else that is no success is a finding.
_AGAIN = frozenset({"IDEMPOTENCY_KEY_IN_FLIGHT", "DATABASE_UNAVAILABLE", "DEADLINE_EXCEEDED", "UNAVAILABLE"})


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
        up: set while the server is thought to answer; who was refused waits for it.
        acknowledged: the writes that were answered, in this order.
        sent: how many requests went out.
        lost: how many attempts ended without an answer, by the kind of error.
        waiting: how many writers wait for the server.
    """

    url: str
    project: str
    assignees: Sequence[str]
    up: asyncio.Event = field(default_factory=asyncio.Event)
    acknowledged: list[Write] = field(default_factory=list)
    sent: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    waiting: int = 0
    _finished: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def begin(self, tokens: Sequence[str], seed: int) -> None:
        """Starts one writer for each token."""
        for number, token in enumerate(tokens):
            writer = _Writer(self, f"write-{seed}-{number}", token, random.Random(f"{seed}/{number}"))
            self._tasks.append(asyncio.create_task(writer.run()))

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

    @property
    def finished(self) -> bool:
        """Nobody is to begin another write."""
        return self._finished


class _Writer:
    def __init__(self, crew: Crew, name: str, token: str, rng: random.Random) -> None:
        self._crew = crew
        self._name = name
        self._headers = {"authorization": f"Bearer {token}"}
        self._rng = rng
        self._count = 0
        self._tasks: dict[str, Mapping[str, Any]] = {}

    async def run(self) -> None:
        async with httpx.AsyncClient(base_url=self._crew.url, headers=self._headers, timeout=30) as client:
            while not self._crew.finished:
                write = self._next()
                await self._until_acknowledged(client, write)
                assert write.answer is not None
                self._tasks[write.task] = write.answer
                self._crew.acknowledged.append(write)

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

    async def _until_acknowledged(self, client: httpx.AsyncClient, write: Write) -> None:
        while True:
            self._crew.waiting += 1
            await self._crew.up.wait()
            self._crew.waiting -= 1
            write.attempts += 1
            self._crew.sent += 1
            try:
                response = await client.request(
                    write.verb,
                    write.path,
                    json=write.body,
                    headers={"idempotency-key": write.key, "x-request-id": f"{write.key}.{write.attempts}"},
                )
            except httpx.TransportError as error:
                self._crew.lost[type(error).__name__] += 1
                await asyncio.sleep(0)  # let the killer say that the server is down
                continue
            if response.is_success:
                answer = response.json()
                if write.task:
                    assert answer["id"] == write.task, f"{write.key} was answered with another task"
                write.answer, write.task = answer, answer["id"]
                write.replayed = response.headers.get("idempotency-replayed") == "true"
                return
            reason = response.json().get("reason", "") if "json" in response.headers.get("content-type", "") else ""
            assert reason in _AGAIN, (
                f"{write.verb} {write.path} with {write.body}: {response.status_code} {response.text}"
            )
            self._crew.lost[reason] += 1
            await asyncio.sleep(0.01)
