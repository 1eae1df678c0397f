"""Lists, search, import and export of tasks, over every wire (TASK-6, TASK-9, AUTHZ-5)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from taskman_sdk.errors import InvalidArgumentError
from tests.contract.world import Person, Site

Json = dict[str, Any]


async def titles(person: Person, **request: Any) -> list[str]:
    """The titles on all pages."""
    found, token = [], ""
    while True:
        page = await person.call("TaskService.ListTasks", page_token=token, **request)
        found += [task["title"] for task in page["tasks"]]
        token = page["next_page_token"]
        if not token:
            return found


async def filled(person: Person, *tasks: Json) -> str:
    """A project with tasks."""
    project = await person.project()
    answer = await person.call("TaskService.ImportTasks", project=project["id"], tasks=list(tasks))
    assert [result["error"] for result in answer["results"]] == [""] * len(tasks)
    return str(project["id"])


async def test_a_filter_selects_in_the_common_language(site: Site, ann: Person) -> None:
    """TASK-6: CEL over the fields of a task."""
    project = await filled(
        ann,
        {"title": "one", "labels": ["fix", "web"], "priority": "high"},
        {"title": "two", "labels": ["fix"], "state": "in_progress", "due_time": "2030-01-01T00:00:00Z"},
        {"title": "three", "state": "done"},
    )
    for filter, wanted in (
        ('"fix" in labels', ["one", "two"]),
        ('"fix" in labels && state == "todo"', ["one"]),
        ('state != "done" || title == "three"', ["one", "two", "three"]),
        ('!("fix" in labels)', ["three"]),
        ('title.startsWith("t") && title.contains("o")', ["two"]),
        ('priority in ["high", "urgent"]', ["one"]),
        ("due_time == null", ["one", "three"]),
        ('due_time < timestamp("2031-01-01T00:00:00Z")', ["two"]),
        (f'creator == "{ann.id}"', ["one", "two", "three"]),
        ("size(labels) == 2", ["one"]),
        ("false", []),
    ):
        assert await titles(ann, project=project, filter=filter) == wanted, filter


@pytest.mark.parametrize(
    "filter",
    ["state ==", "state = 1", "nothing == 1", "title", "state == 1", "labels == 'x'", "title.matches('(a+)+$') ||",
     "[1,2].all(x, x > 0", "\"unclosed", "state == 'a' && && true", "task.state == 'x'"],
)  # fmt: skip
async def test_a_bad_filter_is_refused_with_its_position(site: Site, filter: str) -> None:
    """TASK-6, AUTHZ-3: line and column, the field, and what is wrong."""
    ann = await site.person("Ann")
    error = await ann.refused("TaskService.ListTasks", filter=filter)
    assert (type(error), error.reason) == (InvalidArgumentError, "EXPRESSION_INVALID")
    assert [each.field for each in error.field_violations] == ["filter"]
    assert int(error.metadata["line"]) == 1
    assert 1 <= int(error.metadata["column"]) <= len(filter) + 1


async def test_an_order_sorts_and_an_unknown_one_names_the_legal_ones(site: Site, ann: Person) -> None:
    """TASK-6: AIP-132."""
    project = await filled(
        ann,
        {"title": "b", "priority": "low", "due_time": "2030-01-02T00:00:00Z"},
        {"title": "a", "priority": "urgent"},
        {"title": "c", "priority": "medium", "due_time": "2030-01-01T00:00:00Z"},
    )
    for order, wanted in (
        ("", "bac"),
        ("title", "abc"),
        ("title desc", "cba"),
        ("priority", "bca"),
        ("priority desc", "acb"),
        ("due_time", "cba"),
        ("create_time desc", "cab"),
    ):
        assert "".join(await titles(ann, project=project, order_by=order, page_size=2)) == wanted, order
    error = await ann.refused("TaskService.ListTasks", project=project, order_by="colour")
    assert (type(error), error.reason) == (InvalidArgumentError, "ORDER_BY_INVALID")
    assert "due_time" in error.message


async def test_pages_have_no_gap_and_no_repeat_while_another_writes(site: Site, ann: Person, bob: Person) -> None:
    """TASK-6: keyset cursors; what was there all the time is seen exactly once."""
    names = [f"t{number:03}" for number in range(60)]
    project = await filled(ann, *[{"title": name} for name in names])
    await ann.add(project, bob)
    stop = asyncio.Event()

    async def write() -> int:
        count = 0
        while not stop.is_set():
            task = await bob.task(project, f"new{count}")
            if count % 2:
                await bob.call("TaskService.DeleteTask", task=task["id"])
            count += 1
        return count

    writer = asyncio.create_task(write())
    try:
        for order in ("title", "title desc", "create_time"):
            found = await titles(ann, project=project, order_by=order, page_size=7)
            seen = [title for title in found if title.startswith("t")]
            assert seen == (sorted(names, reverse=True) if order.endswith("desc") else names)
            assert len(found) == len(set(found))
    finally:
        stop.set()
        assert await writer > 0


async def test_page_sizes_are_coerced(site: Site, ann: Person) -> None:
    """AIP-158: 0 is 50, too many are cut, fewer than none is an error."""
    project = await filled(ann, *[{"title": f"t{number}"} for number in range(55)])
    page = await ann.call("TaskService.ListTasks", project=project)
    assert len(page["tasks"]) == 50
    assert page["next_page_token"]
    assert page.get("total_size") is None
    page = await ann.call("TaskService.ListTasks", project=project, page_size=100_000, include_total_size=True)
    assert (len(page["tasks"]), page["total_size"], page["next_page_token"]) == (55, 55, "")
    page = await ann.call("TaskService.ListTasks", project=project, page_size=2, include_total_size=True)
    assert (len(page["tasks"]), page["total_size"]) == (2, 55)
    error = await ann.refused("TaskService.ListTasks", project=project, page_size=-1)
    assert [each.field for each in error.field_violations] == ["page_size"]


async def test_a_page_token_is_good_for_its_own_list_alone(site: Site, ann: Person, bob: Person) -> None:
    """AIP-158: made up, cut, tampered with, or of another query."""
    project = await filled(ann, *[{"title": f"t{number}"} for number in range(4)])
    token = (await ann.call("TaskService.ListTasks", project=project, page_size=2))["next_page_token"]
    middle = "A" if token[len(token) // 2] != "A" else "B"
    bad: list[Json] = [
        {"page_token": "nonsense"},
        {"page_token": token[:-4]},
        {"page_token": token[: len(token) // 2] + middle + token[len(token) // 2 + 1 :]},
        {"page_token": "日本"},
        {"page_token": token, "filter": 'state == "todo"'},
        {"page_token": token, "order_by": "title"},
        {"page_token": token, "show_deleted": True},
    ]
    for fields in bad:
        error = await ann.refused("TaskService.ListTasks", {"project": project, "page_size": 2, **fields})
        assert (type(error), error.reason) == (InvalidArgumentError, "PAGE_TOKEN_INVALID"), fields
        assert [each.field for each in error.field_violations] == ["page_token"]


async def test_lists_show_what_check_would_allow(site: Site, ann: Person, bob: Person) -> None:
    """AUTHZ-5: policy inside the query: pages are full and counts are right."""
    shared, hidden = await ann.project(), await ann.project()
    await ann.add(shared["id"], bob, "viewer")
    for number in range(6):
        await ann.task((shared if number % 2 else hidden)["id"], f"t{number}", labels=["mix"])
    request = {"filter": f'"mix" in labels && creator == "{ann.id}"', "page_size": 2, "include_total_size": True}
    mine = await ann.call("TaskService.ListTasks", request)
    assert mine["total_size"] == 6
    page = await bob.call("TaskService.ListTasks", request)
    assert [task["title"] for task in page["tasks"]] == ["t1", "t3"]
    assert page["total_size"] == 3
    page = await bob.call("TaskService.ListTasks", request, page_token=page["next_page_token"])
    assert [task["title"] for task in page["tasks"]] == ["t5"]
    assert page["next_page_token"] == ""


async def test_search_finds_words_and_beginnings(site: Site, ann: Person, bob: Person) -> None:
    """TASK-6: title, description, labels and key; nobody finds what they may not see."""
    word = "kräuterquark"
    project = await filled(
        ann,
        {"title": f"Buy {word} and milk"},
        {"title": "Groceries", "description": f"more {word}"},
        {"title": "Other", "labels": [word]},
        {"title": "Nothing of it"},
    )
    only = {"filter": f'project == "{project}"'}
    for query, count in ((word, 3), (f"{word} milk", 1), ("kräuter", 3), ("krauter", 3), (f"{word} absent", 0)):
        found = await ann.call("TaskService.SearchTasks", only, query=query)
        assert len(found["tasks"]) == count, query
    assert (await bob.call("TaskService.SearchTasks", query=word, filter=only["filter"]))["tasks"] == []
    key = (await ann.call("TaskService.ListTasks", project=project, page_size=1))["tasks"][0]["key"]
    assert [t["key"] for t in (await ann.call("TaskService.SearchTasks", query=key))["tasks"]][:1] == [key]
    page = await ann.call("TaskService.SearchTasks", only, query=word, page_size=2)
    rest = await ann.call("TaskService.SearchTasks", only, query=word, page_size=2, page_token=page["next_page_token"])
    assert len({task["id"] for task in page["tasks"] + rest["tasks"]}) == 3
    for hostile in ('"', "AND OR NOT", "a* b^2 (c", "title:x", "' OR 1=1 --", "NEAR(a b)"):
        answer = await ann.call("TaskService.SearchTasks", only, query=f"x{hostile}")
        assert answer["tasks"] == [], hostile
    error = await ann.refused("TaskService.SearchTasks", query="?!")
    assert [each.field for each in error.field_violations] == ["query"]


async def test_an_import_lands_the_good_ones_once(site: Site, ann: Person) -> None:
    """TASK-9: each task by itself; a second run makes nothing twice."""
    project = await ann.project()
    request: Json = {
        "project": project["key"],
        "tasks": [
            {"title": "good", "external_id": "x-1", "state": "done", "create_time": "2020-01-01T00:00:00Z"},
            {"title": "", "external_id": "x-2"},
            {"title": "bad state", "state": "nowhere"},
            {"title": "also good", "external_id": "x-3", "labels": ["a"]},
        ],
    }
    first = (await ann.call("TaskService.ImportTasks", request))["results"]
    assert [result["created"] for result in first] == [True, False, False, True]
    assert "title" in first[1]["error"]
    assert "state" in first[2]["error"]
    task = await ann.call("TaskService.GetTask", task=first[0]["key"])
    assert (task["state"], task["create_time"]) == ("done", "2020-01-01T00:00:00Z")
    again = (await ann.call("TaskService.ImportTasks", request))["results"]
    assert [result["created"] for result in again] == [False] * 4
    assert (again[0]["task"], again[3]["key"]) == (first[0]["task"], first[3]["key"])
    assert await titles(ann, project=project["id"]) == ["good", "also good"]


async def test_an_export_streams_everything_once(site: Site, ann: Person) -> None:
    """TASK-9: oldest first, in pages nobody sees, and only what the filter selects."""
    project = await filled(ann, *[{"title": f"t{number:03}"} for number in range(120)])
    answer = await ann.call("TaskService.ExportTasks", project=project)
    assert [each["task"]["title"] for each in answer["stream"]] == [f"t{number:03}" for number in range(120)]
    answer = await ann.call("TaskService.ExportTasks", project=project, filter='title < "t003"')
    assert [each["task"]["title"] for each in answer["stream"]] == ["t000", "t001", "t002"]
    error = await ann.refused("TaskService.ExportTasks", project=project, filter="title ==")
    assert (type(error), error.reason) == (InvalidArgumentError, "EXPRESSION_INVALID")


async def test_projects_are_listed_and_filtered(site: Site, ann: Person) -> None:
    """TASK-1, TASK-6."""
    made = [await ann.project(display_name=f"p{number}") for number in range(3)]
    keys = sorted(project["key"] for project in made)
    mine = {"filter": " || ".join(f'key == "{key}"' for key in keys), "page_size": 2}
    listed = await ann.call("TaskService.ListProjects", mine)
    more = await ann.call("TaskService.ListProjects", mine, page_token=listed["next_page_token"])
    assert [project["key"] for project in listed["projects"] + more["projects"]] == keys
    one = await ann.call("TaskService.ListProjects", filter=f'key == "{keys[0]}"')
    assert [project["key"] for project in one["projects"]] == keys[:1]
