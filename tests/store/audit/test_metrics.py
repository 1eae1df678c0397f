"""Counts over time: the same numbers from SQLite and PostgreSQL (AUDIT-5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskman_sdk import codec
from taskman_sdk.errors import InvalidArgumentError, PermissionDeniedError
from taskman_sdk.proto.taskman.audit.v1.audit_pb import QueryMetricsRequest, QueryMetricsResponse
from taskman_server.kit.events import Event
from tests.store.audit.house import House

MIDNIGHT = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
NAMES = ("task.created", "task.updated", "auth.login.failed")


def at(time: datetime) -> codec.Timestamp:
    return codec.Timestamp.from_datetime(time)


async def metrics(
    house: House, since: datetime, until: datetime, seconds: int, caller: str = "user_admin", **values: Any
) -> QueryMetricsResponse:
    request = QueryMetricsRequest(start_time=at(since), end_time=at(until), bucket_seconds=seconds, **values)
    return await house.call("QueryMetrics", request, QueryMetricsResponse, caller=house.user(caller))


async def fill(house: House, actors: int = 3) -> list[Event]:
    """Events every 7 minutes and some microseconds over 10 hours around midnight."""
    events = [
        house.event(
            NAMES[number % 3],
            {},
            time=MIDNIGHT + timedelta(minutes=7 * number - 300, microseconds=number),
            actor=f"user_{number % actors}",
            result="failure" if number % 3 == 2 else "success",
        )
        for number in range(86)
    ]
    await house.publish(*events)
    return events


def counted(events: Sequence[Event], since: datetime, until: datetime, width: timedelta, key: str) -> dict[Any, int]:
    """The same by hand."""
    found: Counter[Any] = Counter()
    for event in events:
        if since <= event.time < until:
            begin = MIDNIGHT + (event.time - MIDNIGHT) // width * width
            name = {"type": event.name, "actor": event.actor, "result": event.result, "": ""}[key]
            found[max(begin, since), name] += 1
    return dict(found)


@pytest.mark.parametrize("group_by", ["", "type", "actor", "result"])
@pytest.mark.parametrize("seconds", [60, 3600, 86400])
async def test_counts_are_those_that_one_gets_by_hand(house: House, seconds: int, group_by: str) -> None:
    """AUDIT-5: minutes, hours and days; by type, actor, result; on both databases; late events of yesterday too."""
    events = await fill(house)
    since, until = MIDNIGHT - timedelta(hours=5, minutes=-20), MIDNIGHT + timedelta(hours=4, seconds=30)
    answer = await metrics(house, since, until, seconds, group_by=group_by)
    wanted = counted(events, since, until, timedelta(seconds=seconds), group_by)
    found: dict[Any, int] = {}
    for bucket in answer.buckets:
        assert bucket.start_time is not None
        assert bucket.end_time is not None
        begin, end = bucket.start_time.to_datetime(), bucket.end_time.to_datetime()
        assert bucket.rate == pytest.approx(bucket.count / (end - begin).total_seconds())
        if not group_by and bucket.count:
            found[begin, ""] = bucket.count
        for group in bucket.groups:
            found[begin, group.key] = group.count
        assert not group_by or bucket.count == sum(group.count for group in bucket.groups)
    assert found == wanted
    assert answer.count == sum(wanted.values())
    begins = [bucket.start_time.to_datetime() for bucket in answer.buckets if bucket.start_time]
    ends = [bucket.end_time.to_datetime() for bucket in answer.buckets if bucket.end_time]
    assert (begins[0], ends[-1]) == (since, until)
    assert begins[1:] == ends[:-1]


async def test_a_filter_and_the_policies_say_what_is_counted(house: House) -> None:
    """AUDIT-5, AUTHZ-5: as in a list; and the question is on record."""
    events = await fill(house)
    span = (MIDNIGHT - timedelta(days=1), MIDNIGHT + timedelta(days=1), 3600)
    chosen = await metrics(house, *span, filter='type == "task.created" && result == "success"')
    assert chosen.count == sum(event.name == "task.created" for event in events)
    house.peers.policies["audit.read"] = 'resource.actor == "user_1"'
    assert (await metrics(house, *span, caller="user_1")).count == sum(event.actor == "user_1" for event in events)
    house.peers.policies["audit.read"] = "false"
    with pytest.raises(PermissionDeniedError):
        await metrics(house, *span, caller="user_2")
    await house.heard()
    rows = await house.rows("SELECT data FROM records WHERE type = 'audit.read' ORDER BY sequence")
    assert len(rows) == 2
    assert '"operation":"metrics"' in rows[0][0]
    assert "task.created" in rows[0][0]


async def test_of_many_actors_the_busiest_are_counted_apart_and_the_rest_together(house: House) -> None:
    """AUDIT-5: an answer stays small, and nothing is left out of it."""
    events = [
        house.event("task.created", {}, time=MIDNIGHT, actor=f"user_{n:02}")
        for n in range(60)
        for _ in range(1 + (n < 5))
    ]
    await house.publish(*events)
    answer = await metrics(house, MIDNIGHT, MIDNIGHT + timedelta(hours=1), 3600, group_by="actor")
    (bucket,) = answer.buckets
    assert [group.key for group in bucket.groups[:50]] == [f"user_{n:02}" for n in range(50)]
    assert [(group.key, group.count, group.other) for group in bucket.groups[50:]] == [("", 10, True)]
    assert (bucket.count, answer.count) == (65, 65)


async def test_the_last_day_in_hours_is_what_is_meant_by_nothing(house: House) -> None:
    """AUDIT-5."""
    house.clock.set(MIDNIGHT + timedelta(hours=3))
    await house.publish(house.event("task.created", {}, time=MIDNIGHT + timedelta(minutes=30)))
    answer = await house.call("QueryMetrics", QueryMetricsRequest(), QueryMetricsResponse)
    assert len(answer.buckets) == 24
    assert [bucket.count for bucket in answer.buckets[-3:]] == [1, 0, 0]


@pytest.mark.parametrize(
    ("hours", "seconds", "field", "reason"),
    [
        (24, 60, "bucket_seconds", "TOO_MANY_BUCKETS"),
        (-1, 60, "end_time", "RANGE_INVALID"),
        (0, 60, "end_time", "RANGE_INVALID"),
        (1, 59, "bucket_seconds", "FIELD_INVALID"),
        (1, -3600, "bucket_seconds", "FIELD_INVALID"),
    ],
)
async def test_what_cannot_be_counted_is_refused_by_name(
    house: House, hours: int, seconds: int, field: str, reason: str
) -> None:
    """AUDIT-5: and the proposed width is one that will do."""
    until = MIDNIGHT + timedelta(hours=hours)
    with pytest.raises(InvalidArgumentError) as caught:
        await metrics(house, MIDNIGHT, until, seconds)
    assert [each.field for each in caught.value.field_violations] == [field]
    assert reason in (caught.value.reason, "FIELD_INVALID")
    if reason == "TOO_MANY_BUCKETS":
        proposed = int(caught.value.message.partition("use ")[2].split()[0])
        assert len((await metrics(house, MIDNIGHT, until, proposed)).buckets) <= 1000
    with pytest.raises(InvalidArgumentError, match="1970"):
        await metrics(house, datetime(1969, 12, 31, tzinfo=UTC), until, 86400)
