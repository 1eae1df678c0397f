"""The inbox: everybody's own (NOTIFY-3)."""

from __future__ import annotations

import pytest

from taskman_sdk.errors import InvalidArgumentError, NotFoundError
from taskman_sdk.proto.taskman.notification.v1.notification_pb import (
    ListNotificationsRequest,
    ListNotificationsResponse,
    MarkNotificationReadRequest,
    Notification,
)
from taskman_sdk.proto.taskman.task.v1.task_pb import Task, TaskEvent
from taskman_sdk.proto.taskman.user.v1.user_pb import User
from taskman_server.kit.events import Event
from taskman_server.kit.ids import new_id
from tests.store.audit.house import House

ANN, BOB = new_id("user"), new_id("user")


def assigned(house: House, *users: str, key: str = "WEB-1") -> Event:
    task = Task(id=new_id("task"), key=key, title=f"Title of\n{key}")
    return house.event("task.assigned", TaskEvent(task=task, users=list(users)), subject=task.id)


@pytest.fixture(autouse=True)
def people(house: House) -> None:
    house.peers.users |= {
        user: User(id=user, email=f"{name}@example.com", display_name=name, state="active")
        for user, name in ((ANN, "Ann"), (BOB, "Bob"))
    }


async def inbox(house: House, user: str, filter: str = "", size: int = 0, token: str = "") -> ListNotificationsResponse:
    request = ListNotificationsRequest(filter=filter, page_size=size, page_token=token)
    return await house.call("ListNotifications", request, ListNotificationsResponse, caller=house.user(user))


async def test_one_sees_ones_own_newest_first_and_in_pages(house: House) -> None:
    """NOTIFY-3: nobody else's, and nothing twice when an event comes again."""
    events = [assigned(house, ANN, key=f"WEB-{n}") for n in range(5)]
    await house.publish(*events, events[0], assigned(house, BOB, key="BOB-1"))
    first = await inbox(house, ANN, size=3)
    rest = await inbox(house, ANN, size=3, token=first.next_page_token)
    targets = [n.target for n in (*first.notifications, *rest.notifications)]
    assert targets == [event.subject for event in reversed(events)]
    assert rest.next_page_token == ""
    assert first.notifications[0].title == "WEB-4 was assigned to you: Title of WEB-4"
    assert [n.target for n in (await inbox(house, ANN, f'target == "{targets[1]}"')).notifications] == [targets[1]]
    stranger = house.user(ANN, "org_two")
    other = await house.call(
        "ListNotifications", ListNotificationsRequest(), ListNotificationsResponse, caller=stranger
    )
    assert list(other.notifications) == []
    with pytest.raises(InvalidArgumentError) as refused:
        await inbox(house, BOB, size=3, token=first.next_page_token)
    assert refused.value.reason == "PAGE_TOKEN_INVALID"
    with pytest.raises(InvalidArgumentError, match="nonsense"):
        await inbox(house, ANN, "nonsense == 1")


async def test_what_was_read_is_marked_once_and_by_its_owner_alone(house: House) -> None:
    """NOTIFY-3: another's is not there."""
    await house.publish(assigned(house, ANN), assigned(house, ANN))
    entry = (await inbox(house, ANN, "read_time == null")).notifications[0]
    request = MarkNotificationReadRequest(notification=entry.id)
    with pytest.raises(NotFoundError):
        await house.call("MarkNotificationRead", request, Notification, caller=house.user(BOB))
    with pytest.raises(NotFoundError):
        await house.call("MarkNotificationRead", request, Notification, caller=house.user(ANN, "org_two"))
    now = house.clock.now()
    read = await house.call("MarkNotificationRead", request, Notification, caller=house.user(ANN))
    house.clock.advance(60)
    again = await house.call("MarkNotificationRead", request, Notification, caller=house.user(ANN))
    assert read.read_time is not None
    assert read.read_time == again.read_time
    assert read.read_time.to_datetime() == now
    unread = (await inbox(house, ANN, "read_time == null")).notifications
    assert entry.id not in [n.id for n in unread]
    assert len(unread) == 1
