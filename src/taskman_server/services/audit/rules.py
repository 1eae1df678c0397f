"""What a record of the log is, how it is hashed into its chain, and how a chain is checked. Pure.

The chain of an organization links each record to the one before by SHA-256. What that shows and what it cannot:

- A record that was edited, removed from the middle, moved or put in does not fit its neighbours, and is named.
- Records cut off at the end leave the head (kept in another table) pointing at a record that is not there.
- Whoever can write both tables can work out the whole chain anew, or cut the end off and set the head back. A chain
  alone cannot show that; comparing with a head kept elsewhere can. `VerifyEvents` answers the head for that purpose.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from json.encoder import encode_basestring as _quoted  # as `json.dumps(…, ensure_ascii=False)` has a string
from types import MappingProxyType
from typing import Any, Final

from taskman_server.kit.events import Event
from taskman_server.kit.ids import is_id
from taskman_server.services.audit.retention import Span

__all__ = [
    "GENESIS", "REDACTED", "Draft", "Head", "Problem", "Record", "canonical", "check_end", "check_page", "draft_of",
    "look_for_move", "redact", "seal",
]  # fmt: skip

GENESIS: Final = "0" * 64
"""What stands for the hash before the first record."""
REDACTED: Final = "[redacted]"
# Bytes that begin no other hashed text of the system, so that no other hash can be passed off as a record's.
_DOMAIN: Final = b"taskman.audit.record.v1\n"
_RESULTS: Final = ("success", "failure", "denied")
_SCALARS: Final = frozenset((str, int, bool, type(None)))
_ENCODE: Final = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, sort_keys=True, separators=(",", ":")
).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a record says, before it has its place in a chain. `data` is canonical JSON text; `time` is aware."""

    organization: str
    id: str
    type: str
    actor: str
    target_type: str
    target_id: str
    result: str
    time: datetime
    request_id: str
    source: str
    ip_address: str
    data: str


_DRAFT_NAMES: Final = tuple(Draft.__dataclass_fields__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record(Draft):
    """A record in its place: `sequence` from 1, `previous` the hash before, `hash` its own (hexadecimal)."""

    sequence: int
    previous: str
    hash: str


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain: the sequence and hash of its newest record; 0 and `GENESIS` when there is none."""

    sequence: int = 0
    hash: str = GENESIS


@dataclass(frozen=True, slots=True)
class Problem:
    """The first place at which a chain is not as it was written, and what is wrong there; `edited` is the record there
    when it is not the one that was written for this place."""

    sequence: int
    text: str
    edited: Record | None = None


def canonical(value: Any) -> str:
    """The JSON Canonicalization Scheme (RFC 8785): keys sorted by UTF-16 units, no spaces, ECMAScript's numbers.

    Raises:
        ValueError: a number is not finite.
        TypeError: something is no JSON value.
    """
    if _is_plain(value):
        return _ENCODE(value)
    if value is None or isinstance(value, (bool, int, str)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Mapping):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be", "surrogatepass"))
        return "{" + ",".join(f"{json.dumps(key, ensure_ascii=False)}:{canonical(value[key])}" for key in keys) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(canonical, value)) + "]"
    raise TypeError(f"a {type(value).__name__} is no JSON value")


def _is_plain(value: Any) -> bool:
    """Whether the standard encoder writes the same: without floats, and keys that sort alike by UTF-16 and by code."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str or not key.isascii() or not (type(item) is str or _is_plain(item)):
                return False
        return True
    return kind is list and all(map(_is_plain, value))


def _number(value: float) -> str:
    # ECMAScript's shortest digits are Python's too; it writes them without exponent from 1e-6 up to 1e21.
    text = json.dumps(value, allow_nan=False)
    if value == 0:
        return "0"
    if 1e-6 <= abs(value) < 1e21:
        return format(Decimal(text), "f").removesuffix(".0")
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent):+d}"


def redact(value: Any, secret: Collection[str]) -> Any:
    """The value with what stands under a secret's name blotted out, at any depth."""
    if type(value) in _SCALARS:
        return value
    if isinstance(value, Mapping):
        return {key: REDACTED if key in secret and item else redact(item, secret) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(item, secret) for item in value]
    return value


def _word(subject: str) -> str:
    return subject if subject.isascii() and subject.isalpha() else ""


