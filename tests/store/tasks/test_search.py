"""Full-text search (TASK-6)."""

from __future__ import annotations

import random
from typing import Any

import pytest

from taskman_sdk.codec import FieldMask
from taskman_sdk.errors import InvalidArgumentError
from taskman_sdk.proto.taskman.task.v1.task_pb import (
    DeleteTaskRequest,
    ImportTasksRequest,
    ImportTasksResponse,
    RestoreTaskRequest,
    SearchTasksRequest,
    SearchTasksResponse,
    Task,
    UpdateTaskRequest,
)
from taskman_server.services.tasks.store.search import words
from tests.store.tasks.harness import House, shared_rows

_HOSTILE = [
    '"', '""', '"fix', "fix\"", "*", "fix*", "*fix", "NEAR(", "NEAR(fix kanban, 2)", "-fix", "fix - kanban", "OR",
    "fix OR", "fix OR kanban", "fix AND NOT kanban", "NOT", "title:fix", "{title}: fix", "^fix", "(fix", "fix)", "fix;",
    "'", "fix' OR 1=1 --", "\\", "fix\0kanban", "fix + kanban", "rowid", "a" * 500, "é" * 250, "🐉 fix", "\U0001e900",
    " ".join("abcdefghijklmnopqrstuvwxyz0123456789" * 6)[:500],
]  # fmt: skip


async def _search(house: House, user: str, query: str, **request: Any) -> list[Task]:
    asked = SearchTasksRequest(query=query, **request)
    return list((await house.call(user, "SearchTasks", asked, SearchTasksResponse)).tasks)


async def _all(house: House, user: str, query: str, size: int, **request: Any) -> list[Task]:
    found: list[Task] = []
    token = ""
    while True:
        asked = SearchTasksRequest(query=query, page_size=size, page_token=token, **request)
        answer = await house.call(user, "SearchTasks", asked, SearchTasksResponse)
        found += answer.tasks
        token = answer.next_page_token
        if not token:
            return found


async def _fill(house: House, user: str, count: int) -> list[Task]:
    """Real work items of the shared data."""
    rows = [row for row, _ in zip(shared_rows(), range(count), strict=False)]
    tasks = [
        Task(
            title=row["title"],
            description=row["description"],
            labels=list(dict.fromkeys(label for label in row["labels"].split(";") if label)),
            state=row["status"],
        )
        for row in rows
    ]
    for start in range(0, count, 500):
        request = ImportTasksRequest(project="WEB", tasks=tasks[start : start + 500])
        answer = await house.call(user, "ImportTasks", request, ImportTasksResponse)
        assert all(result.created for result in answer.results)
    return await house.pages(user, 1000)


def _matches(task: Task, query: str) -> bool:
    """Whether all words occur, the last one as a beginning: by looking, without an index."""
    fields = [f" {words(text)} " for text in (task.title, task.description, " ".join(task.labels), task.key)]
    *whole, last = [words(piece) for piece in query.split()]
    return all(any(f" {word} " in field for field in fields) for word in whole) and any(
        f" {last}" in field for field in fields
    )


async def test_real_titles_are_found_exactly_where_their_words_are(house: House) -> None:
    """TASK-6: a thousand real work items; each query finds what looking at every task finds."""
    ann = house.peers.user()
    await house.project(ann)
    tasks = await _fill(house, ann, 1000)
    pick = random.Random(3)
    queries = ["kanban", "fix kan", "WEB-42", "web-1", "task list", "migration bucket", "v", "readme typo"]
    for task in pick.sample(tasks, 25):
        pieces = [piece for piece in task.title.split() if words(piece)]
        chosen = pick.sample(pieces, min(len(pieces), pick.randint(1, 3)))
        queries.append(" ".join(chosen)[: pick.randint(3, 60)])
    for query in queries:
        if not words(query):
            continue
        asked = " ".join(piece for piece in query.split() if words(piece))
        expected = {task.key for task in tasks if _matches(task, asked)}
        found = await _all(house, ann, query, 37)
        assert {task.key for task in found} == expected, query
        assert len(found) == len(expected), query


async def test_the_key_finds_its_task_first(house: House) -> None:
    """TASK-6: `WEB-4` before `WEB-42`, in any case."""
    ann = house.peers.user()
    await house.project(ann)
    await _fill(house, ann, 100)
    for query in ("WEB-4", "web-4"):
        found = await _search(house, ann, query)
        assert found[0].key == "WEB-4"
        assert {task.key for task in found} >= {"WEB-4", "WEB-40", "WEB-42"}


async def test_a_word_in_the_title_weighs_more_than_in_the_description(house: House) -> None:
    """TASK-6: and labels are between them."""
    ann = house.peers.user()
    await house.project(ann)
    low = await house.task(ann, "One", description="about the dragon")
    middle = await house.task(ann, "Two", labels=["dragon"])
    high = await house.task(ann, "Dragon")
    for n in range(20):
        await house.task(ann, f"Other {n}")
    assert await _search(house, ann, "dragon") == [high, middle, low]


