"""Events: what happened, in a CloudEvents 1.0 envelope (EVENT-3)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from taskman_server.kit.ids import is_id

ID_PREFIX: Final = "event"

_TYPE = re.compile(r"taskman\.(?P<name>[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)+)\.v(?P<version>[1-9][0-9]*)")
_SOURCE = re.compile(r"/taskman/[a-z][a-z0-9_-]*")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_FRACTION = re.compile(r"\.(\d{1,6})\d*")
_JSON_TYPE = "application/json"
_REQUIRED = ("id", "source", "type", "time")
_OPTIONAL = (
    "subject",
    "dataschema",
    "organization",
    "actor",
    "actortype",
    "requestid",
    "traceparent",
    "partitionkey",
    "result",
    "ipaddress",
)


class BadEnvelope(ValueError):
    """A text is not an event's envelope; the message says which attribute is wrong, without its value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event. The attributes have CloudEvents' names; those after `dataschema` are extensions of ours.

    Attributes:
        id: `event_…`; one id has one effect at a consumer, however often it is delivered.
        source: `/taskman/<service>`.
        type: `taskman.<name>.v<version>`, for example `taskman.task.created.v1`.
        time: when it happened; aware.
        subject: the id of what it is about.
        dataschema: a URI of the payload's schema.
        organization: the tenant.
        actor: the id of who did it; `actortype` says what kind of principal that is.
        requestid: the request it came from.
        traceparent: the W3C trace context it came from.
        partitionkey: events with the same key keep their order; the subject unless it is set.
        result: `success`, `failure` or `denied`.
        ipaddress: where the request came from.
        data: the payload message as ProtoJSON with the contract's field names.
    """

    id: str
    source: str
    type: str
    time: datetime
    data: Mapping[str, Any] = field(default_factory=dict)
    subject: str = ""
    dataschema: str = ""
    organization: str = ""
    actor: str = ""
    actortype: str = ""
    requestid: str = ""
    traceparent: str = ""
    partitionkey: str = ""
    result: str = ""
    ipaddress: str = ""

    def __post_init__(self) -> None:
        """Raises BadEnvelope: what leaves here must be readable at the other end."""
        if not is_id(self.id, ID_PREFIX):
            raise BadEnvelope(f"event id: expected {ID_PREFIX}_ and 26 digits of an id")
        if not _SOURCE.fullmatch(self.source):
            raise BadEnvelope("event source: expected /taskman/ and a service's name")
        if not _TYPE.fullmatch(self.type):
            raise BadEnvelope("event type: expected taskman.<name>.v<version>, for example taskman.task.created.v1")
        if self.time.tzinfo is None:
            raise BadEnvelope("event time: expected a time with a time zone")

    @property
    def name(self) -> str:
        """The routing key, for example `task.created`."""
        return self.type[len("taskman.") : self.type.rindex(".v")]

    @property
    def version(self) -> int:
        """The version of the payload, from the type."""
        return int(self.type[self.type.rindex(".v") + 2 :])

    @property
    def key(self) -> str:
        """What keeps its order: the partition key, else the subject, else the event alone."""
        return self.partitionkey or self.subject or self.id

    def to_json(self) -> str:
        """The envelope in CloudEvents' JSON format; empty attributes are left out."""
        time = self.time.astimezone(UTC).isoformat(timespec="microseconds")
        envelope: dict[str, Any] = {
            "specversion": "1.0",
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "time": time.removesuffix("+00:00") + "Z",
            "datacontenttype": _JSON_TYPE,
        }
        for name in _OPTIONAL:
            if value := getattr(self, name):
                envelope[name] = value
        envelope["data"] = self.data
        return json.dumps(envelope, ensure_ascii=False, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Event:
        """Read an envelope. Attributes that are unknown here are a newer producer's and are passed over.

        Raises:
            BadEnvelope: it is no CloudEvents 1.0 envelope of ours.
        """
        try:
            envelope = json.loads(text)
        except (ValueError, RecursionError):
            raise BadEnvelope("event: not JSON") from None
        if not isinstance(envelope, dict):
            raise BadEnvelope("event: expected a JSON object")
        if envelope.get("specversion") != "1.0":
            raise BadEnvelope("event specversion: expected 1.0")
        if envelope.get("datacontenttype", _JSON_TYPE) != _JSON_TYPE:
            raise BadEnvelope(f"event datacontenttype: expected {_JSON_TYPE}")
        if "data_base64" in envelope or not isinstance(envelope.get("data"), dict):
            raise BadEnvelope("event data: expected a JSON object")
        values: dict[str, Any] = {"data": envelope["data"]}
        for name in (*_REQUIRED, *_OPTIONAL):
            value = envelope.get(name)
            if value is None and name in _OPTIONAL:
                continue
            if not isinstance(value, str) or not value:
                raise BadEnvelope(f"event {name}: expected a text that is not empty")
            values[name] = value
        values["time"] = _time(values["time"])
        return cls(**values)


def _time(text: str) -> datetime:
    try:
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(_FRACTION.sub(r".\1", text).upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise BadEnvelope("event time: expected RFC 3339, for example 2030-01-31T12:00:00Z")
