"""What holds for projects and tasks: pure decisions, no I/O, no clock, no randomness (TASK-1, TASK-2, TASK-3)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

from taskman_sdk.codec import Timestamp
from taskman_sdk.errors import FailedPreconditionError, FieldViolation, InvalidArgumentError
from taskman_sdk.proto.taskman.task.v1.task_pb import Task

__all__ = [
    "DEFAULT_PRIORITY",
    "DEFAULT_WORKFLOW",
    "PRIORITIES",
    "Draft",
    "Move",
    "Workflow",
    "check_deleted",
    "check_last_admin",
    "check_may_see",
    "check_times",
    "clean_labels",
    "clean_line",
    "clean_text",
    "control_name",
    "draft",
    "invalid",
    "move",
    "number_of",
    "time_of",
    "users_with",
]

PRIORITIES: Final[Mapping[str, int]] = MappingProxyType({"low": 1, "medium": 2, "high": 3, "urgent": 4})
DEFAULT_PRIORITY: Final = "medium"
MAX_LABELS: Final = 50
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")  # C0 and DEL, ISO/IEC 646
_CONTROL_NAMES: Final = (
    "NUL", "SOH", "STX", "ETX", "EOT", "ENQ", "ACK", "BEL", "BS", "HT", "LF", "VT", "FF", "CR", "SO", "SI", "DLE",
    "DC1", "DC2", "DC3", "DC4", "NAK", "SYN", "ETB", "CAN", "EM", "SUB", "ESC", "FS", "GS", "RS", "US",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Workflow:
    """The states of a project's tasks and the moves between them.

    Attributes:
        initial: the state of a new task.
        states: every state with whether it is final, in the order people see them.
        transitions: for each state those that may follow it.
    """

    initial: str
    states: Mapping[str, bool]
    transitions: Mapping[str, Sequence[str]]

    def to_value(self) -> dict[str, Any]:
        """As it is stored with the project."""
        return {
            "initial": self.initial,
            "states": [{"name": name, "final": final} for name, final in self.states.items()],
            "transitions": {state: list(following) for state, following in self.transitions.items()},
        }

    @classmethod
    def from_value(cls, value: Mapping[str, Any]) -> Workflow:
        """From what `to_value` made."""
        states = {state["name"]: bool(state["final"]) for state in value["states"]}
        return cls(value["initial"], states, {s: tuple(t) for s, t in value["transitions"].items()})

    def state(self, name: str) -> str:
        """The state called `name`; the initial one for no name.

        Raises:
            ValueError: there is none; the message names those there are.
        """
        if not name:
            return self.initial
        if name not in self.states:
            raise ValueError(f"there is no state {name!r} in this workflow; it has {', '.join(self.states)}")
        return name


DEFAULT_WORKFLOW: Final = Workflow(
    "todo",
    MappingProxyType({"todo": False, "in_progress": False, "done": True}),
    MappingProxyType({
        "todo": ("in_progress", "done"),
        "in_progress": ("todo", "done"),
        "done": ("todo",),  # what is done is reopened before it is worked on again
    }),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Move:
    """A move that a workflow allows.

    Attributes:
        changes: false when the task is in that state already.
        completes: the task reaches a final state.
        reopens: the task leaves the final states.
    """

    changes: bool
    completes: bool = False
    reopens: bool = False


def move(workflow: Workflow, current: str, wanted: str) -> Move:
    """Decides on a move from one state to another (TASK-3).

    Raises:
        InvalidArgumentError: the workflow has no state `wanted`; the message names those it has.
        FailedPreconditionError: the workflow has no such move; the message names those it has.
    """
    try:
        workflow.state(wanted)
    except ValueError as error:
        raise InvalidArgumentError(
            f"state: {error}.",
            reason="TASK_STATE_UNKNOWN",
            metadata={"state": wanted, "states": ",".join(workflow.states)},
            field_violations=[FieldViolation("state", str(error), "workflow")],
        ) from None
    if wanted == current:
        return Move(changes=False)
    allowed = workflow.transitions.get(current, ())
    if wanted not in allowed:
        raise FailedPreconditionError(
            f"The task cannot go from {current!r} to {wanted!r}. From {current!r} it can go to "
            f"{', '.join(map(repr, allowed)) or 'no other state'}.",
            reason="TASK_TRANSITION_NOT_ALLOWED",
            metadata={"state": current, "allowed": ",".join(allowed)},
        )
    was_final, is_final = workflow.states.get(current, False), workflow.states[wanted]
    return Move(True, completes=is_final and not was_final, reopens=was_final and not is_final)


def users_with(members: Mapping[str, str], *roles: str) -> list[str]:
    """The users of a project with one of the roles; all of them for no role."""
    return [user for user, role in members.items() if not roles or role in roles]


def check_last_admin(members: Mapping[str, str], changed: Mapping[str, str]) -> None:
    """Refuses a change of members that leaves a project without an admin.

    Raises:
        FailedPreconditionError: it does.
    """
    if "admin" in members.values() and "admin" not in changed.values():
        raise FailedPreconditionError(
            "This is the project's last admin. Make another member admin first.", reason="LAST_PROJECT_ADMIN"
        )


def check_may_see(users: Iterable[str], members: Collection[str], visibility: str, project: str) -> None:
    """Refuses assignees who could not see the project (TASK-2, open point 23).

    Args:
        users: who is to be assigned.
        members: the users with any part in the project.
        visibility: the project's, `private` or `organization`.
        project: the project's key, for the message.

    Raises:
        FailedPreconditionError: one is not a member of the private project.
    """
    if visibility == "organization":
        return
    if strangers := [user for user in users if user not in members]:
        raise FailedPreconditionError(
            f"{', '.join(strangers)} cannot see the private project {project}. Add them to it first "
            f"(POST /v1/projects/{project}/members).",
            reason="ASSIGNEE_NOT_MEMBER",
            metadata={"users": ",".join(strangers), "project": project},
        )


def check_deleted(key: str, delete_time: datetime | None) -> None:
    """Refuses a change to a task in the trash.

    Raises:
        FailedPreconditionError: it is there.
    """
    if delete_time is not None:
        raise FailedPreconditionError(
            f"The task {key} is in the trash. Restore it first (POST /v1/tasks/{key}:restore).",
            reason="TASK_DELETED",
            metadata={"task": key},
        )


# values


def invalid(violations: Sequence[FieldViolation]) -> InvalidArgumentError:
    """The error for fields that are wrong."""
    return InvalidArgumentError(
        "The request is not valid: " + "; ".join(f"{v.field}: {v.description}" for v in violations[:3]) + ".",
        reason="FIELD_INVALID",
        field_violations=violations[:20],
    )


def clean_text(text: str) -> str:
    """A text of several lines.

    Raises:
        ValueError: it holds a NUL character, which databases and expressions cut texts at.
    """
    if "\0" in text:
        raise ValueError("holds a NUL character: remove it")
    return text


def clean_line(text: str) -> str:
    """A text of one line, as it was given.

    Raises:
        ValueError: it is empty or blank, or holds a line break, a tab or another control character of ASCII; they are
            invisible, and steer the terminals and spreadsheets that the text comes to.
    """
    if not clean_text(text).strip():
        raise ValueError("must not be empty")
    if "\n" in text or "\r" in text:
        raise ValueError("must be one line: remove the line break")
    if found := _CONTROL.search(text):
        name = control_name(found[0])
        raise ValueError(f"holds {name} at character {found.start() + 1}: remove it")
    return text


def control_name(character: str) -> str:
    """What people call a control character of ASCII, for example `the control character ESC (U+001B)`."""
    code = ord(character)
    if code == 9:
        return "a tab"
    return f"the control character {_CONTROL_NAMES[code] if code < 32 else 'DEL'} (U+{code:04X})"


def clean_labels(labels: Iterable[str]) -> list[str]:
    """Labels as given, without space around them, each once, in their order.

    Raises:
        ValueError: one is empty or not one line.
    """
    cleaned: dict[str, None] = {}
    for index, label in enumerate(labels):
        try:
            cleaned[clean_line(label.strip())] = None
        except ValueError as error:
            raise ValueError(f"label {index + 1} {error}") from None
    return list(cleaned)


def time_of(value: Timestamp | None) -> datetime | None:
    """The time of a message, to the microsecond (finer digits are dropped).

    Raises:
        ValueError: it is not in the years 1 to 9999.
    """
    if value is None:
        return None
    try:
        if not 0 <= value.nanos < 1_000_000_000:
            raise OverflowError
        return _EPOCH + timedelta(seconds=value.seconds, microseconds=value.nanos // 1000)
    except OverflowError:
        raise ValueError("is not a time in the years 1 to 9999") from None


def number_of(key: str, project_key: str) -> int:
    """The number in a task's key; 0 where it is no key of the project."""
    prefix, _, number = key.rpartition("-")
    good = prefix == project_key and number.isascii() and number.isdecimal() and len(number) <= 9
    return int(number) if good and not number.startswith("0") else 0


