"""Beside the server: what a team would write in a week. FastAPI, pydantic, SQLAlchemy's async ORM over SQLite.

It answers the three routes that most of the load asks for, with the same JSON; it verifies a JWT for each request,
loads whoever calls and looks whether they belong to the project. It has no events, audit, notifications, policies,
idempotency or search. Nothing in it is made slow and nothing is tuned.

Run as `python plain.py`; TASKMAN_PORT, TASKMAN_DATA (a folder with `plain.sqlite` and `public.pem`) and
TASKMAN_WORKERS come in the environment.
"""

from __future__ import annotations

import os
import re
import secrets
import warnings
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from sqlalchemy import ForeignKey, Index, and_, event, or_, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

warnings.filterwarnings("ignore", message="EdDSA is deprecated", module="joserfc")
DATABASE = "plain.sqlite"
PUBLIC_KEY = "public.pem"
_FILTER = re.compile(r'"([^"]+)" in labels && state == "([^"]+)"')


class Base(DeclarativeBase):
    """All tables."""


class User(Base):
    """Somebody who calls."""

    __tablename__ = "users"
    id: Mapped[str] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    is_admin: Mapped[bool]


class Project(Base):
    """Tasks belong to one."""

    __tablename__ = "projects"
    id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(unique=True)
    visibility: Mapped[str]
    last_number: Mapped[int]


class Member(Base):
    """A user's part in a project."""

    __tablename__ = "members"
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), primary_key=True)
    role: Mapped[str]


class Label(Base):
    """A word to find a task by."""

    __tablename__ = "labels"
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    __table_args__ = (Index("labels_name", "name", "task_id"),)


class Assignee(Base):
    """A user who is to do a task."""

    __tablename__ = "assignees"
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id"), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), primary_key=True)


