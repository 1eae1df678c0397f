"""The reckoning from outside: what clients were told, against what REST answers and what stands in the files."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.chaos.writers import Write, attempt_of
from tests.contract.receivers import Hook

__all__ = ["SERVICES", "Facts", "Reckoning", "collect", "cut_off", "in_files", "left_over", "whole"]

SERVICES = ("authentication", "authorization", "users", "iam", "tasks", "audit", "notifications")
Thing = Mapping[str, Any]


@dataclass(slots=True)
class Facts:
    """What REST answers: everything there is."""

    tasks: Sequence[Thing]
    events: Sequence[Thing]
    notifications: Mapping[str, Sequence[Thing]]
    deliveries: Sequence[Thing]
    verification: Thing


async def collect(url: str, admin: str, users: Mapping[str, str]) -> Facts:
    """Reads everything.

    Args:
        url: of the server.
        admin: a token that may read all.
        users: the tokens of those who have an inbox, by user id.
    """
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        return Facts(
            tasks=await _pages(client, admin, "/v1/tasks", "tasks"),
            events=await _pages(client, admin, "/v1/audit/events", "events"),
            notifications={
                user: await _pages(client, token, "/v1/notifications", "notifications") for user, token in users.items()
            },
            deliveries=await _pages(client, admin, "/v1/deliveries", "deliveries"),
            verification=_good(await client.post("/v1/audit/events:verify", json={}, headers=_bearer(admin))),
        )


async def _pages(client: httpx.AsyncClient, token: str, path: str, name: str) -> list[Thing]:
    found: list[Thing] = []
    page = ""
    while True:
        parameters = {"page_size": "1000"} | ({"page_token": page} if page else {})
        answer = _good(await client.get(path, params=parameters, headers=_bearer(token)))
        found.extend(answer.get(name, ()))
        page = answer.get("next_page_token", "")
        if not page:
            return found


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def _good(response: httpx.Response) -> Thing:
    assert response.is_success, f"{response.request.url}: {response.status_code} {response.text}"
    answer: Thing = response.json()
    return answer


def in_files(folder: Path, service: str, query: str) -> list[tuple[Any, ...]]:
    """Rows of a service's file (or the broker's), which is opened for reading only."""
    with closing(sqlite3.connect(f"file:{folder / service}.db?mode=ro", uri=True, timeout=10)) as connection:
        return connection.execute(query).fetchall()


def cut_off(folder: Path) -> frozenset[str]:
    """The deliveries that a killed server was making: they are made again when their lease has run out, minutes later.
    To be asked while no server runs."""
    query = f"SELECT id FROM deliveries WHERE state = 'pending' AND next_attempt_time > {time.time_ns() // 1000}"
    return frozenset(identifier for (identifier,) in in_files(folder, "notifications", query))


def left_over(folder: Path, besides: Collection[str] = ()) -> dict[str, int]:
    """What is still on its way: events in outboxes and queues, deliveries (but those named) that were not made. Empty
    when all came."""
    found = {f"{service}: outbox": in_files(folder, service, "SELECT count(*) FROM outbox") for service in SERVICES}
    found["broker: messages"] = in_files(folder, "broker", "SELECT count(*) FROM messages")
    left = {name: rows[0][0] for name, rows in found.items() if rows[0][0]}
    pending = in_files(folder, "notifications", "SELECT id FROM deliveries WHERE state = 'pending'")
    if unmade := [identifier for (identifier,) in pending if identifier not in besides]:
        left["notifications: pending deliveries"] = len(unmade)
    return left


def whole(hooks: Sequence[Hook]) -> list[Hook]:
    """The requests that arrived whole; of one that a kill cut off, the end of the body is missing."""
    return [hook for hook in hooks if len(hook.body) == int(hook.headers["content-length"])]


@dataclass(slots=True)
class Reckoning:
    """Compares, and notes everything that is not as it must be."""

    writes: Sequence[Write]
    facts: Facts
    webhook: str
    cut_off: Collection[str] = ()
    problems: list[str] = field(default_factory=list)
    tallies: dict[str, int] = field(default_factory=dict)

    def _each_once(self, what: str, expected: Iterable[Any], found: Iterable[Any]) -> None:
        wanted, there = Counter(expected), Counter(found)
        self.tallies[what] = sum(there.values())
        for name, verb in ((wanted - there, "missing"), (there - wanted, "too many")):
            for thing, count in sorted(name.items(), key=repr)[:5]:
                self.problems.append(f"{what}: {thing} is {verb}" + (f" {count} times" if count > 1 else ""))
            if len(name) > 5:
                self.problems.append(f"{what}: {len(name) - 5} more are {verb}")

    def tasks(self) -> None:
        """Every acknowledged write is there once, and nothing else is."""
        created = [write for write in self.writes if write.kind == "create"]
        self._each_once("tasks", (write.task for write in created), (task["id"] for task in self.facts.tasks))
        self._each_once("titles", (write.key for write in created), (task["title"] for task in self.facts.tasks))
        last = {
            write.task: write.answer for write in self.writes
        }  # a task has one writer, so the last answer is its end
        for task in self.facts.tasks:
            if task["id"] in last and task != last[task["id"]]:
                self.problems.append(f"task {task['id']} is {task}, but was acknowledged as {last[task['id']]}")

    def _of_writes(self) -> list[Thing]:
        own = (event for event in self.facts.events if event["type"].startswith("task."))
        return [event for event in own if attempt_of(event.get("request_id", ""))]

    def audit(self) -> None:
        """Every write's events are on record once, under one attempt; the chain verifies."""
        events = self._of_writes()
        self._each_once(
            "audit records of writes",
            ((write.key, name, write.task) for write in self.writes for name in write.expected),
            ((attempt_of(event["request_id"]), event["type"], event["target"]["id"]) for event in events),
        )
        attempts = defaultdict(set)
        for event in events:
            attempts[attempt_of(event["request_id"])].add(event["request_id"])
        self.problems += [
            f"two attempts of one write had an effect: {ids}" for ids in attempts.values() if len(ids) > 1
        ]
        ids = Counter(event["id"] for event in self.facts.events)
        self.problems += [f"event {event} is on record {count} times" for event, count in ids.items() if count > 1]
        verification = self.facts.verification
        self.tallies["records that the chain verifies"] = int(verification.get("verified_count", 0))
        if not verification.get("valid"):
            self.problems.append(f"the audit chain does not verify: {verification}")
        if self.tallies["records that the chain verifies"] < len(ids):
            self.problems.append(f"the chain holds {verification.get('verified_count')} records, listed are {len(ids)}")

    def inboxes(self) -> None:
        """Whoever was assigned was told once; no notification tells of an event that is not on record."""
        by_event = {event["id"]: event for event in self.facts.events}
        told = [
            (user, note["event"], note["event_type"], note.get("target", ""))
            for user, notes in self.facts.notifications.items()
            for note in notes
        ]
        self.problems += [f"notification {note} has no event on record" for note in told if note[1] not in by_event]
        self.problems += [f"{note} came {count} times" for note, count in Counter(told).items() if count > 1]
        self._each_once(
            "notifications of assignments",
            ((user, write.key) for write in self.writes for user in write.expected.get("task.assigned", ())),
            (
                (user, attempt_of(by_event[event].get("request_id", "")))
                for user, event, kind, _ in told
                if kind == "task.assigned" and event in by_event
            ),
        )

    def webhooks(self, hooks: Sequence[Hook]) -> None:
        """One delivery for each event and webhook; the receiver heard of each that was made, under one webhook-id."""
        events = [event["id"] for event in self._of_writes()]
        mine = [delivery for delivery in self.facts.deliveries if delivery.get("webhook") == self.webhook]
        self._each_once("webhook deliveries", events, (delivery["event"] for delivery in mine))
        unmade = [delivery for delivery in self.facts.deliveries if delivery["state"] != "delivered"]
        waiting = [delivery for delivery in unmade if delivery["id"] in self.cut_off]
        self.tallies["deliveries cut off by the last kill, to be made again"] = len(waiting)
        self.problems += [
            f"delivery {delivery['id']} is {delivery['state']}" for delivery in unmade if delivery not in waiting
        ]
        ids: dict[str, set[str]] = defaultdict(set)
        for hook in hooks:
            ids[json.loads(hook.body)["id"]].add(hook.headers["webhook-id"])
        # One that was cut off may have reached the receiver or not.
        open_events = {delivery["event"] for delivery in waiting}
        self._each_once("events at the receiver", set(events) - open_events, ids.keys() - open_events)
        self.tallies["whole requests at the receiver"] = len(hooks)
        self.problems += [f"event {event} came under {sorted(names)}" for event, names in ids.items() if len(names) > 1]

    def files(self, folder: Path) -> None:
        """The files are whole, hold nothing on its way and nothing without what it belongs to."""
        for name in (*SERVICES, "broker"):
            if (answer := in_files(folder, name, "PRAGMA integrity_check")) != [("ok",)]:
                self.problems.append(f"{name}.db is damaged: {answer[:3]}")
            if broken := in_files(folder, name, "PRAGMA foreign_key_check"):
                self.problems.append(f"{name}.db: rows refer to what is not there: {broken[:3]}")
        self.problems += [f"{count} left in {where}" for where, count in left_over(folder, self.cut_off).items()]
        for queue, event, reason in in_files(folder, "broker", "SELECT queue, event_id, reason FROM dead_letters"):
            self.problems.append(f"{queue} gave up {event}: {reason}")
        keys = in_files(folder, "tasks", "SELECT key FROM idempotency WHERE key LIKE 'write-%'")
        self._each_once("idempotency records", (write.key for write in self.writes), (key for (key,) in keys))
        self._orphans(folder)

    def _orphans(self, folder: Path) -> None:
        tasks = {row[0] for row in in_files(folder, "tasks", "SELECT id FROM tasks")}
        targets = {event["target"]["id"] for event in self._of_writes()}
        self.problems += [f"the log tells of task {task}, which is not there" for task in sorted(targets - tasks)[:5]]
        self.problems += [f"the log does not know of task {task}" for task in sorted(tasks - targets)[:5]]
        (found,) = in_files(folder, "tasks", "SELECT (SELECT count(*) FROM tasks), (SELECT count(*) FROM task_search)")
        if found[0] != found[1]:
            self.problems.append(f"{found[0]} tasks, but {found[1]} in the search index")
        heard = dict(in_files(folder, "audit", "SELECT consumer, count(*) FROM inbox GROUP BY consumer"))
        (records,) = in_files(folder, "audit", "SELECT count(*) FROM records")
        self.tallies["records in the audit file"] = records[0]
        if sum(heard.values()) < records[0]:
            self.problems.append(f"the audit log has {records[0]} records of {heard} events heard")

    def report(self) -> str:
        """The tallies, one a line."""
        lines = {"acknowledged writes": len(self.writes), **self.tallies}
        lines["answers replayed from a record"] = sum(write.replayed for write in self.writes)
        lines["writes sent more than once"] = sum(write.attempts > 1 for write in self.writes)
        return "\n".join(f"  {count:7,d} {what}" for what, count in lines.items())