def check_times(start: datetime | None, due: datetime | None) -> None:
    """Refuses a task that is due before it may begin.

    Raises:
        ValueError: it is.
    """
    if start is not None and due is not None and due < start:
        raise ValueError(f"must not be before start_time ({start.isoformat()})")


@dataclass(slots=True)
class Draft:
    """A task as it is to be made: everything that does not come from the database or the clock."""

    title: str
    description: str
    state: str
    final: bool
    priority: str
    labels: list[str]
    assignees: list[str]
    external_id: str
    key: str
    start_time: datetime | None
    due_time: datetime | None
    create_time: datetime | None
    complete_time: datetime | None


def draft(task: Task, workflow: Workflow) -> tuple[Draft, list[FieldViolation]]:
    """Reads a task that is to be made, with all that is wrong with it (field names as in `Task`)."""
    wrong: list[FieldViolation] = []

    def read(field: str, make: Any, *args: Any) -> Any:
        try:
            return make(*args)
        except ValueError as error:
            wrong.append(FieldViolation(field, str(error), "value"))
            return None

    made = Draft(
        title=read("title", clean_line, task.title),
        description=read("description", clean_text, task.description),
        state=read("state", workflow.state, task.state),
        final=False,
        priority=task.priority or DEFAULT_PRIORITY,
        labels=read("labels", clean_labels, task.labels),
        assignees=list(dict.fromkeys(task.assignees)),
        external_id=read("external_id", clean_text, task.external_id),
        key=task.key.upper(),
        start_time=read("start_time", time_of, task.start_time),
        due_time=read("due_time", time_of, task.due_time),
        create_time=read("create_time", time_of, task.create_time),
        complete_time=read("complete_time", time_of, task.complete_time),
    )
    made.final = workflow.states.get(made.state, False)
    read("due_time", check_times, made.start_time, made.due_time)
    if made.priority not in PRIORITIES:
        wrong.append(FieldViolation("priority", f"must be one of {', '.join(PRIORITIES)}", "value"))
    return made, wrong