class Task(Base):
    """A piece of work."""

    __tablename__ = "tasks"
    id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(unique=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    title: Mapped[str]
    description: Mapped[str]
    state: Mapped[str]
    priority: Mapped[str]
    creator: Mapped[str]
    due_time: Mapped[datetime | None]
    create_time: Mapped[datetime]
    update_time: Mapped[datetime]
    complete_time: Mapped[datetime | None]
    etag: Mapped[str]
    external_id: Mapped[str | None]
    label_rows: Mapped[list[Label]] = relationship(lazy="selectin", order_by=Label.position)
    assignee_rows: Mapped[list[Assignee]] = relationship(lazy="selectin")
    __table_args__ = (Index("tasks_state", "state", "create_time"),)

    @property
    def project(self) -> str:
        """The project's id, by the name that it has in answers."""
        return self.project_id

    @property
    def labels(self) -> list[str]:
        """Their names."""
        return [label.name for label in self.label_rows]

    @property
    def assignees(self) -> list[str]:
        """Their ids."""
        return [assignee.user_id for assignee in self.assignee_rows]


UtcTime = Annotated[datetime, AfterValidator(lambda time: time.replace(tzinfo=UTC))]  # SQLite keeps no zone


class TaskOut(BaseModel):
    """A task in an answer."""

    model_config = ConfigDict(from_attributes=True)
    id: str
    key: str
    project: str
    title: str
    description: str
    state: str
    priority: str
    labels: list[str]
    assignees: list[str]
    due_time: UtcTime | None
    creator: str
    create_time: UtcTime
    update_time: UtcTime
    complete_time: UtcTime | None
    etag: str
    external_id: str | None


class TaskPage(BaseModel):
    """A page of a list."""

    tasks: list[TaskOut]
    next_page_token: str = ""


class TaskIn(BaseModel):
    """A task to create."""

    project: str = Field(max_length=100)
    title: str = Field(min_length=1, max_length=500)
    description: str = Field("", max_length=100_000)
    labels: list[Annotated[str, Field(min_length=1, max_length=50)]] = Field(default_factory=list, max_length=50)
    priority: str = Field("medium", pattern="^(low|medium|high|urgent)$")
    assignees: list[str] = Field(default_factory=list, max_length=50)
    due_time: datetime | None = None


def make_engine(path: Path) -> AsyncEngine:
    """The database, with a write-ahead log."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}", connect_args={"timeout": 30})

    @event.listens_for(engine.sync_engine, "connect")
    def _pragmas(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    return engine


async def get_session(request: Request) -> AsyncIterator[AsyncSession]:
    """A session for one request."""
    async with request.app.state.sessions() as session:
        yield session


Session = Annotated[AsyncSession, Depends(get_session)]
bearer = HTTPBearer()
claims_registry = jwt.JWTClaimsRegistry(sub={"essential": True}, exp={"essential": True})


async def get_user(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)], session: Session
) -> User:
    """Whoever calls, by their token."""
    try:
        token = jwt.decode(credentials.credentials, request.app.state.public_key, algorithms=["EdDSA"])
        claims_registry.validate(token.claims)
    except (JoseError, ValueError) as error:
        raise HTTPException(401, "The token is not valid.") from error
    user = await session.get(User, token.claims["sub"])
    if user is None:
        raise HTTPException(401, "There is no such user.")
    return user


Caller = Annotated[User, Depends(get_user)]
router = APIRouter()


async def role_in(session: AsyncSession, user: User, project: str) -> str | None:
    """The caller's part in a project: `viewer` in one that is open to all, None where there is none."""
    if user.is_admin:
        return "admin"
    query = (
        select(Project.visibility, Member.role)
        .outerjoin(Member, and_(Member.project_id == Project.id, Member.user_id == user.id))
        .where(Project.id == project)
    )
    visibility, role = (await session.execute(query)).one()
    return role or ("viewer" if visibility == "organization" else None)


@router.get("/readyz")
async def ready() -> dict[str, str]:
    """It serves."""
    return {"status": "ok"}


@router.get("/v1/tasks/{task_id}", response_model=TaskOut, response_model_exclude_none=True)
async def get_task(task_id: str, user: Caller, session: Session) -> Task:
    """One task."""
    task = await session.get(Task, task_id)
    if task is None or await role_in(session, user, task.project_id) is None:
        raise HTTPException(404, f"There is no task {task_id}.")
    return task


@router.get("/v1/tasks", response_model=TaskPage, response_model_exclude_none=True)
async def list_tasks(
    user: Caller,
    session: Session,
    filter: str = "",
    page_size: Annotated[int, Query(ge=1, le=1000)] = 50,
    page_token: str = "0",
) -> dict[str, Any]:
    """Tasks that the caller may see."""
    query = select(Task)
    if filter:
        match = _FILTER.fullmatch(filter)
        if match is None:
            raise HTTPException(400, 'A filter is `"label" in labels && state == "todo"`.')
        label, state = match.groups()
        query = query.where(Task.label_rows.any(Label.name == label), Task.state == state)
    if not user.is_admin:
        mine = select(Member.project_id).where(Member.user_id == user.id)
        open_to_all = select(Project.id).where(Project.visibility == "organization")
        query = query.where(or_(Task.project_id.in_(mine), Task.project_id.in_(open_to_all)))
    offset = int(page_token)
    query = query.order_by(Task.create_time, Task.id).offset(offset).limit(page_size + 1)
    tasks = (await session.scalars(query)).all()
    more = len(tasks) > page_size
    return {"tasks": tasks[:page_size], "next_page_token": str(offset + page_size) if more else ""}


@router.post("/v1/tasks", response_model=TaskOut, response_model_exclude_none=True)
async def create_task(given: TaskIn, user: Caller, session: Session) -> Task:
    """A new task."""
    query = select(Project).where(or_(Project.id == given.project, Project.key == given.project))
    project = (await session.scalars(query)).one_or_none()
    if project is None or (role := await role_in(session, user, project.id)) is None:
        raise HTTPException(404, f"There is no project {given.project}.")
    if role == "viewer":
        raise HTTPException(403, "Editors create tasks.")
    for assignee in given.assignees:
        person = await session.get(User, assignee)
        if person is None or await role_in(session, person, project.id) is None:
            raise HTTPException(400, f"{assignee} is not a member of the project.")
    counted = update(Project).where(Project.id == project.id).values(last_number=Project.last_number + 1)
    number = await session.scalar(counted.returning(Project.last_number))
    now = datetime.now(UTC)
    task = Task(
        id=f"task_{secrets.token_hex(13)}",
        key=f"{project.key}-{number}",
        project_id=project.id,
        title=given.title,
        description=given.description,
        state="todo",
        priority=given.priority,
        creator=user.id,
        due_time=given.due_time,
        create_time=now,
        update_time=now,
        complete_time=None,
        etag=secrets.token_hex(8),
        external_id=None,
        label_rows=[Label(position=position, name=name) for position, name in enumerate(given.labels)],
        assignee_rows=[Assignee(user_id=assignee) for assignee in given.assignees],
    )
    session.add(task)
    await session.commit()
    return task


def make_app() -> FastAPI:
    """The application on the folder that TASKMAN_DATA names."""
    folder = Path(os.environ["TASKMAN_DATA"])
    app = FastAPI(title="Tasks")
    app.state.public_key = OKPKey.import_key((folder / PUBLIC_KEY).read_text())
    app.state.sessions = async_sessionmaker(make_engine(folder / DATABASE), expire_on_commit=False)
    app.include_router(router)
    return app


def main() -> None:
    """Serves until SIGTERM, on the event loop and the HTTP parser that the server has; uvicorn's log of each request
    stays on, as the server's does."""
    uvicorn.run(
        f"{Path(__file__).stem}:make_app",
        factory=True,
        host="127.0.0.1",
        port=int(os.environ["TASKMAN_PORT"]),
        workers=int(os.environ["TASKMAN_WORKERS"]),
        loop="uvloop",
        http="httptools",
    )


if __name__ == "__main__":
    main()
