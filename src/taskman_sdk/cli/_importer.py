"""Takes tasks of a file over to a server: in batches, each row once however often it is tried."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from taskman_sdk import TaskMan
from taskman_sdk.cli._csvfile import BadRow, Row
from taskman_sdk.cli._people import People
from taskman_sdk.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    TaskManError,
)

__all__ = ["Importer", "Options", "Summary", "read_people_map"]

# A request stays below what servers take (4 MiB), whatever its rows hold.
MAX_BATCH_CHARACTERS: Final = 600_000
TIMEOUT: Final = 120.0
DEFAULT_STATES: Final = ("todo", "in_progress", "done")  # of a project that is made, as the contract says


@dataclass
class Options:
    """How to import.

    Attributes:
        people: what to do with an assignee whom the server does not know: `create`, `map` or `skip`.
        people_map: address or id by address, for `map`.
        batch: rows in one request.
        create_projects: make projects that are not there.
        visibility: of the projects that are made.
        dry_run: write nothing; the server judges the rows, and says who may do the rest.
    """

    people: str = "create"
    people_map: Mapping[str, str] = field(default_factory=dict)
    batch: int = 200
    create_projects: bool = True
    visibility: str = "private"
    dry_run: bool = False


@dataclass
class Summary:
    """What became of the rows."""

    created: int = 0
    already_there: int = 0
    failed: int = 0
    projects_created: list[str] = field(default_factory=list)
    people_created: int = 0
    members_added: int = 0
    dry_run: bool = False
    errors: list[dict[str, Any]] = field(default_factory=list)

    def fail(self, line: int, reason: str) -> None:
        """One more row that did not land."""
        self.failed += 1
        self.errors.append({"line": line, "reason": reason})

    def value(self) -> dict[str, Any]:
        """For JSON; errors in the order of the file."""
        self.errors.sort(key=lambda each: each["line"])
        return asdict(self)


def read_people_map(path: Path) -> dict[str, str]:
    """Reads lines `address in the file,address or id on the server`.

    Raises:
        ValueError: a line has not two fields; names it.
    """
    found: dict[str, str] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        for cells in reader:
            if not cells or cells[0].startswith("#"):
                continue
            if len(cells) != 2 or not cells[0].strip() or not cells[1].strip():
                raise ValueError(f"{path}, line {reader.line_num}: write `old@example.org,new@example.org`")
            found[cells[0].strip().lower()] = cells[1].strip().lower()
    return found


class Importer:
    """One import.

    Args:
        client: where to.
        options: how.
        progress: told how many rows are finished with.
    """

    def __init__(self, client: TaskMan, options: Options, progress: Callable[[int], None] = lambda _: None) -> None:
        self._client = client
        self._options = options
        self._progress = progress
        self._people = People(client)
        self._ids: dict[str, str] = {}
        self._projects: dict[str, Any] = {}
        self._later: dict[str, set[str]] = {}  # by project: who could be given its tasks only after a dry run
        self._coming: set[tuple[str, str]] = set()  # projects and external ids that a dry run would have made
        self.summary = Summary(dry_run=options.dry_run)

    def run(self, rows: Iterable[Row | BadRow]) -> Summary:
        """Imports the rows; the summary also holds those that are bad.

        Raises:
            TaskManError: the server cannot be used at all; what was done so far is in `summary`.
        """
        good: list[Row] = []
        for row in rows:
            if isinstance(row, BadRow):
                self.summary.fail(row.line, row.reason)
                self._progress(1)
            else:
                good.append(row)
        projects = list(dict.fromkeys(row.project for row in good))
        self._projects = {key: found for key in projects if (found := self._project(key, good)) is not None}
        good = [row for row in good if row.project in self._projects]
        self._find_people(good)
        for key, project in self._projects.items():
            self._add_members(project, [row for row in good if row.project == key])
        for batch in _batches(good, self._options.batch):
            self._send(batch)
        return self.summary

    def _project(self, key: str, rows: Sequence[Row]) -> Any:
        """The project; None when its rows cannot be imported. An empty dict where a dry run would make it."""
        problem = ""
        try:
            return self._client.projects.get(key)
        except NotFoundError:
            if not self._options.create_projects or not re.fullmatch(r"[A-Z][A-Z0-9]{0,9}", key):
                problem = f"there is no project {key!r}, or it is not yours to see"
        if not problem:
            try:
                if self._options.dry_run:
                    self._check("projects.create", {"key": key, "visibility": self._options.visibility})
                    self.summary.projects_created.append(key)
                    return {}
                made = self._client.projects.create(
                    key=key, display_name=key, visibility=self._options.visibility
                )  # fmt: skip
                self.summary.projects_created.append(key)
                return made
            except AlreadyExistsError:
                problem = f"the project {key!r} exists, but is not yours to see; ask one of its members to add you"
            except (PermissionDeniedError, InvalidArgumentError) as error:
                problem = f"the project {key!r} cannot be created: {error.message}"
        for row in rows:
            if row.project == key:
                self.summary.fail(row.line, problem)
                self._progress(1)
        return None

    def _find_people(self, rows: Sequence[Row]) -> None:
        """Fills the ids of all assignees, making people where that is wanted."""
        wanted = dict.fromkeys(each for row in rows for each in row.assignees)
        targets = {each: self._options.people_map.get(each, each) for each in wanted}
        addresses = [each for each in dict.fromkeys(targets.values()) if "@" in each]
        known = self._people.by_email(addresses) if addresses else {}
        for original, target in targets.items():
            if target.startswith("user_"):
                self._ids[original] = target
            elif target in known:
                self._ids[original] = known[target]
            elif self._options.people == "create":
                self._ids[original] = known[target] = self._create_person(target)

    def _create_person(self, email: str) -> str:
        try:
            if self._options.dry_run:
                self._check("users.create", {"email": email, "state": "active"})
                self.summary.people_created += 1
                return email
            made = self._client.users.create(email=email, display_name=email.partition("@")[0])
        except PermissionDeniedError as error:
            raise PermissionDeniedError(
                f"{email} is nobody here, and you may not create users. Say --people skip to import without unknown "
                "assignees, or --people map --people-map FILE.",
                reason=error.reason,
                request_id=error.request_id,
            ) from None
        except AlreadyExistsError:  # of another organization, or made a moment ago
            found = self._people.by_email([email])
            return found.get(email, "")
        self.summary.people_created += 1
        return made.id

    def _add_members(self, project: Any, rows: Sequence[Row]) -> None:
        """Makes every assignee a member of a private project; nobody else could be given a task of it.

        Where that is refused, the server says so of each row that needs it.
        """
        users = list(dict.fromkeys(each for row in rows for each in self._assignees(row)))
        made = {each for each in users if "@" in each}  # by the import that this is a dry run of
        later = self._later[rows[0].project] = set()
        if getattr(project, "visibility", self._options.visibility) != "private":
            later |= made
            return
        members = {member.user for member in project.members} if project else {self._people.id("me")}
        coming = [user for user in users if user not in members]
        if self._options.dry_run:
            later |= self._could_join(project, coming)
            self.summary.members_added += len(later)
            return
        for user in coming:
            try:
                self._client.projects.add_member(project.id, user=user, role="editor")
            except (PermissionDeniedError, InvalidArgumentError):
                continue
            self.summary.members_added += 1

    def _could_join(self, project: Any, users: Sequence[str]) -> set[str]:
        if not users:
            return set()
        if project:
            roles = {member.user: member.role for member in project.members}
            attributes = {
                "id": project.id, "key": project.key, "visibility": project.visibility, "members": list(roles),
                "editors": [user for user, role in roles.items() if role != "viewer"],
                "admins": [user for user, role in roles.items() if role == "admin"],
            }  # fmt: skip
            try:
                self._check("projects.manage_members", attributes)
            except PermissionDeniedError:
                return set()
        return {user for user in users if "@" in user} | self._people.active(user for user in users if "@" not in user)

    def _check(self, permission: str, resource: Mapping[str, Any]) -> None:
        """Asks whether the caller may do what a dry run does not do.

        Raises:
            PermissionDeniedError: they may not.
        """
        answer = self._client.authz.check(permission=permission, resource={"id": "", **resource})
        if not answer.allowed:
            raise PermissionDeniedError(
                f"You may not do this: the permission {permission!r} is missing.", reason="PERMISSION_MISSING"
            )

    def _assignees(self, row: Row) -> list[str]:
        return list(dict.fromkeys(self._ids[each] for each in row.assignees if self._ids.get(each)))

    def _task(self, row: Row) -> dict[str, Any]:
        later = self._later.get(row.project, ())
        values = {
            "title": row.title, "description": row.description, "state": row.state, "priority": row.priority,
            "labels": row.labels, "create_time": row.create_time, "due_time": row.due_time,
            "assignees": [each for each in self._assignees(row) if each not in later],
            "external_id": row.external_id, "key": row.key,
        }  # fmt: skip
        return {name: value for name, value in values.items() if value}

    def _unknown(self, row: Row) -> str:
        """An assignee of the row who has no id, where that is a fault."""
        missing = [each for each in row.assignees if not self._ids.get(each)]
        if not missing or self._options.people == "skip":
            return ""
        if self._options.people == "map":
            return f"assignee {missing[0]!r} is nobody here, and the map does not name them"
        return f"assignee {missing[0]!r} has an account elsewhere and cannot be given tasks here"

    def _send(self, rows: Sequence[Row]) -> None:
        sendable: list[Row] = []
        for row in rows:
            if problem := self._unknown(row):
                self.summary.fail(row.line, problem)
            else:
                sendable.append(row)
        if sendable and not self._projects[rows[0].project]:
            self._imagine(sendable)
        elif sendable:
            self._import(sendable)
        self._progress(len(rows))

    def _imagine(self, rows: Sequence[Row]) -> None:
        """Judges rows of a project that is not made in a dry run: it would have the default workflow, and no tasks."""
        people = {each for row in rows for each in self._assignees(row)} - self._later[rows[0].project]
        strangers = people - self._people.active(people)
        for row in rows:
            if row.state and row.state not in DEFAULT_STATES:
                states = ", ".join(DEFAULT_STATES)
                self.summary.fail(row.line, f"state: there is no state {row.state!r} in this workflow; it has {states}")
            elif self._repeats(row):
                self.summary.already_there += 1
            elif wrong := [each for each in self._assignees(row) if each in strangers]:
                self.summary.fail(row.line, f"assignees: there is no active user {wrong[0]!r} in your organization")
            else:
                self._count(row)

    def _repeats(self, row: Row) -> bool:
        """Whether a row of a dry run has the external id of one before it that would have landed."""
        return (self._place(row), row.external_id) in self._coming

    def _place(self, row: Row) -> str:
        return str(getattr(self._projects[row.project], "id", row.project))

    def _count(self, row: Row) -> None:
        if self._options.dry_run:
            self._coming.add((self._place(row), row.external_id))
        self.summary.created += 1

    def _import(self, rows: Sequence[Row]) -> None:
        given: dict[str, Any] = {"validate_only": True} if self._options.dry_run else {}
        try:
            answer = self._client.tasks.import_(
                project=rows[0].project, tasks=[self._task(row) for row in rows], timeout=TIMEOUT, **given
            )  # fmt: skip
        except InvalidArgumentError as error:
            # Something that the server refuses before it looks at rows one by one: find the row.
            if len(rows) == 1:
                violation = "; ".join(f"{v.field}: {v.description}" for v in error.field_violations)
                self.summary.fail(rows[0].line, violation or error.message)
                return
            half = len(rows) // 2
            self._import(rows[:half])
            self._import(rows[half:])
            return
        except NotFoundError as error:
            for row in rows:
                self.summary.fail(row.line, error.message)
            return
        if len(answer.results) != len(rows):
            raise TaskManError(f"the server answered {len(answer.results)} results to {len(rows)} tasks")
        for row, result in zip(rows, answer.results, strict=True):
            if result.error:
                self.summary.fail(row.line, result.error)
            elif result.created and not self._repeats(row):
                self._count(row)
            else:
                self.summary.already_there += 1


def _batches(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    """Rows of one project each, in their order; `size` at most, and no more text than a request may hold."""
    ordered = sorted(rows, key=lambda row: row.project)
    for _, group in groupby(ordered, key=lambda row: row.project):
        batch: list[Row] = []
        characters = 0
        for row in group:
            length = len(row.title) + len(row.description) + 500
            if batch and (len(batch) >= size or characters + length > MAX_BATCH_CHARACTERS):
                yield batch
                batch, characters = [], 0
            batch.append(row)
            characters += length
        yield batch
