"""What is measured on: people with roles and policies, projects, thousands of tasks. `fill` puts it into a server."""

from __future__ import annotations

import csv
import os
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

__all__ = ["CONFIDENTIAL", "Filled", "Person", "Project", "Template", "TemplateTask", "task_rows"]

_ROOT = Path(__file__).resolve().parents[2]
CONFIDENTIAL = "confidential"
"""The label of tasks that a policy keeps from all but administrators and assignees: one in a hundred."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who calls; `parts` has their role in each project that they are a member of, by its key."""

    id: str
    email: str
    token: str
    parts: Mapping[str, str]
    admin: bool = False


@dataclass(frozen=True, slots=True)
class Project:
    """Tasks belong to one; `private` or open to the `organization`."""

    id: str
    key: str
    visibility: str


@dataclass(frozen=True, slots=True)
class TemplateTask:
    """A task: where it is, and the number of the row that it came from."""

    id: str
    key: str
    project: str
    labels: Sequence[str]
    assignees: Sequence[str]
    row: int


@dataclass(frozen=True)
class Filled:
    """What is in a data folder. `signing_in`: the e-mail addresses of those whose password has the full hash."""

    projects: Sequence[Project]
    people: Sequence[Person]
    tasks: Sequence[TemplateTask]
    signing_in: Sequence[str] = ()

    @cached_property
    def members(self) -> Mapping[str, Sequence[Person]]:
        """The members of each project, by its key."""
        return {
            project.key: [person for person in self.people if project.key in person.parts] for project in self.projects
        }

    @cached_property
    def readable(self) -> Mapping[str, Sequence[TemplateTask]]:
        """The tasks of each project that no policy keeps from anyone, by its key."""
        found: dict[str, list[TemplateTask]] = {project.key: [] for project in self.projects}
        for task in self.tasks:
            if CONFIDENTIAL not in task.labels:
                found[task.project].append(task)
        return found


@dataclass(frozen=True)
class Template:
    """A data folder with everything in it, and what is in it."""

    folder: Path
    filled: Filled
    rows: Sequence[Mapping[str, str]]

    def copy(self, to: Path) -> Path:
        """A copy to work on."""
        shutil.rmtree(to, ignore_errors=True)
        # Without the mails, which nobody reads again.
        shutil.copytree(self.folder, to, ignore=shutil.ignore_patterns("mail"))
        return to


def task_rows(count: int) -> tuple[str, list[dict[str, str]]]:
    """Where the rows come from, and so many of them: of the shared data, over and over; made up where there is none."""
    folder = Path(os.environ.get("TASKMAN_SHARED_DATA") or _ROOT.parent / "shared" / "data")
    path = folder / "tasks-5k.csv"
    if not path.is_file():
        return "made up (TASKMAN_SHARED_DATA names no folder with tasks-5k.csv)", _made_up(count)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return path.name, [rows[number % len(rows)] for number in range(count)]


def _made_up(count: int) -> list[dict[str, str]]:
    rng = random.Random(1)
    words = ["fix", "add", "update", "remove", "task", "list", "filter", "label", "bucket", "user", "view", "search"]
    return [
        {
            "title": " ".join(rng.choices(words, k=7)),
            "description": " ".join(rng.choices(words, k=rng.choice((0, 0, 40)))),
            "assignee": f"member{rng.randrange(97):03}@example.org",
            "labels": ";".join(sorted({rng.choice(words) for _ in range(2)})),
            "status": rng.choice(("todo", "in_progress", "done")),
            "priority": rng.choice(("low", "medium", "high", "urgent")),
            "created_at": f"2024-{1 + number % 12:02}-01T08:00:00+00:00",
            "due_at": "",
        }
        for number in range(count)
    ]
