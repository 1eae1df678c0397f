"""`python -m tests.bench.steps`: the path of one `GET /v1/tasks/{task}`, step by step, in process.

Two views. In place: the whole request, and how much shorter it is without one of its parts. By itself: each step over
and over with what the steps before it would hand over; that is less than in place, for its code and data stay in the
processor's caches.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import inspect
import json
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import protovalidate
import uvloop

from taskman_sdk import codec
from taskman_server.app import Application, open_application
from taskman_server.gateway import app as gateway_app
from taskman_server.gateway.http import JSON, Request, head_of, respond
from taskman_server.kit import logs
from taskman_server.kit.rpc import ANONYMOUS, CallOptions, Origin, Principal
from taskman_server.services.tasks import convert
from taskman_server.services.tasks.store import Fts5, TaskStore
from taskman_server.settings import NO_FILE, load
from tests.bench.data import task_rows
from tests.serving import ADMIN, PASSWORD

Step = Callable[[], Any]
TASKS = 500


class Edge:
    """Calls the gateway as an HTTP server would, without one."""

    def __init__(self, application: Application) -> None:
        self._gateway = application.gateway
        self.token = ""

    def scope(self, verb: str, path: str) -> dict[str, Any]:
        """An ASGI scope as uvicorn makes it."""
        headers = [(b"host", b"127.0.0.1"), (b"accept", b"application/json"), (b"content-type", b"application/json")]
        if self.token:
            headers.append((b"authorization", b"Bearer " + self.token.encode()))
        target, _, query = path.partition("?")
        return {
            "type": "http",
            "method": verb,
            "path": target,
            "raw_path": target.encode(),
            "query_string": query.encode(),
            "headers": headers,
            "client": ("127.0.0.1", 40000),
        }

    async def __call__(self, verb: str, path: str, body: object = None) -> Any:
        """The JSON of the answer."""
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": json.dumps(body).encode()}

        async def send(message: Any) -> None:
            sent.append(message)

        await self._gateway(self.scope(verb, path), receive, send)
        if sent[0]["status"] >= 300:
            raise SystemExit(f"{verb} {path}: {sent[1]['body'].decode()}")
        return json.loads(sent[1]["body"])


async def fill(call: Edge) -> str:
    """People, a project and tasks; the id of a task. Leaves a member's token with `call`."""
    answer = await call("POST", "/v1/auth/login", {"email": ADMIN, "password": PASSWORD})
    admin = str(answer["access_token"])
    member = {"email": "member@example.org", "password": PASSWORD}
    await call("POST", "/v1/auth/register", {**member, "display_name": "Member"})
    token = (await call("POST", "/v1/auth/login", member))["access_token"]
    call.token = token
    me = await call("GET", "/v1/users/me")
    call.token = admin
    await call("POST", "/v1/projects", {"key": "WEB", "display_name": "Web", "visibility": "private"})
    await call("POST", "/v1/projects/WEB/members", {"user": me["id"], "role": "editor"})
    rows = task_rows(TASKS)[1]
    tasks = [{"title": row["title"], "description": row["description"], "assignees": [me["id"]],
              "labels": [label for label in row["labels"].split(";") if label], "state": row["status"]}
             for row in rows]  # fmt: skip
    made = await call("POST", "/v1/tasks:import", {"project": "WEB", "tasks": tasks})
    call.token = token
    return str(made["results"][TASKS // 2]["task"])


async def microseconds(step: Step, seconds: float) -> float:
    """The processor time of a step in microseconds, the median of seven stretches; a coroutine is awaited."""
    awaits = inspect.isawaitable(first := step())
    if awaits:
        await first
    times: list[float] = []
    for _ in range(7):
        count, started = 0, time.process_time()
        while (taken := time.process_time() - started) < seconds / 7:
            for _ in range(20):
                if awaits:
                    await step()
                else:
                    step()
            count += 20
        times.append(taken / count)
        await asyncio.sleep(0)
    return 1e6 * statistics.median(times)


def steps(application: Application, call: Edge, task: str) -> dict[str, Step]:
    """The steps by name, in the order of a request."""
    gateway = application.gateway
    runtime = application.runtime("tasks")
    scope = call.scope("GET", f"/v1/tasks/{task}")
    request = Request.of(scope, [])
    match = gateway._router.match("GET", request.path)
    assert match is not None
    entry = gateway._entries[match.method.path]
    message: Any = entry.transcode(match.values, b"", b"", "")
    store = TaskStore(runtime.db, Fts5())
    validator = protovalidate.Validator()
    outcome = gateway_app._Outcome(method=entry.method, principal="user", status=200)
    edge_call = gateway_app._EdgeCall(entry.method, ANONYMOUS, request.request_id, Origin(), datetime.now(UTC))
    principal: list[Principal] = []
    row: list[Any] = []
    metadata = {"authorization": f"Bearer {call.token}", "x-request-id": request.request_id}

    async def nothing(*_: Any) -> Any:
        return {"type": "http.request", "body": b""}

    async def identity() -> None:
        principal[:] = [await gateway._authenticator.authenticate(call.token, edge_call)]

    async def coarse() -> None:
        edge_call.principal = principal[0]
        await gateway._guard.require_possible(edge_call, entry.method.permission)

    async def read() -> None:
        row[:] = [await store.get(principal[0].organization, task)]

    async def fine() -> None:
        assert await runtime.guard.allows(edge_call, entry.method.permission, convert.task_resource(row[0]))

    def service() -> Awaitable[Any]:
        return application.channels.unary(entry.method, message, CallOptions(dict(metadata)))

    return {
        "read the head": lambda: Request.of(scope, []),
        "find the route": lambda: gateway._router.match("GET", request.path),
        "identity (remembered)": identity,
        "coarse right (remembered)": coarse,
        "HTTP to message": lambda: entry.transcode(match.values, b"", b"", ""),
        "validate": lambda: validator.collect_violations(message),
        "read the row": read,
        "fine right (CEL)": fine,
        "row to message": lambda: convert.task_message(row[0]),
        "message to JSON": lambda: codec.to_json(convert.task_message(row[0])),
        "hand to the HTTP server": lambda: respond(nothing, 200, b"", head_of(b"", JSON)),
        "log line, metric": lambda: gateway._log(request, outcome, 0.001),
        "the service, all of it": service,
        "the whole": lambda: gateway(scope, nothing, nothing),
    }


async def measure(seconds: float) -> tuple[dict[str, float], dict[str, float]]:
    """Microseconds by part, in place; and by step, by itself."""
    with tempfile.TemporaryDirectory(prefix="taskman-steps-") as folder:
        flags = {"data": Path(folder), "admin_email": ADMIN, "admin_password": PASSWORD, "password_hash": "fast"}
        settings = load({**flags, "rate_limit": "off"}, environ={}, config=NO_FILE).with_port(8080)
        async with open_application(settings) as application:
            call = Edge(application)
            task = await fill(call)
            await application.settled()
            step = steps(application, call, task)
            place = await in_place(
                application, step.pop("the whole"), await step["the service, all of it"](), seconds * 2
            )
            found = {name: await microseconds(each, seconds) for name, each in step.items()}
    found["message to JSON"] -= found["row to message"]
    return place, found


async def in_place(application: Application, whole: Step, reply: Any, seconds: float) -> dict[str, float]:
    """The whole, and its parts by leaving them out."""
    gateway = application.gateway

    class Answered:
        """A channel that has the answer already."""

        async def unary(self, *_: Any) -> Any:
            return reply

    without_log = patch.object(gateway, "_log", lambda *_: None)
    without_service = patch.object(gateway, "_channels", Answered())
    found = {"the whole request": await microseconds(whole, seconds)}
    with without_log:
        found["its log line and metric"] = found["the whole request"] - await microseconds(whole, seconds)
    with without_service:
        found["the service behind its channel"] = found["the whole request"] - await microseconds(whole, seconds)
    with without_log, without_service:
        found["the rest of the gateway"] = await microseconds(whole, seconds)
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.steps", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.5, help="for each step")
    options = parser.parse_args()
    with open(os.devnull, "w") as sink, contextlib.redirect_stderr(sink):
        logs.configure("info", "json")
        place, found = uvloop.run(measure(options.seconds))
    for title, figures in (("in place", place), ("by itself", found)):
        print(f"{title}:")
        for name, cost in figures.items():
            print(f"  {name:40}{cost:8.1f} µs")


if __name__ == "__main__":
    main()
