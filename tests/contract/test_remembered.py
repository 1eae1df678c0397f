"""Answers that are remembered whole: the same to the byte, never one that would not be given now (GATE-2, AUTHZ-1)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio

import taskman_server
from taskman_sdk import AsyncTaskMan
from taskman_sdk.proto.taskman.iam.v1.iam_pb import Effect
from taskman_sdk.proto.taskman.task.v1.task_pb import Task
from taskman_server.app import Application
from taskman_server.kit.clock import ManualClock
from tests.contract.servers import ServerProcess
from tests.contract.waiting import eventually
from tests.contract.world import Site, project_key

EMAIL, PASSWORD = "root@example.org", "correct horse battery staple"
OWN = {"x-request-id", "ratelimit"}
"""Headers of each answer alone."""


@pytest.fixture(params=[("rest", "server"), ("workers", "crew")], ids=["rest", "workers"])
def place(request: pytest.FixtureRequest) -> tuple[Site, ServerProcess]:
    """A server of one process, and of two, where answers are remembered."""
    site, server = request.param
    return request.getfixturevalue(site), request.getfixturevalue(server)


async def test_the_second_answer_is_the_first_one_to_the_byte(place: tuple[Site, ServerProcess]) -> None:
    """GATE-1, GATE-3: body and headers; the request's id and what is left of the limit are each one's own."""
    site, server = place
    ann = await site.new_person("Ann")
    task = await ann.task((await ann.project(key=project_key()))["id"], title="Ünïcode “quotes”", labels=["a", "b"])
    headers = {"authorization": f"Bearer {ann.token}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False) as http:
        # One connection: one process, which works on the first and remembers it.
        answers = [await http.get(f"/v1/tasks/{task['id']}", headers={"x-request-id": f"r{n}"}) for n in range(3)]
    assert [each.status_code for each in answers] == [200] * 3
    assert len({each.content for each in answers}) == 1
    assert len({tuple((k, v) for k, v in sorted(each.headers.items()) if k not in OWN) for each in answers}) == 1
    assert [each.headers["x-request-id"] for each in answers] == ["r0", "r1", "r2"]
    assert answers[0].json()["title"] == "Ünïcode “quotes”"


@dataclass(slots=True)
class House:
    """A server in this process, with somebody in it and a task that was read once."""

    app: Application
    clock: ManualClock
    admin: AsyncTaskMan
    ada: AsyncTaskMan
    token: str
    task: Task

    async def read(self, token: str = "", **headers: str) -> int:
        """The status by the path of all requests."""
        transport = httpx.ASGITransport(self.app.gateway)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            sent = {"authorization": f"Bearer {token or self.token}", **headers}
            return (await http.get(f"/v1/tasks/{self.task.id}", headers=sent)).status_code

    def again(self, target: str = "", authorization: str = "", **headers: str) -> bytes | None:
        """What is remembered for this request."""
        sent = {"authorization": authorization or f"Bearer {self.token}", **headers}
        raw = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in sent.items()]
        return self.app.gateway.remembered.answer((target or f"/v1/tasks/{self.task.id}").encode(), raw, "127.0.0.1")


async def _token(app: Application, email: str) -> str:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app.gateway), base_url="http://x") as http:
        answer = await http.post("/v1/auth/login", json={"email": email, "password": PASSWORD})
        return str(answer.json()["access_token"])


@asynccontextmanager
async def _house(**settings: Any) -> AsyncIterator[House]:
    clock = ManualClock(datetime.now(UTC))
    async with taskman_server.embedded(
        clock=clock, password_hash="fast", admin_email=EMAIL, admin_password=PASSWORD, **settings
    ) as app:
        admin, ada = app.client(), app.client()
        await admin.auth.login(email=EMAIL, password=PASSWORD)
        await ada.auth.register(email="ada@example.org", password=PASSWORD, display_name="Ada")
        await app.settled()
        await ada.auth.login(email="ada@example.org", password=PASSWORD)
        project = await ada.projects.create(key="P", display_name="P", visibility="private")
        task = await ada.tasks.create(project=project.id, title="A")
        await app.settled()
        house = House(app, clock, admin, ada, await _token(app, "ada@example.org"), task)
        assert await house.read() == 200
        assert house.again() is not None
        yield house


@pytest_asyncio.fixture(loop_scope="session")
async def house() -> AsyncIterator[House]:
    """Ada has a task in a private project, and has read it."""
    async with _house(rate_limit="off") as house:
        yield house


async def _nothing(house: House, what: str) -> None:
    async def gone() -> bool:
        return house.again() is None

    await eventually(gone, what)


async def test_whoever_changes_a_task_reads_what_they_wrote(house: House) -> None:
    """TASK-1: a commit forgets the answer before its caller is answered."""
    await house.ada.tasks.update(house.task.id, title="B")
    assert house.again() is None
    await house.ada.tasks.get(house.task.id)  # by another way, which reads the row anew
    assert house.again() is None
    assert await house.read() == 200
    answer = house.again()
    assert answer is not None
    assert b'"title":"B"' in answer
    await house.ada.tasks.delete(house.task.id)
    assert house.again() is None


async def test_a_project_that_changes_its_members_is_decided_on_anew(house: House) -> None:
    """AUTHZ-1: members and visibility are no part of the answer, but of the decision."""
    await house.ada.projects.update(house.task.project, visibility="organization")
    assert house.again() is None


async def test_a_session_that_ended_gets_no_answer(house: House) -> None:
    """AUTHN-4: the token is looked at for each request."""
    async with house.app.client(token=house.token) as session:
        await session.auth.logout()
    await _nothing(house, "the end of the session")
    assert await house.read() == 401


async def test_a_token_that_expires_gets_no_answer(house: House) -> None:
    """AUTHN-3."""
    house.clock.advance(24 * 3600)
    assert house.again() is None
    assert await house.read() == 401


async def test_another_person_is_decided_on_by_their_own_plan(house: House) -> None:
    """AUTHZ-1: what one may read, another may not, and the answer is the same for all who may."""
    await house.ada.auth.register(email="bob@example.org", password=PASSWORD, display_name="Bob")
    await house.app.settled()
    bob = await _token(house.app, "bob@example.org")
    assert house.again(authorization=f"Bearer {bob}") is None, "nothing is known of them"
    assert await house.read(bob) == 404
    assert house.again(authorization=f"Bearer {bob}") is None, "their plan says no"
    mine = house.again(x_request_id="r")
    root = await _token(house.app, EMAIL)
    assert await house.read(root) == 200
    theirs = house.again(authorization=f"Bearer {root}", x_request_id="r")
    assert mine is not None
    assert theirs is not None
    assert re.sub(rb"ratelimit: .*?\r\n", b"", mine) == re.sub(rb"ratelimit: .*?\r\n", b"", theirs)


async def test_a_policy_that_changes_counts_for_what_is_remembered(house: House) -> None:
    """AUTHZ-4: a plan that is asked for anew is another plan, and decides anew."""
    await house.admin.policies.create(
        name="closed", effect=Effect.DENY, permissions=["tasks.read"], condition='resource.state == "todo"'
    )
    await house.app.settled()
    await _nothing(house, "the policy")
    assert await house.read() == 404


async def test_a_condition_on_the_time_is_looked_at_each_time(house: House) -> None:
    """AUTHZ-1, IAM-3: nothing is committed when the hour comes."""
    until = (house.clock.now() + timedelta(seconds=60)).strftime("%Y-%m-%dT%H:%M:%SZ")
    await house.admin.policies.create(
        name="later", effect=Effect.DENY, permissions=["tasks.read"], condition=f'now > timestamp("{until}")'
    )
    await house.app.settled()
    await _nothing(house, "the policy")
    assert await house.read() == 200
    assert house.again() is not None
    house.clock.advance(61)
    assert house.again() is None
    assert await house.read() == 404


async def test_the_limit_counts_remembered_answers() -> None:
    """GATE-3: and the refusal is that of the usual path."""
    async with _house(rate_limit="20/s") as house:
        given = 0
        while house.again() is not None:
            given += 1
            assert given < 20
        assert given > 10
        assert await house.read() == 429
        house.clock.advance(1)
        assert b"\r\nratelimit: " in (house.again() or b"")


@pytest.mark.parametrize(
    "headers",
    [
        {"x_request_timeout": "1"},
        {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
        {"if_match": '"x"'},
        {"content_length": "2"},
        {"authorization": "Basic eDp5"},
        {"authorization": "Bearer x"},
        {"authorization": "Bearer \xff"},
        {"target": "/v1/tasks/task_none"},
        {"target": "/v1/tasks?"},
    ],
)
async def test_a_request_that_asks_for_more_is_worked_on(house: House, headers: dict[str, str]) -> None:
    """GATE-1, GATE-9: a deadline, a trace, a body, another way to say who one is."""
    assert house.again(**headers) is None


async def test_an_id_of_a_request_that_is_no_id_is_replaced(house: House) -> None:
    """GATE-7: nothing of a client's stands in a head or a line of the log as it came."""
    answer = house.again(x_request_id="a\x01b")
    assert answer is not None
    assert re.search(rb"\r\nx-request-id: req_[0-9a-z]{26}\r\n", answer)
