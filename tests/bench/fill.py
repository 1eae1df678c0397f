"""Fills a server over its API, once; the folder is then copied for each round."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from tests.bench.cluster import ClusterServer, Parts
from tests.bench.data import CONFIDENTIAL, Filled, Person, Project, Template, TemplateTask
from tests.chaos.reconcile import left_over
from tests.serving import ADMIN, PASSWORD, ServerProcess

__all__ = ["make_template"]

_GOOD_FOR = 20 * 3600  # seconds; the tokens in it hold for a day
_PARTS = ("editor", "editor", "editor", "viewer", "viewer")
_PEOPLE_A_PROJECT = 100
_CHUNK = 500  # the most that an import takes
_ASSIGNED = 10_000  # of more tasks only so many are assigned: each makes a mail
_EVERY_CONFIDENTIAL = 100
_ROLES = ("triage", "support")
_POLICIES: Sequence[Mapping[str, Any]] = (
    {
        "name": "confidential-is-private",
        "effect": "EFFECT_DENY",
        "permissions": ["tasks.read", "tasks.export"],
        "condition": f'"{CONFIDENTIAL}" in resource.labels && !(principal.id in resource.assignees)'
        ' && !("admin" in principal.roles)',
    },
    {
        "name": "triage-moves-open-work",
        "effect": "EFFECT_ALLOW",
        "roles": ["triage"],
        "permissions": ["tasks.transition", "tasks.assign"],
        "condition": 'resource.state != "done" && principal.id in resource.members',
    },
    {
        "name": "support-reads-what-is-urgent",
        "effect": "EFFECT_ALLOW",
        "roles": ["support"],
        "permissions": ["tasks.read"],
        "condition": 'resource.priority == "urgent" && resource.state != "done"',
    },
)


def make_template(
    folder: Path,
    settings: Mapping[str, str],
    people: int,
    rows: Sequence[Mapping[str, str]],
    signing_in: int,
    parts: Parts | None = None,
) -> Template:
    """Starts a server on an empty folder, fills it over its API and stops it; or takes what an earlier run left there.

    Passwords are hashed fast while people join. Of as many as `signing_in` says they are then hashed as the settings
    ask, by their signing in. With `parts` it is eight processes on these.

    Raises:
        SystemExit: the folder holds something else, or the server did not end well.
    """
    asked = {"people": people, "tasks": len(rows), "password_hash": settings["password_hash"]}
    contents = folder.with_name(f"{folder.name}.bench.json")
    if contents.is_file():
        said = json.loads(contents.read_text())
        if said["asked"] == asked and time.time() - said["made_at"] < _GOOD_FOR:
            return Template(folder, _filled(said["filled"]), rows)
        contents.unlink()
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"{folder} holds something that the bench did not make. Name another folder, or none.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    patience = 600 + len(rows) / 50
    fast = {**settings, "password_hash": "fast"}
    filled = _with_server(folder, fast, parts, patience, lambda url: _fill(url, people, rows))
    filled = replace(filled, signing_in=[person.email for person in filled.people[:signing_in]])
    if settings["password_hash"] != "fast":
        _with_server(folder, settings, parts, patience, lambda url: _hash_passwords(url, filled.signing_in))
    contents.write_text(json.dumps({"made_at": time.time(), "asked": asked, "filled": asdict(filled)}))
    return Template(folder, filled, rows)


def _filled(said: Mapping[str, Any]) -> Filled:
    return Filled(
        [Project(**each) for each in said["projects"]],
        [Person(**each) for each in said["people"]],
        [TemplateTask(**each) for each in said["tasks"]],
        said["signing_in"],
    )


def _with_server(
    folder: Path,
    settings: Mapping[str, str],
    parts: Parts | None,
    patience: float,
    work: Callable[[str], Awaitable[Any]],
) -> Any:
    with ClusterServer(folder, parts, settings) if parts else ServerProcess(folder, settings=settings) as server:
        server.wait_ready()

        async def worked() -> Any:
            return await work(server.url)

        found = asyncio.run(worked())
        _settle(server, patience)
        if server.terminate(60) not in (0, -15):
            raise SystemExit(f"the server did not end well:\n{server.tail()}")
        if isinstance(server, ClusterServer):
            server.save()
    return found


def _settle(server: ServerProcess, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while left := server.left_over() if isinstance(server, ClusterServer) else left_over(server.data):
        if time.monotonic() > deadline:
            raise SystemExit(f"still on their way after {seconds:.0f} s: {left}\n{server.tail()}")
        time.sleep(0.1 if sum(left.values()) < 1000 else 1)


async def _hash_passwords(url: str, emails: Sequence[str]) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        await _at_once([partial(_sign_in, client, email) for email in emails])


async def _fill(url: str, count: int, rows: Sequence[Mapping[str, str]]) -> Filled:
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        admin = await _sign_in(client, ADMIN)
        projects = [await _project(client, admin, number) for number in range(_projects(count))]
        for role in _ROLES:
            body = {"name": role, "description": f"For {role}.", "permissions": ["users.read"]}
            await _call(client, "POST", "/v1/roles", admin, body)
        for policy in _POLICIES:
            await _call(client, "POST", "/v1/policies", admin, policy)
        joining = [partial(_join, client, admin, projects, number) for number in range(count - 1)]
        people: list[Person] = await _at_once(joining)
        me = await _call(client, "GET", "/v1/users/me", admin)
        people.append(Person(me["id"], ADMIN, admin, {project.key: "admin" for project in projects}, admin=True))
        filled = Filled(projects, people, [])
        tasks: list[TemplateTask] = []
        for place, project in enumerate(projects):
            first, end = (len(rows) * part // len(projects) for part in (place, place + 1))
            for begin in range(first, end, _CHUNK):
                tasks += await _import(client, filled, project, rows, range(begin, min(begin + _CHUNK, end)))
        return replace(filled, tasks=tasks)


def _projects(people: int) -> int:
    """An even number, so that each pair has a private one and one that is open to the organization."""
    return 2 * max(1, people // _PEOPLE_A_PROJECT)


async def _project(client: httpx.AsyncClient, admin: str, number: int) -> Project:
    key = ("WEB", "OPS")[number] if number < 2 else f"P{number:02}"
    visibility = ("private", "organization")[number % 2]
    body = {"key": key, "display_name": f"The project {key}", "visibility": visibility}
    made = await _call(client, "POST", "/v1/projects", admin, body)
    return Project(made["id"], key, visibility)


async def _join(client: httpx.AsyncClient, admin: str, projects: Sequence[Project], number: int) -> Person:
    email = f"member{number:03}@example.org"
    body = {"email": email, "password": PASSWORD, "display_name": email.partition("@")[0]}
    await _call(client, "POST", "/v1/auth/register", "", body)
    token = await _sign_in(client, email)
    user = (await _call(client, "GET", "/v1/users/me", token))["id"]
    part = _PARTS[number % len(_PARTS)]
    pair = 2 * (number % (len(projects) // 2))
    for project in projects[pair : pair + 2]:
        await _call(client, "POST", f"/v1/projects/{project.key}/members", admin, {"user": user, "role": part})
    for role, every in zip(_ROLES, (5, 10), strict=True):
        if number % every == 1:
            await _call(client, "POST", "/v1/assignments", admin, {"principal": user, "role": role})
    return Person(user, email, token, {project.key: part for project in projects[pair : pair + 2]})


async def _import(
    client: httpx.AsyncClient, filled: Filled, project: Project, rows: Sequence[Mapping[str, str]], numbers: range
) -> list[TemplateTask]:
    admin = filled.people[-1].token
    members = filled.members[project.key]
    tasks = [_task(rows[number], members, number, len(rows)) for number in numbers]
    answer = await _call(client, "POST", "/v1/tasks:import", admin, {"project": project.key, "tasks": tasks})
    bad = [result["error"] for result in answer["results"] if result.get("error")]
    if bad:
        raise SystemExit(f"{len(bad)} tasks were refused, the first: {bad[0]}")
    return [
        TemplateTask(result["task"], result["key"], project.key, task["labels"], task["assignees"], number)
        for result, task, number in zip(answer["results"], tasks, numbers, strict=True)
    ]


def _task(row: Mapping[str, str], members: Sequence[Person], number: int, count: int) -> dict[str, Any]:
    labels = [label for label in row["labels"].split(";") if label]
    if number % _EVERY_CONFIDENTIAL == 0:
        labels.append(CONFIDENTIAL)
    assignees = []
    if number % max(1, count // _ASSIGNED) == 0:
        wanted = (person.id for person in members if person.email == row["assignee"])
        assignees = [next(wanted, members[number % len(members)].id)]
    task: dict[str, Any] = {
        "title": row["title"],
        "description": row["description"],
        "assignees": assignees,
        "labels": labels,
        "state": row["status"],
        "priority": row["priority"],
        "create_time": row["created_at"],
        "external_id": f"row-{number}",
    }
    if row["due_at"]:
        task["due_time"] = f"{row['due_at']}T00:00:00Z"
    return task


async def _at_once(calls: Sequence[Callable[[], Awaitable[Any]]]) -> list[Any]:
    """What so many calls answer, eight of them at a time."""
    places = asyncio.Semaphore(8)

    async def one(call: Callable[[], Awaitable[Any]]) -> Any:
        async with places:
            return await call()

    return list(await asyncio.gather(*(one(call) for call in calls)))


async def _sign_in(client: httpx.AsyncClient, email: str) -> str:
    answer = await _call(client, "POST", "/v1/auth/login", "", {"email": email, "password": PASSWORD})
    return str(answer["access_token"])


async def _call(client: httpx.AsyncClient, verb: str, path: str, token: str, body: object = None) -> Any:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    response = await client.request(verb, path, json=body, headers=headers)
    if not response.is_success:
        raise SystemExit(f"{verb} {path}: {response.status_code} {response.text}")
    return response.json()
