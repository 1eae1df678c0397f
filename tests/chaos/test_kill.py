"""`kill -9` at random moments while clients write and consumers run; and a graceful stop in the same traffic."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from standardwebhooks import Webhook

from tests.chaos.reconcile import Reckoning, collect, cut_off, in_files, left_over, whole
from tests.chaos.writers import Crew
from tests.contract.receivers import HookServer
from tests.contract.waiting import eventually
from tests.serving import ADMIN, PASSWORD, ServerProcess

WRITERS = 6
ASSIGNEES = 5
SETTINGS = {"password_hash": "fast", "rate_limit": "off", "webhook_allow_private": "true", "signup": "open"}


@dataclass(slots=True)
class Scene:
    """A server with a project, people and a webhook."""

    server: ServerProcess
    admin: str
    writers: list[str]
    assignees: dict[str, str]
    webhook: str
    secret: str
    hooks: HookServer

    def crew(self) -> Crew:
        return Crew(self.server.url, "CHAOS", list(self.assignees))


@pytest.fixture
def hooks() -> Iterator[HookServer]:
    receiver = HookServer()
    yield receiver
    receiver.close()


@pytest.fixture
async def scene(tmp_path: Path, hooks: HookServer) -> AsyncIterator[Scene]:
    server = ServerProcess(tmp_path / "data", settings=SETTINGS)
    try:
        server.start()
        await asyncio.to_thread(server.wait_ready)
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            yield await _people(client, server, hooks)
    finally:
        await asyncio.to_thread(server.stop)


async def _post(client: httpx.AsyncClient, path: str, body: object, token: str = "") -> dict[str, str]:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    response = await client.post(path, json=body, headers=headers)
    assert response.is_success, f"{path}: {response.status_code} {response.text}"
    answer: dict[str, str] = response.json()
    return answer


async def _sign_in(client: httpx.AsyncClient, email: str) -> str:
    return (await _post(client, "/v1/auth/login", {"email": email, "password": PASSWORD}))["access_token"]


async def _people(client: httpx.AsyncClient, server: ServerProcess, hooks: HookServer) -> Scene:
    admin = await _sign_in(client, ADMIN)
    project = {"key": "CHAOS", "display_name": "Chaos", "visibility": "private"}
    await _post(client, "/v1/projects", project, admin)
    webhook = {"url": f"{hooks.url}/events", "event_types": ["task.*"]}
    made = await _post(client, "/v1/webhooks", webhook, admin)
    tokens: dict[str, tuple[str, str]] = {}
    for name in [f"writer{n}" for n in range(WRITERS)] + [f"assignee{n}" for n in range(ASSIGNEES)]:
        email = f"{name}@example.org"
        await _post(client, "/v1/auth/register", {"email": email, "password": PASSWORD, "display_name": name})
        token = await _sign_in(client, email)
        me = (await client.get("/v1/users/me", headers={"authorization": f"Bearer {token}"})).json()
        role = "editor" if name.startswith("writer") else "viewer"
        await _post(client, "/v1/projects/CHAOS/members", {"user": me["id"], "role": role}, admin)
        tokens[name] = (me["id"], token)
    writers = [token for name, (_, token) in tokens.items() if name.startswith("writer")]
    assignees = dict(pair for name, pair in tokens.items() if name.startswith("assignee"))
    return Scene(server, admin, writers, assignees, made["id"], made["secret"], hooks)


@asynccontextmanager
async def _writing(scene: Scene, seed: int) -> AsyncIterator[Crew]:
    crew = scene.crew()
    crew.begin(scene.writers, seed)
    try:
        yield crew
    finally:
        await crew.dismiss()


async def _kill(server: ServerProcess, crew: Crew, rng: random.Random, kills: int) -> dict[str, int]:
    """Kills the running server so many times: most times among the writes, now and then while it still starts and makes
    up for the kill before. Leaves it dead."""
    moments = {"among writes": 0, "while it started": 0}
    for number in range(kills):
        if number > 0:
            server.start()
        if number % 5 == 4:
            await asyncio.sleep(rng.uniform(0.1, 1.5))
            moments["while it started"] += 1
        else:
            await asyncio.to_thread(server.wait_ready)
            before = crew.sent
            crew.up.set()

            async def writes(before: int = before) -> bool:
                crew.check()
                return crew.sent > before

            await eventually(writes, "a write")
            await asyncio.sleep(rng.uniform(0.005, 0.4))
            moments["among writes"] += 1
        crew.up.clear()
        server.kill()
        crew.check()
    return moments


async def _settle(scene: Scene, seconds: float, besides: Collection[str] = ()) -> None:
    """Returns when no event and no delivery is on its way, but for the deliveries named."""

    async def nothing_left() -> bool:
        left = await asyncio.to_thread(left_over, scene.server.data, besides)
        if left:
            raise AssertionError(f"still on their way: {left}\n{scene.server.tail()}")
        return True

    await eventually(nothing_left, "rest", seconds=seconds, ignore=(AssertionError,))


async def _reckon(scene: Scene, crew: Crew, besides: Collection[str] = ()) -> Reckoning:
    facts = await collect(scene.server.url, scene.admin, scene.assignees)
    reckoning = Reckoning(crew.acknowledged, facts, scene.webhook, besides)
    reckoning.tasks()
    reckoning.audit()
    reckoning.inboxes()
    hooks = whole(scene.hooks.at("/events"))
    reckoning.webhooks(hooks)
    for hook in hooks:
        Webhook(scene.secret).verify(hook.body, hook.headers)  # raises for a wrong signature
    await _settle(scene, 30, besides)  # what the reading itself put on record
    assert await asyncio.to_thread(scene.server.terminate, 15) == 0
    reckoning.files(scene.server.data)
    return reckoning


@pytest.mark.timeout(900)
async def test_no_acknowledged_write_is_lost_or_done_twice_whenever_the_server_is_killed(
    scene: Scene, chaos_long: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """EVENT-1, GATE-5, AUDIT-1, NOTIFY-1: SIGKILL at random moments while clients write and consumers run. Every
    acknowledged write is there once, its events reached the audit log, the inboxes and the webhook once, and the audit
    chain verifies."""
    seed = secrets.randbelow(10**6)
    rng = random.Random(seed)
    print(f"seed {seed}")
    async with _writing(scene, seed) as crew:
        began = time.monotonic()
        moments = await _kill(scene.server, crew, rng, 60 if chaos_long else 10)
        # The long form waits until these are made again, the short one does not.
        besides = frozenset() if chaos_long else cut_off(scene.server.data)
        scene.server.start()
        await asyncio.to_thread(scene.server.wait_ready)
        crew.up.set()
        enough = len(crew.acknowledged) + 30

        async def wrote_on() -> bool:
            crew.check()
            return len(crew.acknowledged) >= enough

        await eventually(wrote_on, "more writes", seconds=30)
        await crew.finish(30)
        killing = time.monotonic() - began
        await _settle(scene, 240, besides)
        settling = time.monotonic() - began - killing
        reckoning = await _reckon(scene, crew, besides)
    with capsys.disabled():
        print(f"\nkills: {moments} in {killing:.0f} s, at rest after {settling:.1f} s (seed {seed})")
        print(f"  attempts without an answer: {dict(crew.lost)}")
        print(reckoning.report())
    assert not reckoning.problems, "\n".join(reckoning.problems)
    assert moments["among writes"] >= (48 if chaos_long else 8)
    assert sum(write.attempts > 1 for write in crew.acknowledged) > 0, "no kill hit a write: the test showed nothing"


async def test_a_graceful_stop_answers_every_request_that_it_took_on(scene: Scene) -> None:
    """OPS-7: SIGTERM while clients write. The server ends by itself with exit code 0 within 15 s; a request that it
    took on is answered, so that no write that had an effect has to be asked for twice."""
    async with _writing(scene, seed=secrets.randbelow(10**6)) as crew:
        crew.up.set()

        async def wrote() -> bool:
            crew.check()
            return len(crew.acknowledged) >= 100

        await eventually(wrote, "a hundred writes", seconds=30)
        before = len(crew.acknowledged)
        code = asyncio.create_task(asyncio.to_thread(scene.server.terminate, 15))

        async def refused() -> bool:
            crew.check()
            return crew.lost["ConnectError"] > 0

        await eventually(refused, "the end of the server", seconds=15)
        crew.up.clear()
        assert await code == 0

        async def all_wait() -> bool:
            return crew.waiting == WRITERS

        await eventually(all_wait, "the last answers", seconds=15)
        assert not {reason for reason in crew.lost if reason.isupper()}, f"it answered errors as it ended: {crew.lost}"
        stopped = in_files(scene.server.data, "tasks", "SELECT key FROM idempotency WHERE key LIKE 'write-%'")
        unanswered = {key for (key,) in stopped} - {write.key for write in crew.acknowledged}
        assert not unanswered, f"done but not answered as the server ended: {unanswered}"
        scene.server.start()
        await asyncio.to_thread(scene.server.wait_ready)
        crew.up.set()
        await crew.finish(30)
        assert len(crew.acknowledged) >= before
        assert not any(write.replayed for write in crew.acknowledged)
        await _settle(scene, 60)
        reckoning = await _reckon(scene, crew)
    assert not reckoning.problems, "\n".join(reckoning.problems)