async def test_case_and_diacritics_do_not_count(house: House) -> None:
    """TASK-6: whichever way they are written, in the text or in the query."""
    ann = house.peers.user()
    await house.project(ann)
    made = await house.task(ann, "Überprüfe Ångström", labels=["naïve"], description="Straße 任务 задача")
    for query in ("uberpruf", "ÜBERPRÜFE", "u\u0308berpru\u0308fe", "angstrom NAIVE", "strasse", "任务", "ЗАДАЧА"):
        assert await _search(house, ann, query) == [made], query
    assert await _search(house, ann, "berprufe") == []


@pytest.mark.parametrize("query", _HOSTILE)
async def test_no_query_is_syntax(house: House, query: str) -> None:
    """TASK-6: whatever is typed is words to find, or told to be none; never an operator, never a fault."""
    ann = house.peers.user()
    await house.project(ann)
    both = await house.task(ann, "fix kanban")
    one = await house.task(ann, "fix only")
    none = await house.task(ann, "kanban only")
    pieces = [piece for piece in query.split() if words(piece)]
    if not pieces:
        with pytest.raises(InvalidArgumentError) as caught:
            await _search(house, ann, query)
        assert caught.value.field_violations[0].field == "query"
        return
    expected = {task.key for task in (both, one, none) if _matches(task, " ".join(pieces))}
    assert {task.key for task in await _search(house, ann, query)} == expected


async def test_the_index_follows_every_change(house: House) -> None:
    """TASK-6: in the same transaction as the change; the trash is not searched."""
    ann = house.peers.user()
    await house.project(ann)
    await house.task(ann, "old words", labels=["first"])

    async def found(query: str) -> bool:
        return bool(await _search(house, ann, query))

    mask = FieldMask(paths=["title", "labels", "description"])
    change = UpdateTaskRequest(
        task=Task(id="WEB-1", title="new", labels=["second"], description="text"), update_mask=mask
    )
    await house.call(ann, "UpdateTask", change, Task)
    assert [await found(q) for q in ("old", "first", "new", "second", "text")] == [False, False, True, True, True]
    await house.call(ann, "DeleteTask", DeleteTaskRequest(task="WEB-1"), Task)
    assert not await found("new")
    await house.call(ann, "RestoreTask", RestoreTaskRequest(task="WEB-1"), Task)
    assert await found("new")


async def test_one_finds_what_one_may_see_and_what_the_filter_lets_through(house: House) -> None:
    """AUTHZ-5: policy and filter are in the statement of the search."""
    ann, zoe, far = house.peers.user(), house.peers.user(), house.peers.user(organization="org_two")
    await house.project(ann)
    await house.project(ann, "OPN", "organization")
    await house.project(far, "FAR", "organization")
    hidden = await house.task(ann, "dragon hidden")
    seen = await house.task(ann, "dragon open", "OPN", labels=["big"])
    distant = await house.task(far, "dragon far", "FAR")
    assert {task.key for task in await _search(house, ann, "dragon")} == {hidden.key, seen.key}
    assert await _search(house, zoe, "dragon") == [seen]
    assert await _search(house, far, "dragon") == [distant]
    assert await _search(house, ann, "dragon", filter='"big" in labels') == [seen]
    with pytest.raises(InvalidArgumentError) as caught:
        await _search(house, ann, "dragon", filter="nothing")
    assert caught.value.field_violations[0].field == "filter"


@pytest.mark.parametrize("size", [1, 3, 10])
async def test_pages_of_a_search_are_one_ranking(house: House, size: int) -> None:
    """AIP-158: the pages together are the one large page, ties included."""
    ann = house.peers.user()
    await house.project(ann)
    for n in range(24):
        await house.task(ann, "dragon " * (n % 3 + 1) + "egg" * (n % 2), description="dragon" if n % 4 else "")
    whole = await _search(house, ann, "dragon", page_size=1000)
    assert len(whole) == 24
    assert await _all(house, ann, "dragon", size) == whole


async def test_a_writer_does_not_disturb_the_pages_of_a_search(house: House) -> None:
    """TASK-6: new tasks move all scores; the page goes on after the last task all the same, without the new ones."""
    ann = house.peers.user()
    await house.project(ann)
    for n in range(30):
        await house.task(ann, "dragon " + "word " * (n % 5))
    whole = [task.key for task in await _search(house, ann, "dragon", page_size=1000)]
    seen: list[str] = []
    token = ""
    while True:
        asked = SearchTasksRequest(query="dragon", page_size=4, page_token=token)
        answer = await house.call(ann, "SearchTasks", asked, SearchTasksResponse)
        seen += [task.key for task in answer.tasks]
        token = answer.next_page_token
        if not token:
            break
        for _ in range(5):
            await house.task(ann, "dragon " + "word " * 2)
        await house.call(ann, "DeleteTask", DeleteTaskRequest(task=seen[-1]), Task)
    assert seen == whole


async def test_a_token_of_another_search_is_refused(house: House) -> None:
    """AIP-158."""
    ann = house.peers.user()
    await house.project(ann)
    for _ in range(3):
        await house.task(ann, "dragon egg")
    asked = SearchTasksRequest(query="dragon", page_size=1)
    token = (await house.call(ann, "SearchTasks", asked, SearchTasksResponse)).next_page_token
    for query in ("egg", "dragon egg"):
        with pytest.raises(InvalidArgumentError) as caught:
            await _search(house, ann, query, page_token=token)
        assert caught.value.reason == "PAGE_TOKEN_INVALID"
