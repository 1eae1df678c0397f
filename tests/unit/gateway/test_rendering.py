"""Pages written of messages that are kept: the same to the byte as written at once (GATE-1)."""

from __future__ import annotations

import pytest

from taskman_sdk import codec, contract
from taskman_sdk.proto.taskman.task.v1.task_pb import ListTasksResponse, SearchTasksResponse, Task
from taskman_server.gateway.rendering import Rendering, items_of

TASKS = [Task(id=f"task_{n}", title=f'Ünï "{n}" ],[ {{}}', labels=["a", '"tasks":[]']) for n in range(3)]


@pytest.mark.parametrize(
    "page",
    [
        ListTasksResponse(),
        ListTasksResponse(tasks=TASKS[:1]),
        ListTasksResponse(tasks=TASKS, next_page_token='"tasks":[]', total_size=0),
        ListTasksResponse(tasks=[TASKS[1], TASKS[0], TASKS[1]], total_size=3),
        SearchTasksResponse(tasks=TASKS, next_page_token="t"),
    ],
)
def test_a_page_of_kept_messages_is_written_as_ever(page: ListTasksResponse | SearchTasksResponse) -> None:
    """GATE-1: the first time and again."""
    rendering = Rendering()
    assert rendering.to_json(page, "tasks") == rendering.to_json(page, "tasks") == codec.to_json(page)


def test_another_message_is_never_taken_for_one_that_is_gone() -> None:
    """GATE-1: an object may come to lie where another one was."""
    rendering = Rendering()
    for number in range(300):
        page = ListTasksResponse(tasks=[Task(id=f"task_{number}")])
        assert rendering.to_json(page, "tasks") == codec.to_json(page)
        del page


def test_which_answers_begin_with_a_list() -> None:
    """GATE-1: of messages, not of texts; and some answers are empty."""
    found = {method.operation_id: items_of(method) for method in contract.methods()}
    assert found["TaskService.ListTasks"] == "tasks"
    assert found["UserService.ListUsers"] == "users"
    assert found["TaskService.GetTask"] == ""
