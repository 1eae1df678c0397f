"""A server with the people in it: what cases are told with."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from taskman_sdk.errors import PermissionDeniedError, TaskManError, UnauthenticatedError
from tests.contract.receivers import HookServer, MailServer
from tests.contract.waiting import eventually
from tests.contract.wires import NO_HEADERS, Answer, Wire

__all__ = ["ADMIN_EMAIL", "ADMIN_PASSWORD", "PASSWORD", "Person", "Site", "unique"]

Json = dict[str, Any]
ADMIN_EMAIL = "admin@example.com"
ADMIN_PASSWORD = "correct-horse-battery-7"
PASSWORD = "a-stapled-otter-91"
_numbers = itertools.count(1)


def unique(word: str) -> str:
    """A word that no other case uses, in this worker or another."""
    return f"{word}{os.getpid()}x{next(_numbers)}"


def project_key() -> str:
    """A project key that no other case uses."""
    number, letters = next(_numbers), ""
    while number:
        number, digit = divmod(number, 26)
        letters = chr(65 + digit) + letters
    return f"K{letters}"


@dataclass(slots=True)
class Person:
    """Somebody with an account, signed in."""

    site: Site
    id: str
    email: str
    password: str
    token: str
    refresh_token: str
    organization: str = ""

    async def call(
        self, operation: str, request: Json | None = None, headers: Mapping[str, str] = NO_HEADERS, **fields: Any
    ) -> Json:
        """Calls an RPC as this person."""
        return await self.site.wire.call(operation, {**(request or {}), **fields}, self.token, headers)

    async def exchange(
        self, operation: str, request: Json | None = None, headers: Mapping[str, str] = NO_HEADERS, **fields: Any
    ) -> Answer:
        """Calls an RPC as this person, and answers headers too."""
        return await self.site.wire.exchange(operation, {**(request or {}), **fields}, self.token, headers)

    async def refused(
        self, operation: str, request: Json | None = None, headers: Mapping[str, str] = NO_HEADERS, **fields: Any
    ) -> TaskManError:
        """Calls an RPC as this person, and answers the error."""
        return await self.site.refused(operation, {**(request or {}), **fields}, self.token, headers)

    async def project(self, **fields: Any) -> Json:
        """A new project of this person."""
        project = {"key": project_key(), "display_name": "A project", **fields}
        return await self.call("TaskService.CreateProject", project=project)

    async def task(self, project: str, title: str = "A task", **fields: Any) -> Json:
        """A new task."""
        return await self.call("TaskService.CreateTask", task={"project": project, "title": title, **fields})

    async def add(self, project: str, other: Person, role: str = "editor") -> Json:
        """Makes somebody a member of a project."""
        return await self.call("TaskService.AddProjectMember", project=project, user=other.id, role=role)


@dataclass(slots=True)
class Site:
    """One server, called in one way."""

    wire: Wire
    mail: MailServer
    hooks: HookServer
    url: str
    _admin: Person | None = None
    _cast: dict[str, Person] = field(default_factory=dict)

    async def refused(
        self, operation: str, request: Json, token: str | None = None, headers: Mapping[str, str] = NO_HEADERS
    ) -> TaskManError:
        """The error that a call is answered with; anything else fails."""
        try:
            answer = await self.wire.call(operation, request, token, headers)
        except TaskManError as error:
            return error
        raise AssertionError(f"{operation} was answered: {answer}")

    async def login(self, email: str, password: str = PASSWORD) -> Person:
        """Somebody who has an account, signed in."""
        tokens = await self.wire.call("AuthenticationService.Login", {"email": email, "password": password})
        me = await self.wire.call("UserService.GetMe", {}, tokens["access_token"])
        return Person(self, me["id"], me["email"], password, tokens["access_token"], tokens["refresh_token"])

    async def admin(self) -> Person:
        """The administrator of the organization `default`."""
        if self._admin is None:
            self._admin = await self.login(ADMIN_EMAIL, ADMIN_PASSWORD)
        return self._admin

    async def new_person(self, name: str = "Ann") -> Person:
        """Somebody who has just signed up."""
        email = f"{unique(name.lower())}@example.com"
        registration = {"email": email, "password": PASSWORD, "display_name": name}
        await self.wire.call("AuthenticationService.Register", registration)
        return await self.arrived(email)

    async def invited(self, admin: Person, name: str = "Ivy", role: str = "") -> Person:
        """Somebody whom an administrator made, with a password by the mailed link, and a role instead of the default
        one where it is given."""
        email = f"{unique(name.lower())}@example.com"
        await admin.call("UserService.CreateUser", user={"email": email, "display_name": name})
        await self.choose_password(email)
        person = await self.arrived(email)
        if role:
            await self.set_role(admin, person, role)
        return person

    async def choose_password(self, email: str) -> None:
        """What somebody does who has an account and no password: follow the welcome mail, ask for a link, use it."""
        await self.mail.wait(email, lambda mail: "/reset-password" in mail.text)
        await self.wire.call("AuthenticationService.RequestPasswordReset", {"email": email})
        mail = await self.mail.wait(email, lambda mail: "/reset-password?token=" in mail.text)
        reset = {"token": mail.link("/reset-password"), "password": PASSWORD}
        await self.wire.call("AuthenticationService.ResetPassword", reset)

    async def set_role(self, admin: Person, person: Person, role: str) -> None:
        """Gives somebody one role and takes the others."""
        listed = await admin.call("IamAdminService.ListAssignments", filter=f'principal == "{person.id}"')
        if role not in [each["role"] for each in listed["assignments"]]:
            await admin.call("IamAdminService.CreateAssignment", assignment={"principal": person.id, "role": role})
        for each in listed["assignments"]:
            if each["role"] != role:
                await admin.call("IamAdminService.DeleteAssignment", assignment=each["id"])

    async def arrived(self, email: str, password: str = PASSWORD) -> Person:
        """Somebody whose account is being made, once they can sign in and have their first role."""

        async def sign_in() -> Person:
            return await self.login(email, password)

        person = await eventually(sign_in, f"the account of {email}", ignore=(UnauthenticatedError,))

        async def look() -> bool:
            answer = await person.call("AuthorizationService.Check", permission="users.read")
            return bool(answer["allowed"])

        await eventually(look, f"the first role of {email}", ignore=(PermissionDeniedError,))
        return person

    async def person(self, name: str) -> Person:
        """Somebody from the cast: the same person for every case that asks for the name, so leave them as they are."""
        if name not in self._cast:
            self._cast[name] = await self.new_person(name)
        return self._cast[name]

    async def events(self, filter: str) -> list[Json]:
        """Audit records, oldest first."""
        admin = await self.admin()
        listed = await admin.call("AuditService.ListEvents", filter=filter, page_size=1000)
        return list(reversed(listed["events"]))

    async def event(self, filter: str, *, seconds: float = 10) -> Json:
        """The first audit record that fits, as soon as it is there."""

        async def look() -> Json | None:
            return next(iter(await self.events(filter)), None)

        return await eventually(look, f"an audit record with {filter}", seconds=seconds)
