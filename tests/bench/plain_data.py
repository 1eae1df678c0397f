"""The data folder of the plain application: the same people, projects and tasks as in the server's, its own tokens."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.jwk import OKPKey
from sqlalchemy import create_engine, insert

from tests.bench import plain
from tests.bench.data import Template

__all__ = ["make_plain"]

warnings.filterwarnings("ignore", message="EdDSA is deprecated", module="joserfc")
_CHUNK = 10_000


def make_plain(folder: Path, template: Template) -> dict[str, str]:
    """Makes the folder; answers each person's token by their id."""
    folder.mkdir(parents=True)
    key = OKPKey.generate_key("Ed25519")
    (folder / plain.PUBLIC_KEY).write_bytes(key.as_pem(private=False))
    engine = create_engine(f"sqlite:///{folder / plain.DATABASE}")
    filled = template.filled
    with engine.begin() as connection:
        plain.Base.metadata.create_all(connection)
        numbers = dict.fromkeys(filled.members, 0)
        for task in filled.tasks:
            numbers[task.project] = max(numbers[task.project], int(task.key.rpartition("-")[2]))
        rows: Mapping[type[plain.Base], Sequence[Mapping[str, Any]]] = {
            plain.User: [{"id": each.id, "email": each.email, "is_admin": each.admin} for each in filled.people],
            plain.Project: [
                {"id": each.id, "key": each.key, "visibility": each.visibility, "last_number": numbers[each.key]}
                for each in filled.projects
            ],
            plain.Member: [
                {"project_id": project.id, "user_id": person.id, "role": person.parts[project.key]}
                for project in filled.projects
                for person in filled.members[project.key]
            ],
        }
        for table, some in rows.items():
            connection.execute(insert(table), some)
        for begin in range(0, len(filled.tasks), _CHUNK):
            chunk = range(begin, min(begin + _CHUNK, len(filled.tasks)))
            connection.execute(insert(plain.Task), list(_tasks(template, chunk)))
            labels = [
                {"task_id": filled.tasks[number].id, "position": position, "name": name}
                for number in chunk
                for position, name in enumerate(filled.tasks[number].labels)
            ]
            assignees = [
                {"task_id": filled.tasks[number].id, "user_id": user}
                for number in chunk
                for user in filled.tasks[number].assignees
            ]
            for table, some in ((plain.Label, labels), (plain.Assignee, assignees)):
                if some:
                    connection.execute(insert(table), some)
    engine.dispose()
    expires = int(time.time()) + 86_400
    header = {"alg": "EdDSA", "typ": "at+jwt"}
    return {
        person.id: jwt.encode(header, {"sub": person.id, "exp": expires}, key, algorithms=["EdDSA"])
        for person in filled.people
    }


def _tasks(template: Template, numbers: range) -> Iterator[dict[str, Any]]:
    filled = template.filled
    projects = {project.key: project.id for project in filled.projects}
    for number in numbers:
        task = filled.tasks[number]
        row = template.rows[task.row]
        created = datetime.fromisoformat(row["created_at"]).astimezone(UTC)
        yield {
            "id": task.id,
            "key": task.key,
            "project_id": projects[task.project],
            "title": row["title"],
            "description": row["description"],
            "state": row["status"],
            "priority": row["priority"],
            "creator": filled.people[-1].id,
            "due_time": datetime.fromisoformat(row["due_at"]).replace(tzinfo=UTC) if row["due_at"] else None,
            "create_time": created,
            "update_time": created,
            "complete_time": created if row["status"] == "done" else None,
            "etag": f"{number:016x}",
            "external_id": f"row-{task.row}",
        }
