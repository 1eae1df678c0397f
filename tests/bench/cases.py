"""What is asked: for each case a recorded mix of requests, the same in every run."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Mapping
from urllib.parse import quote

from tests.bench.data import Person, Template, TemplateTask
from tests.bench.load import MARK
from tests.serving import PASSWORD

__all__ = ["CASES", "COUNT", "KINDS", "MIXES", "PLAIN_CASES", "requests_of"]

CASES = ("get", "list", "create", "search", "login", "mixed", "write")
PLAIN_CASES = ("get", "list", "create")
"""The cases that the plain application answers too."""
KINDS = ("get", "list", "create", "search", "login", "update", "transition", "assign")
"""The kinds of requests, of which the cases are made."""
MIXES = {
    "mixed": {"get": 70, "list": 15, "search": 5, "create": 10},  # per cent: 90 read, 10 write
    "write": {"create": 50, "update": 20, "transition": 15, "assign": 15},
}
COUNT = 2000
"""How many requests of a case are recorded."""
_STATES = ("todo", "in_progress", "done")
_PRIORITIES = ("low", "medium", "high", "urgent")


def requests_of(case: str, template: Template, tokens: Mapping[str, str] | None = None) -> list[bytes]:
    """The requests of a case, ready to be sent.

    Args:
        case: which.
        template: what they are about.
        tokens: who calls with which, by user id; without it those of the template.
    """
    return _Recorder(template, random.Random(case), tokens or {}).record(case)


class _Recorder:
    def __init__(self, template: Template, rng: random.Random, tokens: Mapping[str, str]) -> None:
        self._rows = template.rows
        self._filled = template.filled
        self._rng = rng
        self._tokens = tokens
        self._writers = [person for person in self._filled.people if {"editor", "admin"} & set(person.parts.values())]
        self._open = [project.key for project in self._filled.projects if project.visibility == "organization"]
        self._moved: dict[str, str] = {}
        labels = (label for row in self._rows for label in row["labels"].split(";") if label)
        self._labels = [label for label, _ in Counter(labels).most_common(5)]

    def record(self, case: str) -> list[bytes]:
        mix = MIXES.get(case, {case: 1})
        kinds = self._rng.choices(list(mix), weights=list(mix.values()), k=COUNT)
        return [getattr(self, f"_{kind}")() for kind in kinds]

    def _get(self) -> bytes:
        person = self._anybody()
        task = self._task(self._rng.choice([*person.parts, *self._open]))
        return self._request("get", "GET", f"/v1/tasks/{task.id}", person)

    def _list(self) -> bytes:
        condition = f'"{self._rng.choice(self._labels)}" in labels && state == "{self._rng.choice(_STATES)}"'
        path = f"/v1/tasks?page_size=50&filter={quote(condition)}"
        return self._request("list", "GET", path, self._anybody())

    def _search(self) -> bytes:
        words: list[str] = []
        while not words:
            words = re.findall(r"[A-Za-z]{3,}", self._rng.choice(self._rows)["title"])
        chosen = self._rng.sample(words, min(len(words), 2))
        return self._request("search", "GET", f"/v1/tasks:search?query={quote(' '.join(chosen))}", self._anybody())

    def _create(self) -> bytes:
        row = self._rng.choice(self._rows)
        person, project = self._work()
        body = {
            "project": project,
            "title": f"{MARK.decode()} {row['title']}"[:500],
            "description": row["description"],
            "labels": [label for label in row["labels"].split(";") if label],
            "priority": row["priority"],
            "assignees": [self._rng.choice(self._filled.members[project]).id],
        }
        return self._request("create", "POST", "/v1/tasks", person, body)

    def _update(self) -> bytes:
        person, project = self._work()
        task = self._task(project)
        body = {
            "title": f"{MARK.decode()} {self._rows[task.row]['title']}"[:500],
            "priority": self._rng.choice(_PRIORITIES),
        }
        return self._request("update", "PATCH", f"/v1/tasks/{task.id}", person, body)

    def _transition(self) -> bytes:
        """To done and back: these two moves are there from every state."""
        person, project = self._work()
        task = self._task(project)
        state = self._moved.get(task.id, self._rows[task.row]["status"])
        self._moved[task.id] = "todo" if state == "done" else "done"
        body = {"state": self._moved[task.id]}
        return self._request("transition", "POST", f"/v1/tasks/{task.id}:transition", person, body)

    def _assign(self) -> bytes:
        person, project = self._work()
        body = {"assignees": [self._rng.choice(self._filled.members[project]).id]}
        return self._request("assign", "POST", f"/v1/tasks/{self._task(project).id}:assign", person, body)

    def _login(self) -> bytes:
        body = {"email": self._rng.choice(self._filled.signing_in), "password": PASSWORD}
        return self._request("login", "POST", "/v1/auth/login", None, body)

    def _anybody(self) -> Person:
        return self._rng.choice(self._filled.people)

    def _work(self) -> tuple[Person, str]:
        """Somebody who may write, and the key of a project where they may."""
        person = self._rng.choice(self._writers)
        return person, self._rng.choice([key for key, part in person.parts.items() if part != "viewer"])

    def _task(self, project: str) -> TemplateTask:
        return self._rng.choice(self._filled.readable[project])

    def _request(self, case: str, verb: str, path: str, person: Person | None, body: object = None) -> bytes:
        content = b"" if body is None else json.dumps(body, ensure_ascii=False).encode()
        head = [f"{verb} {path} HTTP/1.1", "Host: 127.0.0.1", "Accept: application/json", f"X-Bench-Case: {case}"]
        if person is not None:
            head.append(f"Authorization: Bearer {self._tokens.get(person.id, person.token)}")
        if body is not None:
            head += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
            if person is not None:
                head.append(f"Idempotency-Key: bench-{MARK.decode()}")
        return "\r\n".join([*head, "", ""]).encode() + content
