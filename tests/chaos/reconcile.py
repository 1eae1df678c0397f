"""The reckoning from outside: what clients were told, against what REST answers and what stands in files or
databases."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

import httpx

from taskman_server.kit.ids import id_floor
from tests.chaos.stores import Stores, left_over
from tests.chaos.writers import Write, attempt_of
from tests.contract.receivers import Hook

__all__ = ["Facts", "Reckoning", "collect", "left_over", "whole"]

Thing = Mapping[str, Any]


@dataclass(slots=True)
class Facts:
    """What REST answers: everything there is in a project, and what came of it."""

    tasks: Sequence[Thing]
    events: Sequence[Thing]
    notifications: Mapping[str, Sequence[Thing]]
    deliveries: Sequence[Thing]
    verification: Thing


async def collect(
    url: str, admin: str, users: Mapping[str, str], project: str, *, events: str = "", deliveries: str = ""
) -> Facts:
    """Reads everything.

    Args:
        url: of the server.
        admin: a token that may read all.
        users: the tokens of those who have an inbox, by user id.
        project: whose tasks are read.
        events: a filter of audit records, where others are at work on the server too.
        deliveries: a filter of deliveries, likewise.
    """
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        return Facts(
            tasks=await _pages(client, admin, "/v1/tasks", "tasks", project=project),
            events=await _pages(client, admin, "/v1/audit/events", "events", filter=events),
            notifications={
                user: await _pages(client, token, "/v1/notifications", "notifications") for user, token in users.items()
            },
            deliveries=await _pages(client, admin, "/v1/deliveries", "deliveries", filter=deliveries),
            verification=_good(await client.post("/v1/audit/events:verify", json={}, headers=_bearer(admin))),
        )


async def _pages(client: httpx.AsyncClient, token: str, path: str, name: str, **parameters: str) -> list[Thing]:
    found: list[Thing] = []
    page = ""
    while True:
        parameters |= {"page_size": "1000", "page_token": page}
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
    heard: str = "task.*"
    """The events that the webhook hears."""
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

    def order(self) -> None:
        """The log tells of each task's changes in the order in which its one writer made them."""
        made: dict[str, list[str]] = defaultdict(list)
        for write in self.writes:
            made[write.task].append(write.key)
        told: dict[str, list[str]] = defaultdict(list)
        for event in reversed(self._of_writes()):  # listed are the newest first
            keys, key = told[event["target"]["id"]], attempt_of(event["request_id"])
            if keys[-1:] != [key]:
                keys.append(key)
        self.tallies["tasks whose changes are told in their order"] = sum(told[task] == made[task] for task in made)
        wrong = [task for task in made if told[task] != made[task]]
        self.problems += [f"changes of {task}: made {made[task]}, told {told[task]}" for task in wrong[:5]]

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
                if kind == "task.assigned" and attempt_of(by_event.get(event, {}).get("request_id", ""))
            ),
        )

    def webhooks(self, hooks: Sequence[Hook]) -> None:
        """One delivery for each event and webhook; the receiver heard of each that was made, under one webhook-id."""
        events = [event["id"] for event in self._of_writes() if fnmatchcase(event["type"], self.heard)]
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

    async def stores(self, stores: Stores, project: str, run: str = "write-") -> None:
        """What stands behind the server is whole, holds nothing on its way and nothing without what it belongs to.

        Args:
            stores: where to look.
            project: the key of the writers' project.
            run: what the keys of the writes begin with.
        """
        self.problems += await stores.damage()
        left = await stores.left_over(self.cut_off)
        self.tallies["events in outboxes and queues"] = sum(left.values())
        self.problems += [f"{count} left in {where}" for where, count in left.items()]
        dead = await stores.given_up()
        self.tallies["dead letters"] = len(dead)
        self.problems += [f"given up: {each}" for each in dead]
        keys = await stores.rows("tasks", f"SELECT key FROM idempotency WHERE key LIKE '{run}%'")
        self._each_once("idempotency records", (write.key for write in self.writes), (key for (key,) in keys))
        in_project = f"SELECT id FROM tasks WHERE project = (SELECT id FROM projects WHERE key = '{project}')"
        tasks = {row[0] for row in await stores.rows("tasks", in_project)}
        targets = {event["target"]["id"] for event in self._of_writes()}
        self.problems += [f"the log tells of task {task}, which is not there" for task in sorted(targets - tasks)[:5]]
        self.problems += [f"the log does not know of task {task}" for task in sorted(tasks - targets)[:5]]
        counts = "SELECT (SELECT count(*) FROM tasks), (SELECT count(*) FROM task_search)"
        ((there, found),) = await stores.rows("tasks", counts)
        self.tallies["tasks that search finds"] = found
        if there != found:
            self.problems.append(f"{there} tasks, but {found} in the search index")
        # One statement, one moment: what the reconciling itself leaves on record comes meanwhile. The inbox forgets
        # what is older than its window whenever a consumer starts.
        young = f"id >= '{id_floor('event', datetime.now(UTC) - timedelta(days=29))}'"
        counts = f"SELECT (SELECT count(*) FROM inbox), (SELECT count(*) FROM records WHERE {young})"
        ((heard, records),) = await stores.rows("audit", counts)
        self.tallies["records in the audit log"] = records
        if heard < records:
            self.problems.append(f"the audit log has {records} records of {heard} events heard")

    def report(self) -> str:
        """The tallies, one a line."""
        lines = {"acknowledged writes": len(self.writes), **self.tallies}
        lines["answers replayed from a record"] = sum(write.replayed for write in self.writes)
        lines["writes sent more than once"] = sum(write.attempts > 1 for write in self.writes)
        return "\n".join(f"  {count:7,d} {what}" for what, count in lines.items())
