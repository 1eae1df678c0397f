"""Lists: policy, filter, order and place in one statement (TASK-6, AUTHZ-5, AIP-158)."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from taskman_sdk.codec import Timestamp
from taskman_sdk.errors import InvalidArgumentError, NotFoundError, PermissionDeniedError
from taskman_sdk.proto.taskman.task.v1.task_pb import (
    DeleteTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    ListTasksResponse,
    Task,
    UpdateTaskRequest,
)
from taskman_server.kit.filters import list_environment
from taskman_server.services.tasks import rules
from taskman_server.services.tasks.store.search import fold
from tests.store.databases import KINDS, PostgresStock, lent_databases
from tests.store.tasks.harness import House, open_house

_FILTER = list_environment(Task)
_LABELS = ["fix", "ui", "Api", "läuft"]
_STATES = ["todo", "in_progress", "done"]
_TITLES = ["apple", "Äpfel", "banana", "Zebra", "zebra", "1st"]
_ORDERS = ["create_time", "update_time", "due_time", "priority", "title"]
_START = datetime(2030, 1, 1, tzinfo=UTC)

_ATOMS = st.one_of(
    st.sampled_from(_LABELS).map(lambda label: f'"{label}" in labels'),
    st.sampled_from(_STATES).map(lambda state: f'state == "{state}"'),
    st.sampled_from(list(rules.PRIORITIES)).map(lambda priority: f'priority != "{priority}"'),
    st.integers(0, 5).map(lambda days: f'due_time < timestamp("{(_START + timedelta(days=days)).isoformat()}")'),
    st.sampled_from(_TITLES).map(lambda title: f'title.contains("{title[1:3]}")'),
    st.sampled_from([
        "due_time != null",
        "due_time == null",
        "due_time < now",
        "size(labels) > 1",
        "labels.exists(l, l.startsWith('f'))",
        "labels.all(l, l != 'ui')",
        "size(assignees) == 0",
        "complete_time != null",
        "key.endsWith('3')",
        "state in ['todo', 'done']",
        "'USER' in assignees",
        "title in labels",
        "creator in assignees",
        "creator == 'USER'",
        "project == 'PROJECT'",
    ]),
)  # fmt: skip
_EXPRESSIONS = st.recursive(
    _ATOMS,
    lambda inner: st.one_of(
        inner.map(lambda a: f"!({a})"),
        st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
    ),
    max_leaves=4,
)
_POLICIES = [
    "",
    "true",
    "principal.id in resource.members",
    'resource.visibility == "organization" || principal.id in resource.editors',
    "principal.id in resource.assignees || resource.creator == principal.id",
    '!("ui" in resource.labels) && principal.id in resource.members',
    'principal.id in resource.admins || (resource.state == "todo" && resource.priority in ["high", "urgent"])',
]


class _World:
    """A service with two projects and random tasks, and a memory of them."""

    def __init__(self, house: House, seed: int) -> None:
        self.house = house
        self.random = random.Random(seed)
        self.ann, self.bob = house.peers.user(), house.peers.user()
        self.projects: dict[str, dict[str, Any]] = {}
        self.tasks: list[Task] = []

    async def fill(self, count: int) -> None:
        for key, visibility in (("WEB", "private"), ("OPS", "organization"), ("OWN", "private")):
            members = {"editor": self.bob} if key == "WEB" else {}
            project = await self.house.project(self.ann, key, visibility, **members)
            self.projects[project.id] = {"visibility": visibility, "members": {m.user: m.role for m in project.members}}
        for _ in range(count):
            await self.add()

    async def add(self) -> None:
        pick = self.random
        self.house.clock.advance(pick.choice([0, 0, 3600]))  # many at one time: the order must be total all the same
        project = pick.choice(["WEB", "WEB", "OPS", "OWN"])
        due = self._due() if pick.random() < 0.6 else None
        task = await self.house.task(
            self.ann if project == "OWN" or pick.random() < 0.5 else self.bob if project == "WEB" else self.ann,
            pick.choice(_TITLES),
            project,
            labels=pick.sample(_LABELS, pick.randint(0, 3)),
            state=pick.choice(_STATES),
            priority=pick.choice(list(rules.PRIORITIES)),
            due_time=due,
            assignees=pick.sample([self.ann] if project == "OWN" else [self.ann, self.bob], pick.randint(0, 1)),
        )
        self.tasks.append(task)

    def _due(self) -> Timestamp:
        return Timestamp(seconds=int(_START.timestamp()) + self.random.randint(0, 5) * 86400)

    def expected(self, user: str, policy: str, text: str, order: str, project: str) -> list[Task]:
        """What a list must hold, by looking at every task in turn."""
        program = _FILTER.compile(text) if text else None
        found = [
            task
            for task in self.tasks
            if (not project or task.project == project)
            and self._may(user, policy, task)
            and (program is None or program.test({**_plain(task), "now": self.house.clock.now()}))
        ]
        name, _, direction = order.partition(" ")
        places = {task.id: index for index, task in enumerate(self.tasks)}
        found.sort(key=lambda task: places[task.id], reverse=bool(direction))
        found.sort(key=lambda task: _sort_key(task, name), reverse=bool(direction))
        if name == "due_time":
            found.sort(key=lambda task: task.due_time is None)
        return found

    def _may(self, user: str, policy: str, task: Task) -> bool:
        from taskman_server.kit.guard import environment_for

        project = self.projects[task.project]
        members = project["members"]
        resource = {
            **{name: getattr(task, name) for name in ("id", "project", "state", "priority", "creator")},
            "labels": list(task.labels),
            "assignees": list(task.assignees),
            "visibility": project["visibility"],
            "members": list(members),
            "editors": [u for u, role in members.items() if role in ("editor", "admin")],
            "admins": [u for u, role in members.items() if role == "admin"],
        }
        principal = {"id": user, "type": "user", "organization": "org_one", "roles": ["member"]}
        bindings = {"resource": resource, "principal": principal, "now": self.house.clock.now()}
        default = 'resource.visibility == "organization" || principal.id in resource.members'
        return environment_for("tasks.read").compile(policy or default).test(bindings)


def _plain(task: Task) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in _FILTER.variables:
        if name == "now":
            continue
        value = getattr(task, name)
        values[name] = value.to_datetime() if isinstance(value, Timestamp) else value
    return values


def _sort_key(task: Task, name: str) -> Any:
    if name == "priority":
        return rules.PRIORITIES[task.priority]
    if name == "title":
        return fold(task.title)
    value = getattr(task, name)
    return (0, 0) if value is None else (value.seconds, value.nanos)


@pytest.mark.parametrize("kind", KINDS)
# no shrinking: each example is a service of its own, and the assertion names the question
@settings(
    max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)
@given(
    seed=st.integers(0, 2**32),
    questions=st.lists(
        st.tuples(
            st.one_of(st.just(""), _EXPRESSIONS),
            st.sampled_from(_POLICIES),
            st.sampled_from(_ORDERS),
            st.booleans(),
            st.integers(1, 25),
            st.booleans(),
        ),
        min_size=12,
        max_size=12,
    ),
)
def test_a_list_is_what_looking_at_every_task_finds(
    kind: str, postgres_stock: Callable[[], PostgresStock], seed: int, questions: Sequence[tuple[Any, ...]]
) -> None:
    """AUTHZ-5, TASK-6: random tasks × filters × policies × orders; all pages together, no gap, no repeat, sorted."""

    async def check() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with lent_databases(kind, Path(folder), postgres_stock) as databases, open_house(databases) as house:
                world = _World(house, seed)
                await world.fill(40)
                for text, policy, order, descending, size, narrowed in questions:
                    user = house.peers.user() if len(text) % 3 == 2 else (world.ann, world.bob)[len(text) % 3]
                    house.peers.policies.pop("tasks.read", None)
                    if policy:
                        house.peers.policies["tasks.read"] = policy
                    # plans are kept for a moment: a principal that was not asked about yet has none
                    house.runtime.guard._plans._known.clear()
                    project = next(p for p, v in world.projects.items() if v["visibility"] == "organization")
                    text = text.replace("USER", user).replace("PROJECT", project)
                    order = f"{order} desc" if descending else order
                    asked = {"filter": text, "order_by": order, "project": project if narrowed else ""}
                    expected = world.expected(user, policy, text, order, asked["project"])
                    found = await house.pages(user, size, **asked)
                    assert [t.key for t in found] == [t.key for t in expected], (asked, policy)
                    assert found == expected
                    request = ListTasksRequest(page_size=1, include_total_size=True, **asked)
                    answer = await house.call(user, "ListTasks", request, ListTasksResponse)
                    assert answer.total_size == len(expected)

    asyncio.run(check())


@pytest.mark.parametrize("order", ["create_time", "create_time desc", "due_time", "priority desc", "title"])
async def test_a_writer_neither_shifts_nor_repeats_a_page(house: House, order: str) -> None:
    """AIP-158: while others insert, delete and change tasks, those that stay are seen exactly once, in order."""
    world = _World(house, 7)
    await world.fill(60)
    before = world.expected(world.ann, "", "", order, "")
    gone: set[str] = set()
    seen: list[Task] = []
    token = ""
    while True:
        request = ListTasksRequest(page_size=7, page_token=token, order_by=order)
        answer = await house.call(world.ann, "ListTasks", request, ListTasksResponse)
        seen += answer.tasks
        token = answer.next_page_token
        if not token:
            break
        await asyncio.gather(*(world.add() for _ in range(3)))
        victim = world.random.choice([task for task in before if task.id not in gone])
        gone.add(victim.id)
        await house.call(world.ann, "DeleteTask", DeleteTaskRequest(task=victim.id), Task)
        other = world.random.choice([task for task in before if task.id not in gone])
        change = UpdateTaskRequest(task=Task(id=other.id, description=f"changed {len(seen)}"))
        await house.call(world.ann, "UpdateTask", change, Task)
    ids = [task.id for task in seen]
    assert len(ids) == len(set(ids))
    stayed = [task.id for task in before if task.id not in gone]
    assert [task_id for task_id in ids if task_id in set(stayed)] == stayed


async def test_pages_have_a_default_and_a_largest_size(house: House) -> None:
    """AIP-158: 50, at most 1000."""
    ann = house.peers.user()
    await house.project(ann)
    for n in range(51):
        await house.task(ann, f"T{n}")
    answer = await house.call(ann, "ListTasks", ListTasksRequest(), ListTasksResponse)
    assert len(answer.tasks) == 50
    assert answer.next_page_token
    assert not answer.has_field("total_size")
    answer = await house.call(ann, "ListTasks", ListTasksRequest(page_size=100_000), ListTasksResponse)
    assert (len(answer.tasks), answer.next_page_token) == (51, "")


async def test_a_project_that_one_may_not_see_is_not_there(house: House) -> None:
    """Open point 23: by id or key, for strangers and other organizations; by either for members."""
    ann, zoe, far = house.peers.user(), house.peers.user(), house.peers.user(organization="org_two")
    project = await house.project(ann)
    made = await house.task(ann)
    for name in (project.id, "web"):
        assert await house.pages(ann, project=name) == [made]
        for user in (zoe, far):
            with pytest.raises(NotFoundError):
                await house.pages(user, project=name)
    assert await house.pages(zoe) == await house.pages(far) == []


async def test_a_token_belongs_to_its_question(house: House) -> None:
    """AIP-158: another filter, order, project or tenant, or a forged token, is refused."""
    ann, far = house.peers.user(), house.peers.user(organization="org_two")
    await house.project(ann)
    for n in range(3):
        await house.task(ann, f"T{n}")
    first = await house.call(ann, "ListTasks", ListTasksRequest(page_size=1), ListTasksResponse)
    token = first.next_page_token
    for user, request in (
        (ann, ListTasksRequest(page_token=token, filter='state == "todo"')),
        (ann, ListTasksRequest(page_token=token, order_by="title")),
        (ann, ListTasksRequest(page_token=token, project="WEB")),
        (ann, ListTasksRequest(page_token=token, show_deleted=True)),
        (far, ListTasksRequest(page_token=token)),
        (ann, ListTasksRequest(page_token=token[:-2] + "zz")),
        (ann, ListTasksRequest(page_token="nonsense")),
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            await house.call(user, "ListTasks", request, ListTasksResponse)
        assert caught.value.reason == "PAGE_TOKEN_INVALID"
        assert caught.value.field_violations[0].field == "page_token"
    other_size = ListTasksRequest(page_token=token, page_size=1000)
    assert len((await house.call(ann, "ListTasks", other_size, ListTasksResponse)).tasks) == 2


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (ListTasksRequest(order_by="key"), "order_by"),
        (ListTasksRequest(order_by="title down"), "order_by"),
        (ListTasksRequest(order_by="title desc, key"), "order_by"),
        (ListTasksRequest(filter="state ="), "filter"),
        (ListTasksRequest(filter='etag == "x"'), "filter"),
        (ListTasksRequest(filter='title.matches("a.*")'), "filter"),
        (ListTasksRequest(page_size=-1), "page_size"),
    ],
)
async def test_a_wrong_question_names_the_field(house: House, request_: ListTasksRequest, field: str) -> None:
    """TASK-6, GATE-1: and what cannot be searched is refused, not sifted afterwards."""
    ann = house.peers.user()
    await house.project(ann)
    with pytest.raises(InvalidArgumentError) as caught:
        await house.call(ann, "ListTasks", request_, ListTasksResponse)
    assert caught.value.field_violations[0].field == field


async def test_a_policy_that_cannot_be_searched_by_denies_and_says_so(house: House) -> None:
    """AUTHZ-5: nothing is sifted afterwards; a single task is still decided on."""
    ann = house.peers.user()
    await house.project(ann)
    made = await house.task(ann)
    house.peers.policies["tasks.read"] = 'resource.state.matches("t.*")'
    assert await house.call(ann, "GetTask", GetTaskRequest(task=made.id), Task) == made
    with pytest.raises(PermissionDeniedError) as caught:
        await house.pages(ann)
    assert caught.value.reason == "POLICY_NOT_SEARCHABLE"
