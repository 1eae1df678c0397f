"""What is measured on: people with roles, two projects, thousands of tasks; made once and copied for each round."""

from __future__ import annotations

import asyncio
import csv
import os
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.chaos.reconcile import left_over
from tests.serving import ADMIN, PASSWORD, ServerProcess

__all__ = ["Person", "Template", "make_template", "task_rows"]

_ROOT = Path(__file__).resolve().parents[2]
PROJECTS = ("WEB", "OPS")
_PARTS = ("editor", "editor", "editor", "viewer", "viewer")
_CHUNK = 250


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who calls."""

    id: str
    email: str
    token: str
    may_write: bool


@dataclass(frozen=True, slots=True)
class Template:
    """A data folder with everything in it, and what is in it."""

    folder: Path
    people: Sequence[Person]
    tasks: Sequence[str]
    rows: Sequence[Mapping[str, str]]

    def copy(self, to: Path) -> Path:
        """A copy to work on."""
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(self.folder, to)
        return to


def task_rows(count: int) -> tuple[str, list[dict[str, str]]]:
    """Where the rows come from, and so many of them: of the shared data, over and over; made up where there is none."""
    folder = Path(os.environ.get("TASKMAN_SHARED_DATA") or _ROOT.parent / "shared" / "data")
    path = folder / "tasks-5k.csv"
    if not path.is_file():
        return "made up (TASKMAN_SHARED_DATA names no folder with tasks-5k.csv)", _made_up(count)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return path.name, [rows[number % len(rows)] for number in range(count)]


def _made_up(count: int) -> list[dict[str, str]]:
    rng = random.Random(1)
    words = ["fix", "add", "update", "remove", "task", "list", "filter", "label", "bucket", "user", "view", "search"]
    return [
        {
            "title": " ".join(rng.choices(words, k=7)),
            "description": " ".join(rng.choices(words, k=rng.choice((0, 0, 40)))),
            "assignee": f"member{rng.randrange(97):03}@example.org",
            "labels": ";".join(sorted({rng.choice(words) for _ in range(2)})),
            "status": rng.choice(("todo", "in_progress", "done")),
            "priority": rng.choice(("low", "medium", "high", "urgent")),
            "created_at": f"2024-{1 + number % 12:02}-01T08:00:00+00:00",
            "due_at": "",
        }
        for number in range(count)
    ]


def make_template(
    folder: Path, settings: Mapping[str, str], people: int, rows: Sequence[Mapping[str, str]]
) -> Template:
    """Starts a server on an empty folder, fills it over its API and stops it."""
    with ServerProcess(folder, settings=settings) as server:
        server.wait_ready()
        found, tasks = asyncio.run(_fill(server.url, people, rows))
        _settle(server, 600)
        if server.terminate(30) not in (0, -15):
            raise SystemExit(f"the server did not end well:\n{server.tail()}")
    return Template(folder, found, tasks, rows)


def _settle(server: ServerProcess, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while left := left_over(server.data):
        if time.monotonic() > deadline:
            raise SystemExit(f"still on their way after {seconds:.0f} s: {left}\n{server.tail()}")
        time.sleep(0.1)


async def _fill(url: str, count: int, rows: Sequence[Mapping[str, str]]) -> tuple[list[Person], list[str]]:
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        admin = await _sign_in(client, ADMIN)
        for key, visibility in zip(PROJECTS, ("private", "organization"), strict=True):
            body = {"key": key, "display_name": f"The project {key}", "visibility": visibility}
            await _call(client, "POST", "/v1/projects", admin, body)
        at_once = asyncio.Semaphore(8)

        async def join(number: int) -> Person:
            async with at_once:
                return await _join(client, admin, f"member{number:03}@example.org", _PARTS[number % len(_PARTS)])

        people = list(await asyncio.gather(*(join(number) for number in range(count - 1))))
        me = await _call(client, "GET", "/v1/users/me", admin)
        people.append(Person(me["id"], ADMIN, admin, True))
        tasks: list[str] = []
        for place in range(0, len(rows), _CHUNK):
            # The first half into the one project, the second into the other.
            project = PROJECTS[place * len(PROJECTS) // max(len(rows), 1)]
            chunk = [_task(row, people, place + index) for index, row in enumerate(rows[place : place + _CHUNK])]
            answer = await _call(client, "POST", "/v1/tasks:import", admin, {"project": project, "tasks": chunk})
            bad = [result["error"] for result in answer["results"] if result.get("error")]
            if bad:
                raise SystemExit(f"{len(bad)} tasks were refused, the first: {bad[0]}")
            tasks += [result["task"] for result in answer["results"]]
        return people, tasks


def _task(row: Mapping[str, str], people: Sequence[Person], number: int) -> dict[str, Any]:
    assignee = next(
        (person.id for person in people if person.email == row["assignee"]), people[number % len(people)].id
    )
    task: dict[str, Any] = {
        "title": row["title"],
        "description": row["description"],
        "assignees": [assignee],
        "labels": [label for label in row["labels"].split(";") if label],
        "state": row["status"],
        "priority": row["priority"],
        "create_time": row["created_at"],
        "external_id": f"row-{number}",
    }
    if row["due_at"]:
        task["due_time"] = f"{row['due_at']}T00:00:00Z"
    return task


async def _join(client: httpx.AsyncClient, admin: str, email: str, part: str) -> Person:
    name = email.partition("@")[0]
    body = {"email": email, "password": PASSWORD, "display_name": name}
    await _call(client, "POST", "/v1/auth/register", "", body)
    token = await _sign_in(client, email)
    me = await _call(client, "GET", "/v1/users/me", token)
    for project in PROJECTS:
        await _call(client, "POST", f"/v1/projects/{project}/members", admin, {"user": me["id"], "role": part})
    return Person(me["id"], email, token, part == "editor")


async def _sign_in(client: httpx.AsyncClient, email: str) -> str:
    answer = await _call(client, "POST", "/v1/auth/login", "", {"email": email, "password": PASSWORD})
    return str(answer["access_token"])


async def _call(client: httpx.AsyncClient, verb: str, path: str, token: str, body: object = None) -> Any:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    response = await client.request(verb, path, json=body, headers=headers)
    if not response.is_success:
        raise SystemExit(f"{verb} {path}: {response.status_code} {response.text}")
    return response.json()
