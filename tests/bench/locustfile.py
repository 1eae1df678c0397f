"""The bench's mixes against any server, with locust (`pip install locust`):

    locust -f tests/bench/locustfile.py --headless --users 64 --spawn-rate 64 --run-time 60s --host http://127.0.0.1:8080

TASKMAN_EMAILS (with commas between) and TASKMAN_PASSWORD say who calls; TASKMAN_MIX is mixed (90 % reads, the default),
write, list, search or login. It stands alone: nothing of this repository is needed beside it.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any
from urllib.parse import quote

import requests
from locust import HttpUser, constant, events, task
from locust.env import Environment
from locust.exception import StopUser

_MIXES = {
    "mixed": {"get": 70, "list": 15, "search": 5, "create": 10},
    "write": {"create": 50, "update": 20, "transition": 15, "assign": 15},
    "list": {"list": 100},
    "search": {"search": 100},
    "login": {"login": 100},
}
_WRITES = {"create", "update", "transition", "assign"}
_PRIORITIES = ("low", "medium", "high", "urgent")
_RUN = f"{time.time_ns() // 1_000_000}-{os.getpid()}"
_NUMBERS = count()


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who calls: what they see, and where they may write (the members by the project's id)."""

    email: str
    token: str
    tasks: list[dict[str, Any]]
    projects: dict[str, list[str]]
    own: list[dict[str, Any]]


class World:
    """Who calls, and what there is to ask for."""

    def __init__(self, url: str) -> None:
        """Signs everybody in. Raises ValueError: the environment, or what the server has, will not do."""
        self.mix = _MIXES.get(os.environ.get("TASKMAN_MIX", "mixed"), {})
        self.emails = [email for email in os.environ.get("TASKMAN_EMAILS", "").split(",") if email]
        self.password = os.environ.get("TASKMAN_PASSWORD", "")
        if not self.mix:
            raise ValueError(f"TASKMAN_MIX is one of {', '.join(_MIXES)}.")
        if not self.emails or not self.password or not url:
            raise ValueError("TASKMAN_EMAILS and TASKMAN_PASSWORD say who calls, --host says which server.")
        self._url = url.rstrip("/")
        self.people = [self._person(email) for email in self.emails]
        self.writers = [person for person in self.people if person.own]
        if _WRITES & set(self.mix) and not self.writers:
            raise ValueError("None of TASKMAN_EMAILS is an editor of a project with tasks.")
        labels = Counter(label for person in self.people for task in person.tasks for label in task.get("labels", ()))
        self.labels = [label for label, _ in labels.most_common(5)] or ["fix"]

    def _person(self, email: str) -> Person:
        body = {"email": email, "password": self.password}
        response = requests.post(f"{self._url}/v1/auth/login", json=body, timeout=60)
        if not response.ok:
            raise ValueError(f"{email} could not sign in: {response.status_code} {response.text}")
        token = response.json()["access_token"]
        me = self._ask("/v1/users/me", token)["id"]
        projects = {
            project["id"]: [member["user"] for member in project.get("members", ())]
            for project in self._ask("/v1/projects?page_size=1000", token).get("projects", ())
            if any(each["user"] == me and each["role"] != "viewer" for each in project.get("members", ()))
        }
        tasks = self._ask("/v1/tasks?page_size=1000", token).get("tasks", [])
        if not tasks:
            raise ValueError(f"{email} sees no task: make some first.")
        return Person(email, token, tasks, projects, [each for each in tasks if each["project"] in projects])

    def _ask(self, path: str, token: str) -> Any:
        response = requests.get(f"{self._url}{path}", headers={"authorization": f"Bearer {token}"}, timeout=60)
        if not response.ok:
            raise ValueError(f"GET {path}: {response.status_code} {response.text}")
        return response.json()


_world: World | None = None


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def _sign_in(environment: Environment, **_: Any) -> None:
    global _world
    try:
        _world = World(environment.host or "")
    except ValueError as error:
        print(error)
        environment.process_exit_code = 2
        if environment.runner is not None:
            environment.runner.quit()


class Caller(HttpUser):
    """Asks without a pause."""

    wait_time = constant(0)

    @task
    def ask(self) -> None:
        """One request of the mix."""
        if _world is None:
            raise StopUser
        kind = random.choices(list(_world.mix), weights=list(_world.mix.values()))[0]
        asked: Callable[[World], None] = getattr(self, f"_{kind}")
        asked(_world)

    def _get(self, world: World) -> None:
        person = random.choice(world.people)
        self._send("get", "GET", f"/v1/tasks/{random.choice(person.tasks)['id']}", person)

    def _list(self, world: World) -> None:
        state = random.choice(("todo", "in_progress", "done"))
        condition = f'"{random.choice(world.labels)}" in labels && state == "{state}"'
        self._send("list", "GET", f"/v1/tasks?page_size=50&filter={quote(condition)}", random.choice(world.people))

    def _search(self, world: World) -> None:
        person = random.choice(world.people)
        words = re.findall(r"[A-Za-z]{3,}", random.choice(person.tasks)["title"]) or ["task"]
        query = " ".join(random.choices(words, k=2))
        self._send("search", "GET", f"/v1/tasks:search?query={quote(query)}", person)

    def _create(self, world: World) -> None:
        person = random.choice(world.writers)
        project = random.choice(list(person.projects))
        like = random.choice(person.own)
        body = {
            "project": project,
            "title": f"{_RUN} {next(_NUMBERS)} {like['title']}"[:500],
            "labels": like.get("labels", []),
            "priority": random.choice(_PRIORITIES),
            "assignees": [random.choice(person.projects[project])],
        }
        self._send("create", "POST", "/v1/tasks", person, body)

    def _update(self, world: World) -> None:
        person = random.choice(world.writers)
        task = random.choice(person.own)
        title = f"{_RUN} {next(_NUMBERS)} {task['title']}"[:500]
        body = {"title": title, "priority": random.choice(_PRIORITIES)}
        self._send("update", "PATCH", f"/v1/tasks/{task['id']}", person, body)

    def _transition(self, world: World) -> None:
        """To done and back: these two moves are there from every state."""
        person = random.choice(world.writers)
        task = random.choice(person.own)
        task["state"] = "todo" if task["state"] == "done" else "done"
        self._send("transition", "POST", f"/v1/tasks/{task['id']}:transition", person, {"state": task["state"]})

    def _assign(self, world: World) -> None:
        person = random.choice(world.writers)
        task = random.choice(person.own)
        body = {"assignees": [random.choice(person.projects[task["project"]])]}
        self._send("assign", "POST", f"/v1/tasks/{task['id']}:assign", person, body)

    def _login(self, world: World) -> None:
        body = {"email": random.choice(world.emails), "password": world.password}
        self._send("login", "POST", "/v1/auth/login", None, body)

    def _send(self, kind: str, verb: str, path: str, person: Person | None, body: object = None) -> None:
        headers = {"accept": "application/json"}
        if person is not None:
            headers["authorization"] = f"Bearer {person.token}"
            if body is not None:
                headers["idempotency-key"] = f"locust-{_RUN}-{next(_NUMBERS)}"
        with self.client.request(verb, path, json=body, headers=headers, name=kind, catch_response=True) as response:
            if not response.ok:
                response.failure(f"{response.status_code} {response.text[:200]}")