def draft_of(event: Event, secret: Collection[str]) -> Draft:
    """What the log says of an event.

    The target's type is the prefix of its id: `task_01j…` is a `task`. Whatever stands under the name of a secret is
    blotted out; events hold none, so that this is a second lock.
    """
    return Draft(
        organization=event.organization,
        id=event.id,
        type=event.name,
        actor=event.actor or "anonymous",
        target_type=event.subject.rpartition("_")[0] if is_id(event.subject) else _word(event.subject),
        target_id=event.subject,
        result=event.result if event.result in _RESULTS else "success",
        time=event.time,
        request_id=event.requestid,
        source=event.source.rpartition("/")[2],
        ip_address=event.ipaddress,
        data=canonical(redact(event.data, secret)),
    )


def seal(draft: Draft, head: Head) -> Record:
    """The record that follows `head`."""
    fields = {name: getattr(draft, name) for name in _DRAFT_NAMES}
    sequence = head.sequence + 1
    return Record(
        **fields, sequence=sequence, previous=head.hash, hash=_hash_of(draft, sequence=sequence, previous=head.hash)
    )


def _hash(record: Record) -> str:
    return _hash_of(record, record.sequence, record.previous)


def _hash_of(draft: Draft, sequence: int, previous: str) -> str:
    # RFC 8785 by hand: these names sort so. `data` is canonical already and goes in as it is stored: a change of a
    # single space shows.
    time = draft.time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    text = (
        f'{{"actor":{_quoted(draft.actor)},"data":{draft.data},"id":{_quoted(draft.id)}'
        f',"ip_address":{_quoted(draft.ip_address)},"organization":{_quoted(draft.organization)}'
        f',"previous":{_quoted(previous)},"request_id":{_quoted(draft.request_id)},"result":{_quoted(draft.result)}'
        f',"sequence":{sequence},"source":{_quoted(draft.source)},"target_id":{_quoted(draft.target_id)}'
        f',"target_type":{_quoted(draft.target_type)},"time":"{time}","type":{_quoted(draft.type)}}}'
    )
    return hashlib.sha256(_DOMAIN + text.encode("utf-8", "surrogatepass")).hexdigest()


def check_page(
    head: Head, records: Iterable[Record], removed: Mapping[int, Span] = MappingProxyType({})
) -> tuple[Head, Problem | None]:
    """Checks records that should follow `head`, in the order of their sequence: how far they are good, and what the
    first bad one's problem is. `removed`: the spans that need not be there, by their first sequence."""
    for record in records:
        while head.sequence + 1 < record.sequence and (span := removed.get(head.sequence + 1)) is not None:
            if span.previous != head.hash:
                return head, Problem(
                    span.first,
                    f"records {span.first} to {span.last} were removed when their time was up, but did not follow "
                    f"record {head.sequence} as it is now: that one was made anew, or one that was written down",
                )
            head = Head(span.last, span.hash)
        place = head.sequence + 1
        if record.sequence < place:
            return head, Problem(record.sequence, f"record {record.sequence} was removed, and something is put there")
        if record.sequence != place:
            return head, Problem(place, f"record {place} was deleted: after {head.sequence} comes {record.sequence}")
        if _hash(record) != record.hash:
            text = f"record {place} ({record.id}) was edited: its hash does not fit its content"
            return head, Problem(place, text, record)
        if record.previous != head.hash:
            return head, Problem(
                place,
                f"record {place} ({record.id}) was put in or made anew, or the one before was: it does not follow "
                f"record {head.sequence}",
            )
        head = Head(record.sequence, record.hash)
    return head, None


def look_for_move(problem: Problem, last: int, reach: int = 50_000) -> Problem:
    """The problem said more exactly: an edited record may be a whole one that stands in another's place.

    Args:
        problem: what `check_page` found.
        last: the last sequence of the chain.
        reach: how many places to try in both directions.
    """
    record = problem.edited
    for distance in range(1, reach + 1) if record is not None else ():
        assert record is not None
        for place in (record.sequence - distance, record.sequence + distance):
            if 0 < place <= last + 1 and _hash(replace(record, sequence=place)) == record.hash:
                return Problem(
                    problem.sequence,
                    f"record {problem.sequence} ({record.id}) was written as record {place}: records were reordered, "
                    "or ones between the two were deleted and the rest renumbered",
                )
        if distance > max(record.sequence, last + 1 - record.sequence):
            break
    return problem


def check_end(walked: Head, head: Head, beyond: int) -> Problem | None:
    """Compares how far the records are good with where the chain should end; `beyond`: records after that."""
    if walked.sequence < head.sequence:
        return Problem(
            walked.sequence + 1,
            f"the log was truncated: it should end with record {head.sequence}, "
            f"but nothing follows record {walked.sequence}",
        )
    if beyond:
        return Problem(head.sequence + 1, f"{beyond} records were put in after the head, record {head.sequence}")
    if walked.hash != head.hash:
        return Problem(head.sequence, f"record {head.sequence} is not the one that the head names: one was edited")
    return None
