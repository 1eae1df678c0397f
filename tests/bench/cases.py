"""What is asked: for each case a recorded mix of requests, the same in every run."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from urllib.parse import quote

from tests.bench.data import PROJECTS, Person, Template
from tests.bench.load import MARK
from tests.serving import PASSWORD

__all__ = ["CASES", "requests_of"]

CASES = ("get", "list", "create", "search", "login", "mixed")
_COUNT = 2000
_STATES = ("todo", "in_progress", "done")
_MIX = {"get": 70, "list": 15, "search": 5, "create": 10}  # per cent: 90 read, 10 write


def requests_of(case: str, template: Template) -> list[bytes]:
    """The requests of a case, ready to be sent."""
    return _Recorder(template, random.Random(case)).record(case)


class _Recorder:
    def __init__(self, template: Template, rng: random.Random) -> None:
        self._template = template
        self._rng = rng
        self._writers = [person for person in template.people if person.may_write]
        labels = (label for row in template.rows for label in row["labels"].split(";") if label)
        self._labels = [label for label, _ in Counter(labels).most_common(5)]

    def record(self, case: str) -> list[bytes]:
        if case == "mixed":
            kinds = self._rng.choices(list(_MIX), weights=list(_MIX.values()), k=_COUNT)
        else:
            kinds = [case] * _COUNT
        return [getattr(self, f"_{kind}")() for kind in kinds]

    def _get(self) -> bytes:
        return self._request("get", "GET", f"/v1/tasks/{self._rng.choice(self._template.tasks)}", self._anybody())

    def _list(self) -> bytes:
        condition = f'"{self._rng.choice(self._labels)}" in labels && state == "{self._rng.choice(_STATES)}"'
        path = f"/v1/tasks?page_size=50&filter={quote(condition)}"
        return self._request("list", "GET", path, self._anybody())

    def _search(self) -> bytes:
        words: list[str] = []
        while not words:
            words = re.findall(r"[A-Za-z]{3,}", self._rng.choice(self._template.rows)["title"])
        chosen = self._rng.sample(words, min(len(words), 2))
        return self._request("search", "GET", f"/v1/tasks:search?query={quote(' '.join(chosen))}", self._anybody())

    def _create(self) -> bytes:
        row = self._rng.choice(self._template.rows)
        body = {
            "project": self._rng.choice(PROJECTS),
            "title": f"{MARK.decode()} {row['title']}"[:500],
            "description": row["description"],
            "labels": [label for label in row["labels"].split(";") if label],
            "priority": row["priority"],
            "assignees": [self._rng.choice(self._template.people).id],
        }
        return self._request("create", "POST", "/v1/tasks", self._rng.choice(self._writers), body)

    def _login(self) -> bytes:
        body = {"email": self._anybody().email, "password": PASSWORD}
        return self._request("login", "POST", "/v1/auth/login", None, body)

    def _anybody(self) -> Person:
        return self._rng.choice(self._template.people)

    @staticmethod
    def _request(case: str, verb: str, path: str, person: Person | None, body: object = None) -> bytes:
        content = b"" if body is None else json.dumps(body, ensure_ascii=False).encode()
        head = [f"{verb} {path} HTTP/1.1", "Host: 127.0.0.1", "Accept: application/json", f"X-Bench-Case: {case}"]
        if person is not None:
            head.append(f"Authorization: Bearer {person.token}")
        if body is not None:
            head += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
            if person is not None:
                head.append(f"Idempotency-Key: bench-{MARK.decode()}")
        return "\r\n".join([*head, "", ""]).encode() + content
