"""A server with people who write, people who are told of it, a webhook; and the reckoning at the end of it."""

from __future__ import annotations

import asyncio
import itertools
import math
import secrets
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx
from standardwebhooks import Webhook

from tests.chaos.reconcile import Reckoning, collect, whole
from tests.chaos.stores import Stores
from tests.chaos.writers import Crew
from tests.contract.receivers import Hook, HookServer
from tests.contract.waiting import eventually
from tests.serving import ADMIN, PASSWORD

__all__ = ["ASSIGNEES", "SETTINGS", "WRITERS", "Scene", "people"]

WRITERS = 6
ASSIGNEES = 5
SETTINGS = {"password_hash": "fast", "rate_limit": "off", "webhook_allow_private": "true", "signup": "open"}


@dataclass(slots=True)
class Scene:
    """A project, its people and a webhook.

    Attributes:
        urls: of the server's gateways.
        run: a number that nobody else has; part of all names and of the ids of all requests.
        heard: the events that the webhook hears.
    """

    urls: Sequence[str]
    run: int
    project: str
    heard: str
    hooks: HookServer
    admin: str = ""
    writers: list[str] = field(default_factory=list)
    assignees: dict[str, str] = field(default_factory=dict)
    webhook: str = ""
    secret: str = ""

    @property
    def path(self) -> str:
        """Where the webhook receives."""
        return f"/events/{self.run}"

    def crew(self, *, strict: bool = False, rate: float = 0) -> Crew:
        """Its writers, who do not write yet."""
        return Crew(self.urls, self.project, list(self.assignees), strict, rate)

    async def somebody_signs_in(self) -> str:
        """The administrator; the id of the request."""
        number = f"scene-{self.run}-{secrets.token_hex(4)}"
        async with httpx.AsyncClient(base_url=self.urls[0], headers={"x-request-id": number}) as client:
            await _sign_in(client, ADMIN)
        return number

    @asynccontextmanager
    async def writing(self, *, strict: bool = False, rate: float = 0) -> AsyncIterator[Crew]:
        """Its writers, at work as soon as they are told that the server is up; dismissed afterwards."""
        crew = self.crew(strict=strict, rate=rate)
        crew.begin(self.writers, self.run)
        try:
            yield crew
        finally:
            await crew.dismiss()

    async def reckon(self, crew: Crew, besides: Collection[str] = (), *, alone: bool = True) -> Reckoning:
        """Compares what the writers were told with what REST answers. `alone`: nobody else is at work there."""
        mine = f'request_id.startsWith("write-{self.run}-") || request_id.startsWith("scene-{self.run}-")'
        facts = await collect(
            self.urls[0],
            self.admin,
            self.assignees,
            self.project,
            events="" if alone else mine,
            deliveries="" if alone else f'webhook == "{self.webhook}"',
        )
        reckoning = Reckoning(crew.acknowledged, facts, self.webhook, besides, self.heard)
        reckoning.tasks()
        reckoning.audit()
        reckoning.order()
        reckoning.inboxes()
        hooks = whole(self.hooks.at(self.path))
        reckoning.webhooks(hooks)
        reckoning.problems += [
            f"webhook {hook.headers['webhook-id']} is not signed" for hook in hooks if not self._signed(hook)
        ]
        return reckoning

    async def leave(self) -> None:
        """Its webhook hears no more: who comes later on the same servers would pay for it with each write."""
        headers = {"authorization": f"Bearer {self.admin}"}
        async with httpx.AsyncClient(base_url=self.urls[0], headers=headers, timeout=30) as client:
            await client.delete(f"/v1/webhooks/{self.webhook}")

    def _signed(self, hook: Hook) -> bool:
        # Not by `Webhook.verify`, which refuses what came minutes ago.
        sent = datetime.fromtimestamp(int(hook.headers["webhook-timestamp"]), UTC)
        signature = Webhook(self.secret).sign(hook.headers["webhook-id"], sent, hook.body.decode())
        return signature in hook.headers["webhook-signature"].split(" ")

    async def settle(self, stores: Stores, seconds: float, besides: Collection[str] | None = ()) -> None:
        """Returns when no event and no delivery is on its way, but for the deliveries named; None: but for those whose
        time has not come. As long as there is less and less, that may take its time: writers can be faster than those
        who hear of it. `seconds`: for how long it may not get less."""
        fewest, until = math.inf, time.monotonic() + seconds
        while left := await stores.left_over(besides if besides is not None else await stores.cut_off()):
            now, count = time.monotonic(), sum(left.values())
            if count < fewest:
                fewest, until = count, now + seconds
            assert now < until, f"did not get less in {seconds} s: {left}"
            await asyncio.sleep(0.1)  # looking costs the servers something


async def people(
    urls: Sequence[str], hooks: HookServer, *, writers: int = WRITERS, assignees: int = ASSIGNEES, heard: str = "task.*"
) -> Scene:
    """Makes them all. An administrator is there already; what only comes after an event is waited for."""
    run = secrets.randbelow(10**9)
    scene = Scene(urls, run, f"C{secrets.token_hex(4).upper()}", heard, hooks)
    count = itertools.count()

    async def number(request: httpx.Request) -> None:
        request.headers["x-request-id"] = f"scene-{run}-{next(count)}"

    async with httpx.AsyncClient(base_url=urls[0], timeout=30, event_hooks={"request": [number]}) as client:
        scene.admin = await eventually(lambda: _sign_in(client, ADMIN), "the administrator", seconds=60,
                                       ignore=(AssertionError,))  # fmt: skip
        project = {"key": scene.project, "display_name": "Chaos", "visibility": "private"}
        await _post(client, "/v1/projects", project, scene.admin)
        webhook = {"url": f"{hooks.url}{scene.path}", "event_types": [heard]}
        made = await _post(client, "/v1/webhooks", webhook, scene.admin)
        scene.webhook, scene.secret = made["id"], made["secret"]
        names = [*(f"writer{n}" for n in range(writers)), *(f"assignee{n}" for n in range(assignees))]
        for name, (identifier, token) in zip(
            names, await asyncio.gather(*(_person(client, scene, name) for name in names)), strict=True
        ):
            if name.startswith("writer"):
                scene.writers.append(token)
            else:
                scene.assignees[identifier] = token
    return scene


async def _person(client: httpx.AsyncClient, scene: Scene, name: str) -> tuple[str, str]:
    email = f"{name}-{scene.run}@example.org"
    await _post(client, "/v1/auth/register", {"email": email, "password": PASSWORD, "display_name": name})
    token = await eventually(lambda: _sign_in(client, email), f"the account of {name}", seconds=30,
                             ignore=(AssertionError,))  # fmt: skip
    headers = {"authorization": f"Bearer {token}"}

    async def me() -> str:
        return str((await client.get("/v1/users/me", headers=headers)).json().get("id", ""))

    identifier = await eventually(me, f"the first role of {name}", seconds=30)
    role = "editor" if name.startswith("writer") else "viewer"
    await _post(client, f"/v1/projects/{scene.project}/members", {"user": identifier, "role": role}, scene.admin)
    return identifier, token


async def _post(client: httpx.AsyncClient, path: str, body: object, token: str = "") -> dict[str, str]:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    response = await client.post(path, json=body, headers=headers)
    assert response.is_success, f"{path}: {response.status_code} {response.text}"
    answer: dict[str, str] = response.json()
    return answer


async def _sign_in(client: httpx.AsyncClient, email: str) -> str:
    return (await _post(client, "/v1/auth/login", {"email": email, "password": PASSWORD}))["access_token"]
