"""What `up --workers` promises beyond the contract: one server, whichever of its processes answers (OPS-1, OPS-7)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.contract.conftest import SETTINGS
from tests.contract.servers import ServerProcess
from tests.contract.waiting import eventually
from tests.contract.world import ADMIN_EMAIL, ADMIN_PASSWORD, Site, project_key

SWEEP = 5.0  # seconds between two looks of a relay that nobody wakes


def _processes(server: ServerProcess) -> list[psutil.Process]:
    """The first process and its workers."""
    first = psutil.Process(server.process.pid)
    return [first, *(each for each in first.children() if "worker" in each.cmdline())]


def _owner(processes: list[psutil.Process], port: int) -> int | None:
    """The process at the other end of a connection from this port."""
    for each in processes:
        if any(found.raddr and found.raddr.port == port for found in each.net_connections("tcp")):
            return each.pid
    return None


@asynccontextmanager
async def _one_each(server: ServerProcess, token: str = "") -> AsyncIterator[dict[int, httpx.AsyncClient]]:
    """A client with one connection, which stays, to each process; by process id."""
    processes = _processes(server)
    found: dict[int, httpx.AsyncClient] = {}
    async with AsyncExitStack() as stack:
        for _ in range(200):
            if len(found) == len(processes):
                break
            transport = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=1, keepalive_expiry=600))
            headers = {"authorization": f"Bearer {token}"} if token else {}
            client = httpx.AsyncClient(base_url=server.url, transport=transport, headers=headers, timeout=30)
            await stack.enter_async_context(client)
            async with client.stream("GET", "/healthz") as response:
                port = response.extensions["network_stream"].get_extra_info("client_addr")[1]
                await response.aread()
            owner = await asyncio.to_thread(_owner, processes, port)
            assert owner is not None
            found.setdefault(owner, client)
        assert len(found) == len(processes), "connections are not spread"
        yield found


async def _login(url: str) -> str:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        answer = await http.post("/v1/auth/login", json={"email": ADMIN_EMAIL, "password": ADMIN_PASSWORD})
        return str(answer.json()["access_token"])


async def test_who_writes_by_one_process_reads_it_by_the_other_always(crew: ServerProcess, workers: Site) -> None:
    """TASK-1, USER-1: a read after an acknowledged write is never older, by id or key, for tasks that every process
    remembers; versions only grow."""
    ann = await workers.new_person("Ann")
    project = await ann.project(key=project_key())
    tasks = [await ann.task(project["id"], title="version 0") for _ in range(4)]
    rng = random.Random(1)
    async with _one_each(crew, ann.token) as clients:
        ends = list(clients.values())

        async def storm(task: dict[str, str]) -> int:
            reads = 0
            for number in range(1, 60):
                writer, reader = rng.sample(ends, 2)
                title = f"version {number}"
                change = await writer.patch(f"/v1/tasks/{task['id']}", json={"title": title})
                assert change.status_code == 200, change.text
                for client in (reader, writer, reader):
                    read = (await client.get(f"/v1/tasks/{rng.choice((task['id'], task['key']))}")).json()
                    assert read["title"] == title
                    assert read["etag"] == change.json()["etag"]
                    reads += 1
            return reads

        assert sum(await asyncio.gather(*map(storm, tasks))) == 4 * 59 * 3


async def test_a_project_that_closes_is_closed_by_every_process_at_once(crew: ServerProcess, workers: Site) -> None:
    """AUTHZ-1: members and visibility are remembered with each task."""
    ann, ben = await workers.new_person("Ann"), await workers.new_person("Ben")
    project = await ann.project(key=project_key(), visibility="organization")
    task = await ann.task(project["id"])
    async with _one_each(crew, ben.token) as clients, _one_each(crew, ann.token) as owners:
        for number in range(20):
            writer = list(owners.values())[number % 2]
            visibility = ("private", "organization")[number % 2]
            changed = await writer.patch(f"/v1/projects/{project['id']}", json={"visibility": visibility})
            assert changed.status_code == 200, changed.text
            seen = [(await each.get(f"/v1/tasks/{task['id']}")).status_code for each in clients.values()]
            assert seen == ([404, 404] if visibility == "private" else [200, 200])


async def test_a_key_that_two_processes_get_at_once_has_one_effect(crew: ServerProcess, workers: Site) -> None:
    """GATE-5: one of them does it, the other one answers the same or asks to wait."""
    ann = await workers.new_person("Ann")
    project = await ann.project(key=project_key())
    async with _one_each(crew, ann.token) as clients:
        for number in range(30):
            answers = await asyncio.gather(
                *(
                    client.post(
                        "/v1/tasks",
                        json={"project": project["id"], "title": f"T{number}"},
                        headers={"idempotency-key": f"key-{project['id']}-{number}"},
                    )
                    for client in clients.values()
                )
            )
            made = [answer.json()["id"] for answer in answers if answer.status_code in (200, 201)]
            assert made
            assert len(set(made)) == 1
            assert {answer.status_code for answer in answers} <= {200, 201, 409}
        listed = await ann.call("TaskService.ListTasks", project=project["id"], page_size=100)
        assert sorted(task["title"] for task in listed["tasks"]) == sorted(f"T{number}" for number in range(30))


async def test_an_event_of_a_worker_is_heard_at_once(crew: ServerProcess, workers: Site) -> None:
    """EVENT-1: the relay is in the first process, and does not wait until it looks by itself, every 5 s."""
    ann, ben = await workers.new_person("Ann"), await workers.new_person("Ben")
    project = await ann.project(key=project_key(), visibility="organization")
    async with _one_each(crew, ann.token) as clients:
        worker = next(client for process, client in clients.items() if process != crew.process.pid)
        loop = asyncio.get_running_loop()
        waits = []
        for number in range(5):
            began = loop.time()
            body = {"project": project["id"], "title": f"N{number}", "assignees": [ben.id]}
            assert (await worker.post("/v1/tasks", json=body)).status_code in (200, 201)

            async def told(least: int = number + 1) -> bool:
                found = await ben.call("NotificationService.ListNotifications", page_size=100)
                return len(found.get("notifications", [])) >= least

            await eventually(told, "the notification")
            waits.append(loop.time() - began)
    assert sum(waits) < 4 * SWEEP, "each waited for the next look"


async def test_one_scrape_sees_what_all_have_counted(crew: ServerProcess, workers: Site) -> None:
    """OPS-5: whichever process is asked."""

    async def count(client: httpx.AsyncClient) -> float:
        text = (await client.get("/metrics")).text
        found = re.findall(r'^taskman_rpc_calls_total\{.*method="GetMe".*\} (\S+)', text, re.MULTILINE)
        return sum(map(float, found))

    ann = await workers.new_person("Ann")
    async with _one_each(crew, ann.token) as clients:
        ends = list(clients.values())
        before = await count(ends[0])
        for client in ends:
            for _ in range(10):
                assert (await client.get("/v1/users/me")).status_code == 200
        assert [await count(client) - before for client in ends] == [20] * len(ends)


@asynccontextmanager
async def _server(folder: Path, **settings: str) -> AsyncIterator[ServerProcess]:
    process = ServerProcess(folder, **{**SETTINGS, "workers": "2", **settings})
    try:
        await process.ready()
        yield process
    finally:
        process.stop()


async def test_the_limit_is_the_principals_for_all_processes_together(tmp_path: Path) -> None:
    """GATE-3: and what is left says so, within a block of each worker."""
    async with _server(tmp_path, rate_limit="100/h") as server:
        token = await _login(server.url)
        async with _one_each(server, token) as clients:
            answers = [
                (await client.get("/v1/users/me")).status_code for _ in range(100) for client in clients.values()
            ]
    assert answers.count(200) + answers.count(429) == len(answers) == 200
    assert answers.count(200) == 100


async def test_a_worker_that_dies_is_replaced_and_the_rest_goes_on(tmp_path: Path) -> None:
    """OPS-7: readiness tells, what it had counted is not lost from the metrics, and no folder or port is in the way."""
    async with _server(tmp_path) as server:
        first, worker = _processes(server)
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
            worker.kill()
            await asyncio.to_thread(worker.wait, 10)

            async def another() -> bool:
                return any(each.pid not in (first.pid, worker.pid) for each in _processes(server))

            await eventually(another, "another worker", seconds=60)

            async def ready() -> bool:
                health = (await http.get("/readyz")).json()
                return bool(health["parts"].get("worker 2") == "ok" and health["status"] == "ok")

            await eventually(ready, "readiness", seconds=60, ignore=(httpx.TransportError,))
        async with _one_each(server) as clients:
            assert worker.pid not in clients
        assert server.stop() == 0
        assert server.faults() == []


async def test_when_the_first_process_is_killed_its_workers_end_and_a_new_server_starts(tmp_path: Path) -> None:
    """OPS-7: at once, on the same folder and port, without anybody's help."""
    async with _server(tmp_path) as server:
        port = int(server.url.rpartition(":")[2])
        _, worker = _processes(server)
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        await asyncio.to_thread(worker.wait, 10)  # nobody has told it
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
    again = tmp_path / "again"
    again.mkdir()
    (tmp_path / "data").rename(again / "data")
    async with _server(again) as server:
        assert await _login(server.url)
        before = _processes(server)
        assert server.stop() == 0
    assert len(before) == 2
    assert not any(each.is_running() for each in before)


async def test_all_drain_at_sigterm(tmp_path: Path) -> None:
    """OPS-7: requests under way in any process are answered."""
    async with _server(tmp_path) as server:
        token = await _login(server.url)
        statuses: list[int] = []
        stopped = asyncio.Event()

        async def ask(client: httpx.AsyncClient) -> None:
            with contextlib.suppress(httpx.TransportError):
                while True:
                    statuses.append((await client.get("/v1/users?page_size=50")).status_code)
                    if len(statuses) == 40:
                        stopped.set()

        async with _one_each(server, token) as clients:
            asking = [asyncio.create_task(ask(client)) for client in clients.values()]
            await stopped.wait()
            assert await asyncio.to_thread(server.stop) == 0
            await asyncio.wait_for(asyncio.gather(*asking), 10)
        assert set(statuses) <= {200, 503}
        assert server.faults() == []
